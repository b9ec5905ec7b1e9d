"""SIGKILL in the middle of a run: the same command again, and every question ends in exactly one place."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from servers.demo_model.server import DemoModel
from servers.tool_server.corpus import Corpus
from servers.tool_server.server import http_app
from servers.tool_server.sources import Sources
from tests.support.runs import CONCURRENCY, ROOT, command, records, requests_so_far, trajgraph, write_questions
from tests.support.servers import demo_model, served, with_message

pytestmark = pytest.mark.long

QUESTIONS = int(os.environ.get("CRASH_QUESTIONS", "16"))
KILLS = int(os.environ.get("CRASH_KILLS", "3"))
"""`make crash` asks for many more than the suite has time for."""


def test_killed_again_and_again_a_run_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    tools = Executioner(http_app(Sources.offline(Corpus.bundled())), "/mcp", b'"tools/call"')
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        write_questions(
            folder / "questions.jsonl", [f"Does semaglutide {n} help in obesity?" for n in range(QUESTIONS)]
        )
    with demo_model(latency=0.08) as url, served(tools) as tools_base:
        tools_url = f"{tools_base}/mcp"
        assert trajgraph(*command(whole, url, tools_url)).returncode == 0
        needed, calls_needed = requests_so_far(url), tools.seen
        chance, kills = random.Random(7), 0
        for _ in range(KILLS):
            process = subprocess.Popen([sys.executable, "-m", "cli", *command(killed, url, tools_url)], cwd=ROOT)
            before = requests_so_far(url)
            while process.poll() is None and requests_so_far(url) < before + 5:
                time.sleep(0.02)
            time.sleep(chance.random() * 0.3)
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        finished = trajgraph(*command(killed, url, tools_url))
        asked = requests_so_far(url) - needed
    assert kills >= KILLS - 1
    assert finished.returncode == 0
    assert finished.stdout.startswith(f"{QUESTIONS} questions: {QUESTIONS} accepted, 0 rejected, 0 failed, 0 pending")
    assert records(killed) == records(whole)
    assert max(Counter(record["sample_id"] for record in records(killed)).values()) == 1
    assert asked <= needed + kills * CONCURRENCY
    assert tools.seen - calls_needed <= calls_needed + kills * CONCURRENCY


class Executioner:
    """An ASGI layer that kills a process when the n-th request of interest arrives, or a moment after its answer."""

    def __init__(self, app: Any, path: str, mark: bytes = b"") -> None:
        self.app, self.path, self.mark = app, path, mark
        self.victim: subprocess.Popen[bytes] | None = None
        self.after: float | None = None
        self.seen = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].endswith(self.path):
            await self.app(scope, receive, send)
            return
        message = await receive()
        body = message.get("body", b"")
        if self.mark not in body or b'"max_tokens":1,' in body:  # a request for one token asks whether it is there
            await self.app(scope, with_message(message, receive), send)
            return
        self.seen += 1
        victim, self.victim = self.victim, None
        if victim and self.after is None:
            victim.kill()
        await self.app(scope, with_message(message, receive), send)
        if victim and self.after is not None:
            threading.Timer(self.after, victim.kill).start()


def test_killed_at_every_boundary_between_two_nodes_no_finished_turn_is_asked_again(tmp_path: Path) -> None:
    write_questions(tmp_path / "questions.jsonl", [f"Does semaglutide {n} help in obesity?" for n in range(12)])
    model = Executioner(DemoModel("Qwen3-8B").app(), "/chat/completions")
    tools = Executioner(http_app(Sources.offline(Corpus.bundled())), "/mcp", b'"tools/call"')
    kills = 0
    with served(model) as model_base, served(tools) as tools_base:
        again = command(tmp_path, f"{model_base}/v1", f"{tools_base}/mcp", concurrency=1)
        boundaries = [(server, after) for after in (None, 0.005) for server in (model, tools)]
        for server, after in boundaries:
            process = subprocess.Popen([sys.executable, "-m", "cli", *again], cwd=ROOT)
            server.after, server.victim = after, process
            kills += process.wait() == -signal.SIGKILL
        finished = trajgraph(*again)
    assert kills == len(boundaries)
    assert finished.stdout.startswith("12 questions: 12 accepted, 0 rejected, 0 failed, 0 pending")
    done = records(tmp_path)
    assert len({record["sample_id"] for record in done}) == 12
    turns = sum(record["metadata"]["turns"] for record in done)
    calls = sum(record["trajectory"]["total_tool_calls"] for record in done)
    assert model.seen <= turns + kills
    assert tools.seen <= calls + kills
