"""The tool client: persistent MCP sessions for the whole run, reopened when a server restarts."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from mcp.types import Tool

from backends.cassette import Cassette
from backends.errors import CassetteMiss, ToolFailed
from backends.mcp_diagnosis import diagnosis
from backends.mcp_servers import McpServer
from backends.mcp_session import ReconnectingSession
from backends.tool_result import read_result
from backends.tool_routes import ToolRoute, descriptions

calls = logging.getLogger("trajgraph.calls")
_FETCHING = 75.0
"""Seconds more for a server that is a command: it may have to be fetched first."""


class ToolClient:
    """The model's tools, on whichever server has them. Make it with `open_tool_client`."""

    def __init__(
        self, sessions: "Sequence[ReconnectingSession | ReplayedSession]", concurrency: int, cassette: Cassette | None
    ) -> None:
        self._sessions = sessions
        self._cassette = cassette
        self._slots = asyncio.Semaphore(concurrency)
        self._holders: dict[str, ReconnectingSession | ReplayedSession] = {}
        self.routes: dict[str, ToolRoute] = {}
        """The model's tools; set once the mapping is chosen."""

    @property
    def served(self) -> list[Tool]:
        """The servers' own tools; one that several have is the first's."""
        every = [tool for session in self._sessions for tool in session.served]
        return list({tool.name: tool for tool in reversed(every)}.values())[::-1]

    @property
    def descriptions(self) -> dict[str, tuple[str, str]]:
        """What the prompt says of tools that it does not know of itself."""
        return descriptions(self.served, self.routes)

    async def call(self, name: str, query: str, parameters: Mapping[str, Any]) -> tuple[Any, bool]:
        """The result as a JSON value, or a string for plain text, and whether the cassette had it.

        Raises ToolFailed for what the model should read, ToolUnreachable or ToolTimeout for what a retry may fix.
        """
        route = self.routes.get(name)
        if route is None:
            raise ToolFailed(f"there is no tool {name!r}; use one of {', '.join(self.routes)}")
        arguments = route.arguments(query, parameters)
        if self._cassette is None:
            return await self._ask(route.server_name, arguments), False
        return await self._cassette.result(
            route.server_name, arguments, lambda: self._ask(route.server_name, arguments)
        )

    async def probe(self) -> str | None:
        """Why a tool server is down; None when they all answer."""
        return next(filter(None, [await session.probe() for session in self._sessions]), None)

    async def _ask(self, server_name: str, arguments: dict[str, Any]) -> Any:
        session = self._holder(server_name)
        async with self._slots:
            started = time.monotonic()
            try:
                result = read_result(await session.call(server_name, arguments))
            except Exception as error:
                calls.debug("%s %.200s: %s after %.1f s", server_name, arguments, error, time.monotonic() - started)
                raise
            calls.debug("%s %.200s: %.1f s", server_name, arguments, time.monotonic() - started)
            return result

    def _holder(self, server_name: str) -> "ReconnectingSession | ReplayedSession":
        """The session that has a tool, as of the first time that it was asked for."""
        if server_name not in self._holders:
            holding = (one for one in self._sessions if any(tool.name == server_name for tool in one.served))
            self._holders[server_name] = next(holding, self._sessions[0])
        return self._holders[server_name]


@dataclass(frozen=True)
class ReplayedSession:
    """In place of a server: the tools that were recorded. Every result comes from the cassette."""

    served: list[Tool]

    async def call(self, server_name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Never asked for: a cassette in replay answers, or says what it misses."""
        raise CassetteMiss(f"{server_name} is replayed: there is no server to ask")

    async def probe(self) -> str | None:
        """Nothing can be down."""
        return None


@asynccontextmanager
async def open_tool_client(
    servers: Sequence[McpServer],
    *,
    concurrency: int,
    timeout: float = 120.0,
    opening: float = 15.0,
    cassette: Cassette | None = None,
) -> AsyncIterator[ToolClient]:
    """A connected client (its `routes` still to be set from its `served`). Raises UsageError when a server does not
    open within `opening` seconds.
    """
    if cassette and cassette.mode == "replay":
        yield ToolClient([ReplayedSession(await cassette.tools())], concurrency, cassette)
        return
    async with AsyncExitStack() as stack:
        sessions = []
        for server in servers:
            session = ReconnectingSession(server, concurrency=concurrency, timeout=timeout)
            stack.push_async_callback(session.close)
            try:
                await session.open(opening + _FETCHING if server.transport == "stdio" else opening)
            except Exception as error:
                raise await diagnosis(server, error) from error
            sessions.append(session)
        client = ToolClient(sessions, concurrency, cassette)
        if cassette and cassette.mode != "live":
            await cassette.keep_tools(client.served)
        yield client
