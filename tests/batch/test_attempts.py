"""What fails is asked again from where it stood, each step with attempts of its own."""

from collections import Counter
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse

from tests.support.runs import counts, generate, read_jsonl, two_turns
from tests.support.servers import Reply, ScriptedModel

Messages = list[dict[str, Any]]


async def test_failures_at_different_steps_each_have_their_own_attempts(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    seen: Counter[str] = Counter()

    def flaky(messages: Messages) -> Reply:
        turn = str([messages[1]["content"], len(messages)])
        seen[turn] += 1
        if seen[turn] <= 3:
            return JSONResponse({"error": {"message": "overloaded"}}, 500)
        return two_turns(messages)

    scripted_model.script = flaky
    batch = await generate(folder, scripted_model, tools_url)
    assert counts(batch) == [6, 0, 0, 0]
    assert {record["metadata"]["attempts"] for record in read_jsonl(batch.files.trajectories)} == {7}


async def test_a_step_that_keeps_failing_is_asked_once_and_after_each_wait(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = lambda messages: JSONResponse({"error": {"message": "overloaded"}}, 500)
    batch = await generate(folder, scripted_model, tools_url, limit=1)
    assert len(scripted_model.requests) == 4
    assert [row["attempts"] for row in read_jsonl(batch.files.failed)] == [4]


async def test_a_question_taken_up_again_has_all_its_attempts_at_each_step(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = lambda messages: JSONResponse({"error": {"message": "overloaded"}}, 500)
    await generate(folder, scripted_model, tools_url, limit=1)
    seen: Counter[int] = Counter()

    def flaky(messages: Messages) -> Reply:
        seen[len(messages)] += 1
        if seen[len(messages)] <= 3:
            return JSONResponse({"error": {"message": "overloaded"}}, 500)
        return two_turns(messages)

    scripted_model.script = flaky
    batch = await generate(folder, scripted_model, tools_url, limit=1)
    assert counts(batch) == [1, 0, 0, 0]
    assert [record["metadata"]["attempts"] for record in read_jsonl(batch.files.trajectories)] == [7]


async def test_a_passing_failure_is_retried_from_the_checkpoint_not_from_the_start(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    failures: Counter[str] = Counter()

    def flaky(messages: Messages) -> Reply:
        if any(message["role"] == "assistant" for message in messages):
            failures[messages[1]["content"]] += 1
            if failures[messages[1]["content"]] <= 3:
                return JSONResponse({"error": {"message": "overloaded"}}, 500)
        return two_turns(messages)

    scripted_model.script = flaky
    batch = await generate(folder, scripted_model, tools_url)
    assert counts(batch) == [6, 0, 0, 0]
    first_turns = [request for request in scripted_model.requests if len(request["messages"]) == 2]
    assert len(first_turns) == 6
    assert {record["metadata"]["attempts"] for record in read_jsonl(batch.files.trajectories)} == {4}


async def test_what_fails_four_times_is_recorded_and_retried_by_the_next_run(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    def broken(messages: Messages) -> Reply:
        if "Question 2 " in messages[1]["content"]:
            return JSONResponse({"error": {"message": "out of order"}}, 500)
        return two_turns(messages)

    scripted_model.script = broken
    batch = await generate(folder, scripted_model, tools_url)
    assert counts(batch) == [5, 0, 1, 0]
    (failure,) = read_jsonl(batch.files.failed)
    assert failure["sample_id"] == "qwen3_traj_00002"
    assert failure["error"] == "ServerOverloaded"
    assert failure["attempts"] == 4
    assert "out of order" in failure["message"]
    scripted_model.script = two_turns
    again = await generate(folder, scripted_model, tools_url)
    assert counts(again) == [6, 0, 0, 0]
    assert read_jsonl(batch.files.failed) == []


async def test_a_refused_request_is_not_retried(folder: Path, scripted_model: ScriptedModel, tools_url: str) -> None:
    def strict(messages: Messages) -> Reply:
        if "Question 2 " in messages[1]["content"]:
            return JSONResponse({"error": {"message": "no such parameter"}}, 400)
        return two_turns(messages)

    scripted_model.script = strict
    batch = await generate(folder, scripted_model, tools_url)
    assert counts(batch) == [5, 0, 1, 0]
    refused = [body for body in scripted_model.requests if "Question 2 " in body["messages"][1]["content"]]
    assert len(refused) in (1, 2)  # with the extra fields, and without them while nothing else was answered
    assert {failure["error"] for failure in read_jsonl(batch.files.failed)} == {"BadRequest"}
