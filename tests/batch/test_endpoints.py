"""Several model servers in one run: a trajectory stays at one, one that fails is left out, and no question pays for it."""

import re
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from tests.support.endpoints import Endpoint, Fault, several
from tests.support.runs import counts, generate, read_jsonl, stats, trajgraph, write_questions
from tests.support.servers import free_port, served

pytestmark = pytest.mark.long


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for path in folder.glob("*_incremental.jsonl") for row in read_jsonl(path)]


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "trajgraph")


@pytest.fixture
def many(tmp_path: Path) -> Path:
    write_questions(tmp_path / "questions.jsonl", [f"Does drug {number} help?" for number in range(24)])
    return tmp_path


async def test_a_trajectory_stays_at_one_server_and_everybody_says_which(many: Path, tools_url: str) -> None:
    endpoints = [Endpoint(seconds=0.01) for _ in range(3)]
    with several(*endpoints) as urls:
        result = await generate(many, urls, tools_url, concurrency=12)
    assert counts(result) == [24, 0, 0, 0]
    sessions = [set(one.asked) - {""} for one in endpoints]
    moved = {row["metadata"]["thread_id"] for row in rows(many) if "endpoints" in row["metadata"]}
    assert all(sessions) and len(moved) <= 4, "each trajectory is at one server, and each server has some"
    assert sum(map(len, sessions)) == 24 + len(moved)
    for endpoint, threads in zip(endpoints, sessions, strict=True):
        at = {row["metadata"]["thread_id"] for row in rows(many) if row["metadata"]["endpoint"] == endpoint.url}
        assert at - moved == threads - moved
    replies = {one.url: sum(count for session, count in one.asked.items() if session) for one in endpoints}
    assert stats(result)["endpoints"] == replies
    said = trajgraph("status", many).stdout
    assert "24 accepted" in said


@pytest.mark.parametrize("fault", ["502", "500", "page", "401", "404", "empty", "aborts"])
async def test_a_server_that_fails_all_costs_no_question_an_attempt(
    many: Path, tools_url: str, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = Endpoint(fault, after=9, seconds=0.01), Endpoint(seconds=0.01)
    with several(bad, good) as urls:
        result = await generate(many, urls, tools_url, concurrency=8)
    assert counts(result) == [24, 0, 0, 0]
    assert {row["metadata"]["attempts"] for row in rows(many)} == {1}
    assert next(record.message for record in caplog.records if "is left out" in record.message).startswith(bad.url)
    moved = [row["metadata"] for row in rows(many) if "endpoints" in row["metadata"]]
    assert all(about["endpoints"][-1] == about["endpoint"] == good.url for about in moved)


async def test_a_server_that_says_nothing_more_is_left_out_and_its_questions_go_on(
    many: Path, tools_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.model_client._PROBE_REPLY_TIMEOUT", 0.5)
    bad, good = Endpoint("silent", after=6), Endpoint(seconds=0.01)
    with several(bad, good) as urls:
        result = await generate(many, urls, tools_url, concurrency=8, model_timeout=0.5)
    assert counts(result) == [24, 0, 0, 0]
    assert sum(bad.asked.values()) < 30


async def test_one_that_is_killed_and_comes_back_is_asked_again(
    many: Path, tools_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    port, dying, good = free_port(), Endpoint(seconds=0.05), Endpoint(seconds=0.05)
    write_questions(many / "questions.jsonl", [f"Does drug {number} help?" for number in range(120)])
    up, ended = threading.Event(), threading.Event()

    def lives() -> None:
        with dying.served(port):
            up.set()
            while sum(dying.asked.values()) < 15:
                time.sleep(0.01)
        time.sleep(0.5)
        before = sum(dying.asked.values())
        with dying.served(port):
            while not ended.wait(0.01):
                pass
        dying.asked["after"] = sum(dying.asked.values()) - before

    (living := threading.Thread(target=lives, daemon=True)).start()
    up.wait(10)
    try:
        with good.served():
            result = await generate(many, (f"http://127.0.0.1:{port}/v1", good.url), tools_url, concurrency=8)
    finally:
        ended.set()
        living.join(5)
    assert counts(result) == [120, 0, 0, 0]
    assert {row["metadata"]["attempts"] for row in rows(many)} == {1}
    assert dying.asked["after"] > 3
    said = [record.message for record in caplog.records]
    assert any(re.search(rf":{port}/v1 is left out: no (connection|model server)", line) for line in said)
    assert any(re.search(rf":{port}/v1 answers again after \d s", line) for line in said)


async def test_the_run_pauses_only_when_all_are_gone(
    many: Path, tools_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    both = Endpoint("502", after=10), Endpoint("502", after=10)

    def mend() -> None:
        while not any("the model server is down" in record.getMessage() for record in caplog.records):
            time.sleep(0.02)
        for one in both:
            one.fault = None

    (mending := threading.Thread(target=mend, daemon=True)).start()
    with several(*both) as urls:
        result = await generate(many, urls, tools_url, concurrency=8)
    mending.join(5)
    assert counts(result) == [24, 0, 0, 0]
    assert {row["metadata"]["attempts"] for row in rows(many)} == {1}


async def test_a_question_that_kills_its_server_fails_alone(many: Path, tools_url: str) -> None:
    with ExitStack() as stack:
        models, kills = [Endpoint(), Endpoint(), Endpoint()], 0

        def fragile(model: Endpoint) -> Any:
            inner = Starlette(routes=[Route("/v1/chat/completions", model.chat, methods=["POST"]), Route("/v1/models", model.models)])  # fmt: skip
            down_until = 0.0

            async def app(scope: Any, receive: Any, send: Any) -> None:
                nonlocal down_until, kills
                message = await receive() if scope["type"] == "http" else None
                if message and b"drug 7 help" in message.get("body", b""):
                    down_until, kills = time.monotonic() + 0.3, kills + 1
                if scope["type"] == "http" and time.monotonic() < down_until:
                    raise ConnectionResetError

                async def again() -> Any:
                    nonlocal message
                    given, message = message, None
                    return given or await receive()

                await inner(scope, again, send)

            return app

        urls = tuple(f"{stack.enter_context(served(fragile(model)))}/v1" for model in models)
        result = await generate(many, urls, tools_url, concurrency=6)
    assert counts(result) == [23, 0, 1, 0]
    assert kills <= 12


def test_a_server_is_given_no_more_than_it_bears_or_than_is_said(tmp_path: Path, tools_url: str) -> None:
    write_questions(tmp_path / "questions.jsonl", [f"Does drug {number} help?" for number in range(60)])
    small, large = Endpoint(seconds=0.02), Endpoint(seconds=0.02)
    with several(small, large) as urls:
        done = trajgraph(
            "generate", "--questions-file", tmp_path / "questions.jsonl", "--output", tmp_path / "out", "--mcp-url",
            tools_url, "--concurrency", 40, "--local-model-url", f"{urls[0]},max-in-flight=3", "--local-model-url",
            f"{urls[1]},weight=2",
        )  # fmt: skip
    assert done.stdout.startswith("60 questions: 60 accepted"), done.stderr
    assert small.most <= 3
    assert re.search(rf"\n{re.escape(urls[1])}: \d+ replies, \d\d %", done.stdout)


async def test_a_file_of_addresses_is_read_again_when_it_changes(
    many: Path, tools_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_questions(many / "questions.jsonl", [f"Does drug {number} help?" for number in range(300)])
    first, second = Endpoint(seconds=0.05), Endpoint(seconds=0.05)
    file, asked_after = many / "endpoints", [0]
    with several(first, second) as urls:
        file.write_text(urls[0])

        def change() -> None:
            while sum(first.asked.values()) < 20:
                time.sleep(0.01)
            file.write_text("no address")
            while not any("the earlier addresses stay" in record.getMessage() for record in caplog.records):
                time.sleep(0.01)
            file.write_text(f"{urls[1]}\n")
            while not any("is no longer asked" in record.getMessage() for record in caplog.records):
                time.sleep(0.01)
            asked_after[0] = sum(first.asked.values())

        (changing := threading.Thread(target=change, daemon=True)).start()
        result = await generate(many, (), tools_url, concurrency=8, endpoints=file)
        changing.join(5)
    assert counts(result) == [300, 0, 0, 0]
    assert sum(first.asked.values()) - asked_after[0] <= 8, "what was on its way, and nothing new"
    assert sum(second.asked.values()) > 30
    assert {row["metadata"]["attempts"] for row in rows(many)} == {1}
