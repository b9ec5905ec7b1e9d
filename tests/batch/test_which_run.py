"""The same command goes on with the run that it was: the newest unfinished one of the same settings, whatever else is
in the folder.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.responses import JSONResponse

from backends.errors import UsageError
from batch.config import RunConfig
from batch.find_run import find_run
from batch.flags import changed
from batch.run_files import RunFiles, create_run
from tests.support.runs import counts, generate, generate_command, read_jsonl, trajgraph, two_turns, write_questions
from tests.support.servers import ScriptedModel, demo_model

CHOICES = st.lists(
    st.tuples(st.sampled_from([0.1, 0.7]), st.sampled_from(["gpu0", "gpu1", None]), st.booleans()), max_size=6
)


def stored(config: RunConfig, created: str, *, complete: bool) -> RunFiles:
    """A run as its files tell of it."""
    files = create_run(config, config.settings("q", "p", "t"), "p")
    content = json.loads(files.run.read_text()) | {"created": created}
    files.run.write_text(json.dumps(content))
    left = {"pending": 0 if complete else 3, "failed": 0, "questions": 6, "samples": 6}
    files.stats.write_text(json.dumps(left))
    return files


@settings(max_examples=60, deadline=None)
@given(CHOICES, st.randoms(use_true_random=False))
def test_the_newest_unfinished_run_of_the_same_settings_is_taken_else_a_complete_one_else_none(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[float, str | None, bool]], random: Any
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    base = RunConfig(folder / "questions.jsonl", folder)
    order = random.sample(range(len(runs)), len(runs))  # the names say when a file was made, not which run is newer
    made = {}
    for day in order:
        temperature, instance, complete = runs[day]
        config = changed(base, temperature=temperature, instance_id=instance)
        made[day] = stored(config, f"2026-01-{day + 1:02d}T00:00:00+00:00", complete=complete)
    for temperature, instance in [(0.1, None), (0.7, "gpu1")]:
        config = changed(base, temperature=temperature, instance_id=instance)
        alike = [day for day, run in enumerate(runs) if run[:2] == (temperature, instance)]
        unfinished = [day for day in alike if not runs[day][2]]
        wanted = max(unfinished or alike, default=None)
        found, others = find_run(config, config.settings("q", "p", "t"), "p", 6)
        assert (found and found.files) == (None if wanted is None else made[wanted])
        left = {made[day] for day, run in enumerate(runs) if run[1] == instance and not run[2]}
        assert {other.files for other in others} == left - ({found.files} if found else set())


def test_a_run_that_has_as_many_questions_as_it_was_asked_is_not_complete_for_more(tmp_path: Path) -> None:
    config = RunConfig(tmp_path / "questions.jsonl", tmp_path, limit=6)
    files = stored(config, "2026-01-01T00:00:00+00:00", complete=True)
    for asked, more, complete in [
        (6, {}, True),
        (7, {}, False),
        (6, {"samples_per_question": 2}, False),
        (6, {"accept": 1}, False),
    ]:
        found, _ = find_run(changed(config, **more), config.settings("q", "p", "t"), "p", asked)
        assert found and (found.files, found.complete) == (files, complete)


async def test_an_unfinished_run_goes_on_though_a_newer_one_has_another_temperature(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = lambda _: JSONResponse({"error": {"message": "no"}}, 400)
    first = await generate(folder, scripted_model, tools_url)
    scripted_model.script = two_turns
    newer = await generate(folder, scripted_model, tools_url, temperature=0.6)
    again = await generate(folder, scripted_model, tools_url)
    assert newer.files != first.files == again.files
    assert counts(again) == [6, 0, 0, 0]


async def test_a_complete_run_is_named_and_nothing_is_asked(
    folder: Path, scripted_model: ScriptedModel, tools_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    scripted_model.script = two_turns
    first = await generate(folder, scripted_model, tools_url)
    asked = len(scripted_model.requests)
    with caplog.at_level("INFO", "trajgraph"):
        again = await generate(folder, scripted_model, tools_url)
    assert again.files == first.files
    assert f"{first.files.run} is already complete: 6 accepted, 0 rejected" in caplog.text
    assert len(scripted_model.requests) == asked


async def test_samples_of_an_instance_are_named_after_it_and_those_of_an_earlier_version_keep_their_names(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = lambda _: JSONResponse({"error": {"message": "no"}}, 400)
    first = await generate(folder, scripted_model, tools_url, instance_id="gpu3")
    content = json.loads(first.files.run.read_text())
    del content["named_after"], content["created"]  # as an earlier version wrote it
    scripted_model.script = two_turns
    new = await generate(folder, scripted_model, tools_url, instance_id="gpu4")
    rows = read_jsonl(new.files.trajectories)
    assert sorted(row["sample_id"] for row in rows) == [f"gpu4_traj_{n:05d}" for n in range(1, 7)]
    assert {(row["metadata"]["instance_id"], row["metadata"]["api_model"]) for row in rows} == {("gpu4", "Qwen3-8B")}
    first.files.run.write_text(json.dumps(content))
    old = await generate(folder, scripted_model, tools_url, instance_id="gpu3")
    assert old.files == first.files
    assert sorted(row["sample_id"] for row in read_jsonl(old.files.trajectories))[0] == "qwen3_traj_00001"


async def test_a_run_whose_ids_are_those_of_another_in_the_folder_says_so(
    folder: Path, scripted_model: ScriptedModel, tools_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    scripted_model.script = two_turns
    await generate(folder, scripted_model, tools_url, shard="1/2")
    with caplog.at_level("WARNING", "trajgraph"):
        await generate(folder, scripted_model, tools_url, shard="2/2")
        await generate(folder, scripted_model, tools_url, instance_id="gpu1")
        assert "the same ids" not in caplog.text
        await generate(folder, scripted_model, tools_url, temperature=0.8)
    assert "the same ids" in caplog.text


async def test_a_damaged_run_is_named_and_not_begun_anew(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = two_turns
    files = (await generate(folder, scripted_model, tools_url)).files
    files.run.write_text(files.run.read_text()[:100])
    with pytest.raises(UsageError, match=f"{files.run.name}: not a run .* --fresh"):
        await generate(folder, scripted_model, tools_url)
    fresh = await generate(folder, scripted_model, tools_url, fresh=True)
    done = trajgraph("status", folder)
    assert (done.returncode, "left out: " in done.stderr, fresh.files.stem in done.stdout) == (0, True, True)


def test_a_complete_run_with_other_tools_or_another_prompt_is_not_taken_for_the_same(
    tmp_path: Path, tools_url: str
) -> None:
    write_questions(tmp_path / "questions.jsonl", ["Does semaglutide help?"])
    (tmp_path / "prompt.txt").write_text("Search, then answer in <answer>.")
    with demo_model() as url:
        command = generate_command(tmp_path, url, tools_url)
        for more in ((), ("--tools", "pubmed_search"), ("--system-prompt-file", tmp_path / "prompt.txt")):
            assert "already complete" not in trajgraph(*command, *more).stderr
            assert "already complete" in trajgraph(*command, *more).stderr
    assert len(list((tmp_path / "out").glob("*_run.json"))) == 3


async def test_samples_that_are_wanted_no_more_leave_the_others_pending(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = two_turns
    first = await generate(folder, scripted_model, tools_url, limit=2, samples_per_question=4)
    assert counts(first) == [8, 0, 0, 0]
    scripted_model.script = lambda messages: (
        JSONResponse({"error": {"message": "no"}}, 400)
        if "Question 6 " in messages[1]["content"]
        else two_turns(messages)
    )
    more = await generate(folder, scripted_model, tools_url)
    assert (more.files, counts(more)) == (first.files, [11, 0, 1, 0])
    scripted_model.script = two_turns
    assert counts(await generate(folder, scripted_model, tools_url)) == [12, 0, 0, 0]
