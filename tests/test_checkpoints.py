"""What is in a checkpoint file, and what is not."""

import sqlite3
import uuid
from pathlib import Path

from starlette.responses import JSONResponse

from graph.batch import BatchSettings
from graph.checkpoints import copy_checkpoints, open_checkpoints, thread_id
from tests.fakes import ScriptedModel
from tests.test_batch import counts, generate, two_turns


async def test_a_checkpoint_file_names_no_class_of_ours_and_is_read_strictly(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = lambda messages: (
        JSONResponse({"error": {"message": "busy"}}, 503) if len(messages) > 2 else two_turns(messages)
    )
    batch = await generate(folder, scripted_model, tools_url, BatchSettings(concurrency=2), waits=())
    assert counts(batch) == [0, 0, 6, 0]
    with sqlite3.connect(batch.files.checkpoints) as database:
        stored = b"".join(bytes(str(row), "utf-8") for table in ("checkpoints", "writes")
                          for row in database.execute(f"SELECT * FROM {table}"))  # fmt: skip
    database.close()
    assert b"DAPA-HF" in stored
    for package in (b"graph.", b"nodes.", b"backends.", b"serializers.", b"trajgraph"):
        assert package not in stored.replace(b"langgraph.", b"")


async def test_a_copy_of_the_checkpoints_can_be_taken_while_they_are_open(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = two_turns
    batch = await generate(folder, scripted_model, tools_url, BatchSettings(concurrency=2, keep_checkpoints=True))
    async with open_checkpoints(batch.files.checkpoints) as saver:
        await copy_checkpoints(batch.files.checkpoints, folder / "copy.sqlite")
        threads = saver.threads
    async with open_checkpoints(folder / "copy.sqlite") as copy:
        assert copy.threads == threads
    assert len(threads) == 6


def test_a_thread_is_the_same_uuid_for_the_same_run_and_sample() -> None:
    run = str(uuid.uuid4())
    assert thread_id(run, "qwen3_traj_00001") == thread_id(run, "qwen3_traj_00001")
    assert thread_id(run, "qwen3_traj_00001") != thread_id(run, "qwen3_traj_00002")
    assert str(uuid.UUID(thread_id(run, "x"))) == thread_id(run, "x")
