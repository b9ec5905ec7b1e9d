"""What is in a checkpoint file, and what is not."""

import sqlite3
import threading
import time
import uuid
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from starlette.responses import JSONResponse

from batch.run_files import Ids
from graph.checkpoints import copy_checkpoints, open_checkpoints
from graph.serializer import CompressingSerializer
from tests.support.runs import answer, counts, generate, read_jsonl, stored_bytes, two_turns
from tests.support.servers import Reply, ScriptedModel


async def test_a_checkpoint_file_names_no_class_of_ours_and_is_read_strictly(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = lambda messages: (
        JSONResponse({"error": {"message": "busy"}}, 500) if len(messages) > 2 else two_turns(messages)
    )
    batch = await generate(folder, scripted_model, tools_url, concurrency=2, waits=())
    assert counts(batch) == [0, 0, 6, 0]
    stored = stored_bytes(batch.files.checkpoints)
    assert b"DAPA-HF" in stored
    for package in (b"backends.", b"batch.", b"graph.", b"nodes.", b"quality.", b"serializers.", b"trajgraph"):
        assert package not in stored.replace(b"langgraph.", b"")


async def test_the_last_reply_to_a_question_is_on_disk_before_the_next_question_is_asked(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    stored: list[int] = []

    def look(messages: list[dict[str, Any]]) -> Reply:
        stored.append(sum(len(read_jsonl(path)) for path in folder.rglob("*_incremental.jsonl")))
        return answer()

    scripted_model.script = look
    await generate(folder, scripted_model, tools_url, concurrency=1, keep_checkpoints=True)
    assert stored == list(range(6))


@pytest.mark.parametrize("keep", [False, True])
async def test_a_finished_run_gives_back_the_room_its_checkpoints_took(
    folder: Path, scripted_model: ScriptedModel, tools_url: str, keep: bool
) -> None:
    scripted_model.script = two_turns
    batch = await generate(folder, scripted_model, tools_url, concurrency=2, keep_checkpoints=keep)
    assert counts(batch) == [6, 0, 0, 0]
    with closing(sqlite3.connect(batch.files.checkpoints)) as ended:
        (stored,), (free,) = (
            ended.execute(asked).fetchone() for asked in ("SELECT count(*) FROM checkpoints", "PRAGMA freelist_count")
        )
    assert (stored > 0, free) == (keep, 0)


async def test_with_nothing_left_to_ask_a_record_does_not_wait_for_the_checkpoints(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    written: list[bool] = []

    def look(messages: list[dict[str, Any]]) -> Reply:
        threading.Thread(target=keep_the_disk_busy).start()
        locked.wait(10)
        return answer()

    def keep_the_disk_busy() -> None:
        (path,) = folder.rglob("*_checkpoints.sqlite")
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            locked.set()
            until = time.monotonic() + 10
            while not (done := list(folder.rglob("*_incremental.jsonl"))) and time.monotonic() < until:
                time.sleep(0.01)
            written.append(bool(done))

    locked = threading.Event()
    scripted_model.script = look
    batch = await generate(folder, scripted_model, tools_url, limit=1)
    assert counts(batch) == [1, 0, 0, 0]
    assert written == [True]


async def test_a_copy_of_the_checkpoints_can_be_taken_while_they_are_open(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = two_turns
    batch = await generate(folder, scripted_model, tools_url, concurrency=2, keep_checkpoints=True)
    async with open_checkpoints(batch.files.checkpoints) as saver:
        await copy_checkpoints(batch.files.checkpoints, folder / "copy.sqlite")
        threads = saver.threads
    async with open_checkpoints(folder / "copy.sqlite") as copy:
        assert copy.threads == threads
    assert len(threads) == 6


@given(said=st.text(max_size=50), times=st.integers(1, 400))
def test_large_values_are_packed_and_come_back_as_they_were(said: str, times: int) -> None:
    serde = CompressingSerializer(allowed_msgpack_modules=None)
    value = [ToolMessage(said * times, tool_call_id="call-1", artifact={"data": said * times})]
    plain = JsonPlusSerializer(allowed_msgpack_modules=None).dumps_typed(value)
    kind, content = serde.dumps_typed(value)
    assert kind == ("msgpack" if len(plain[1]) < 4096 else "msgpack+zstd")
    assert len(content) <= len(plain[1])
    assert serde.loads_typed((kind, content)) == value
    for earlier in (plain, ("msgpack+zlib", zlib.compress(plain[1], 1))):
        assert serde.loads_typed(earlier) == value, "of a run by an earlier version"


async def test_no_packed_value_escapes_the_tests_that_look_for_secrets(tmp_path: Path) -> None:
    config: RunnableConfig = {"configurable": {"thread_id": "one", "checkpoint_ns": "", "checkpoint_id": "first"}}
    async with open_checkpoints(tmp_path / "checkpoints.sqlite") as saver:
        await saver.aput_writes(
            config, [("messages", [ToolMessage("found " * 2000 + "s3cr3t", tool_call_id="1")])], "t"
        )
    assert b"s3cr3t" not in (tmp_path / "checkpoints.sqlite").read_bytes(), "it is packed"
    assert b"s3cr3t" in stored_bytes(tmp_path / "checkpoints.sqlite")


def test_a_thread_is_the_same_uuid_for_the_same_run_and_sample() -> None:
    run = str(uuid.uuid4())
    ids = Ids(run, "settings")
    assert ids.thread("qwen3_traj_00001", "Q?") == Ids(run, "settings").thread("qwen3_traj_00001", "Q?")
    others = {
        ids.thread("qwen3_traj_00002", "Q?"),
        ids.thread("qwen3_traj_00001", "P?"),
        Ids(run, "x").thread("qwen3_traj_00001", "Q?"),
    }
    assert len(others | {ids.thread("qwen3_traj_00001", "Q?")}) == 4
    assert str(uuid.UUID(ids.thread("x", "Q?"))) == ids.thread("x", "Q?")


def test_a_run_that_was_started_before_keeps_its_threads() -> None:
    run = str(uuid.uuid4())
    assert Ids(run).thread("qwen3_traj_00001", "Q?") == str(uuid.uuid5(uuid.UUID(run), "qwen3_traj_00001"))
