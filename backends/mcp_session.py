"""One MCP session for the whole run, reopened when its server restarts."""

import asyncio
import json
import logging
import time
from typing import Any

import aiohttp
import anyio
import httpx
from langchain_mcp_adapters.sessions import create_session
from mcp import ClientSession, McpError
from mcp.types import (
    CallToolRequest,
    CallToolRequestParams,
    ClientRequest,
    ListToolsRequest,
    PaginatedRequestParams,
    Tool,
)
from pydantic import BaseModel, ConfigDict, ValidationError

from backends.bounded import without_secrets
from backends.errors import ToolFailed, ToolReplyInvalid, ToolTimeout, ToolUnreachable
from backends.mcp_http import McpHttpClient, SessionUnknown
from backends.mcp_servers import McpServer
from backends.mcp_transport import connection_to
from backends.secrets import Secrets

log = logging.getLogger("trajgraph")
_RECONNECT_WAITS = (0.1, 0.2, 0.5, 1.0, 2.0)
_PROBE_TIMEOUT = 5.0
_CLOSE_TIMEOUT = 5.0
_MOST_PAGES = 50
_LOST = ("Session terminated", "Connection closed")
_Live = tuple[ClientSession, asyncio.Event]


class ReconnectingSession:
    """A session that callers share. A task of its own holds it, because the SDK's transport cancels its owner when it
    breaks; callers wait for the next session when theirs is lost.
    """

    def __init__(self, server: McpServer, *, concurrency: int, timeout: float) -> None:
        self.server = server
        self._timeout = timeout
        self._secrets = server.secrets
        self._pool = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=concurrency + 8), timeout=aiohttp.ClientTimeout(total=None)
        )
        self._calls = McpHttpClient(server.url, self._pool, self._secrets)
        self._connection = connection_to(server, timeout, self._calls.use_session)
        self._live: asyncio.Future[_Live] = asyncio.get_running_loop().create_future()
        self._keeper: asyncio.Task[None] | None = None
        self._heard = float("-inf")
        """When it last answered a call."""
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
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                for _ in range(2):
                    session, broken = await asyncio.shield(self._live)
                    try:
                        if self.server.transport == "streamable_http":
                            return await self._calls.call(server_name, arguments)
                        result = await _by_sdk(session, broken, server_name, arguments, self._secrets)
                        self._heard = time.monotonic()
                        return result
                    except SessionUnknown as unknown:
                        said, stated = str(unknown), unknown.stated
                        self._lose(broken)
        except TimeoutError as error:
            if not self._live.done():
                raise ToolUnreachable(f"no tool server answers at {self.server.where}") from error
            if self.server.transport != "streamable_http" and self._heard < started:
                self._lose(self._live.result()[1])  # it has answered nobody meanwhile: its silence is a loss, perhaps
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
            elif not self._live.done():
                lost = "no connection"
            elif self.server.transport == "sse" and not await self._is_reachable():
                self._lose(self._live.result()[1])  # over SSE the SDK does not tell
                lost = "no connection"
            else:
                lost = None
        finally:
            asking.cancel()
        where = without_secrets(self.server.url) if self.server.url else self.server.where
        return f"{where}: {self._failure or lost}" if lost else None

    async def _is_reachable(self) -> bool:
        """Whether its port is open."""
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT), self._pool.head(self.server.url, allow_redirects=False):
                return True
        except TimeoutError:
            return True  # it takes its time
        except (aiohttp.ClientError, OSError):
            return False

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


async def _by_sdk(
    session: ClientSession, broken: asyncio.Event, tool: str, arguments: dict[str, Any], secrets: Secrets
) -> dict[str, Any]:
    """The `CallToolResult`, as JSON, over stdio or SSE. Raises SessionUnknown when the session broke."""
    request = CallToolRequest(params=CallToolRequestParams(name=tool, arguments=arguments))
    asking = asyncio.ensure_future(session.send_request(ClientRequest(request), _AnyResult))
    ended = asyncio.ensure_future(broken.wait())
    try:
        await asyncio.wait({asking, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            raise ToolUnreachable("the connection to the tool server broke")
        said: dict[str, Any] = json.loads(secrets.hidden_in(asking.result().model_dump_json().encode()))
        return said
    except McpError as error:
        if error.error.message in _LOST:
            raise SessionUnknown(error.error.message) from error
        raise ToolFailed(secrets.hidden(error.error.message)) from error
    except (ValidationError, ValueError) as error:
        raise ToolReplyInvalid("the tool server's answer is not a tool result") from error
    except (anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream, httpx.HTTPError, OSError) as error:
        raise SessionUnknown(type(error).__name__) from error
    finally:
        asking.cancel()
        ended.cancel()


class _AnyResult(BaseModel):
    """A result as it came: the SDK's own would be checked against the tool's schema, and fail as a whole."""

    model_config = ConfigDict(extra="allow")


async def _all_tools(session: ClientSession) -> list[Tool]:
    """The server's tools, from as many pages as it has."""
    tools: list[Tool] = []
    cursor = None
    for _ in range(_MOST_PAGES):
        request = ListToolsRequest(params=PaginatedRequestParams(cursor=cursor) if cursor else None)
        page = (await session.send_request(ClientRequest(request), _AnyResult)).model_extra or {}
        listed = page.get("tools")
        for one in listed if isinstance(listed, list) else []:
            try:
                tools.append(Tool.model_validate(one))
            except ValidationError:  # the others are served all the same
                name = one.get("name") if isinstance(one, dict) else one
                log.warning("a tool of the server is left out: %.80s is not described as MCP does", name)
        cursor = page.get("nextCursor")
        if not isinstance(cursor, str) or not cursor:
            break
    return tools


def _first_of(error: BaseException) -> BaseException:
    """The first of the errors that the SDK's task groups wrap."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
