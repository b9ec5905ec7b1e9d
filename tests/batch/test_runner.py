"""Many questions: each ends in exactly one file, whatever happened before."""

import json
import os
import signal
from pathlib import Path

import pytest
from starlette.responses import JSONResponse

from backends.errors import UsageError
from batch.acquire import acquire_run
from batch.config import RunConfig
from batch.questions import check_questions
from batch.records import sample_ids
from graph.checkpoints import open_checkpoints
from tests.support.runs import QUESTIONS, Messages, counts, generate, read_jsonl, stats, two_turns, write_questions
from tests.support.servers import Reply, ScriptedModel


async def test_every_question_is_answered_once_and_its_thread_is_let_go(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = two_turns
    batch = await generate(folder, scripted_model, tools_url)
    assert counts(batch) == [6, 0, 0, 0]
    records = read_jsonl(batch.files.trajectories)
    assert sorted(record["sample_id"] for record in records) == [f"qwen3_traj_{n:05d}" for n in range(1, 7)]
    assert {record["question"] for record in records} == set(QUESTIONS)
    async with open_checkpoints(batch.files.checkpoints) as saver:
        assert saver.threads == set()


async def test_the_files_have_the_names_that_consumers_look_for(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = two_turns
    scripted_model.serves = "Qwen/Qwen3:8B"
    batch = await generate(folder, scripted_model, tools_url, model_name="Qwen/Qwen3:8B", instance_id="port8006")
    stem = batch.files.stem
    assert stem.startswith("pubmed_trajectory_2")
    assert stem.endswith("_Qwen_Qwen3_8B_port8006")
    names = {path.name.replace(stem, "STEM") for path in folder.iterdir()}
    stats_name = f"trajectory_stats_{stem.removeprefix('pubmed_trajectory_')}.json"
    assert {"STEM_incremental.jsonl", "STEM_run.json", "STEM_checkpoints.sqlite", stats_name} <= names


async def test_running_again_does_nothing_twice(folder: Path, scripted_model: ScriptedModel, tools_url: str) -> None:
    scripted_model.script = two_turns
    first = await generate(folder, scripted_model, tools_url)
    asked = len(scripted_model.requests)
    again = await generate(folder, scripted_model, tools_url)
    assert again.files == first.files
    assert len(scripted_model.requests) == asked
    assert counts(again) == [6, 0, 0, 0]


async def test_fresh_begins_another_run(folder: Path, scripted_model: ScriptedModel, tools_url: str) -> None:
    scripted_model.script = two_turns
    first = await generate(folder, scripted_model, tools_url)
    fresh = await generate(folder, scripted_model, tools_url, fresh=True)
    assert fresh.files.stem != first.files.stem
    assert counts(fresh) == [6, 0, 0, 0]


async def test_a_larger_limit_continues_the_run(folder: Path, scripted_model: ScriptedModel, tools_url: str) -> None:
    scripted_model.script = two_turns
    first = await generate(folder, scripted_model, tools_url, limit=2)
    assert counts(first) == [2, 0, 0, 0]
    rest = await generate(folder, scripted_model, tools_url)
    assert rest.files == first.files
    assert counts(rest) == [6, 0, 0, 0]
    assert len(scripted_model.requests) == 12


async def test_a_smaller_limit_takes_nothing_back(folder: Path, scripted_model: ScriptedModel, tools_url: str) -> None:
    scripted_model.script = two_turns
    await generate(folder, scripted_model, tools_url, limit=4)
    assert counts(await generate(folder, scripted_model, tools_url, limit=2)) == [4, 0, 0, 0]


async def test_finished_but_unfit_trajectories_are_kept_apart(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = lambda _: "I would rather not."
    batch = await generate(folder, scripted_model, tools_url)
    assert counts(batch) == [0, 6, 0, 0]
    assert {tuple(row["metadata"]["reject_reasons"]) for row in read_jsonl(batch.files.rejected)} == {("no_answer",)}


async def test_an_interrupted_run_saves_what_is_in_flight_and_goes_on_there(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    def interrupting(messages: Messages) -> Reply:
        if len(scripted_model.requests) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return two_turns(messages)

    scripted_model.script = interrupting
    stopped = await generate(folder, scripted_model, tools_url)
    assert stopped.code == 130
    assert stats(stopped)["pending"] > 0
    assert sum(counts(stopped)) == 6
    scripted_model.script = two_turns
    batch = await generate(folder, scripted_model, tools_url)
    assert counts(batch) == [6, 0, 0, 0]
    assert len(scripted_model.requests) == 12


async def test_without_incremental_saving_all_is_in_order_at_the_end_and_a_stop_loses_nothing(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    def interrupting(messages: Messages) -> Reply:
        if len(scripted_model.requests) == 8:
            os.kill(os.getpid(), signal.SIGINT)
        return two_turns(messages)

    scripted_model.script = interrupting
    stopped = await generate(folder, scripted_model, tools_url, incremental=False)
    assert 0 < len(read_jsonl(stopped.files.trajectories)) < 6
    scripted_model.script = two_turns
    batch = await generate(folder, scripted_model, tools_url, incremental=False)
    written = [row["sample_id"] for row in read_jsonl(batch.files.trajectories)]
    assert written == [f"qwen3_traj_{n:05d}" for n in range(1, 7)]
    assert counts(batch) == [6, 0, 0, 0]
    assert len(scripted_model.requests) == 12


async def test_under_other_settings_another_run_is_begun_and_the_first_goes_on_when_that_is_asked_for(
    folder: Path, scripted_model: ScriptedModel, tools_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    scripted_model.script = lambda _: JSONResponse({"error": {"message": "no"}}, 400)
    first = await generate(folder, scripted_model, tools_url)
    with caplog.at_level("INFO", "trajgraph"):
        other = await generate(folder, scripted_model, tools_url, temperature=0.7, fresh=False)
    assert other.files != first.files
    assert f"left alone, unfinished: {first.files.run} (temperature: 0.1 -> 0.7)" in caplog.text
    other.files.run.unlink()
    scripted_model.script = two_turns
    changed = await generate(folder, scripted_model, tools_url, temperature=0.7, allow_changed_settings=True)
    assert changed.files == first.files
    run = json.loads(first.files.run.read_text(encoding="utf-8"))
    assert run["settings"]["temperature"] == 0.7
    assert run["earlier_settings"][0]["temperature"] == 0.1


async def test_a_changed_questions_file_is_noticed(folder: Path, scripted_model: ScriptedModel, tools_url: str) -> None:
    scripted_model.script = lambda _: JSONResponse({"error": {"message": "no"}}, 400)
    await generate(folder, scripted_model, tools_url)
    write_questions(folder / "questions.jsonl", [*QUESTIONS, "One more?"])
    with pytest.raises(UsageError, match="questions_sha256"):
        await generate(folder, scripted_model, tools_url)


async def test_a_second_process_on_the_same_run_is_refused(folder: Path) -> None:
    options = RunConfig(folder / "questions.jsonl", folder)
    settings = options.settings("q", "p", "t")
    with (
        acquire_run(options, settings, "p", 6),
        pytest.raises(UsageError, match=r"process \d+ is working on"),
        acquire_run(options, settings, "p", 6),
    ):
        pass


async def test_a_torn_last_line_is_dropped_and_its_question_done_again(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = two_turns
    batch = await generate(folder, scripted_model, tools_url)
    with batch.files.trajectories.open("r+b") as target:
        target.truncate(batch.files.trajectories.stat().st_size - 20)
    again = await generate(folder, scripted_model, tools_url)
    assert counts(again) == [6, 0, 0, 0]


async def test_bad_rows_are_left_out_and_keep_their_places(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    lines = (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "questions.jsonl").write_text("\n".join([lines[0], "", "{torn", "[]", lines[1]]) + "\n", encoding="utf-8")
    scripted_model.script = two_turns
    with pytest.raises(UsageError, match=r"line 3: not JSON"):
        check_questions(folder / "questions.jsonl")
    batch = await generate(folder, scripted_model, tools_url, skip_bad_rows=True)
    assert counts(batch) == [2, 0, 0, 0]
    assert stats(batch)["bad_rows"] == 2
    assert sorted(sample_ids(batch.files.trajectories)) == ["qwen3_traj_00001", "qwen3_traj_00004"]
    checked = check_questions(folder / "questions.jsonl", skip_bad_rows=True)
    assert [place for place, _ in checked.stream()] == [1, 4]
