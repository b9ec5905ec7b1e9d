"""A cassette: nothing is asked twice, failures are not kept, and a recorded run plays back without a network."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from backends.cassette import Cassette, open_cassette
from backends.errors import CassetteMiss, ToolFailed, ToolUnreachable
from serializers.evidence import failed
from tests.support.runs import read_jsonl, trajgraph, write_questions
from tests.support.servers import demo_model, offline_tools


def generate(folder: Path, model: str, tools: str, out: str, *flags: str) -> Any:
    return trajgraph("generate", "--questions-file", folder / "questions.jsonl", "--local-model-url", model, "--mcp-url",
                     tools, "--output", folder / out, "--cassette", folder / "tape", *flags)  # fmt: skip


def trajectories(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*_incremental.jsonl")
    records = read_jsonl(path)
    for record in records:
        for call in record["trajectory"]["tool_calls"]:
            del call["timestamp"]
    return {record["sample_id"]: record["trajectory"] for record in records}


@pytest.mark.long
def test_a_recorded_run_is_played_back_with_the_tool_server_gone_and_is_the_same(tmp_path: Path) -> None:
    write_questions(tmp_path / "questions.jsonl", [f"Does semaglutide {n} help in obesity?" for n in range(50)])
    with demo_model() as model:
        with offline_tools() as tools:
            recorded = generate(tmp_path, model, tools, "recorded", "--tools-mode", "record")
            assert recorded.returncode == 0, recorded.stderr
        replayed = generate(tmp_path, model, tools, "replayed", "--tools-mode", "replay")
        assert replayed.returncode == 0, replayed.stderr
        write_questions(tmp_path / "questions.jsonl", ["What did DAPA-HF show in heart failure?"])
        missed = generate(tmp_path, model, tools, "missed", "--tools-mode", "replay")
    assert len(trajectories(tmp_path / "recorded")) == 50
    assert trajectories(tmp_path / "recorded") == trajectories(tmp_path / "replayed")
    (path,) = (tmp_path / "replayed").glob("*_incremental.jsonl")
    for record in read_jsonl(path):
        calls = range(1, record["trajectory"]["total_tool_calls"] + 1)
        failed = [n for n in calls if "error" in record["trajectory"]["tool_calls"][n - 1]["result"]]
        assert set(record["metadata"]["cassette_calls"]) | set(failed) == set(calls)
    assert missed.returncode == 1
    (failure,) = read_jsonl(next((tmp_path / "missed").glob("*_failed.jsonl")))
    assert failure["error"] == "CassetteMiss"
    assert failure["attempts"] == 1


def test_more_who_ask_the_same_than_may_compute_at_once_all_get_it(tmp_path: Path) -> None:
    write_questions(tmp_path / "questions.jsonl", ["What did DAPA-HF show in heart failure?"] * 60)
    with demo_model() as model, offline_tools() as tools:
        done = generate(tmp_path, model, tools, "out", "--concurrency", "60")
    assert done.stdout.startswith("60 questions: 60 accepted"), done.stderr


def tape(folder: Path, mode: Any = "auto") -> Any:
    return open_cassette(folder / "tape", mode, failed)


class Server:
    """Counts what it is asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.asked = list(answers), 0

    async def __call__(self) -> Any:
        self.asked += 1
        await asyncio.sleep(0.01)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_identical_calls_at_the_same_time_make_one_request(tmp_path: Path) -> None:
    server = Server({"total": 1})
    async with tape(tmp_path) as cassette:
        calls = (cassette.result("search", {"query": "a"}, server) for _ in range(64))
        assert await asyncio.gather(*calls) == [({"total": 1}, False)] * 64
        assert await cassette.result("search", {"query": "a"}, server) == ({"total": 1}, True)
    assert server.asked == 1
    async with tape(tmp_path, "replay") as again:
        assert await again.result("search", {"query": " a "}, server) == ({"total": 1}, True)


async def test_a_caller_who_gives_up_takes_the_result_from_nobody_else(tmp_path: Path) -> None:
    server = Server("text")
    async with tape(tmp_path) as cassette:
        first, second = (asyncio.ensure_future(cassette.result("t", {}, server)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == ("text", False)
    assert server.asked == 1


@pytest.mark.parametrize(
    "changed", [("other", {"query": "a", "limit": 1}), ("search", {"query": "b", "limit": 1}),
                ("search", {"query": "a", "limit": 2}), ("search", {"query": "A", "limit": 1}), ("search", {"query": "a"})]
)  # fmt: skip
async def test_a_changed_call_is_a_miss(tmp_path: Path, changed: tuple[str, dict[str, Any]]) -> None:
    async with tape(tmp_path) as cassette:
        await cassette.result("search", {"query": "a", "limit": 1}, Server(1))
    async with tape(tmp_path, "replay") as cassette:
        assert await cassette.result("search", {"limit": 1, "query": "a"}, Server(2)) == (1, True)
        with pytest.raises(CassetteMiss, match="record it first"):
            await cassette.result(*changed, Server(2))


@pytest.mark.parametrize(
    "failure",
    [ToolFailed("no"), {"error": "no"}, {"success": False}, "Error: timeout", {"status": "error"}, "HTTP 500 from x"],
)
async def test_a_failure_of_the_tool_is_asked_again_and_replayed_as_it_was_read(tmp_path: Path, failure: Any) -> None:
    async def outcome(cassette: Cassette, server: Server) -> Any:
        try:
            return await cassette.result("t", {}, server)
        except ToolFailed as error:
            return str(error)

    server = Server(failure, {"total": 3})
    async with tape(tmp_path) as cassette:
        first = await outcome(cassette, server)
    async with tape(tmp_path, "replay") as cassette:
        replayed = await outcome(cassette, server)
        assert replayed == first or replayed == (failure, True)
    async with tape(tmp_path) as cassette:
        assert await outcome(cassette, server) == ({"total": 3}, False)
        assert await outcome(cassette, server) == ({"total": 3}, True)
    assert server.asked == 2


async def test_a_transport_failure_leaves_nothing(tmp_path: Path) -> None:
    async with tape(tmp_path) as cassette:
        with pytest.raises(ToolUnreachable):
            await cassette.result("t", {}, Server(ToolUnreachable("gone")))
        assert await cassette.result("t", {}, Server(1)) == (1, False)


async def test_record_asks_anew_and_live_keeps_nothing(tmp_path: Path) -> None:
    async with tape(tmp_path) as cassette:
        await cassette.result("t", {}, Server(1))
    async with tape(tmp_path, "live") as cassette:
        assert await cassette.result("t", {}, Server(2)) == (2, False)
    async with tape(tmp_path, "record") as cassette:
        assert await cassette.result("t", {}, Server(3)) == (3, False)
    async with tape(tmp_path, "replay") as cassette:
        assert await cassette.result("t", {}, Server(4)) == (3, True)


def test_a_cassette_that_cannot_be_used_is_said(folder: Path, model_url: str, tools_url: str) -> None:
    (folder / "tape").write_text("no SQLite file, as anybody can see who looks at it")
    wrong = generate(folder, model_url, tools_url, "out")
    assert wrong.returncode == 2
    assert "--cassette" in wrong.stderr
    (folder / "tape").unlink()
    missing = generate(folder, model_url, tools_url, "out", "--tools-mode", "replay")
    assert missing.returncode == 2
    assert "no such file to replay" in missing.stderr
    lone = trajgraph("generate", "--questions-file", folder / "questions.jsonl", "--tools-mode", "replay")
    assert lone.returncode == 2
    assert "name the file with --cassette" in lone.stderr
