"""A server that answers a word and fails real prompts, one that comes back as another model, one that wants to be left alone."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from backends.config import ModelConfig
from backends.endpoints import Endpoints
from backends.errors import UsageError
from tests.support.endpoints import Endpoint, Fault, several
from tests.support.runs import counts, generate, read_jsonl, write_questions
from tests.support.servers import free_port

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "trajgraph")


@pytest.fixture
def many(tmp_path: Path) -> Path:
    write_questions(tmp_path / "questions.jsonl", [f"Does drug {number} help?" for number in range(30)])
    return tmp_path


@pytest.mark.parametrize("from_turn", [0, 2])
@pytest.mark.parametrize("fault", ["500", "400", "403", "401", "404", "302", "504", "nothing", "half", "page"])
async def test_what_one_server_fails_another_is_asked_before_a_question_pays(
    many: Path, tools_url: str, fault: Fault, from_turn: int
) -> None:
    bad = Endpoint(fault, after=0, seconds=0.01, answers_a_word=True, from_turn=from_turn)
    with several(bad, Endpoint(seconds=0.1)) as urls:
        result = await generate(many, urls, tools_url, concurrency=12)
    assert counts(result) == [30, 0, 0, 0]
    assert {row["metadata"]["attempts"] for row in read_jsonl(result.files.trajectories)} == {1}
    assert sum(bad.asked.values()) < 30 * 3, "it is put aside"


async def test_what_all_servers_refuse_is_the_questions_own(many: Path, tools_url: str) -> None:
    def refusing() -> Endpoint:
        return Endpoint("400", after=0, answers_a_word=True)

    with several(refusing(), refusing()) as urls, pytest.raises(UsageError, match="were all refused in the same way"):
        await generate(many, urls, tools_url, concurrency=12)


@pytest.mark.parametrize("first", [True, False])
async def test_a_server_that_comes_back_as_another_model_is_not_asked(
    many: Path, tools_url: str, caplog: pytest.LogCaptureFixture, first: bool
) -> None:
    write_questions(many / "questions.jsonl", [f"Does drug {number} help?" for number in range(90)])
    port, ended = free_port(), threading.Event()
    before = Endpoint(seconds=0.05, root="Qwen/Qwen3-8B")
    after, good = Endpoint(root="meta/Llama-3.1-8B"), Endpoint(seconds=0.05, root="Qwen/Qwen3-8B")
    up = threading.Event()

    def lives() -> None:
        with before.served(port):
            up.set()
            while sum(before.asked.values()) < 15:
                time.sleep(0.01)
        time.sleep(1)  # as no server starts at once
        with after.served(port):
            ended.wait(60)

    (living := threading.Thread(target=lives, daemon=True)).start()
    up.wait(10)
    with good.served():
        urls = (f"http://127.0.0.1:{port}/v1", good.url)
        result = await generate(many, urls if first else urls[::-1], tools_url, concurrency=8)
    ended.set()
    living.join(10)
    assert counts(result) == [90, 0, 0, 0]
    assert sum(after.asked.values()) == 0
    assert any("left out" in record.message and "Llama" in record.message for record in caplog.records)


async def test_a_server_that_is_started_anew_as_another_model_between_two_requests_is_found_out() -> None:
    one, other = Endpoint(root="Qwen/Qwen3-8B"), Endpoint(root="Qwen/Qwen3-8B")
    with several(one, other) as urls:
        endpoints = Endpoints(ModelConfig(urls), (), 4, changed=lambda: None, gone=lambda _: None)
        await endpoints.connect()
        one.root = "meta/Llama-3.1-8B"
        await endpoints.check_models()
        assert [endpoint.spec.url for endpoint in endpoints.up] == [other.url]
        assert "serves Qwen3-8B (meta/Llama-3.1-8B)" in str(endpoints.all[0].fault)
        await endpoints.aclose()


async def test_a_server_that_asks_for_a_long_wait_holds_up_no_question(many: Path, tools_url: str) -> None:
    busy = Endpoint("429", after=1, retry_after=60)
    with several(busy, Endpoint(seconds=0.02)) as urls:
        async with asyncio.timeout(30):
            result = await generate(many, urls, tools_url, concurrency=12)
    assert counts(result) == [30, 0, 0, 0]
    assert sum(busy.asked.values()) <= 12


async def test_servers_that_are_only_slow_are_not_left_out(
    many: Path, tools_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.model_client._PROBE_REPLY_TIMEOUT", 0.4)
    with several(Endpoint("silent", after=10_000, seconds=0.3), Endpoint(seconds=0.3)) as urls:
        result = await generate(many, urls, tools_url, concurrency=12, model_timeout=5)
    assert counts(result) == [30, 0, 0, 0]
    assert not [record.message for record in caplog.records if "left out" in record.message]


async def test_an_older_try_that_failed_does_not_undo_a_later_one_that_did_not(tools_url: str) -> None:
    with several(Endpoint(), Endpoint()) as urls:
        endpoints = Endpoints(ModelConfig(urls), (), 4, changed=lambda: None, gone=lambda _: None)
        await endpoints.connect()
        first = endpoints.all[0]
        first.fault = "down"
        release = asyncio.Event()
        check = first.chat.check  # type: ignore[union-attr]

        async def late() -> str | None:
            await release.wait()
            return "no reply"

        first.chat.check = late  # type: ignore[union-attr,method-assign]
        old = asyncio.create_task(endpoints.try_again(first))
        await asyncio.sleep(0.2)
        first.chat.check = check  # type: ignore[union-attr,method-assign]
        new = asyncio.create_task(endpoints.try_again(first))
        await asyncio.sleep(0.1)
        release.set()
        await asyncio.gather(old, new)
        assert first.is_up
        await endpoints.aclose()
