"""The tool server as its callers see it: names old and new, who may call, what is logged, what is said when asked."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from tests.support.runs import ROOT, trajgraph, trajgraph_process
from tests.support.servers import free_port

TOOLS = {"pubmed_search", "browse_webpage", "google_search", "crawl4ai_docker_fetch_webpage_content",
         "serper_google_webpage_search"}  # fmt: skip
PAPER = "https://pubmed.ncbi.nlm.nih.gov/31535829/"
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
ACCEPT = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


@asynccontextmanager
async def client(url: str) -> AsyncIterator[ClientSession]:
    async with streamable_http_client(url) as (read, write, _), ClientSession(read, write) as session:
        await session.initialize()
        yield session


async def said(session: ClientSession, tool: str, **arguments: Any) -> Any:
    result = await session.call_tool(tool, arguments)
    (block,) = result.content
    assert block.type == "text"
    return json.loads(block.text)


async def every_tool(session: ClientSession) -> None:
    assert {tool.name for tool in (await session.list_tools()).tools} == TOOLS
    papers = await said(session, "pubmed_search", query="dapagliflozin", limit=2, offset=0)
    assert (papers["offset"], len(papers["data"])) == (0, 2)
    pages = [
        await said(session, "browse_webpage", url=PAPER),
        await said(session, "crawl4ai_docker_fetch_webpage_content", url=PAPER, use_ai2_config=True),
    ]
    assert pages[0] == pages[1]
    assert pages[0]["success"]
    whole = pages[0]["markdown"]
    assert whole.startswith("# Dapagliflozin in Patients")
    rest = await said(session, "browse_webpage", url=PAPER, offset=100)
    assert (rest["markdown"], rest["offset"], rest["total"]) == (whole[100:], 100, len(whole))
    beyond = await said(session, "browse_webpage", url=PAPER, offset=len(whole))
    assert "none from offset" in beyond["error"]
    links = [
        await said(session, "google_search", query="lecanemab", limit=1),
        await said(session, "serper_google_webpage_search", query="lecanemab", num_results=1),
    ]
    assert links[0] == links[1]
    assert links[0]["organic"][0]["link"] == "https://pubmed.ncbi.nlm.nih.gov/36449413/"
    refused = await said(session, "browse_webpage", url="http://169.254.169.254/latest/meta-data/")
    assert refused["success"] is False
    missing = await said(session, "browse_webpage", url="https://pubmed.ncbi.nlm.nih.gov/1/")
    assert "not in the offline corpus" in missing["error"]


async def test_every_tool_answers_over_http_under_both_its_names(tools_url: str) -> None:
    async with client(tools_url) as session:
        await every_tool(session)


async def test_every_tool_answers_over_stdio() -> None:
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "cli", "serve-tools", "--offline", "--stdio"], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    with Path(os.devnull).open("w") as quiet:
        async with AsyncExitStack() as stack:
            read, write = await stack.enter_async_context(stdio_client(server, errlog=quiet))
            session = await stack.enter_async_context(ClientSession(read, write))
            await session.initialize()
            await every_tool(session)


@asynccontextmanager
async def running(*flags: str, **environment: str) -> AsyncIterator[tuple[str, "subprocess.Popen[str]"]]:
    """`serve-tools --offline` as a process of its own; its address."""
    port = str(free_port())
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "serve-tools", "--offline", "--port", port, *flags], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment},
    )  # fmt: skip
    assert process.stdout is not None
    await asyncio.to_thread(process.stdout.readline)
    try:
        yield f"http://127.0.0.1:{port}/mcp", process
    finally:
        process.terminate()
        await asyncio.to_thread(process.communicate)


@pytest.mark.long
async def test_beyond_this_machine_a_token_is_needed_and_generate_brings_it(folder: Any) -> None:
    refused = trajgraph("serve-tools", "--offline", "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 2
    assert "set MCP_TOKEN" in refused.stderr
    async with running("--host", "0.0.0.0", MCP_TOKEN="s3cr3t-t0ken") as (url, process):
        async with httpx.AsyncClient() as http:
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "s3cr3t-t0ken"}):
                assert (await http.post(url, json=CALL, headers={**ACCEPT, **headers})).status_code == 401
            right = await http.post(url, json=CALL, headers={**ACCEPT, "authorization": "Bearer s3cr3t-t0ken"})
            assert {tool["name"] for tool in right.json()["result"]["tools"]} == TOOLS
            assert (await http.get(f"{url}/health")).status_code == 200
        without = trajgraph_process("doctor", "--mcp-url", url, "--local-model-url", "http://127.0.0.1:9/v1")
        assert without.returncode == 1
        assert "asks for a token: set MCP_TOKEN" in without.stdout
        os.environ["MCP_TOKEN"] = "s3cr3t-t0ken"
        try:
            within = trajgraph_process("doctor", "--mcp-url", url, "--local-model-url", "http://127.0.0.1:9/v1")
        finally:
            del os.environ["MCP_TOKEN"]
        assert re.search(r"^ok +google_search", within.stdout, re.MULTILINE)
        assert "no model server answers" in within.stdout
        process.terminate()
        out, err = await asyncio.to_thread(process.communicate)
        assert "s3cr3t" not in out + err + without.stdout + within.stdout


async def test_on_loopback_only_its_own_names_and_pages_are_answered() -> None:
    async with running() as (url, process):
        wrong = [({"host": "evil.example"}, 421), ({"host": "127.0.0.1.evil.example"}, 421), ({"host": ""}, 421),
                 ({"origin": "http://evil.example"}, 403), ({"origin": "null"}, 403)]  # fmt: skip
        right: list[dict[str, str]] = [
            {},
            {"host": "localhost"},
            {"host": "[::1]:8003"},
            {"origin": url.removesuffix("/mcp")},
        ]
        async with httpx.AsyncClient() as http:
            for headers, status in wrong:
                assert (await http.post(url, json=CALL, headers={**ACCEPT, **headers})).status_code == status
            for headers in right:
                assert (await http.post(url, json=CALL, headers={**ACCEPT, **headers})).status_code == 200
            assert (await http.post(url, content=b"x" * 2_000_000, headers=ACCEPT)).status_code == 413
        async with client(url) as session:
            await said(session, "pubmed_search", query="statins\nforged line")
            await said(session, "browse_webpage", url="http://me:s3cr3t@127.0.0.1/page?token=s3cr3t")
        process.terminate()
        _, log = await asyncio.to_thread(process.communicate)
    assert process.returncode in (0, -15)
    lines = log.splitlines()
    assert re.fullmatch(r'\d\d:\d\d:\d\d pubmed_search ok \d+ ms "statins\\nforged line"', lines[0])
    assert re.fullmatch(
        r'\d\d:\d\d:\d\d browse_webpage failed \(its answer is an error\) \d+ ms "http://127.0.0.1/page"', lines[1]
    )
    assert "s3cr3t" not in log


async def test_many_calls_at_once_are_all_answered(tools_url: str) -> None:
    async with client(tools_url) as session:
        answers = await asyncio.gather(*(said(session, "pubmed_search", query=f"heart {n}") for n in range(100)))
    assert len(answers) == 100


@pytest.mark.long
@pytest.mark.parametrize("environment", [{}, {"SERPER_API_KEY": "k3y"}])
async def test_health_is_200_only_when_pubmed_can_be_asked_and_names_a_missing_key(environment: dict[str, str]) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "serve-tools", "--port", str(port), "--ncbi-url", "http://127.0.0.1:9"], cwd=ROOT,
        stdout=subprocess.PIPE, env={**os.environ, **environment},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        await asyncio.to_thread(process.stdout.readline)
        async with httpx.AsyncClient() as http:
            answer = await http.get(f"http://127.0.0.1:{port}/mcp/health")
        assert answer.status_code == 503
        assert answer.json()["pubmed_search"].startswith("PubMed could not be asked: no connection")
        assert (answer.json()["google_search"] == "ok") is bool(environment)
    finally:
        process.terminate()
        await asyncio.to_thread(process.communicate)


def test_flags_that_do_not_go_together_are_said() -> None:
    for flags, why in [(("--web",), "--web goes with --corpus"), (("--max-calls", "0"), "a number not below 1")]:
        result = trajgraph("serve-tools", *flags)
        assert result.returncode == 2
        assert why in result.stderr
