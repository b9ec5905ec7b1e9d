"""The saver of a run: the writes of all graphs in flight share transactions, and each returns only when it is stored."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.graph import END, START, StateGraph

from graph.checkpoints import open_checkpoints
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


async def test_a_write_is_on_disk_when_it_returns(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.sqlite"
    async with open_checkpoints(path) as saver:
        await talking(1, saver).ainvoke({"question": "x"}, place("one"))
        with sqlite3.connect(path) as other:
            assert other.execute("SELECT count(*) FROM checkpoints").fetchone()[0] == 3
        await saver.adelete_thread("one")
        with sqlite3.connect(path) as other:
            assert other.execute("SELECT count(*) FROM checkpoints").fetchone()[0] == 0
            assert other.execute("SELECT count(*) FROM writes").fetchone()[0] == 0
        assert await saver.aget_tuple(place("one")) is None


async def test_a_transaction_that_fails_fails_everyone_in_it_and_the_next_one_goes_through(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.sqlite"
    async with open_checkpoints(path) as saver:
        graph = talking(2, saver)
        await graph.ainvoke({"question": "before"}, place("before"))
        await saver.conn.execute("ALTER TABLE checkpoints RENAME TO elsewhere")
        results = await asyncio.gather(
            *(graph.ainvoke({"question": "x"}, place(f"t{n}"), durability="sync") for n in range(5)),
            return_exceptions=True,
        )
        assert all(isinstance(result, sqlite3.OperationalError) for result in results)
        await saver.conn.execute("ALTER TABLE elsewhere RENAME TO checkpoints")
        state = await graph.ainvoke({"question": "after"}, place("after"))
        assert len(state["messages"]) == 2
        assert saver.threads == {"before", "after"}


async def test_what_a_thread_takes_on_disk_grows_with_its_turns_not_with_their_square(tmp_path: Path) -> None:
    sizes = []
    for turns in (10, 40):
        path = tmp_path / f"{turns}.sqlite"
        async with open_checkpoints(path) as saver:
            await talking(turns, saver).ainvoke({"question": "x"}, place("one"))
        with sqlite3.connect(path) as stored:
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
