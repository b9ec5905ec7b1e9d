"""Event streams as the standard has them, and answers in any order, primed, closed, taken up again."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import McpError
from mcp.server.fastmcp import Context, FastMCP
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from backends.errors import ToolReplyInvalid, ToolTimeout, ToolUnreachable
from backends.event_stream import EventStream
from backends.tool_routes import map_tools
from tests.support.servers import served
from tests.support.tool_clients import calling, connected, tools_at

LINES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=12)
EVENTS = st.lists(st.lists(LINES, min_size=1, max_size=3), max_size=5)


@given(EVENTS, st.sampled_from(["\n", "\r\n", "\r"]), st.integers(1, 9), st.booleans())
def test_events_are_read_whatever_their_line_ends_and_pieces(
    events: list[list[str]], end: str, size: int, bom: bool
) -> None:
    said = "\ufeff" * bom + f": a comment{end}"
    for number, lines in enumerate(events):
        said += f"id: {number}{end}event: message{end}retry: 250{end}"
        said += "".join(f"data: {line}{end}" for line in lines) + end
    content = said.encode()

    async def read() -> tuple[list[str], EventStream]:
        stream = aiohttp.StreamReader(aiohttp.base_protocol.BaseProtocol(asyncio.get_running_loop()), 2**16)
        for at in range(0, len(content), size):
            stream.feed_data(content[at : at + size])
        stream.feed_eof()
        heard = EventStream()
        return [data async for data in heard.events(stream, 10**6)], heard

    found, heard = asyncio.run(read())
    assert found == [data for lines in events if (data := "\n".join(lines)).strip()]
    if events:
        assert (heard.last_id, heard.retry) == (str(len(events) - 1), 0.25)


class Consent(BaseModel):
    """What a server may want to know."""

    given: bool


RESULT = {"content": [{"type": "text", "text": '{"total": 7, "data": []}'}]}


def event(message: Any, number: int | None = None) -> str:
    return (f"id: {number}\n" if number is not None else "") + f"event: message\ndata: {json.dumps(message)}\n\n"


def answer(identity: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identity, "result": RESULT}


NOTE = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {}}
PING = {"jsonrpc": "2.0", "id": 7, "method": "ping"}
STREAMS: dict[str, Callable[[str], str]] = {
    "primed": lambda i: f"id: 0\ndata: \n\nid: 1\ndata:\n\n{event(answer(i), 2)}",
    "commented": lambda i: f": hello\n\n:\nretry: 10\n\n{event(answer(i))}",
    "on several lines": lambda i: "".join(f"data: {line}\n" for line in json.dumps(answer(i), indent=1).splitlines()) + "\n",
    "behind notifications and requests": lambda i: event(NOTE) + event(PING) + event(NOTE) + event(answer(i)),
    "behind another's answer": lambda i: event(answer("call-999")) + event(answer(i)),
    "behind events of other kinds": lambda i: f"event: heartbeat\ndata: alive\n\nevent: ping\ndata: {{}}\n\n{event(answer(i))}",
    "by carriage returns": lambda i: event(answer(i)).replace("\n", "\r"),
    "among others": lambda i: event([NOTE, answer("call-999"), answer(i)]),
}  # fmt: skip


def streamed(text: str) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(text), 11):
            yield text[at : at + 11].encode()

    return StreamingResponse(pieces(), media_type="text/event-stream")


@pytest.mark.parametrize("name", STREAMS)
async def test_an_answer_is_found_in_its_stream(name: str) -> None:
    with served(calling(lambda _, identity: streamed(STREAMS[name](identity)))) as base:
        async with tools_at(f"{base}/mcp", concurrency=1, timeout=10) as client:
            await connected(client)
            assert (await client.call("pubmed_search", "x", {}))[0] == {"total": 7, "data": []}


async def test_a_stream_that_is_closed_before_the_answer_is_taken_up_from_its_last_event() -> None:
    asked: list[str] = []
    waiting: list[str] = []

    def reply(request: Request, identity: str) -> Response:
        if request.method == "POST":
            waiting.append(identity)
            return streamed("retry: 10\nid: stream-1\ndata: \n\n")
        asked.append(request.headers["last-event-id"])
        return streamed("id: stream-2\ndata: \n\n" if len(asked) == 1 else event(answer(waiting[0]), 9))

    with served(calling(reply)) as base:
        async with tools_at(f"{base}/mcp", concurrency=1, timeout=10) as client:
            await connected(client)
            assert (await client.call("pubmed_search", "x", {}))[0]["total"] == 7
    assert asked == ["stream-1", "stream-2"]


async def test_half_of_an_event_is_not_heard() -> None:
    asked: list[str] = []
    waiting: list[str] = []

    def reply(request: Request, identity: str) -> Response:
        if request.method == "POST":
            waiting.append(identity)
            return streamed(
                f"retry: 10\nid: stream-1\ndata: \n\nid: stream-2\ndata: {json.dumps(answer(identity))[:30]}"
            )
        asked.append(request.headers["last-event-id"])
        return streamed(event(answer(waiting[0]), 2))

    with served(calling(reply)) as base:
        async with tools_at(f"{base}/mcp", concurrency=1, timeout=10) as client:
            await connected(client)
            assert (await client.call("pubmed_search", "x", {}))[0]["total"] == 7
    assert asked == ["stream-1"]


async def test_what_a_server_asks_of_its_client_within_a_call_is_answered() -> None:
    """The SDK's own server, whose tool asks the user first and goes on when it cannot."""
    server = FastMCP("asks", stateless_http=False)

    @server.tool()
    async def pubmed_search(query: str, ctx: Context[Any, Any, Any]) -> str:
        await ctx.session.send_ping()
        try:
            await ctx.elicit("May I?", Consent)
        except McpError as error:
            return f"{query}: {error.error.message}"
        return "asked"

    with served(server.streamable_http_app()) as base:
        async with tools_at(f"{base}/mcp", concurrency=1, timeout=10) as client:
            client.routes = map_tools(client.served, ("pubmed_search",))
            assert (await client.call("pubmed_search", "x", {}))[0] == "x: Method not found"


LOST = [
    (-32001, "Session not found"), (-32600, "Session terminated"), (-32000, "Bad Request: No valid session ID provided"),
    (-32602, "Received request before initialization was complete"), (0, "unknown session"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "words"), LOST)
@pytest.mark.parametrize("status", [200, 400])
async def test_a_lost_session_is_opened_again_in_whatever_words_it_is_told(code: int, words: str, status: int) -> None:
    lost = iter([True])

    def reply(_: Request, identity: str) -> Response:
        if next(lost, False):
            return JSONResponse({"jsonrpc": "2.0", "id": identity, "error": {"code": code, "message": words}}, status)
        return JSONResponse(answer(identity))

    with served(calling(reply)) as base:
        async with tools_at(f"{base}/mcp", concurrency=1, timeout=10) as client:
            await connected(client)
            assert (await client.call("pubmed_search", "x", {}))[0]["total"] == 7


async def test_a_call_that_is_refused_is_its_own_failure_and_the_session_goes_on() -> None:
    opened: list[str] = []

    def reply(request: Request, identity: str) -> Response:
        opened.append(request.headers.get("mcp-session-id", ""))
        if len(opened) == 1:
            return JSONResponse({"error": "query refused by the gateway"}, 400)
        return JSONResponse(answer(identity))

    with served(calling(reply)) as base:
        async with tools_at(f"{base}/mcp", concurrency=1, timeout=10) as client:
            await connected(client)
            with pytest.raises(ToolReplyInvalid, match=r"refused the call \(400\): .*query refused by the gateway"):
                await client.call("pubmed_search", "x", {})
            assert len(opened) == 1
            assert (await client.call("pubmed_search", "x", {}))[0]["total"] == 7


async def test_a_stream_that_brings_nothing_is_not_asked_again_and_again_at_once() -> None:
    asked = 0

    def reply(request: Request, _: str) -> Response:
        nonlocal asked
        asked += request.method == "GET"
        return streamed("retry: 0\nid: stream-1\ndata: \n\n")

    with served(calling(reply)) as base:
        async with tools_at(f"{base}/mcp", concurrency=1, timeout=2) as client:
            await connected(client)
            with pytest.raises(ToolTimeout):
                await client.call("pubmed_search", "x", {})
    assert 1 <= asked <= 8


async def test_a_stream_without_an_id_that_ends_without_an_answer_is_lost() -> None:
    with served(calling(lambda *_: streamed(event(NOTE)))) as base:
        async with tools_at(f"{base}/mcp", concurrency=1, timeout=10) as client:
            await connected(client)
            with pytest.raises(ToolUnreachable, match="ended without an answer"):
                await client.call("pubmed_search", "x", {})


async def test_a_session_that_is_lost_in_a_200_is_opened_again() -> None:
    lost = iter([True])

    def reply(_: Request, identity: str) -> Response:
        if next(lost, False):
            error = {"code": -32001, "message": "Session not found"}
            return JSONResponse({"jsonrpc": "2.0", "id": identity, "error": error})
        return JSONResponse(answer(identity))

    with served(calling(reply)) as base:
        async with tools_at(f"{base}/mcp", concurrency=1, timeout=10) as client:
            await connected(client)
            assert (await client.call("pubmed_search", "x", {}))[0]["total"] == 7
