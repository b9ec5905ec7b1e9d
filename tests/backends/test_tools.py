"""One session for all calls, surviving its server; the mapping of tools; results of every shape."""

import asyncio
import json
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import pytest
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from backends.config import TOOL_NAMES as NAMES
from backends.errors import (
    ToolFailed,
    ToolOverloaded,
    ToolReplyInvalid,
    ToolTimeout,
    ToolUnreachable,
    UsageError,
    seconds_to_wait,
)
from backends.tool_routes import map_tools
from tests.support.servers import free_port, offline_tools, served, with_message
from tests.support.tool_clients import connected, counting_server, tool, tools_at

EARLIER = [
    tool("pubmed_search", "query", "limit", "offset"),
    tool("crawl4ai_docker_fetch_webpage_content", "url", "use_ai2_config"),
    tool("serper_google_webpage_search", "query", "num_results"),
]


def test_the_models_tools_are_mapped_to_what_the_server_has() -> None:
    routes = map_tools(EARLIER, NAMES)
    assert routes["pubmed_search"].arguments("q", {"limit": 5, "lang": "en"}) == {"query": "q", "limit": "5"}
    assert routes["browse_webpage"].server_name == "crawl4ai_docker_fetch_webpage_content"
    assert routes["browse_webpage"].arguments("u", {}) == {"url": "u", "use_ai2_config": True}
    assert routes["google_search"].arguments("q", {"limit": 3}) == {"query": "q", "num_results": "3"}


def test_a_server_with_the_models_own_names_is_called_by_them() -> None:
    own = [tool("pubmed_search", "query"), tool("browse_webpage", "url"), tool("google_search", "query"), *EARLIER]
    assert [route.server_name for route in map_tools(own, NAMES).values()] == list(NAMES)


def test_other_names_can_be_given_with_or_without_the_argument() -> None:
    served_tools = [tool("search", "term"), tool("fetch", "address", "page")]
    routes = map_tools(served_tools, NAMES[:2], ["pubmed_search=search", "browse_webpage=fetch(page)"])
    assert routes["pubmed_search"].arguments("q", {}) == {"term": "q"}
    assert routes["browse_webpage"].arguments("u", {}) == {"page": "u"}


def test_a_missing_tool_is_named_and_the_servers_are_listed() -> None:
    with pytest.raises(UsageError, match=r"no tool for browse_webpage; it has google_search, pubmed_search"):
        map_tools([tool("pubmed_search", "query"), tool("google_search", "query")], NAMES)


async def test_many_calls_at_once_share_one_session() -> None:
    server, seen = counting_server()
    initialised: list[str] = []
    app = server.streamable_http_app()

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        async def noted() -> Any:
            message = await receive()
            if b'"initialize"' in message.get("body", b""):
                initialised.append("session")
            return message

        await app(scope, noted, send)

    with served(counted) as base:
        async with tools_at(f"{base}/mcp", concurrency=32) as client:
            await connected(client)
            results = await asyncio.gather(*(client.call("pubmed_search", str(n), {}) for n in range(64)))
    assert results == [({"total": 0, "data": []}, False)] * 64
    assert sorted(seen, key=int) == [str(n) for n in range(64)]
    assert len(initialised) == 1


@pytest.mark.long
async def test_the_client_goes_on_when_the_server_restarts_between_calls() -> None:
    port = free_port()
    for stateless in (True, False):
        async with AsyncExitStack() as stack:
            first = ExitStack()
            first.enter_context(served(counting_server(stateless=stateless)[0].streamable_http_app(), port))
            url = f"http://127.0.0.1:{port}/mcp"
            client = await connected(await stack.enter_async_context(tools_at(url, concurrency=8, timeout=20)))
            assert (await client.call("pubmed_search", "x", {}))[0]["total"] == 0
            await asyncio.to_thread(first.close)
            assert str(await client.probe()).startswith(f"{url}: ")
            with served(counting_server(stateless=stateless)[0].streamable_http_app(), port):
                answers = await asyncio.gather(*(client.call("pubmed_search", "x", {}) for _ in range(8)))
                assert [answer["total"] for answer, _ in answers] == [0] * 8
                assert await client.probe() is None


@pytest.mark.parametrize("json_response", [True, False])
@pytest.mark.parametrize("stateless", [True, False])
async def test_a_server_that_dies_in_the_middle_of_a_call_fails_it_at_once(
    stateless: bool, json_response: bool
) -> None:
    server, seen = counting_server(delay=30, stateless=stateless, json_response=json_response)
    with ExitStack() as stack:
        base = stack.enter_context(served(server.streamable_http_app()))
        async with tools_at(f"{base}/mcp", concurrency=4, timeout=60) as client:
            await connected(client)
            calls = [asyncio.create_task(client.call("pubmed_search", str(n), {})) for n in range(3)]
            while len(seen) < 3:
                await asyncio.sleep(0.02)
            await asyncio.to_thread(stack.close)
            for failed in await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20):
                assert isinstance(failed, ToolUnreachable | ToolOverloaded)  # some say 500 with their last breath


async def test_one_call_that_fails_on_its_way_costs_no_other_call_anything() -> None:
    server, seen = counting_server(delay=0.5)
    app = server.streamable_http_app()

    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        if b"poison" in message.get("body", b""):
            await PlainTextResponse("busy", 503)(scope, receive, send)
            return
        await app(scope, with_message(message, receive), send)

    with served(refusing) as base:
        async with tools_at(f"{base}/mcp", concurrency=8) as client:
            await connected(client)
            calls = [client.call("pubmed_search", query, {}) for query in ("1", "2", "poison", "3")]
            answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [tuple, tuple, ToolOverloaded, tuple]
    assert sorted(seen) == ["1", "2", "3"]


async def test_a_server_that_stays_away_is_unreachable() -> None:
    with ExitStack() as stack:
        url = stack.enter_context(offline_tools())
        async with tools_at(url, concurrency=1, timeout=1.5) as client:
            await connected(client)
            await asyncio.to_thread(stack.close)
            with pytest.raises((ToolUnreachable, ToolTimeout)):
                await client.call("pubmed_search", "x", {})


async def test_a_call_without_an_answer_times_out_and_the_session_goes_on() -> None:
    server, _ = counting_server(delay=1.0)
    with served(server.streamable_http_app()) as base:
        async with tools_at(f"{base}/mcp", concurrency=4, timeout=0.5) as client:
            await connected(client)
            with pytest.raises(ToolTimeout, match=r"pubmed_search gave no result within 0\.5 s"):
                await client.call("pubmed_search", "x", {})
            assert await client.probe() is None


async def test_a_tool_that_does_not_exist_and_arguments_that_do_not_fit_are_for_the_model_to_read(
    tools_url: str,
) -> None:
    async with tools_at(tools_url, concurrency=1) as client:
        client.routes = map_tools(client.served, NAMES)
        with pytest.raises(ToolFailed, match="there is no tool 'arxiv'; use one of pubmed_search"):
            await client.call("arxiv", "x", {})
        with pytest.raises(ToolFailed, match="limit"):
            await client.call("pubmed_search", "x", {"limit": "many"})


async def test_nothing_at_the_address_is_one_clear_line() -> None:
    with pytest.raises(UsageError, match="no MCP server answers at"):
        async with tools_at(f"http://127.0.0.1:{free_port()}/mcp", concurrency=1):
            pass


ANSWERS: list[tuple[int, str, str, type[Exception]]] = [
    (200, "application/json", "<html>502", ToolReplyInvalid),
    (200, "application/json", '{"jsonrpc": "2.0", "id": ID}', ToolReplyInvalid),
    (200, "application/json", '{"jsonrpc": "2.0", "id": "another", "result": {"content": []}}', ToolReplyInvalid),
    (200, "application/json", '{"jsonrpc": "2.0", "id": ID, "result": {"foo": 1}}', ToolReplyInvalid),
    (200, "application/json", '{"jsonrpc": "2.0", "id": ID, "result": {"content": "x"}}', ToolReplyInvalid),
    (
        200,
        "application/json",
        '{"jsonrpc": "2.0", "id": ID, "result": {"content": [{"type": "text"}]}}',
        ToolReplyInvalid,
    ),
    (200, "application/json", '{"jsonrpc": "2.0", "id": ID, "error": {"code": -32602, "message": "no"}}', ToolFailed),
    (200, "text/event-stream", 'data: {"js', ToolUnreachable),
    (200, "text/event-stream", "", ToolUnreachable),
    (202, "application/json", "", ToolReplyInvalid),
    (204, "application/json", "", ToolReplyInvalid),
    (401, "application/json", "{}", ToolUnreachable),
    (429, "application/json", "{}", ToolOverloaded),
    (503, "application/json", "{}", ToolOverloaded),
    (404, "application/json", "{}", ToolUnreachable),
]


@pytest.mark.parametrize(("status", "kind", "body", "failure"), ANSWERS)
async def test_an_answer_that_is_none_fails_its_call_at_once_and_by_name(
    status: int, kind: str, body: str, failure: type[Exception]
) -> None:
    app = counting_server(stateless=True)[0].streamable_http_app()

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        if b'"tools/call"' not in message.get("body", b""):
            await app(scope, with_message(message, receive), send)
            return
        identity = json.dumps(json.loads(message["body"])["id"])
        headers = {"retry-after": "7", "content-type": kind}
        await Response(body.replace("ID", identity), status, headers)(scope, receive, send)

    with served(broken) as base:
        async with tools_at(f"{base}/mcp", concurrency=1, timeout=20) as client:
            await connected(client)
            with pytest.raises(failure) as failed:
                await asyncio.wait_for(client.call("pubmed_search", "x", {}), 5)
    if failure is ToolOverloaded:
        assert getattr(failed.value, "retry_after", None) == 7


async def test_an_answer_may_come_in_pieces_behind_notifications() -> None:
    app = counting_server(stateless=True)[0].streamable_http_app()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        if b'"tools/call"' not in message.get("body", b""):
            await app(scope, with_message(message, receive), send)
            return
        answer = {"jsonrpc": "2.0", "id": json.loads(message["body"])["id"], "result": {"content": []}}
        progress = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {}}
        events = f": hello\r\n\r\nevent: message\r\ndata: {json.dumps(progress)}\r\n\r\n"
        events += f"id: 1\nevent: message\ndata: {json.dumps(answer)}\n\n"
        pieces = iter([events[at : at + 9].encode() for at in range(0, len(events), 9)])
        await StreamingResponse(pieces, media_type="text/event-stream")(scope, receive, send)

    with served(slow) as base:
        async with tools_at(f"{base}/mcp", concurrency=1) as client:
            await connected(client)
            assert await client.call("pubmed_search", "x", {}) == ("No result.", False)


def test_a_retry_after_is_read_in_seconds_or_as_a_date() -> None:
    assert (seconds_to_wait("7"), seconds_to_wait("86400")) == (7, 300)
    assert seconds_to_wait("Fri, 01 Jan 1999 00:00:00 GMT") == 0
    assert [seconds_to_wait(value) for value in (None, "", "soon")] == [None] * 3
