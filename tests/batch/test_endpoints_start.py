"""Several model servers at the start of a run: what is refused, what is left out, and what is the same run."""

import re
from pathlib import Path

import pytest

from backends.errors import UsageError
from tests.support.endpoints import Endpoint, several
from tests.support.runs import generate, trajgraph, write_questions
from tests.support.servers import free_port


@pytest.fixture
def many(tmp_path: Path) -> Path:
    write_questions(tmp_path / "questions.jsonl", [f"Does drug {number} help?" for number in range(24)])
    return tmp_path


def command(folder: Path, tools_url: str, *urls: str) -> list[object]:
    flags: list[object] = ["generate", "--questions-file", folder / "questions.jsonl", "--mcp-url", tools_url]
    return [*flags, "--output", folder / "out", *(word for url in urls for word in ("--local-model-url", url))]


def test_another_model_under_the_same_name_ends_the_command_and_names_both(many: Path, tools_url: str) -> None:
    one, other = Endpoint(root="Qwen/Qwen3-8B"), Endpoint(root="meta-llama/Llama-3.1-8B")
    with several(one, other) as urls:
        done = trajgraph(*command(many, tools_url, *urls))
        assert done.returncode == 2
        assert f"{urls[0]} serves Qwen3-8B (Qwen/Qwen3-8B), {urls[1]} serves Qwen3-8B (meta-llama/Llama" in done.stderr
        done = trajgraph(*command(many, tools_url, urls[0], f"{urls[1]},model=Qwen3-8B"))
        assert done.returncode == 0, done.stderr


def test_names_may_differ_and_the_shortest_context_counts(many: Path, tools_url: str) -> None:
    cached = "/root/.cache/hub/models--Qwen--Qwen3-8B/snapshots/0a1b"
    endpoints = Endpoint(root="Qwen/Qwen3-8B", length=32768), Endpoint(name="q", root=cached, length=9000)
    with several(*endpoints) as urls:
        done = trajgraph(*command(many, tools_url, *urls))
    assert done.returncode == 0, done.stderr
    assert "model Qwen3-8B, q at 2 of 2 addresses" in done.stderr
    assert "context 9,000 tokens" in done.stderr


def test_one_that_is_down_at_the_start_is_said_and_left_out(many: Path, tools_url: str) -> None:
    gone = f"http://127.0.0.1:{free_port()}/v1"
    with several(Endpoint()) as (url,):
        done = trajgraph(*command(many, tools_url, gone, url))
        assert done.stdout.startswith("24 questions: 24 accepted"), done.stderr
        assert f"{gone} is left out: no model server answers at {gone}" in done.stderr
        other = trajgraph(*command(many, tools_url, url))
    assert "is already complete" in other.stderr, "other addresses are no other run"


def test_a_run_waits_for_one_of_several_to_start_and_gives_up_when_none_does(many: Path, tools_url: str) -> None:
    gone = [f"http://127.0.0.1:{free_port()}/v1" for _ in range(2)]
    done = trajgraph(*command(many, tools_url, *gone), "--max-downtime", "0.5")
    assert done.returncode == 2
    assert all(f"no model server answers at {url}" in done.stderr for url in gone)


async def test_a_key_that_one_server_denies_at_the_start_is_named_with_its_address(many: Path, tools_url: str) -> None:
    with several(Endpoint(), Endpoint("401", after=0)) as urls, pytest.raises(UsageError, match=re.escape(urls[1])):
        await generate(many, urls, tools_url)
