"""Several trajectories for a question: each under its own id and seed, none twice, whatever happened before."""

from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse

from tests.support.runs import answer, generate, read_jsonl, stats, trajgraph, two_turns
from tests.support.servers import Reply, ScriptedModel

Messages = list[dict[str, Any]]


def ids(path: Path) -> list[str]:
    return sorted(row["sample_id"] for row in read_jsonl(path))


def test_each_question_is_sampled_so_many_times_and_a_run_continues(
    folder: Path, model_url: str, tools_url: str
) -> None:
    command = ["generate", "--questions-file", folder / "questions.jsonl", "--output", folder / "out"]
    command += ["--local-model-url", model_url, "--mcp-url", tools_url]
    first = trajgraph(*command, "--samples-per-question", "2", "--limit", "2")
    assert first.stdout.startswith("2 questions, 4 samples: 4 accepted, 0 rejected, 0 failed, 0 pending"), first
    (path,) = (folder / "out").glob("*_incremental.jsonl")
    base = "qwen3_traj_0000"
    assert ids(path) == [f"{base}1", f"{base}1_s2", f"{base}2", f"{base}2_s2"]
    more = trajgraph(*command, "--samples-per-question", "3", "--limit", "2")
    assert more.returncode == 0, more.stderr
    assert ids(path) == [f"{base}{n}{s}" for n in (1, 2) for s in ("", "_s2", "_s3")]
    assert {row["sample_id"][-3:]: row["metadata"]["seed"] for row in read_jsonl(path)}["_s3"] == 3


async def test_the_seed_of_a_sample_is_in_its_requests_and_there_is_none_for_a_single_one(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = two_turns
    await generate(folder, scripted_model, tools_url)
    assert all("seed" not in request for request in scripted_model.requests)


async def test_a_question_is_sampled_until_enough_are_accepted_or_all_are_spent(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    tries: dict[str, int] = {}

    def third_time(messages: Messages) -> Reply:
        question = messages[1]["content"]
        tries[question] = tries.get(question, 0) + 1
        hopeless = "Question 6" in question
        return answer() if tries[question] >= 3 and not hopeless else answer("")

    scripted_model.script = third_time
    how: dict[str, Any] = {"max_samples": 4, "accept": 1}
    batch = await generate(folder, scripted_model, tools_url, **how)
    accepted, rejected = ids(batch.files.trajectories), ids(batch.files.rejected)
    assert accepted == [f"qwen3_traj_0000{n}_s3" for n in range(1, 6)]
    assert len(rejected) == 5 * 2 + 4
    assert stats(batch)["pending"] == 0
    again = await generate(folder, scripted_model, tools_url, **how)
    assert ids(again.files.trajectories) == accepted
    assert len(ids(again.files.rejected)) == len(rejected)


async def test_the_counts_add_up_with_samples_of_every_kind(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = two_turns
    for most, accept, incremental in [(1, 1, True), (4, 2, False), (2, None, True), (3, 1, True)]:
        how: dict[str, Any] = {"max_samples": most, "accept": accept} if accept else {"samples_per_question": most}
        batch = await generate(folder, scripted_model, tools_url, incremental=incremental, fresh=True, **how)
        numbers = stats(batch)
        assert numbers["accepted"] == 6 * (accept or most), (most, accept)
        assert numbers["pending"] == 0
        assert numbers["samples"] == numbers["accepted"]
    fewer = await generate(folder, scripted_model, tools_url)
    assert stats(fewer)["pending"] == 0


async def test_a_failed_sample_is_failed_and_not_pending_too(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = lambda _: JSONResponse({"error": {"message": "no"}}, 400)
    how: dict[str, Any] = {"max_samples": 4, "accept": 1}
    batch = await generate(folder, scripted_model, tools_url, **how)
    assert [stats(batch)[name] for name in ("accepted", "failed", "pending", "samples")] == [0, 6, 0, 6]
    scripted_model.script = two_turns
    again = await generate(folder, scripted_model, tools_url, **how)
    assert [stats(again)[name] for name in ("accepted", "failed", "pending", "samples")] == [6, 0, 0, 6]


def test_a_run_that_samples_until_enough_are_accepted_tells_how_many_questions_have_enough(
    folder: Path, model_url: str, tools_url: str
) -> None:
    command = ["generate", "--questions-file", folder / "questions.jsonl", "--output", folder / "out", "--limit", "3"]
    command += ["--local-model-url", model_url, "--mcp-url", tools_url]
    assert trajgraph(*command, "--accept", "1", "--max-samples", "4").returncode == 0
    told = trajgraph("status", folder / "out")
    assert "3 accepted, 0 rejected, 0 failed; 3 of 3 questions have enough; no process" in told.stdout, told.stdout


async def test_written_at_the_end_the_tenth_sample_stands_behind_the_second(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = lambda _: answer()
    how: dict[str, Any] = {"limit": 1, "incremental": False, "samples_per_question": 11}
    batch = await generate(folder, scripted_model, tools_url, **how)
    written = [row["sample_id"] for row in read_jsonl(batch.files.trajectories)]
    assert written == ["qwen3_traj_00001", *(f"qwen3_traj_00001_s{n}" for n in range(2, 12))]
