"""One MCP session for the whole run, reopened when its server restarts."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx
from langchain_mcp_adapters.sessions import StreamableHttpConnection, create_session
from mcp import ClientSession, McpError
from mcp.types import PaginatedRequestParams, Tool

from backends.bounded import without_secrets
from backends.errors import ToolFailed, ToolTimeout, ToolUnreachable
from backends.mcp_http import MAX_ANSWER, McpHttpClient, SessionUnknown
from backends.secrets import Secrets

_RECONNECT_WAITS = (0.1, 0.2, 0.5, 1.0, 2.0)
_PROBE_TIMEOUT = 5.0
_CLOSE_TIMEOUT = 5.0
_MOST_PAGES = 50
_LOST = ("Session terminated", "Connection closed")
_CALL_HEADERS = ("accept", "authorization", "content-type", "mcp-protocol-version", "mcp-session-id")
_Live = tuple[ClientSession, asyncio.Event]


class ReconnectingSession:
    """A session that callers share. A task of its own holds it, because the SDK's transport cancels its owner when it
    breaks; callers wait for the next session when theirs is lost.
    """

    def __init__(self, url: str, *, concurrency: int, timeout: float, token: str | None) -> None:
        self._url = url
        self._timeout = timeout
        self._connection = StreamableHttpConnection(
            transport="streamable_http", url=url, timeout=timeout, sse_read_timeout=timeout,
            headers={"Authorization": f"Bearer {token}"} if token else None, httpx_client_factory=self._http_client,
        )  # fmt: skip
        self._pool = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=concurrency + 8), timeout=aiohttp.ClientTimeout(total=None)
        )
        self._calls = McpHttpClient(url, self._pool, Secrets(token))
        self._live: asyncio.Future[_Live] = asyncio.get_running_loop().create_future()
        self._keeper: asyncio.Task[None] | None = None
        self._failure = ""
        """Why it could not be connected last."""
        self.served: list[Tool] = []
        """The server's tools, as of the last connection."""

    async def open(self, within: float) -> None:
        """Connect for the first time. Raises what went wrong, or TimeoutError."""
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep(opened))
        await asyncio.wait_for(opened, within)

    async def close(self) -> None:
        """End the session; a server that does not answer is not waited for."""
        if self._keeper:
            self._keeper.cancel()
            await asyncio.wait({self._keeper}, timeout=_CLOSE_TIMEOUT)
        await self._pool.close()

    async def call(self, server_name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a tool. One that came with a session that the server has forgotten is made again in a new one.

        Raises a `ToolError`.
        """
        try:
            async with asyncio.timeout(self._timeout):
                for _ in range(2):
                    _, broken = await asyncio.shield(self._live)
                    try:
                        return await self._calls.call(server_name, arguments)
                    except SessionUnknown as unknown:
                        said, stated = str(unknown), unknown.stated
                        self._lose(broken)
        except TimeoutError as error:
            if not self._live.done():
                raise ToolUnreachable(f"no tool server answers at {self._url}") from error
            raise ToolTimeout(f"{server_name} gave no result within {self._timeout:g} s") from error
        if stated:
            raise ToolFailed(stated)  # it is the tool that says so
        raise ToolUnreachable(f"{said}, in a new session too")

    async def probe(self) -> str | None:
        """Why the tool server is down; None when it answers, or takes its time: then it is at work."""
        asking = asyncio.ensure_future(self._ping())
        try:
            await asyncio.wait({asking}, timeout=_PROBE_TIMEOUT)
            if asking.done() and not asking.cancelled():
                lost = asking.result()
            else:
                lost = None if self._live.done() else "no connection"
        finally:
            asking.cancel()
        return f"{without_secrets(self._url)}: {self._failure or lost}" if lost else None

    async def _ping(self) -> str | None:
        """What a ping comes to; None when it is answered."""
        session, broken = await asyncio.shield(self._live)
        try:
            await session.send_ping()
        except McpError as error:
            if error.error.message in _LOST:
                self._lose(broken)
                return error.error.message
        except Exception as error:
            self._lose(broken)
            return type(error).__name__
        return "the session broke" if broken.is_set() else None

    def _lose(self, broken: asyncio.Event) -> None:
        broken.set()
        if self._live.done() and self._live.result()[1] is broken:
            self._live = asyncio.get_running_loop().create_future()

    async def _keep(self, opened: "asyncio.Future[None]") -> None:
        """Hold a session open for as long as the run lasts; `opened` learns of the first success or failure."""
        attempt = 0
        while True:
            broken = asyncio.Event()
            try:
                async with create_session(self._connection) as session:
                    await asyncio.wait_for(session.initialize(), self._timeout)
                    self.served = await asyncio.wait_for(_all_tools(session), self._timeout)
                    self._live.set_result((session, broken))
                    attempt, self._failure = 0, ""
                    if not opened.done():
                        opened.set_result(None)
                    await broken.wait()
            except (Exception, asyncio.CancelledError) as error:
                current = asyncio.current_task()
                if current is None or current.cancelling():
                    raise  # ours; otherwise the broken transport cancelled its own scope
                self._failure = type(_first_of(error)).__name__
                if not opened.done():
                    opened.set_exception(error if isinstance(error, Exception) else ConnectionError("cancelled"))
                    return
            finally:
                self._lose(broken)
            await asyncio.sleep(_RECONNECT_WAITS[min(attempt, len(_RECONNECT_WAITS) - 1)])
            attempt += 1

    def _http_client(
        self,
        headers: dict[str, str] | None = None,
        timeout: httpx.Timeout | None = None,
        auth: httpx.Auth | None = None,
    ) -> httpx.AsyncClient:
        """The SDK's own client: for opening, listing and pinging."""

        async def note(request: httpx.Request) -> None:
            if "mcp-protocol-version" in request.headers:  # the session is open
                self._calls.session = {name: request.headers[name] for name in _CALL_HEADERS if name in request.headers}

        return httpx.AsyncClient(
            headers={**(headers or {}), "Accept-Encoding": "identity"}, timeout=timeout or httpx.Timeout(30), auth=auth,
            event_hooks={"request": [note]}, transport=_BoundedTransport(), trust_env=False,
        )  # fmt: skip


class _BoundedTransport(httpx.AsyncHTTPTransport):
    """Answers that come as they are, up to a bound: httpx would unpack gigabytes from a few kilobytes."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
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


async def _all_tools(session: ClientSession) -> list[Tool]:
    """The server's tools, from as many pages as it has."""
    tools: list[Tool] = []
    cursor = None
    for _ in range(_MOST_PAGES):
        page = await session.list_tools(params=PaginatedRequestParams(cursor=cursor) if cursor else None)
        tools += page.tools
        cursor = page.nextCursor
        if not cursor:
            break
    return tools


def _first_of(error: BaseException) -> BaseException:
    """The first of the errors that the SDK's task groups wrap."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
