"""A busy server is not a dead one: it is waited for without a word, and asked for less; a dead one costs nobody an attempt."""

import asyncio
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from backends.adaptive_limit import AdaptiveLimit
from backends.chat_model import open_chat_model
from backends.config import ModelConfig
from backends.model_client import ChatClient
from tests.support.runs import (
    QUESTIONS,
    ROOT,
    answer,
    call,
    counts,
    generate,
    generate_command,
    read_jsonl,
    trajgraph,
    write_questions,
)
from tests.support.servers import completion, free_port, served, with_message


class Model:
    """A model server with so many slots and a queue; beyond the queue it answers 429. `empty` replies are so many."""

    def __init__(
        self, slots: int = 1, seconds: float = 0.05, queue: int = 10_000, empty: int = 0, status: int = 429
    ) -> None:
        self.slots, self.seconds, self.queue, self.empty, self.status = (
            asyncio.Semaphore(slots),
            seconds,
            queue,
            empty,
            status,
        )
        self.waiting = self.refused = self.asked = self.probes = 0

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.probes += body["max_tokens"] == 1
        if self.waiting >= self.queue:
            self.refused += 1
            return JSONResponse({"error": {"message": "queue full"}}, self.status, headers={"retry-after": "0"})
        self.waiting += 1
        async with self.slots:
            self.waiting -= 1
            await asyncio.sleep(self.seconds)
        self.asked += body["max_tokens"] > 1
        if self.asked <= self.empty:
            return completion({"content": "", "finish_reason": "stop"})
        searched = any(message["role"] == "assistant" for message in body["messages"])
        return completion(
            {"content": answer() if searched else call("pubmed_search", "DAPA-HF"), "finish_reason": "stop"}
        )

    def app(self) -> Starlette:
        async def models(_: Request) -> Response:
            return JSONResponse({"data": [{"id": "Qwen3-8B"}]})

        return Starlette(
            routes=[Route("/v1/chat/completions", self.chat, methods=["POST"]), Route("/v1/models", models)]
        )


@pytest.mark.long
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_that_says_it_has_too_much_to_do_fails_no_question(
    tmp_path: Path, tools_url: str, workers: str
) -> None:
    model = Model(slots=4, seconds=0.05, queue=4)
    write_questions(tmp_path / "questions.jsonl", [f"Does it help, {n}?" for n in range(40)])
    with served(model.app()) as base:
        done = trajgraph(
            *generate_command(tmp_path, f"{base}/v1", tools_url), "--concurrency", "32", "--workers", workers
        )
    assert done.stdout.startswith("40 questions: 40 accepted, 0 rejected, 0 failed, 0 pending"), done.stderr
    assert model.refused > 0
    assert "the model server answered 429: queue full: fewer requests at a time" in done.stderr
    rows = [row for path in (tmp_path / "out").glob("*_incremental.jsonl") for row in read_jsonl(path)]
    assert {row["metadata"]["attempts"] for row in rows} == {1}


@pytest.mark.long
def test_a_server_at_work_that_says_503_is_waited_for_as_one_that_says_429(tmp_path: Path, tools_url: str) -> None:
    model = Model(slots=2, seconds=0.3, queue=2, status=503)
    write_questions(tmp_path / "questions.jsonl", [f"Does it help, {n}?" for n in range(16)])
    with served(model.app()) as base:
        done = trajgraph(
            *generate_command(tmp_path, f"{base}/v1", tools_url), "--concurrency", "16", "--max-downtime", "5"
        )
    assert done.stdout.startswith("16 questions: 16 accepted, 0 rejected, 0 failed, 0 pending"), done.stderr
    assert model.refused > 0


@pytest.mark.long
async def test_a_question_that_brings_the_server_down_fails_and_the_others_do_not(folder: Path, tools_url: str) -> None:
    """A proxy in front of the model, whose model is down for a while after each request of one question."""
    model, down_until, crashes = Model(slots=4), 0.0, 0

    async def fragile(scope: Any, receive: Any, send: Any) -> None:
        nonlocal down_until, crashes
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        message = await receive()
        if QUESTIONS[0].encode() in message.get("body", b""):
            crashes += 1
            down_until = time.monotonic() + 0.2
        if time.monotonic() < down_until:
            await Response("bad gateway", 502)(scope, receive, send)
        else:
            await app(scope, with_message(message, receive), send)

    app = model.app()
    with served(fragile) as base:
        batch = await generate(folder, f"{base}/v1", tools_url, concurrency=6)
    assert counts(batch) == [5, 0, 1, 0]
    assert crashes <= 12


@pytest.mark.long
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_lets_nobody_in_who_waits_in_line(tmp_path: Path, tools_url: str, workers: str) -> None:
    model = Model(slots=1, seconds=0.7, queue=1)
    write_questions(tmp_path / "questions.jsonl", [f"Does it help, {n}?" for n in range(16)])
    with served(model.app()) as base:
        words = [*generate_command(tmp_path, f"{base}/v1", tools_url), "--concurrency", "16", "--workers", workers]
        process = subprocess.Popen([sys.executable, "-m", "cli", *map(str, words)], cwd=ROOT, stderr=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL)  # fmt: skip
        while model.asked < 2:
            time.sleep(0.05)
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        asked = model.asked
        assert process.wait(timeout=60) == 130
    assert model.asked - asked <= 4, "those in flight, and none of the others"


def test_an_empty_reply_of_a_busy_server_is_no_absence_and_counts_as_an_attempt(tmp_path: Path, tools_url: str) -> None:
    model = Model(slots=1, seconds=0.4, empty=1)
    write_questions(tmp_path / "questions.jsonl", ["Does it help, 1?", "Does it help, 2?"])
    with served(model.app()) as base:
        done = trajgraph(*generate_command(tmp_path, f"{base}/v1", tools_url), "--max-downtime", "0.1")
    assert done.stdout.startswith("2 questions: 2 accepted, 0 rejected, 0 failed, 0 pending"), done.stderr
    assert "down" not in done.stderr
    assert model.probes == 1  # at the start
    (rows,) = (read_jsonl(path) for path in (tmp_path / "out").glob("*_incremental.jsonl"))
    assert sorted(row["metadata"]["attempts"] for row in rows) == [1, 2]


async def test_a_server_that_takes_its_time_is_at_work_and_one_that_refuses_is_down() -> None:
    model = Model(slots=0)
    with served(model.app()) as base:
        async with open_chat_model(ModelConfig(model_timeout=0.2), f"{base}/v1", concurrency=1) as chat:
            assert await ChatClient(chat, []).probe() is None
    chat_only = Route("/v1/chat/completions", lambda _: Response("bad gateway", 502), methods=["POST"])
    failing = Starlette(routes=[chat_only])
    with served(failing) as base:
        async with open_chat_model(ModelConfig(), f"{base}/v1", concurrency=1) as chat:
            assert re.fullmatch(
                rf"{base}/v1/: the model server answered 502: bad gateway", str(await ChatClient(chat, []).probe())
            )
    gone = f"http://127.0.0.1:{free_port()}/v1"
    async with open_chat_model(ModelConfig(), gone, concurrency=1) as chat:
        assert re.fullmatch(
            rf"{gone}/: no connection to the model server \(\w+\)", str(await ChatClient(chat, []).probe())
        )


def test_the_limit_falls_once_a_reply_time_and_rises_again() -> None:
    limit = AdaptiveLimit(64)
    limit.in_flight = 64
    for _ in range(64):
        limit.overloaded()
    assert limit.limit == 32, "one overload, however many were told of it"
    for _ in range(32):
        limit.answered(0.01)
    assert 32.9 < limit.limit < 33.1
    for _ in range(5000):
        limit.answered(0.01)
    assert limit.limit == 64
