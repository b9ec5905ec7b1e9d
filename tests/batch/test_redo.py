"""`--redo` samples the rejected of a run anew, loses none of them, and leaves the accepted alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse

from backends.errors import UsageError
from tests.support.runs import answer, counts, generate, read_jsonl, two_turns, write_questions
from tests.support.servers import ScriptedModel


def half(messages: list[dict[str, Any]]) -> Any:
    """Even questions are answered without a search, and so without a citation; odd ones as they should be."""
    return answer() if int(messages[1]["content"].split()[1]) % 2 == 0 else two_turns(messages)


async def test_the_rejected_are_sampled_anew_under_another_temperature_and_the_accepted_stay(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = half
    gates: dict[str, Any] = {"hard_gates": ("no_tool_use",)}
    first = await generate(folder, scripted_model, tools_url, **gates)
    assert counts(first) == [3, 3, 0, 0]
    kept = read_jsonl(first.files.trajectories)
    with pytest.raises(UsageError, match="it has: no_tool_use 3"):
        await generate(folder, scripted_model, tools_url, **gates, redo="no_answer")
    scripted_model.script = two_turns
    again = await generate(folder, scripted_model, tools_url, **gates, temperature=0.9, redo="no_tool_use")
    assert (again.files, counts(again)) == (first.files, [6, 0, 0, 0])
    assert read_jsonl(first.files.trajectories)[:3] == kept
    assert len(read_jsonl(first.files.superseded)) == 3
    assert {request["temperature"] for request in scripted_model.requests[-6:]} == {0.9}
    with pytest.raises(UsageError, match="it has none"):
        await generate(folder, scripted_model, tools_url, **gates, temperature=0.9, redo="rejected")


async def test_the_rejected_are_sampled_anew_under_the_same_settings_too(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = half
    gates: dict[str, Any] = {"hard_gates": ("no_tool_use",), "keep_checkpoints": True}
    first = await generate(folder, scripted_model, tools_url, **gates)
    asked = len(scripted_model.requests)
    again = await generate(folder, scripted_model, tools_url, **gates, redo="rejected")
    assert (again.files, counts(again)) == (first.files, [3, 3, 0, 0])
    assert len(scripted_model.requests) - asked == 3


async def test_an_interrupted_redo_goes_on_and_redoes_nothing_twice(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = half
    gates: dict[str, Any] = {"hard_gates": ("no_tool_use",)}
    await generate(folder, scripted_model, tools_url, **gates)
    refused = {"Question 2", "Question 4"}
    scripted_model.script = lambda messages: (
        JSONResponse({"error": {"message": "no"}}, 400)
        if any(messages[1]["content"].startswith(name) for name in refused)
        else half(messages)
    )
    broken = await generate(folder, scripted_model, tools_url, **gates, redo="rejected")
    assert counts(broken) == [3, 1, 2, 0]
    scripted_model.script = two_turns
    again = await generate(folder, scripted_model, tools_url, **gates, redo="rejected")
    assert counts(again) == [5, 1, 0, 0], "the one that was rejected anew stays"


async def test_the_command_that_began_a_run_knows_it_after_a_redo_under_another_temperature(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = half
    gates: dict[str, Any] = {"hard_gates": ("no_tool_use",)}
    first = await generate(folder, scripted_model, tools_url, **gates)
    await generate(folder, scripted_model, tools_url, **gates, temperature=0.9, redo="rejected")
    asked = len(scripted_model.requests)
    again = await generate(folder, scripted_model, tools_url, **gates)
    assert (again.files, len(scripted_model.requests)) == (first.files, asked)
    first.files.stats.unlink()  # as an interrupted one
    rows = first.files.rejected.read_text().splitlines()
    first.files.rejected.write_text("\n".join(rows[1:]) + "\n")
    scripted_model.script = two_turns
    again = await generate(folder, scripted_model, tools_url, **gates)
    assert (again.files, counts(again)) == (first.files, [4, 2, 0, 0])
    assert len(list(folder.glob("*_run.json"))) == 1


@pytest.mark.parametrize("is_set_aside", [False, True])
async def test_a_redo_that_is_killed_before_or_after_the_rejected_are_set_aside_is_made_whole(
    folder: Path, scripted_model: ScriptedModel, tools_url: str, is_set_aside: bool
) -> None:
    scripted_model.script = half
    gates: dict[str, Any] = {"hard_gates": ("no_tool_use",)}
    first = await generate(folder, scripted_model, tools_url, **gates)
    content = json.loads(first.files.run.read_text())
    first.files.run.write_text(json.dumps({**content, "redo": {"what": "rejected", "set_aside": is_set_aside}}))
    if is_set_aside:
        first.files.rejected.rename(first.files.superseded)
    first.files.stats.unlink()
    scripted_model.script = two_turns
    again = await generate(folder, scripted_model, tools_url, **gates, redo="rejected")
    assert (again.files, counts(again)) == (first.files, [6, 0, 0, 0])


async def test_a_question_that_fails_keeps_no_other_from_being_redone(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = lambda messages: (
        JSONResponse({"error": {"message": "no"}}, 400) if "Question 1 " in messages[1]["content"] else half(messages)
    )
    gates: dict[str, Any] = {"hard_gates": ("no_tool_use",)}
    await generate(folder, scripted_model, tools_url, **gates)
    await generate(folder, scripted_model, tools_url, **gates, temperature=0.7, redo="rejected")
    await generate(folder, scripted_model, tools_url, **gates, temperature=1.0, redo="rejected")
    warm = [
        one
        for one in scripted_model.requests
        if one["temperature"] == 1.0 and "Question 1 " not in one["messages"][1]["content"]
    ]
    assert len(warm) >= 3


async def test_a_redo_takes_no_run_of_other_questions(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = half
    gates: dict[str, Any] = {"hard_gates": ("no_tool_use",)}
    first = await generate(folder, scripted_model, tools_url, **gates)
    before = first.files.trajectories.read_text()
    write_questions(folder / "questions.jsonl", [f"Question {n} about something else?" for n in range(6)])
    with pytest.raises(UsageError, match="no run of these questions"):
        await generate(folder, scripted_model, tools_url, **gates, redo="rejected")
    assert first.files.trajectories.read_text() == before
