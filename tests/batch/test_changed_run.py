"""A run's inputs are read once; under other settings nothing is taken up that was made under the earlier ones."""

import contextlib
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.errors import UsageError
from batch.config import RunConfig, differences, made_under
from batch.questions import check_questions
from batch.run_files import Ids, read_run
from serializers.record import sample_id
from servers.demo_model.server import DemoModel
from tests.support.runs import ROOT, generate_command, read_jsonl, trajgraph, write_questions
from tests.support.servers import demo_model, served

DRUGS = ("semaglutide", "dapagliflozin", "olaparib", "lecanemab", "pembrolizumab", "empagliflozin")


def questions_of(drugs: Any) -> list[str]:
    return [f"Does {drug} help its patients?" for drug in drugs]


def killed(folder: Path, tools_url: str, after: int, *more: str) -> None:
    """A run that is killed when its model has been asked so often, each question in the middle of its way."""
    model = DemoModel("Qwen3-8B", latency=0.15)
    with served(model.app()) as base:
        command = [sys.executable, "-m", "cli", *generate_command(folder, f"{base}/v1", tools_url), *more]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while model.stats["completions"] < after:
            time.sleep(0.01)
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()


def rows(folder: Path) -> list[dict[str, Any]]:
    found = [*(folder / "out").glob("*_incremental.jsonl"), *(folder / "out").glob("*_rejected.jsonl")]
    return [row for path in found for row in read_jsonl(path)]


def check(folder: Path, wanted: list[str]) -> None:
    """Every question has one trajectory, which is about it."""
    found = sorted(rows(folder), key=lambda row: str(row["sample_id"]))
    assert [row["question"] for row in found] == wanted
    for row in found:
        drug = row["question"].split()[1]
        assert row["trajectory"]["question"] == row["question"]
        assert any(drug in call["query"] for call in row["trajectory"]["tool_calls"])
        others = set(DRUGS) | {"REPLACED"} - {drug}
        assert not any(
            other in call["query"] for call in row["trajectory"]["tool_calls"][:1] for other in others - {drug}
        )


@pytest.mark.long
@pytest.mark.parametrize(
    ("edit", "workers"), [("reversed", "2"), ("prepended", "1"), ("shortened", "1"), ("edited", "1")]
)
def test_a_trajectory_is_of_the_question_that_it_answers_however_the_file_was_edited(
    tmp_path: Path, tools_url: str, edit: str, workers: str
) -> None:
    before = questions_of(DRUGS)
    write_questions(tmp_path / "questions.jsonl", before)
    killed(tmp_path, tools_url, 13, "--concurrency", "3", "--workers", workers)
    done_before = len(rows(tmp_path))
    after = {
        "reversed": before[::-1],
        "prepended": [*questions_of(["metformin"]), *before],
        "shortened": before[:4],
        "edited": [*before[:2], *questions_of(["metformin"]), *before[3:]],
    }[edit]
    write_questions(tmp_path / "questions.jsonl", after)
    with demo_model() as url:
        command = generate_command(tmp_path, url, tools_url)
        refused = trajgraph(*command)
        assert refused.returncode == 2
        assert "questions_sha256" in refused.stderr
        done = trajgraph(*command, "--allow-changed-settings", "--workers", workers)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{len(after)} questions: {len(after)} accepted, 0 rejected, 0 failed, 0 pending")
    check(tmp_path, after)
    aside = [row for path in (tmp_path / "out").glob("*_superseded.jsonl") for row in read_jsonl(path)]
    kept = [row for row in rows(tmp_path) if row["question"] in before]
    assert len(aside) <= done_before
    assert all(row["question"] in before for row in aside)
    assert len(kept) >= min(3, len(after))


@pytest.mark.long
@pytest.mark.parametrize("fault", ["unwritable", "unreadable"])
def test_a_change_that_was_interrupted_is_made_whole_by_the_next_start(
    tmp_path: Path, tools_url: str, fault: str
) -> None:
    write_questions(tmp_path / "questions.jsonl", questions_of(DRUGS))
    killed(tmp_path, tools_url, 13, "--concurrency", "3")
    assert rows(tmp_path)
    after = questions_of(["metformin", "REPLACED", *DRUGS[:4]])
    write_questions(tmp_path / "questions.jsonl", after)
    (run,) = (tmp_path / "out").glob("*_run.json")
    stem = run.name.removesuffix("_run.json")
    superseded, checkpoints = (
        run.with_name(f"{stem}_{ending}") for ending in ("superseded.jsonl", "checkpoints.sqlite")
    )
    if fault == "unwritable":
        superseded.mkdir()
    else:
        for path in run.parent.glob(f"{checkpoints.name}*"):
            path.unlink()
        checkpoints.write_bytes(b"garbage" * 1000)
    with demo_model() as url:
        command = [*generate_command(tmp_path, url, tools_url), "--allow-changed-settings"]
        assert trajgraph(*command).returncode == 1
        superseded.rmdir() if fault == "unwritable" else checkpoints.unlink()
        done = trajgraph(*command)
    assert done.returncode == 0, done.stderr
    check(tmp_path, after)
    assert "other_questions" not in read_run(run)[1]


@pytest.mark.long
def test_a_run_with_something_left_is_not_left_for_another_in_silence(tmp_path: Path, tools_url: str) -> None:
    write_questions(tmp_path / "questions.jsonl", questions_of(DRUGS))
    killed(tmp_path, tools_url, 13, "--concurrency", "3")
    write_questions(tmp_path / "questions.jsonl", [row["question"] for row in rows(tmp_path)])
    with demo_model() as url:
        command = generate_command(tmp_path, url, tools_url)
        assert trajgraph(*command).returncode == 2
        done = trajgraph(*command, "--allow-changed-settings")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*_run.json"))) == 1


@pytest.mark.long
def test_another_prompt_begins_again_what_was_under_way_and_each_row_says_which(tmp_path: Path, tools_url: str) -> None:
    write_questions(tmp_path / "questions.jsonl", questions_of(DRUGS))
    (tmp_path / "prompt.txt").write_text("You are agent A.")
    prompt = ("--system-prompt-file", str(tmp_path / "prompt.txt"))
    killed(tmp_path, tools_url, 13, "--concurrency", "3", *prompt)
    done_before = {row["sample_id"] for row in rows(tmp_path)}
    (tmp_path / "prompt.txt").write_text("You are agent B.")
    seen: list[str] = []
    app = DemoModel("Qwen3-8B").app()

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        async def noted() -> Any:
            message = await receive()
            seen.append(message.get("body", b"").decode())
            return message

        await app(scope, noted, send)

    with served(noting) as base:
        done = trajgraph(*generate_command(tmp_path, f"{base}/v1", tools_url), *prompt, "--allow-changed-settings")
    assert done.returncode == 0, done.stderr
    assert not any("agent A" in body for body in seen)
    fresh = [row for row in rows(tmp_path) if row["sample_id"] not in done_before]
    assert len([body for body in seen if "agent B" in body and '"max_tokens":1,' not in body]) == sum(
        row["metadata"]["turns"] for row in fresh
    )
    assert trajgraph("export", tmp_path / "out", "--format", "messages", "--output", tmp_path / "set").returncode == 0
    for row in read_jsonl(tmp_path / "set" / "train.jsonl"):
        letter = "A" if row["sample_id"] in done_before else "B"
        assert row["messages"][0] == {"role": "system", "content": f"You are agent {letter}."}


@pytest.mark.long
def test_a_prompt_from_a_pipe_is_read_once_and_is_what_the_model_gets(tmp_path: Path, tools_url: str) -> None:
    write_questions(tmp_path / "questions.jsonl", questions_of(DRUGS[:1]))
    said = "You are it. " + "PROMPT-MARK " * 60
    with demo_model() as url:
        words = " ".join(generate_command(tmp_path, url, tools_url))
        command = f'{sys.executable} -m cli {words} --workers 2 --system-prompt-file <(echo "{said}")'
        done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files, content = read_run(tmp_path / "out")
    assert content["prompt"] == f"{said}\n"
    (row,) = rows(tmp_path)
    assert row["metadata"]["usage"]["input_tokens"] > 60 * 4 * row["metadata"]["turns"], (
        "a worker's model was told it all"
    )
    assert trajgraph("export", files.run, "--format", "messages", "--output", tmp_path / "set").returncode == 0
    assert read_jsonl(tmp_path / "set" / "train.jsonl")[0]["messages"][0]["content"] == f"{said}\n"


@pytest.mark.long
def test_what_resumes_uses_the_stored_prompt(tmp_path: Path, tools_url: str) -> None:
    write_questions(tmp_path / "questions.jsonl", questions_of(DRUGS))
    (tmp_path / "prompt.txt").write_text("You are agent A.")
    killed(tmp_path, tools_url, 8, "--system-prompt-file", str(tmp_path / "prompt.txt"))
    (tmp_path / "prompt.txt").unlink()
    files, content = read_run(tmp_path / "out")
    with demo_model() as url:
        content["options"]["local_model_url"] = url
        files.run.write_text(json.dumps(content))
        assert trajgraph("resume", files.run).returncode == 0
    assert {row["metadata"]["prompt_sha256"] for row in rows(tmp_path)} == {content["settings"]["prompt_sha256"]}


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_an_empty_prompt_is_refused(tmp_path: Path, prompt: str) -> None:
    write_questions(tmp_path / "questions.jsonl", ["Q?"])
    (tmp_path / "prompt.txt").write_text(prompt)
    refused = trajgraph(
        "generate", "--questions-file", tmp_path / "questions.jsonl", "--system-prompt-file", tmp_path / "prompt.txt"
    )
    assert refused.returncode == 2
    assert "it is empty" in refused.stderr


def test_questions_that_cannot_be_read_again_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for source in (tmp_path / "fifo", Path("/dev/null")):
        refused = trajgraph("generate", "--questions-file", source, "--output", tmp_path / "out")
        assert refused.returncode == 2
        assert "no regular file" in refused.stderr


@pytest.mark.parametrize("depth", [10, 300, 800, 900, 960, 990, 1020, 3000])
def test_a_row_however_deep_is_worked_on_or_named_never_dropped(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "questions.jsonl"
    deep = '{"question": "Does semaglutide help?", "expected_search_terms": ' + "[" * depth + "]" * depth + "}\n"
    path.write_text('{"question": "Does olaparib help?"}\n' + deep)
    try:
        checked = check_questions(path)
    except UsageError as error:
        assert "line 2: not JSON" in str(error)
    else:
        assert len(further_down(400, lambda: list(checked.stream()))) == 2


def further_down(calls: int, act: Callable[[], Any]) -> Any:
    """What comes of it with so many calls on the stack."""
    return further_down(calls - 1, act) if calls else act()


def test_a_run_without_a_setting_that_has_been_added_since_had_its_default() -> None:
    settings = RunConfig(Path("q.jsonl")).settings("questions", "prompt", "tools")
    stored = json.loads(json.dumps(settings))
    for name in ("instance_id", "hard_gates"):
        stored.pop(name)
    assert differences(stored, settings) == []
    assert differences({**stored, "temperature": 0.2}, settings) == ["temperature: 0.2 -> 0.1"]


def test_the_hash_that_names_threads_is_that_of_earlier_versions() -> None:
    earlier = {
        "max_tokens": 4096, "max_tool_calls": 5, "max_turns": 10, "model_name": "Qwen3-8B", "prompt_sha256": "p",
        "temperature": 0.1, "tool_role": "tool", "tools_sha256": "t",
    }  # fmt: skip
    settings = RunConfig(Path("q.jsonl"), instance_id="x", shard="1/2").settings("questions", "", "t")
    expected = hashlib.sha256(json.dumps(earlier, sort_keys=True).encode()).hexdigest()
    settings["prompt_sha256"] = "p"
    assert made_under(settings) == expected
    assert made_under({**settings, "sampling": {"top_p": 0.9}}) != expected


@pytest.mark.long
def test_a_run_that_was_started_before_its_threads_were_named_by_their_settings_keeps_its_steps(
    tmp_path: Path, tools_url: str
) -> None:
    write_questions(tmp_path / "questions.jsonl", questions_of(DRUGS))
    killed(tmp_path, tools_url, 14, "--concurrency", "6")
    files, content = read_run(tmp_path / "out")
    now, before = Ids(files.run_id, content.pop("made_under")), Ids(files.run_id)
    with contextlib.closing(sqlite3.connect(files.checkpoints)) as stored:
        for place, question in enumerate(questions_of(DRUGS), start=1):
            name = sample_id("qwen3", place)
            names = (before.thread(name, question), now.thread(name, question))
            for table in ("checkpoints", "writes"):
                stored.execute(f"UPDATE {table} SET thread_id = ? WHERE thread_id = ?", names)
        stored.commit()
    files.run.write_text(json.dumps(content))
    model = DemoModel("Qwen3-8B")
    with served(model.app()) as base:
        again = trajgraph(*generate_command(tmp_path, f"{base}/v1", tools_url))
    assert again.returncode == 0, again.stderr
    check(tmp_path, questions_of(DRUGS))
    whole = sum(row["metadata"]["turns"] for row in rows(tmp_path))
    assert model.stats["completions"] <= whole - 14 + 6, "no more is asked again than was under way"
