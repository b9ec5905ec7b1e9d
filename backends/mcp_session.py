"""One MCP session for the whole run, reopened when its server restarts."""

import asyncio
import contextlib
import time
from typing import Any

import anyio
from langchain_mcp_adapters.sessions import Connection, create_session
from mcp import ClientSession, McpError
from mcp.types import CallToolResult, Tool

from backends.errors import ToolFailed, ToolTimeout, ToolUnreachable
from backends.mcp_transport import TRANSPORT_ERROR

_RECONNECT_WAITS = (0.1, 0.2, 0.5, 1.0, 2.0)
_PROBE_TIMEOUT = 5.0
_CLOSE_TIMEOUT = 5.0
_LOST = ("Session terminated", "Connection closed")
_Live = tuple[ClientSession, asyncio.Event]


class KeptSession:
    """A session that callers share. A task of its own holds it, because the transport cancels its owner when it breaks;
    callers wait for the next session when theirs is lost.
    """

    def __init__(self, connection: Connection, *, address: str, timeout: float) -> None:
        self._connection = connection
        self._address = address
        self._timeout = timeout
        self._live: asyncio.Future[_Live] = asyncio.get_running_loop().create_future()
        self._keeper: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Future[CallToolResult]] = set()
        """Those under way in the present session."""
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

    async def call(self, server_name: str, arguments: dict[str, Any]) -> CallToolResult:
        """Call a tool. One that a lost session left without an answer is called again once.

        Raises ToolFailed, ToolUnreachable or ToolTimeout.
        """
        deadline = time.monotonic() + self._timeout
        for _ in range(2):
            session, broken = await self._session(deadline)
            call = asyncio.ensure_future(session.call_tool(server_name, arguments))
            self._calls.add(call)
            try:
                await asyncio.wait({call}, timeout=max(deadline - time.monotonic(), 0))
                if not call.done():
                    raise ToolTimeout(f"{server_name} gave no result within {self._timeout:g} s")
                if not call.cancelled():
                    return _answer(call)
            except _SessionLost:
                pass
            finally:
                self._calls.discard(call)
                call.cancel()
            self._lose(broken)
        raise ToolUnreachable(f"the tool server at {self._address} keeps losing the session")

    async def probe(self) -> bool:
        """Whether the tool server answers."""
        asking = asyncio.ensure_future(self._ping())
        try:
            await asyncio.wait({asking}, timeout=_PROBE_TIMEOUT)
            return asking.done() and not asking.cancelled() and asking.result()
        finally:
            asking.cancel()

    async def _ping(self) -> bool:
        session, broken = await asyncio.shield(self._live)
        try:
            await session.send_ping()
        except McpError as error:
            if error.error.message in _LOST:
                self._lose(broken)
            return error.error.message not in _LOST and error.error.code != TRANSPORT_ERROR
        except Exception:
            return False
        return True

    async def _session(self, deadline: float) -> _Live:
        if self._live.done() and not self._live.result()[1].is_set():
            return self._live.result()
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                live = await asyncio.wait_for(asyncio.shield(self._live), left)
                if not live[1].is_set():
                    return live
        raise ToolUnreachable(f"no tool server answers at {self._address}")

    def _lose(self, broken: asyncio.Event) -> None:
        if broken.is_set():
            return
        broken.set()
        for call in self._calls:  # all of them were made in this session
            call.cancel()
        self._calls.clear()
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
                    attempt = 0
                    if not opened.done():
                        opened.set_result(None)
                    await broken.wait()
            except (Exception, asyncio.CancelledError) as error:
                current = asyncio.current_task()
                if current is None or current.cancelling():
                    raise  # ours; otherwise the broken transport cancelled its own scope
                if not opened.done():
                    opened.set_exception(error if isinstance(error, Exception) else ConnectionError("cancelled"))
                    return
            finally:
                self._lose(broken)
            await asyncio.sleep(_RECONNECT_WAITS[min(attempt, len(_RECONNECT_WAITS) - 1)])
            attempt += 1


class _SessionLost(Exception):
    """The server no longer knows the session."""


def _answer(call: "asyncio.Future[CallToolResult]") -> CallToolResult:
    try:
        return call.result()
    except McpError as error:
        if error.error.message in _LOST:
            raise _SessionLost from error
        if error.error.code == TRANSPORT_ERROR:
            raise ToolUnreachable(f"the tool call was lost on its way ({error.error.message})") from error
        raise ToolFailed(error.error.message) from error
    except (anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
        raise _SessionLost from error
    except ValueError as error:
        raise ToolFailed("the tool server's answer is not a tool result") from error
    except RuntimeError as error:
        if "structured content" not in str(error):
            raise
        raise ToolFailed(str(error)) from error  # a result that does not fit the schema its tool declares
