"""Tools of servers that others wrote."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backends.tool_routes import map_tools
from serializers.tool_output import render
from tests.real.parts import ENVIRONMENTS, mcp_server
from tests.support.runs import ROOT, answer, call, read_jsonl, trajgraph, write_questions
from tests.support.servers import ScriptedModel
from tests.support.tool_clients import tools_at


@contextmanager
def fastmcp(manner: str) -> Iterator[tuple[str, ...]]:
    """The flags that lead to fastmcp's server."""
    if manner == "stdio":
        python, script = ENVIRONMENTS / "mcp" / "bin" / "python", ROOT / "tests" / "real" / "fastmcp_server.py"
        yield "--mcp", f"stdio:{python} {script} 0 stdio"
        return
    with mcp_server("fastmcp_server.py", manner) as tools:
        yield ("--mcp", f"{tools}/sse") if manner == "sse" else ("--mcp-url", tools)


@pytest.mark.parametrize("manner", ["plain", "stateless", "events", "sse", "stdio"])
def test_a_run_over_fastmcp_fails_no_question(next_mcp: Path, tmp_path: Path, manner: str) -> None:
    replies = [
        call("pubmed_search", "trial outcome"),
        call("browse_webpage", "https://x.org"),
        call("google_search", "label"),
    ]

    def script(messages: list[dict[str, str]]) -> str:
        turn = sum(message["role"] == "assistant" for message in messages)
        return replies[turn] if turn < 3 else answer('It helped <cite id="12345678">in 12% of 340 patients</cite>.')

    questions = write_questions(tmp_path / "questions.jsonl", [f"Does it help, {n}?" for n in range(8)])
    with fastmcp(manner) as flags, ScriptedModel(script=script).served() as model:
        done = trajgraph(
            "generate", "--questions-file", questions, "--output", tmp_path / "out", "--local-model-url", model.url,
            *flags, "--concurrency", 8,
        )  # fmt: skip
    assert done.stdout.startswith("8 questions: 8 accepted, 0 rejected, 0 failed, 0 pending"), done.stderr
    assert "8 of 8 pass every gate" in done.stdout
    record = read_jsonl(next((tmp_path / "out").glob("*_incremental.jsonl")))[0]
    text = record["trajectory"]["interleaved_text"]
    assert '<snippet id="12345678">Title: trial outcome' in text
    assert "# Page\n\nSome text at https://x.org." in text
    assert '<snippet id="G1">Title: First' in text
    assert '<snippet id="G2">Title: Second' in text


async def test_calls_over_the_sdks_server_are_answered_also_where_it_closes_their_stream(next_mcp: Path) -> None:
    with mcp_server("sdk_server.py") as tools:
        async with tools_at(tools, concurrency=8, timeout=20) as client:
            client.routes = map_tools(client.served, ("pubmed_search",))
            queries = [f"cut {n}" if n % 2 else f"plain {n}" for n in range(12)]
            found = await asyncio.gather(*(client.call("pubmed_search", query, {"limit": 1}) for query in queries))
    assert [result["data"][0]["title"] for result, _ in found] == queries
    assert '<snippet id="12345678">Title: cut 1\n' in render("pubmed_search", found[1][0]).text
