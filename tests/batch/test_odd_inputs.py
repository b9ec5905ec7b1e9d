"""What is not as it should be, in a reply, a file or a gateway: noticed, named, and paid for by nobody else."""

import re
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from backends.errors import UsageError
from servers.demo_model.server import DemoModel
from tests.support.graphs import run
from tests.support.runs import (
    QUESTIONS,
    answer,
    counts,
    generate,
    generate_command,
    read_jsonl,
    trajgraph,
    two_turns,
    write_questions,
)
from tests.support.servers import Reply, ScriptedModel, served


async def test_an_answer_that_the_model_left_open_is_asked_again_and_never_closed_for_it(
    scripted_model: ScriptedModel, tools_url: str
) -> None:
    half = "<answer>The hazard ratio was 0.7"
    for finish_reason in ("stop", None):
        left_open = {"content": half, "finish_reason": finish_reason}
        state = await run(scripted_model, tools_url, [left_open, answer("It was 0.74.")])
        assert state["final_answer"] == "It was 0.74."
        state = await run(scripted_model, tools_url, [left_open, left_open])
        assert state["stop_reason"] == "truncated"
        assert not state["final_answer"]


def test_a_model_that_is_down_behind_a_list_of_models_pauses_the_run(folder: Path, tools_url: str) -> None:
    app, seen = DemoModel("Qwen3-8B").app(), {"n": 0}

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/chat/completions"):
            seen["n"] += 1
            if 4 < seen["n"] < 9:
                await Response("bad gateway", 502)(scope, receive, send)
                return
        await app(scope, receive, send)

    with served(failing) as base:
        done = trajgraph(*generate_command(folder, f"{base}/v1", tools_url), "--concurrency", "3")
    assert re.search(r"the model server is down \(.*\): paused until it answers", done.stderr)
    assert done.stdout.startswith("6 questions: 6 accepted, 0 rejected, 0 failed, 0 pending")


async def test_a_questions_file_that_changes_under_a_run_is_noticed(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    def changing(messages: list[dict[str, Any]]) -> Reply:
        if len(scripted_model.requests) == 2:
            write_questions(folder / "questions.jsonl", [f"REPLACED {text}" for text in QUESTIONS])
        return two_turns(messages)

    scripted_model.script = changing
    with pytest.raises(UsageError, match="was changed during the run"):
        await generate(folder, scripted_model, tools_url, concurrency=1)
    written = [row["question"] for path in folder.glob("*_incremental.jsonl") for row in read_jsonl(path)]
    assert not any(question.startswith("REPLACED") for question in written)


async def test_a_damaged_record_is_named_by_its_line(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = two_turns
    batch = await generate(folder, scripted_model, tools_url)
    lines = batch.files.trajectories.read_bytes().splitlines(keepends=True)
    batch.files.trajectories.write_bytes(b"".join([*lines[:2], b"\x00\x00garbage\n", *lines[3:]]))
    with pytest.raises(UsageError, match=r"_incremental\.jsonl, line 3: damaged"):
        await generate(folder, scripted_model, tools_url)


async def test_the_statistics_are_true_from_the_first_moment_of_a_continued_run(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = lambda _: JSONResponse({"error": {"message": "no"}}, 400)
    first = await generate(folder, scripted_model, tools_url)
    assert counts(first) == [0, 0, 6, 0]
    seen: list[list[int]] = []

    def looking(messages: list[dict[str, Any]]) -> Reply:
        seen.append(counts(first))
        return two_turns(messages)

    scripted_model.script = looking
    await generate(folder, scripted_model, tools_url)
    assert seen[0] == [0, 0, 0, 6]
