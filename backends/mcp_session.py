"""One MCP session for the whole run, reopened when its server restarts."""

import asyncio
from typing import Any

import aiohttp
import httpx
from langchain_mcp_adapters.sessions import StreamableHttpConnection, create_session
from mcp import ClientSession, McpError
from mcp.types import Tool

from backends.bounded import without_secrets
from backends.errors import ToolTimeout, ToolUnreachable
from backends.mcp_calls import SessionUnknown, ToolCalls

_RECONNECT_WAITS = (0.1, 0.2, 0.5, 1.0, 2.0)
_PROBE_TIMEOUT = 5.0
_CLOSE_TIMEOUT = 5.0
_LOST = ("Session terminated", "Connection closed")
_CALL_HEADERS = ("accept", "authorization", "content-type", "mcp-protocol-version", "mcp-session-id")
_Live = tuple[ClientSession, asyncio.Event]


class KeptSession:
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
        self._calls = ToolCalls(url, self._pool)
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
                        said = str(unknown)
                        self._lose(broken)
        except TimeoutError as error:
            if not self._live.done():
                raise ToolUnreachable(f"no tool server answers at {self._url}") from error
            raise ToolTimeout(f"{server_name} gave no result within {self._timeout:g} s") from error
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
                    self.served = (await asyncio.wait_for(session.list_tools(), self._timeout)).tools
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
            headers=headers, timeout=timeout or httpx.Timeout(30), auth=auth, trust_env=False,
            event_hooks={"request": [note]},
        )  # fmt: skip


def _first_of(error: BaseException) -> BaseException:
    """The first of the errors that the SDK's task groups wrap."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
