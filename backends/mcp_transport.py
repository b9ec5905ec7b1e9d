"""The SDK's connection to a server, by whatever transport; over HTTP its answers are bounded."""

from collections.abc import AsyncIterator, Callable

import httpx
from langchain_mcp_adapters.sessions import Connection, SSEConnection, StdioConnection, StreamableHttpConnection

from backends.mcp_http import MAX_ANSWER
from backends.mcp_servers import McpServer

_CALL_HEADERS = ("accept", "authorization", "content-type", "mcp-protocol-version", "mcp-session-id")


def connection_to(server: McpServer, timeout: float, note: Callable[[dict[str, str]], None]) -> Connection:
    """What langchain-mcp-adapters connects by. `note` hears the headers of each request within a session."""
    if server.transport == "stdio":
        command, *arguments = server.command
        return StdioConnection(
            transport="stdio", command=command, args=arguments, env=server.environment or None, cwd=server.folder
        )

    def http_client(
        headers: dict[str, str] | None = None, timeout: httpx.Timeout | None = None, auth: httpx.Auth | None = None
    ) -> httpx.AsyncClient:
        return _http_client(server, note, headers, timeout, auth)

    if server.transport == "sse":
        return SSEConnection(
            transport="sse", url=server.url, headers=dict(server.headers), timeout=timeout,
            sse_read_timeout=_ENDLESS, httpx_client_factory=http_client,
        )  # fmt: skip
    return StreamableHttpConnection(
        transport="streamable_http", url=server.url, headers=dict(server.headers), timeout=timeout,
        sse_read_timeout=timeout, httpx_client_factory=http_client,
    )  # fmt: skip


_ENDLESS = 7 * 24 * 3600.0
"""Seconds that an SSE stream may say nothing: it is one for the whole run."""


def _http_client(
    server: McpServer,
    note: Callable[[dict[str, str]], None],
    headers: dict[str, str] | None,
    timeout: httpx.Timeout | None,
    auth: httpx.Auth | None,
) -> httpx.AsyncClient:
    """The SDK's own client: for opening, listing and pinging."""
    kept = {*_CALL_HEADERS, *(name.lower() for name in server.headers)}

    async def noted(request: httpx.Request) -> None:
        if "mcp-protocol-version" in request.headers:  # the session is open
            note({name: request.headers[name] for name in kept if name in request.headers})

    return httpx.AsyncClient(
        headers={**(headers or {}), "Accept-Encoding": "identity"}, timeout=timeout or httpx.Timeout(30), auth=auth,
        event_hooks={"request": [noted]}, transport=_BoundedTransport(), trust_env=False,
    )  # fmt: skip


class _BoundedTransport(httpx.AsyncHTTPTransport):
    """Answers that come as they are, up to a bound: httpx would unpack gigabytes from a few kilobytes."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if (
            300 <= response.status_code < 400 and response.status_code != 304
        ):  # none is followed: our calls would not be
            await response.aclose()
            raise httpx.UnsupportedProtocol("the server sends requests elsewhere", request=request)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise httpx.DecodingError("the server packs its answers, though it was asked not to", request=request)
        if request.method != "GET" and isinstance(response.stream, httpx.AsyncByteStream):  # GET: a stream without end
            response.stream = _Bounded(response.stream)
        return response


class _Bounded(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for piece in self._stream:
            size += len(piece)
            if size > MAX_ANSWER:
                raise httpx.ReadError(f"the answer is longer than {MAX_ANSWER / 1e6:g} MB")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()
