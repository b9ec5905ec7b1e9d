"""The tool client: one persistent MCP session for the whole run, reopened when the server restarts.

The model knows three tools; a server may offer them under other names. `map_tools` chooses from the server's own list.
A task of its own holds the session (its owner is cancelled when the transport breaks, so nobody else may be inside),
and callers wait for the next session when theirs is lost.
"""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx
from langchain_mcp_adapters.sessions import Connection, StreamableHttpConnection, create_session
from mcp import ClientSession, McpError
from mcp.types import CallToolResult, TextContent, Tool

from backends.errors import ToolFailed, ToolTimeout, ToolUnreachable, UserError

_CANDIDATES: Mapping[str, Sequence[tuple[str, str, dict[str, Any]]]] = {
    "pubmed_search": [("pubmed_search", "query", {})],
    "browse_webpage": [
        ("browse_webpage", "url", {}),
        ("crawl4ai_docker_fetch_webpage_content", "url", {"use_ai2_config": True}),
        ("crawl4ai_fetch_webpage_content", "url", {}),
        ("serper_fetch_webpage_content", "webpage_url", {}),
    ],
    "google_search": [("google_search", "query", {}), ("serper_google_webpage_search", "query", {})],
}
"""For each tool of the model: the servers' names for it in order of choice, the query's argument, fixed arguments."""

_RENAMED = {"serper_google_webpage_search": {"limit": "num_results"}}
_TOOL_MAP = re.compile(r"(\w+)=([\w./-]+)(?:\((\w+)\))?")
_RECONNECT_WAITS = (0.1, 0.2, 0.5, 1.0, 2.0)
_WATCH_EVERY = 5.0
_PROBE_TIMEOUT = 5.0
_LOST = ("Session terminated", "Connection closed")


@dataclass(frozen=True)
class ToolRoute:
    """How one of the model's tools is called on the server; `accepts` are the arguments that its schema names."""

    server_name: str
    query_argument: str
    fixed: dict[str, Any] = field(default_factory=dict)
    accepts: frozenset[str] = frozenset()

    def arguments(self, query: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The server's arguments; a parameter that the tool does not know is left out."""
        renamed = _RENAMED.get(self.server_name, {})
        extra = {renamed.get(name, name): value for name, value in parameters.items()}
        return {self.query_argument: query, **self.fixed, **{k: v for k, v in extra.items() if k in self.accepts}}


def map_tools(
    served: Sequence[Tool], names: Sequence[str], overrides: Sequence[str] = (), *, address: str = "the tool server"
) -> dict[str, ToolRoute]:
    """A route for each of `names`; `overrides` read `browse_webpage=fetch(url)`. UserError when one is missing."""
    by_name = {tool.name: tool for tool in served}
    chosen: dict[str, tuple[str, str, dict[str, Any]]] = {}
    for name in names:
        found = next((entry for entry in _CANDIDATES.get(name, [(name, "query", {})]) if entry[0] in by_name), None)
        if found:
            chosen[name] = found
    for override in overrides:
        match = _TOOL_MAP.fullmatch(override)
        if not match or match[1] not in names:
            raise UserError(f"--tool-map {override}: write TOOL=SERVER_TOOL or TOOL=SERVER_TOOL(argument)")
        if match[2] in by_name:
            chosen[match[1]] = (match[2], match[3] or _first_argument(by_name[match[2]]), {})
        else:
            chosen.pop(match[1], None)
    missing = [name for name in names if name not in chosen]
    if missing:
        raise UserError(
            f"{address} has no tool for {', '.join(missing)}; it has {', '.join(sorted(by_name)) or 'none'} "
            "(name yours with --tool-map, or leave one out with --tools)"
        )
    return {
        name: ToolRoute(server, argument, fixed, frozenset(by_name[server].inputSchema.get("properties", {})))
        for name, (server, argument, fixed) in chosen.items()
    }


class ToolClient:
    """Calls tools through one shared session. Make it with `open_tool_client`."""

    def __init__(self, connection: Connection, *, address: str, concurrency: int, timeout: float) -> None:
        self._connection = connection
        self._address = address
        self._timeout = timeout
        self._slots = asyncio.Semaphore(concurrency)
        self._session: asyncio.Future[tuple[ClientSession, asyncio.Event]] = asyncio.get_running_loop().create_future()
        self.served: list[Tool] = []
        """The server's tools, as of the last connection."""
        self.routes: dict[str, ToolRoute] = {}
        """The model's tools; set once the mapping is chosen."""

    async def call(self, name: str, query: str, parameters: Mapping[str, Any]) -> Any:
        """The result as a JSON value, or a string when the tool answered in plain text.

        Raises ToolFailed for what the model should read, ToolUnreachable or ToolTimeout for what a retry may mend.
        """
        route = self.routes.get(name)
        if route is None:
            raise ToolFailed(f"there is no tool {name!r}; use one of {', '.join(self.routes)}")
        deadline = time.monotonic() + self._timeout
        async with self._slots:
            while True:
                result = await self._try(name, route.server_name, route.arguments(query, parameters), deadline)
                if result is not None:
                    return read_result(result)

    async def probe(self) -> bool:
        """Whether the tool server answers."""
        session = self._session
        ping = asyncio.ensure_future(self._ping(session))
        try:
            await asyncio.wait({ping}, timeout=_PROBE_TIMEOUT)
            return ping.done() and not ping.cancelled() and ping.result()
        finally:
            ping.cancel()

    async def _ping(self, session: "asyncio.Future[tuple[ClientSession, asyncio.Event]]") -> bool:
        try:
            await (await asyncio.shield(session))[0].send_ping()
        except McpError as error:
            return error.error.message not in _LOST
        except Exception:
            return False
        return True

    async def _try(
        self, name: str, server_name: str, arguments: dict[str, Any], deadline: float
    ) -> CallToolResult | None:
        """One attempt; None when the session was lost before an answer came, and the call is to be made again."""
        left = deadline - time.monotonic()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._session), max(left, 0))
        if not self._session.done():
            raise ToolUnreachable(f"no tool server answers at {self._address}")
        session, broken = self._session.result()
        call = asyncio.ensure_future(session.call_tool(server_name, arguments))
        lost = asyncio.ensure_future(broken.wait())
        try:
            await asyncio.wait({call, lost}, timeout=max(deadline - time.monotonic(), 0), return_when="FIRST_COMPLETED")
            if call.cancelled() or (lost.done() and not call.done()):
                self._lose(broken)
                return None
            if call.done():
                return call.result()
        except McpError as error:
            if error.error.message in _LOST:
                self._lose(broken)
                return None
            raise ToolFailed(error.error.message) from error
        except (anyio.ClosedResourceError, anyio.BrokenResourceError, httpx.TransportError):
            self._lose(broken)
            return None
        except RuntimeError as error:  # a result that does not fit the schema the tool declares
            raise ToolFailed(str(error)) from error
        finally:
            call.cancel()
            lost.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await asyncio.wait({call}, timeout=0)
        raise ToolTimeout(f"{name} gave no result within {self._timeout:g} s")

    def _lose(self, broken: asyncio.Event) -> None:
        broken.set()
        if self._session.done() and self._session.result()[1] is broken:
            self._session = asyncio.get_running_loop().create_future()

    async def keep_session(self, opened: "asyncio.Future[None]") -> None:
        """Hold a session open for as long as the run lasts; `opened` learns of the first success or failure."""
        attempt = 0
        while True:
            broken = asyncio.Event()
            try:
                async with create_session(self._connection) as session:
                    await asyncio.wait_for(session.initialize(), self._timeout)
                    self.served = (await asyncio.wait_for(session.list_tools(), self._timeout)).tools
                    self._session.set_result((session, broken))
                    attempt = 0
                    if not opened.done():
                        opened.set_result(None)
                    await self._watch(session, broken)
            except Exception as error:
                if not opened.done():
                    opened.set_exception(error)
                    return
            except asyncio.CancelledError:
                current = asyncio.current_task()
                if current is None or current.cancelling():
                    raise  # ours; otherwise the broken transport cancelled its own scope
            finally:
                self._lose(broken)
            await asyncio.sleep(_RECONNECT_WAITS[min(attempt, len(_RECONNECT_WAITS) - 1)])
            attempt += 1

    async def _watch(self, session: ClientSession, broken: asyncio.Event) -> None:
        """Until the session breaks. A server killed in the middle of a call leaves the call hanging in silence; asking
        now and then whether it is there finds that out. A slow answer is no proof, a broken connection is.
        """
        while not broken.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(broken.wait(), _WATCH_EVERY)
                return
            with contextlib.suppress(TimeoutError, McpError):
                await asyncio.wait_for(session.send_ping(), self._timeout)


@asynccontextmanager
async def open_tool_client(
    url: str, *, concurrency: int, timeout: float = 120.0, token: str | None = None
) -> AsyncIterator[ToolClient]:
    """A connected client (its `routes` still to be set from its `served`). Raises UserError when nothing answers."""
    connection = StreamableHttpConnection(
        transport="streamable_http", url=url, timeout=timeout, sse_read_timeout=timeout,
        httpx_client_factory=_http_client_factory(concurrency),
        headers={"Authorization": f"Bearer {token}"} if token else None,
    )  # fmt: skip
    client = ToolClient(connection, address=url, concurrency=concurrency, timeout=timeout)
    opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    keeper = asyncio.create_task(client.keep_session(opened))
    try:
        try:
            await asyncio.wait_for(asyncio.shield(opened), 15)
        except Exception as error:
            raise UserError(
                f"no MCP server answers at {url}: start it (trajgraph serve-tools) or change MCP_TRANSPORT_HOST and "
                "MCP_TRANSPORT_PORT, or --mcp-url"
            ) from error
        yield client
    finally:
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await keeper


def read_result(result: CallToolResult) -> Any:
    """The value of an MCP result: structured content, else its text parsed as JSON, else its plain text.

    Raises ToolFailed when the server flags an error.
    """
    texts = [block.text for block in result.content if isinstance(block, TextContent)]
    if result.isError:
        raise ToolFailed("\n".join(texts) or "the tool failed without a word")
    value = result.structuredContent
    if value is not None:
        return value["result"] if value.keys() == {"result"} else value
    text = "\n".join(texts)
    try:
        return json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return text


def _first_argument(tool: Tool) -> str:
    schema = tool.inputSchema
    return str(next(iter(schema.get("required") or schema.get("properties") or ["query"])))


def _http_client_factory(concurrency: int) -> Any:
    def make(
        headers: dict[str, str] | None = None, timeout: httpx.Timeout | None = None, auth: httpx.Auth | None = None
    ) -> httpx.AsyncClient:
        seconds = timeout or httpx.Timeout(30)
        return httpx.AsyncClient(
            headers=headers, auth=auth, trust_env=False,
            timeout=httpx.Timeout(seconds.connect, read=seconds.read, pool=None),  # a PoolTimeout would end the session
            limits=httpx.Limits(max_connections=concurrency + 8, max_keepalive_connections=concurrency + 8),
        )  # fmt: skip

    return make
