"""The saver of a run: the writes of all graphs in flight share transactions; a reply is stored before the next is requested."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.graph import END, START, StateGraph

from graph.build import build_graph
from graph.checkpoints import SqliteRows, open_checkpoints
from graph.group_writer import GroupWriter
from graph.limits import Limits
from graph.state import State, merge_messages


def talking(turns: int, saver: Any) -> Any:
    """A graph that says one message a step."""

    async def speak(state: State) -> dict[str, Any]:
        at = len(state.get("messages", []))
        return {"messages": [AIMessage("word " * 500, id=f"turn-{at}")]}

    builder = StateGraph(State)
    builder.add_node("speak", speak)
    builder.add_edge(START, "speak")
    builder.add_conditional_edges("speak", lambda state: END if len(state["messages"]) >= turns else "speak")
    return builder.compile(checkpointer=saver)


def place(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}, "recursion_limit": 200}


async def test_what_many_graphs_write_at_once_is_read_back_by_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.sqlite"
    async with open_checkpoints(path) as saver:
        graph = talking(4, saver)
        threads = [f"thread-{n}" for n in range(30)]
        states = await asyncio.gather(*(graph.ainvoke({"question": name}, place(name)) for name in threads))
    async with open_checkpoints(path) as saver:
        assert saver.threads == set(threads)
        for name, state in zip(threads, states, strict=True):
            stored = (await talking(4, saver).aget_state(place(name))).values
            assert stored["question"] == name
            assert stored["messages"] == state["messages"]


def on_disk(path: Path, table: str = "checkpoints") -> int:
    with closing(sqlite3.connect(path)) as other:
        return int(other.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


async def test_what_is_waited_for_is_on_disk_and_what_is_deleted_is_not(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.sqlite"
    async with open_checkpoints(path) as saver:
        await talking(1, saver).ainvoke({"question": "x"}, place("one"))
        await saver.flush()
        assert on_disk(path) == 3
        await saver.adelete_thread("one")
        assert await saver.aget_tuple(place("one")) is None
        await saver.flush()
        assert (on_disk(path), on_disk(path, "writes")) == (0, 0)


async def test_a_thread_that_starts_again_keeps_what_it_wrote_after_it_was_deleted(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.sqlite"
    async with open_checkpoints(path) as saver:
        graph = talking(1, saver)
        await graph.ainvoke({"question": "first"}, place("one"))
        await saver.flush()
        await saver.adelete_thread("one")
        await graph.ainvoke({"question": "second"}, place("one"))
        await saver.flush()
        assert on_disk(path) == 3
        assert (await graph.aget_state(place("one"))).values["question"] == "second"


class Asked:
    """A model that looks, each time it is asked, which replies are on disk."""

    max_model_len: int | None = None

    def __init__(self, path: Path) -> None:
        self.path, self.seen = path, list[int]()

    async def ask(self, messages: Any, max_tokens: int, seed: int | None, *, stops: bool = True) -> AIMessage:
        with closing(sqlite3.connect(self.path)) as other:
            found = "SELECT count(*) FROM writes WHERE channel = 'reply' AND type = 'msgpack' AND length(value) > 50"
            self.seen.append(int(other.execute(found).fetchone()[0]))
        turn = len(self.seen)
        text = f'<think>Next.</think><call_tool name="pubmed_search">words {turn}</call_tool>'
        return AIMessage(
            text if turn < 4 else "<think>Done.</think><answer>All is said.</answer>",
            response_metadata={"finish_reason": "stop", "seconds": 0.0},
        )

    async def continue_reply(self, messages: Any, begun: str, max_tokens: int, seed: int | None) -> None:
        raise AssertionError("nothing is cut off here")

    async def count_tokens(self, messages: Any) -> None:
        return None


async def test_every_earlier_reply_is_on_disk_when_the_next_one_is_asked_for(tmp_path: Path) -> None:
    async def call_tool(name: str, query: str, parameters: Any) -> tuple[Any, bool]:
        return {"query": query}, False

    async with open_checkpoints(tmp_path / "checkpoints.sqlite") as saver:
        chat = Asked(tmp_path / "checkpoints.sqlite")
        graph = build_graph(chat, call_tool, limits=Limits(), checkpointer=saver)
        state = await graph.ainvoke({"question": "x"}, place("one"), durability="async")
    assert state["final_answer"] == "All is said."
    assert chat.seen == [0, 1, 2, 3]


async def test_after_a_transaction_that_failed_nothing_more_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.sqlite"
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        async with open_checkpoints(path) as saver:
            graph = talking(2, saver)
            await graph.ainvoke({"question": "before"}, place("before"))
            await saver.flush()
            await saver.conn.execute("ALTER TABLE checkpoints RENAME TO elsewhere")
            await graph.ainvoke({"question": "x"}, place("lost"))
            with pytest.raises(sqlite3.OperationalError, match="no such table"):
                await saver.flush()
            with pytest.raises(sqlite3.OperationalError, match="no such table"):
                await graph.ainvoke({"question": "x"}, place("refused"))


async def test_however_many_rows_go_together_each_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.executescript("PRAGMA journal_mode=WAL; CREATE TABLE kept (key, number);")
        insert, expected = "INSERT INTO kept VALUES (?, ?)", list[tuple[str, int]]()
        rows_in = SqliteRows(path, (insert,))
        queue = GroupWriter(rows_in.transact)
        for count in (1, 2, 3, 64, 65, 1024, 2500):
            rows = [(f"{count}", number) for number in range(count)]
            queue.put(f"{count}", insert, rows)
            await queue.flush()
            expected += rows
            assert other.execute("SELECT * FROM kept ORDER BY rowid").fetchall() == expected
        rows_in.close()


async def test_what_is_queued_while_a_transaction_fails_is_not_written(tmp_path: Path) -> None:
    """It would stand on rows that are not there."""
    path, statements = tmp_path / "x.sqlite", ("INSERT INTO first VALUES (?)", "INSERT INTO second VALUES (?)")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.executescript("PRAGMA journal_mode=WAL; CREATE TABLE first (key); CREATE TABLE second (key);")
        rows_in = SqliteRows(path, statements)
        queue = GroupWriter(rows_in.transact)
        other.execute("BEGIN IMMEDIATE")
        failing = queue.put("a", statements[0], [("a",)])
        waiting = asyncio.create_task(queue.flush(failing))
        await asyncio.sleep(0.3)  # the transaction has begun, and waits for the other's
        following = queue.put("b", statements[1], [("b",)])
        other.execute("DROP TABLE first")
        other.execute("COMMIT")
        for wait in (waiting, queue.flush(following), queue.flush()):
            with pytest.raises(sqlite3.OperationalError, match="no such table"):
                await wait
        rows_in.close()
        assert other.execute("SELECT count(*) FROM second").fetchone() == (0,)


async def test_many_threads_are_deleted_without_a_look_at_all_that_waits(tmp_path: Path) -> None:
    async with open_checkpoints(tmp_path / "checkpoints.sqlite") as saver:
        for number in range(20_000):
            await saver.adelete_thread(f"thread-{number}")
        await saver.flush()


async def test_what_a_thread_takes_on_disk_grows_with_its_turns_not_with_their_square(tmp_path: Path) -> None:
    sizes = []
    for turns in (10, 40):
        path = tmp_path / f"{turns}.sqlite"
        async with open_checkpoints(path) as saver:
            await talking(turns, saver).ainvoke({"question": "x"}, place("one"))
        with closing(sqlite3.connect(path)) as stored:
            (checkpoints,) = stored.execute("SELECT sum(length(checkpoint)) FROM checkpoints").fetchone()
            (writes,) = stored.execute("SELECT sum(length(value)) FROM writes").fetchone()
        sizes.append(checkpoints + writes)
    assert sizes[1] < 5 * sizes[0]


messages = st.lists(
    st.builds(
        lambda number, text, kind: kind(text, id=f"m{number}"),
        st.integers(0, 6),
        st.text(max_size=5),
        st.sampled_from([AIMessage, HumanMessage, lambda text, id: ToolMessage(text, id=id, tool_call_id="c")]),
    ),
    max_size=6,
)


@given(messages, st.lists(messages, max_size=4), st.lists(messages, max_size=4))
def test_messages_merge_alike_together_and_one_after_the_other(
    kept: list[AnyMessage], first: list[list[AnyMessage]], then: list[list[AnyMessage]]
) -> None:
    start = merge_messages([], [kept])
    merged = merge_messages(start, [*first, *then])
    assert merged == merge_messages(merge_messages(start, first), then)
    identities = [message.id for message in merged]
    assert len(set(identities)) == len(identities)
    assert identities[: len(start)] == [message.id for message in start]


@pytest.mark.parametrize("given_message", [{"type": "ai", "content": "said"}, AIMessage("said")])
def test_a_message_without_an_id_is_appended(given_message: Any) -> None:
    kept: list[AnyMessage] = [AIMessage("first", id="turn-1")]
    merged = merge_messages(kept, [[given_message], [given_message]])
    assert [message.text for message in merged] == ["first", "said", "said"]
