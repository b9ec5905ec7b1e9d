"""SIGKILL in the middle of a run: the same command again, and every question ends in exactly one place."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tests.fakes import ROOT, demo_model, read_jsonl, trajgraph, write_questions

CONCURRENCY = 4
QUESTIONS = 24


def command(folder: Path, model_url: str, tools_url: str) -> list[str]:
    return [
        "generate", "--questions-file", str(folder / "questions.jsonl"), "--local-model-url", model_url,
        "--mcp-url", tools_url, "--output", str(folder / "out"), "--concurrency", str(CONCURRENCY),
    ]  # fmt: skip


def requests_so_far(model_url: str) -> int:
    with urlopen(model_url.replace("/v1", "/stats")) as response:
        return int(json.load(response)["requests"])


def content(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what differs between any two runs: times and the run's own ids."""
    trajectory = record["trajectory"]
    calls = [{key: value for key, value in call.items() if key != "timestamp"} for call in trajectory["tool_calls"]]
    kept = ("stop_reason", "turns", "finish_reasons", "repairs", "usage", "tool_errors", "reject_reasons")
    return {
        "sample_id": record["sample_id"],
        "trajectory": {**trajectory, "tool_calls": calls},
        "metadata": {key: record["metadata"][key] for key in kept},
    }


def records(folder: Path) -> list[dict[str, Any]]:
    (path,) = (folder / "out").glob("*_incremental.jsonl")
    return sorted(map(content, read_jsonl(path)), key=lambda record: str(record["sample_id"]))


def test_killed_again_and_again_a_run_ends_as_if_nothing_had_happened(tmp_path: Path, tools_url: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        write_questions(
            folder / "questions.jsonl", [f"Does semaglutide {n} help in obesity?" for n in range(QUESTIONS)]
        )
    with demo_model(latency=0.08) as url:
        assert trajgraph(*command(whole, url, tools_url)).returncode == 0
        needed = requests_so_far(url)
        chance, kills = random.Random(7), 0
        for _ in range(4):
            process = subprocess.Popen([sys.executable, "-m", "cli", *command(killed, url, tools_url)], cwd=ROOT)
            before = requests_so_far(url)
            while process.poll() is None and requests_so_far(url) < before + 5:
                time.sleep(0.02)
            time.sleep(chance.random() * 0.3)
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        finished = trajgraph(*command(killed, url, tools_url))
        asked = requests_so_far(url) - needed
    assert kills >= 3
    assert finished.returncode == 0
    assert finished.stdout.startswith(f"{QUESTIONS} questions: {QUESTIONS} accepted, 0 rejected, 0 failed, 0 pending")
    assert records(killed) == records(whole)
    assert max(Counter(record["sample_id"] for record in records(killed)).values()) == 1
    assert asked <= needed + kills * CONCURRENCY
