"""Words that lead to tool servers, or to none: what is told, and what is never stored."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.fastmcp import FastMCP
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from backends.config import ToolsConfig
from backends.errors import NothingAnswers, UsageError
from backends.headers import header_values
from backends.mcp_servers import McpServer, mcp_servers
from tests.support.runs import trajgraph, two_turns, write_questions
from tests.support.servers import ScriptedModel, served
from tests.support.tool_clients import tools_at


@contextmanager
def answering(response: Response) -> Iterator[str]:
    routes = [Route("/{path:path}", lambda _: response, methods=["GET", "POST", "DELETE"])]
    with served(Starlette(routes=routes)) as base:
        yield base


@pytest.mark.parametrize(
    ("response", "path", "said"),
    [
        (PlainTextResponse("Not Found", 404), "", "has nothing there (404): change the address"),
        (PlainTextResponse("Not Found", 404), "/mcp", "has nothing there (404): change the address"),
        (PlainTextResponse("Method Not Allowed", 405), "/events", "write --mcp sse:{base}/events"),
        (PlainTextResponse("Invalid Origin header", 403), "/mcp", "refuses us (403: Invalid Origin header)"),
        (PlainTextResponse("", 401), "/mcp", "asks for a token"),
        (HTMLResponse("<html>Welcome</html>"), "/mcp", "answers with a web page (200)"),
        (PlainTextResponse("no", 422), "/mcp", "refuses to begin (422: no)"),
        (PlainTextResponse("", 307, headers={"location": "http://else.where/mcp"}), "/mcp", "sends requests to http://else.where/mcp"),
    ],
)  # fmt: skip
async def test_an_address_that_is_no_mcp_server_is_told_what_it_is(response: Response, path: str, said: str) -> None:
    with answering(response) as base, pytest.raises(UsageError) as told:
        async with tools_at(f"{base}{path}", concurrency=1, opening=1):
            pass
    assert said.format(base=base) in str(told.value)


@pytest.mark.parametrize("path", ["", "/other/mcp", "/v1"])
async def test_an_address_beside_the_server_names_the_address_that_answers(tools_url: str, path: str) -> None:
    base = tools_url.removesuffix("/mcp")
    with pytest.raises(UsageError, match=f"has nothing there .404.: change the address; one answers at {tools_url}$"):
        async with tools_at(f"{base}{path}", concurrency=1, opening=1):
            pass


async def test_http_and_event_streams_that_are_taken_for_each_other_are_told(tools_url: str) -> None:
    events = FastMCP("streams", log_level="CRITICAL", sse_path="/events").sse_app()
    with served(events) as base, pytest.raises(UsageError, match=f"write --mcp sse:{base}/events"):
        async with tools_at(f"{base}/events", concurrency=1, opening=1):
            pass
    with pytest.raises(UsageError, match="is no MCP over SSE"):
        async with tools_at(f"sse:{tools_url}", concurrency=1, opening=1):
            pass


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("stdio:/no/such/command", "cannot be started"),
        (f"stdio:{sys.executable} -c pass", "was started and ended, or does not speak MCP"),
        ("stdio:", "name the command"),
        ("stdio:serve --api-key abc", "no key in a command"),
        ("http://me:pw@host/mcp", "no password in an address"),
        ("sse:http://host/sse?token=x", "no key in an address"),
        ("ftp://host/mcp", "begins with http"),
        ("nowhere", "mcp.json cannot be read"),
    ],
)
async def test_a_word_that_is_no_server_is_a_clear_mistake(word: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        async with tools_at(word, concurrency=1):
            pass


SHARED = {
    "mcpServers": {
        "papers": {"command": sys.executable, "args": ["-m", "${MODULE}"], "env": {"API_KEY": "${MY_KEY}", "MODE": "${MODE:-fast}"}},
        "web": {"url": "http://h/mcp", "headers": {"Authorization": "Bearer ${env:MY_KEY}"}},
        "old": {"type": "sse", "url": "http://h/events"},
        "off": {"url": "http://h/x", "disabled": True},
        "odd": {},
    }
}  # fmt: skip


def test_a_shared_file_names_servers_with_their_headers_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mcp.json").write_text(json.dumps(SHARED))
    monkeypatch.setenv("MODULE", "papers")
    with pytest.raises(UsageError, match="wants the environment variable MY_KEY"):
        mcp_servers(["web"], {})
    monkeypatch.setenv("MY_KEY", "s3cret-value-1")
    papers, web, old = mcp_servers(["papers", "mcp.json#web", "old"], {"X-Ours": "not for these"})
    assert papers == McpServer(
        "papers in mcp.json", "stdio", command=(sys.executable, "-m", "papers"),
        environment={"API_KEY": "s3cret-value-1", "MODE": "fast"},
    )  # fmt: skip
    assert (web.transport, web.url, web.headers) == (
        "streamable_http",
        "http://h/mcp",
        {"Authorization": "Bearer s3cret-value-1"},
    )
    assert (old.transport, old.url) == ("sse", "http://h/events")
    assert {server.secrets.hidden("is s3cret-value-1") for server in (papers, web)} == {"is ***"}
    assert "s3cret" not in repr([papers, web])
    with pytest.raises(UsageError, match="no server 'none'; it has papers, web"):
        mcp_servers(["none"], {})
    with pytest.raises(UsageError, match=r"odd in mcp\.json has neither a url nor a command"):
        mcp_servers(["mcp.json"], {})


def test_headers_come_from_the_environment_and_are_never_stored(
    tmp_path: Path, scripted_model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_HEADER", "s3cret-header-7")
    seen: set[str | None] = set()
    server = FastMCP("papers", log_level="CRITICAL", stateless_http=True)

    @server.tool()
    async def pubmed_search(query: str) -> dict[str, Any]:
        return {"total": 1, "data": [{"paperId": "1", "title": "the key is s3cret-header-7"}]}

    app = server.streamable_http_app()

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.add(Request(scope).headers.get("x-api-key"))
        await app(scope, receive, send)

    write_questions(tmp_path / "questions.jsonl", ["What is it?"])
    scripted_model.script = two_turns
    with served(noting) as base:
        done = trajgraph(
            "generate", "--questions-file", tmp_path / "questions.jsonl", "--output", tmp_path / "out", "--tools",
            "pubmed_search", "--local-model-url", scripted_model.url, "--mcp-url", f"{base}/mcp",
            "--mcp-header", "X-Api-Key=MY_HEADER", "--keep-checkpoints",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert seen == {"s3cret-header-7"}
    assert b"s3cret-header-7" not in b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert "s3cret" not in done.stdout + done.stderr


@given(
    st.text("abcXYZ123_- /", min_size=8, max_size=30),
    st.sampled_from(["X-Key={}", "X-Key: {}", "X-Key {}", "X-Key={}!", "{}"]),
)
def test_a_header_that_is_not_given_by_a_variable_is_refused_without_repeating_it(value: str, written: str) -> None:
    with pytest.raises(UsageError) as refused:
        header_values([written.format(f"v{value}")], "--mcp-header")
    assert f"v{value}" not in str(refused.value)


def test_a_token_goes_in_the_usual_header_unless_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCP_TOKEN", "t0ken")
    monkeypatch.setenv("OTHER", "Basic x")
    assert ToolsConfig().servers()[0].headers == {"Authorization": "Bearer t0ken"}
    assert ToolsConfig(mcp_header=("authorization=OTHER",)).servers()[0].headers == {"authorization": "Basic x"}


@pytest.mark.parametrize(
    "word",
    ["stdio:npx mcp-remote https://h/mcp", "stdio:uvx mcp-proxy http://127.0.0.1:1/sse", "stdio:serve --max-tokens 5"],
)
def test_a_command_may_hold_an_address(word: str) -> None:
    (server,) = mcp_servers([word], {})
    assert server.command[0] == word.removeprefix("stdio:").split()[0]


@pytest.mark.parametrize(
    "word",
    ["stdio:x --api-key abc", "stdio:x --token=abc", "stdio:x --header 'Authorization: Bearer abc'", "stdio:env PASSWORD=x y",
     "stdio:x --auth abc", "stdio:x http://me:pw@host/"],
)  # fmt: skip
def test_a_command_with_a_key_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="no key in a command"):
        mcp_servers([word], {})


@pytest.mark.parametrize(
    "about",
    [{"command": "x", "env": ["A"]}, {"url": "http://h", "headers": "A"}, {"command": "x", "args": "-m y"}, {"url": "localhost:80"},
     {"command": "x", "args": ["${input:key}"]}, {"command": 5}, [], None, {"command": "x", "cwd": 5}],
)  # fmt: skip
def test_a_shared_file_that_is_written_oddly_is_a_clear_mistake(tmp_path: Path, about: Any) -> None:
    (tmp_path / "odd.json").write_text(json.dumps({"mcpServers": {"x": about}}))
    with pytest.raises(UsageError):
        mcp_servers([f"{tmp_path}/odd.json"], {})


@pytest.mark.parametrize("kind", ["json", "error"])
async def test_what_answers_and_is_no_mcp_server_is_not_waited_for(kind: str) -> None:
    async def said(request: Request) -> Response:
        asked = await request.json() if request.method == "POST" else {}
        error = {"jsonrpc": "2.0", "id": asked.get("id"), "error": {"code": -1, "message": "no"}}
        return JSONResponse(error if kind == "error" else {"error": "login"})

    app = Starlette(routes=[Route("/mcp", said, methods=["GET", "POST", "DELETE"])])
    with served(app) as base, pytest.raises(UsageError) as told:
        async with tools_at(f"{base}/mcp", concurrency=1, opening=1):
            pass
    assert not isinstance(told.value, NothingAnswers)
