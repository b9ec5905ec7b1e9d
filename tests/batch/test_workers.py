"""Several processes for one run: the same files as from one, whichever of the processes is killed."""

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from servers.demo_model.server import DemoModel
from tests.support.runs import (
    ROOT,
    command,
    read_jsonl,
    records,
    requests_so_far,
    trajgraph,
    trajgraph_process,
    write_questions,
)
from tests.support.servers import demo_model, free_port, served

pytestmark = pytest.mark.long

COUNT = 24
TWO = ("--workers", "2")


def asked(folder: Path, name: str) -> Path:
    """A folder with a questions file."""
    (folder / name).mkdir()
    write_questions(folder / name / "questions.jsonl", [f"Does semaglutide {n} help in obesity?" for n in range(COUNT)])
    return folder / name


def begun(
    folder: Path, url: str, tools_url: str, after: int, stderr: Any = subprocess.PIPE, processes: Sequence[str] = TWO
) -> "subprocess.Popen[str]":
    """A run with two workers that has made so many requests."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", *command(folder, url, tools_url), *processes], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=stderr,
    )  # fmt: skip
    before = requests_so_far(url)
    while process.poll() is None and requests_so_far(url) < before + after:
        time.sleep(0.02)
    return process


def workers_of(process: "subprocess.Popen[str]") -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def threads(folder: Path) -> int:
    """How many questions still have checkpoints."""
    (path,) = folder.rglob("*_checkpoints.sqlite")
    with contextlib.closing(sqlite3.connect(path)) as stored:
        return int(stored.execute("SELECT COUNT(DISTINCT thread_id) FROM checkpoints").fetchone()[0])


def completed(folder: Path, url: str, tools_url: str, *processes: str) -> None:
    again = trajgraph_process(*command(folder, url, tools_url), *(processes or TWO))
    assert again.stdout.startswith(f"{COUNT} questions: {COUNT} accepted, 0 rejected, 0 failed, 0 pending"), again
    assert again.returncode == 0
    assert len({record["sample_id"] for record in records(folder)}) == len(records(folder)) == COUNT


def test_two_workers_write_what_one_process_writes(tmp_path: Path, tools_url: str) -> None:
    one, two = asked(tmp_path, "one"), asked(tmp_path, "two")
    with demo_model() as url:
        assert trajgraph_process(*command(one, url, tools_url)).returncode == 0
        needed = requests_so_far(url)
        completed(two, url, tools_url)
        assert requests_so_far(url) == 2 * needed
    assert records(two) == records(one)
    assert threads(two) == threads(one) == 0


def test_without_the_first_process_the_workers_end_and_the_same_command_continues(
    tmp_path: Path, tools_url: str
) -> None:
    folder = asked(tmp_path, "killed")
    with demo_model(latency=0.1) as url:
        process = begun(folder, url, tools_url, after=20)
        workers = workers_of(process)
        process.kill()
        process.communicate()
        asked_when_killed = requests_so_far(url)
        completed(folder, url, tools_url)
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert len(workers) == 2
    assert asked_when_killed >= 20


@pytest.mark.parametrize(("before", "after"), [("2", "3"), ("3", "1")])
def test_a_killed_run_is_resumed_by_another_number_of_processes_with_every_checkpoint(
    tmp_path: Path, tools_url: str, before: str, after: str
) -> None:
    whole, folder = asked(tmp_path, "whole"), asked(tmp_path, "killed")
    with demo_model(latency=0.1) as url:
        assert trajgraph(*command(whole, url, tools_url, concurrency=12)).returncode == 0
        needed = requests_so_far(url)
        process = begun(folder, url, tools_url, after=20, processes=("--workers", before))
        process.kill()
        process.communicate()
        completed(folder, url, tools_url, "--workers", after)
        assert requests_so_far(url) - 2 * needed <= 4 + int(before), "no more is asked again than was in flight"
    assert records(folder) == records(whole)
    assert [path.name for path in (folder / "out").glob("*of*.sqlite*")] == []
    assert threads(folder) == 0


@pytest.mark.parametrize("samples", [("--accept", "1", "--max-samples", "3"), ("--samples-per-question", "2")])
def test_workers_sample_each_question_as_one_process_does(
    tmp_path: Path, tools_url: str, samples: tuple[str, ...]
) -> None:
    write_questions(tmp_path / "questions.jsonl", [f"Does semaglutide {n} help in obesity?" for n in range(4)])
    with demo_model() as url:
        for _ in range(2):
            done = trajgraph(*command(tmp_path, url, tools_url), *TWO, *samples)
            wanted = "4 questions: 4" if "--accept" in samples else "4 questions, 8 samples: 8"
            assert done.stdout.startswith(f"{wanted} accepted, 0 rejected, 0 failed, 0 pending"), done
            assert done.returncode == 0


def test_a_server_that_goes_down_while_the_workers_start_is_waited_for(tmp_path: Path, tools_url: str) -> None:
    folder, model, asked_for_models = asked(tmp_path, "early"), DemoModel("Qwen3-8B").app(), 0

    async def loading(scope: Any, receive: Any, send: Any) -> None:
        nonlocal asked_for_models
        asked_for_models += scope["path"] == "/v1/models"
        away = 1 < asked_for_models < 5
        await (PlainTextResponse("loading", 503) if away else model)(scope, receive, send)

    with served(loading) as base:
        done = trajgraph(*command(folder, f"{base}/v1", tools_url), *TWO, "--limit", "4")
    assert done.stdout.startswith("4 questions: 4 accepted"), done
    assert done.stderr.count("paused until it answers") == 1


def test_a_damaged_file_of_a_killed_worker_is_set_aside_by_name(tmp_path: Path, tools_url: str) -> None:
    folder = asked(tmp_path, "damaged")
    with demo_model(latency=0.1) as url:
        process = begun(folder, url, tools_url, after=20)
        while not list((folder / "out").glob("*_1of2.sqlite")):  # on a busy machine one of them begins late
            time.sleep(0.02)
        process.kill()
        process.communicate()
        time.sleep(0.5)
        (damaged,) = (folder / "out").glob("*_1of2.sqlite")
        damaged.write_bytes(b"no database at all" * 1000)
        for log in damaged.parent.glob(f"{damaged.name}-*"):
            log.unlink()
        again = trajgraph(*command(folder, url, tools_url))
    assert f"{damaged} cannot be read" in again.stderr
    assert again.stdout.startswith(f"{COUNT} questions: {COUNT} accepted, 0 rejected, 0 failed, 0 pending"), again


def test_shards_have_files_of_their_own_and_together_ask_every_question_once(tmp_path: Path, tools_url: str) -> None:
    folder = asked(tmp_path, "shards")
    with demo_model() as url:
        for shard, processes in (("1/3", "1"), ("2/3", "2"), ("3/3", "1"), ("2/3", "1")):
            done = trajgraph(*command(folder, url, tools_url), "--shard", shard, "--workers", processes)
            assert done.stdout.startswith("8 questions: 8 accepted, 0 rejected, 0 failed, 0 pending"), done
        for wrong in ("0/3", "4/3", "x", "1/0"):
            refused = trajgraph(*command(folder, url, tools_url), "--shard", wrong)
            assert (refused.returncode, "give I/N" in refused.stderr) == (2, True)
    assert " of 8; " in trajgraph("status", next((folder / "out").glob("*shard2of3_run.json"))).stdout
    files = sorted((folder / "out").glob("*_incremental.jsonl"))
    assert [path.name.partition("_shard")[2] for path in files] == [f"{n}of3_incremental.jsonl" for n in (1, 2, 3)]
    made = [row["sample_id"] for path in files for row in read_jsonl(path)]
    assert sorted(made) == [f"qwen3_traj_{n:05d}" for n in range(1, COUNT + 1)]


def test_a_killed_worker_ends_the_run_with_all_else_saved_and_the_same_command_continues(
    tmp_path: Path, tools_url: str
) -> None:
    folder = asked(tmp_path, "killed")
    with demo_model(latency=0.1) as url:
        process = begun(folder, url, tools_url, after=20)
        victim = workers_of(process)[0]
        os.kill(victim, signal.SIGKILL)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert f"worker process {victim} ended (-9); run the same command to resume what it had started" in errors
        assert " 0 failed, 0 pending" not in output
        completed(folder, url, tools_url)


def test_a_run_whose_words_nobody_can_read_ends_when_a_worker_dies(tmp_path: Path, tools_url: str) -> None:
    folder = asked(tmp_path, "mute")
    with demo_model(latency=0.1) as url, Path("/dev/full").open("w") as full:
        process = begun(folder, url, tools_url, after=20, stderr=full)
        os.kill(workers_of(process)[0], signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode == 1


def test_workers_end_in_silence_when_the_first_process_dies_without_having_heard_them(
    tmp_path: Path, tools_url: str
) -> None:
    folder = asked(tmp_path, "unheard")
    with demo_model(latency=0.1) as url, (tmp_path / "said").open("w+") as said:
        process = begun(folder, url, tools_url, after=20, stderr=said)
        workers = workers_of(process)
        process.send_signal(signal.SIGSTOP)
        time.sleep(1)  # they write what they have finished
        process.kill()
        process.communicate()
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            time.sleep(0.02)
        said.seek(0)
        assert re.fullmatch("trajgraph: begins .*\ntrajgraph: model .*\ntrajgraph: begins .*\n", said.read())


def test_an_interrupt_lets_the_workers_save_their_steps(tmp_path: Path, tools_url: str) -> None:
    folder = asked(tmp_path, "stopped")
    with demo_model(latency=0.1) as url:
        process = begun(folder, url, tools_url, after=20)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        assert "to resume: trajgraph resume" in errors
        assert " 0 failed" in output
        completed(folder, url, tools_url)


def test_a_server_that_goes_away_is_waited_for_once_however_many_workers_miss_it(
    tmp_path: Path, tools_url: str
) -> None:
    folder, port = asked(tmp_path, "paused"), free_port()
    app = DemoModel("Qwen3-8B", latency=0.1).app()
    with served(app, port) as base:
        process = begun(folder, f"{base}/v1", tools_url, after=20)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("trajgraph: begins a run: ")
    assert process.stderr.readline().startswith("trajgraph: model Qwen3-8B: answers in")
    assert process.stderr.readline().startswith("trajgraph: begins /")
    assert re.match(
        r"trajgraph: (the model server is down \(http://.*\)|no model server answers at .*): paused until it answers\n",
        process.stderr.readline(),
    )
    with served(app, port):
        output, errors = process.communicate(timeout=60)
    assert errors.startswith("trajgraph: the model server is up again after")
    assert errors.count("\n") == 1
    assert output.startswith(f"{COUNT} questions: {COUNT} accepted, 0 rejected, 0 failed, 0 pending")


def test_what_ends_a_run_in_a_worker_is_said_as_in_one_process(tmp_path: Path, tools_url: str) -> None:
    folder, port = asked(tmp_path, "denied"), free_port()
    with served(DemoModel("Qwen3-8B", latency=0.1).app(), port) as base:
        process = begun(folder, f"{base}/v1", tools_url, after=20)
    with served(DemoModel("another", latency=0.1).app(), port):
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "the model server has no such model, or nothing at this path (404)" in errors


def test_a_worker_that_dies_before_it_has_read_a_question_ends_the_run(tmp_path: Path, tools_url: str) -> None:
    folder = asked(tmp_path, "early")
    with demo_model(latency=0.1) as url:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", *command(folder, url, tools_url), *TWO], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        while process.poll() is None and len(workers_of(process)) < 2:
            time.sleep(0.01)
        time.sleep(0.2)  # it is importing: what it is asked waits in its socket
        os.kill(workers_of(process)[1], signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1, errors
        assert "ended (-9)" in errors
        completed(folder, url, tools_url)


def test_an_interrupt_while_the_model_is_gone_ends_the_run(tmp_path: Path, tools_url: str) -> None:
    folder, port = asked(tmp_path, "both"), free_port()
    with served(DemoModel("Qwen3-8B", latency=0.3).app(), port) as base:
        process = begun(folder, f"{base}/v1", tools_url, after=20)
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
