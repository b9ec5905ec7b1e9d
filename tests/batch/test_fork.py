"""`--fork-at`: the samples of a question share their beginning, letter for letter, and what it cost is paid once."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse

from backends.errors import UsageError
from tests.batch.test_workers import COUNT, asked, begun
from tests.support.exports import export
from tests.support.runs import answer, call, command, counts, generate, read_jsonl, trajgraph, write_questions
from tests.support.servers import Reply, ScriptedModel, demo_model


def two_calls(messages: list[dict[str, Any]], number: list[int]) -> Any:
    """Two calls and an answer, each reply unlike any other."""
    number[0] += 1
    replies = sum(message["role"] == "assistant" for message in messages)
    return answer(f"It works {number[0]}.") if replies > 1 else call("pubmed_search", f"word{number[0]}")


def threads(run: Any) -> int:
    with closing(sqlite3.connect(run.files.checkpoints)) as stored:
        return int(stored.execute("SELECT COUNT(DISTINCT thread_id) FROM checkpoints").fetchone()[0])


async def test_samples_go_on_from_the_first_ones_calls(
    tmp_path: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    number = [0]
    scripted_model.script = lambda messages: two_calls(messages, number)
    write_questions(tmp_path / "questions.jsonl", ["Does it help?"])
    done = await generate(tmp_path, scripted_model, tools_url, samples_per_question=3, fork_at=1)
    assert counts(done) == [3, 0, 0, 0]
    assert number[0] == 3 + 2 + 2, "the first reply is asked once for all three"
    first, *others = sorted(read_jsonl(done.files.trajectories), key=lambda row: str(row["sample_id"]))
    text = first["trajectory"]["interleaved_text"]
    beginning = text[: text.index("</tool_output>")]
    prompt = [one for one in scripted_model.requests if len(one["messages"]) == 4]
    assert len(prompt) == 3 and all(one["messages"] == prompt[0]["messages"] for one in prompt)
    assert "forked_from" not in first["metadata"]
    for row in others:
        assert row["trajectory"]["interleaved_text"].startswith(beginning)
        assert row["trajectory"]["interleaved_text"] != text
        assert row["metadata"]["forked_from"] == {"sample_id": first["sample_id"], "calls": 1}
        assert row["metadata"]["turns"] == 3 and row["trajectory"]["total_tool_calls"] == 2
        assert row["metadata"]["usage"]["output_tokens"] < first["metadata"]["usage"]["output_tokens"]
    assert threads(done) == 0


async def test_an_interrupted_run_forks_from_the_first_sample_when_it_goes_on(
    tmp_path: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    number = [0]

    def fails(messages: list[dict[str, Any]]) -> Reply:
        return JSONResponse({"error": {"message": "no"}}, 400) if number[0] == 3 else two_calls(messages, number)

    scripted_model.script = fails
    write_questions(tmp_path / "questions.jsonl", ["Does it help?"])
    half = await generate(tmp_path, scripted_model, tools_url, samples_per_question=2, fork_at=2)
    assert counts(half) == [1, 0, 1, 0] and threads(half) == 2
    scripted_model.script = lambda messages: two_calls(messages, number)
    done = await generate(tmp_path, scripted_model, tools_url, samples_per_question=2, fork_at=2)
    assert counts(done) == [2, 0, 0, 0] and number[0] == 3 + 1
    assert read_jsonl(done.files.trajectories)[1]["metadata"]["forked_from"]["calls"] == 2
    assert threads(done) == 0


async def test_a_sample_begins_by_itself_where_the_first_one_made_too_few_calls(
    tmp_path: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    number = [0]
    scripted_model.script = lambda messages: two_calls(messages, number)
    write_questions(tmp_path / "questions.jsonl", ["Does it help?"])
    done = await generate(tmp_path, scripted_model, tools_url, samples_per_question=2, fork_at=3)
    assert counts(done) == [2, 0, 0, 0] and number[0] == 6
    assert not any("forked_from" in row["metadata"] for row in read_jsonl(done.files.trajectories))


async def test_pairs_of_forked_samples_share_what_tools_gave(
    tmp_path: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    number = [0]

    def half_rejected(messages: list[dict[str, Any]]) -> Any:
        made = two_calls(messages, number)
        return "<think>No idea.</think>\nIt depends." if number[0] > 3 and "works" in str(made) else made

    scripted_model.script = half_rejected
    write_questions(tmp_path / "questions.jsonl", ["Does it help?"])
    done = await generate(tmp_path, scripted_model, tools_url, samples_per_question=2, fork_at=2)
    assert counts(done) == [1, 1, 0, 0]
    (pair,) = export(tmp_path, tmp_path / "set", "dpo")
    assert [said["role"] for said in pair["prompt"]] == ["system", "user", "assistant", "tool", "assistant", "tool"]
    with pytest.raises(UsageError, match="goes with --samples-per-question"):
        await generate(tmp_path, scripted_model, tools_url, fork_at=2)


@pytest.mark.long
def test_workers_fork_too_also_when_they_go_on_with_a_killed_run(tmp_path: Path, tools_url: str) -> None:
    folder = asked(tmp_path, "killed")
    more = ("--samples-per-question", "2", "--fork-at", "1")
    with demo_model(latency=0.05) as url:
        process = begun(folder, url, tools_url, after=40, processes=("--workers", "2", *more))
        process.kill()
        process.communicate()
        done = trajgraph(*command(folder, url, tools_url), "--workers", "3", *more)
    assert done.stdout.startswith(f"{COUNT} questions, {2 * COUNT} samples: {2 * COUNT} accepted"), done
    (path,) = (folder / "out").glob("*_incremental.jsonl")
    rows = read_jsonl(path)
    assert len({row["sample_id"] for row in rows}) == 2 * COUNT
    assert sum("forked_from" in row["metadata"] for row in rows) == COUNT
