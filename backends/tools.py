"""The tool client: one persistent MCP session for the whole run, reopened when the server restarts.

The model knows three tools; a server may offer them under other names. `map_tools` chooses from the server's own list.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from mcp.types import Tool

from backends.bounded import redirection
from backends.cassette import Cassette
from backends.errors import CassetteMiss, NothingAnswers, ToolFailed, ToolReplyInvalid, UsageError
from backends.mcp_session import ReconnectingSession
from backends.secrets import Secrets

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
_OPEN_TIMEOUT = 15.0
NO_RESULT = "No result."
"""What the model reads of an answer without content."""
_NOT_JSON = object()


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
        return {**{k: v for k, v in extra.items() if k in self.accepts}, **self.fixed, self.query_argument: query}


def map_tools(
    served: Sequence[Tool], names: Sequence[str], overrides: Sequence[str] = (), *, address: str = "the tool server"
) -> dict[str, ToolRoute]:
    """A route for each of `names`; `overrides` read `browse_webpage=fetch(url)`. UsageError when one is missing."""
    by_name = {tool.name: tool for tool in served}
    chosen: dict[str, tuple[str, str, dict[str, Any]]] = {}
    for name in names:
        found = next((entry for entry in _CANDIDATES.get(name, [(name, "query", {})]) if entry[0] in by_name), None)
        if found:
            chosen[name] = found
    for override in overrides:
        match = _TOOL_MAP.fullmatch(override)
        if not match or match[1] not in names:
            raise UsageError(f"--tool-map {override}: write TOOL=SERVER_TOOL or TOOL=SERVER_TOOL(argument)")
        if match[2] in by_name:
            chosen[match[1]] = (match[2], match[3] or _first_argument(by_name[match[2]]), {})
        else:
            chosen.pop(match[1], None)
    missing = [name for name in names if name not in chosen]
    if missing:
        raise UsageError(
            f"{address} has no tool for {', '.join(missing)}; it has {', '.join(sorted(by_name)) or 'none'} "
            "(name yours with --tool-map, or leave one out with --tools)"
        )
    return {
        name: ToolRoute(server, argument, fixed, frozenset(by_name[server].inputSchema.get("properties") or {}))
        for name, (server, argument, fixed) in chosen.items()
    }


class ToolClient:
    """The model's tools, called through one shared session. Make it with `open_tool_client`."""

    def __init__(
        self, session: "ReconnectingSession | ReplayedSession", concurrency: int, cassette: Cassette | None
    ) -> None:
        self._session = session
        self._cassette = cassette
        self._slots = asyncio.Semaphore(concurrency)
        self.routes: dict[str, ToolRoute] = {}
        """The model's tools; set once the mapping is chosen."""

    @property
    def served(self) -> list[Tool]:
        """The server's own tools."""
        return self._session.served

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
        """Why the tool server is down; None when it answers."""
        return await self._session.probe()

    async def _ask(self, server_name: str, arguments: dict[str, Any]) -> Any:
        async with self._slots:
            return read_result(await self._session.call(server_name, arguments))


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
    url: str, *, concurrency: int, timeout: float = 120.0, token: str | None = None, cassette: Cassette | None = None
) -> AsyncIterator[ToolClient]:
    """A connected client (its `routes` still to be set from its `served`). Raises UsageError when nothing answers."""
    if cassette and cassette.mode == "replay":
        yield ToolClient(ReplayedSession(await cassette.tools()), concurrency, cassette)
        return
    session = ReconnectingSession(url, concurrency=concurrency, timeout=timeout, token=token)
    try:
        try:
            await session.open(_OPEN_TIMEOUT)
        except Exception as error:
            answer = _answer(error)
            if answer is not None and answer.status_code == 401:
                raise UsageError(
                    f"the tool server at {url} asks for a token: set MCP_TOKEN to the right one"
                ) from error
            if answer is not None and (elsewhere := redirection(answer.status_code, answer.headers.get("location"))):
                said = Secrets(token).hidden(elsewhere)
                raise UsageError(f"the tool server is not at {url}: {said}; change --mcp-url") from error
            raise NothingAnswers(
                f"no MCP server answers at {url}: start it (trajgraph serve-tools) or change MCP_TRANSPORT_HOST and "
                "MCP_TRANSPORT_PORT, or --mcp-url"
            ) from error
        if cassette and cassette.mode != "live":
            await cassette.keep_tools(session.served)
        yield ToolClient(session, concurrency, cassette)
    finally:
        await session.close()


def read_result(result: Mapping[str, Any]) -> Any:
    """The value of a `CallToolResult`: its text, parsed where it is JSON; its structured content where there is no
    text, or where that has a shape that we know and the text has none; `No result.` where there is nothing.

    Raises ToolFailed when the server flags an error, ToolReplyInvalid when it is no such result.
    """
    content, structured = result.get("content"), result.get("structuredContent")
    if not isinstance(content, list) and structured is None:
        raise ToolReplyInvalid("the tool server's answer is not a tool result")
    blocks = content if isinstance(content, list) else []
    said = [_text(block) for block in blocks]
    texts = [text for text, block in zip(said, blocks, strict=True) if block.get("type") in ("text", "resource")]
    text = "\n".join(said)
    if result.get("isError"):
        raise ToolFailed(text or "the tool failed without a word")
    value = _json("\n".join(texts))
    if value is _NOT_JSON and len(texts) > 1:  # a list comes as a block an item
        values = list(map(_json, texts))
        value = values if all(isinstance(item, dict) for item in values) else value
    if value is not _NOT_JSON and (value or structured is None):
        return value
    if isinstance(structured, dict) and structured.keys() == {"result"}:
        structured = structured["result"]
        if isinstance(structured, str):
            inner = _json(structured)
            return text if text.strip() else structured if inner is _NOT_JSON else inner
    if structured is not None and (not text.strip() or _is_known(structured)):
        return structured
    return text if text.strip() else NO_RESULT


def _json(text: str) -> Any:
    """An object or a list in JSON; any other text stays as it is written (`3.10` is no number to round)."""
    try:
        value = json.loads(text) if text.lstrip()[:1] in ("{", "[") else _NOT_JSON
    except (ValueError, RecursionError):
        return _NOT_JSON
    return value


def _is_known(value: Any) -> bool:
    """Whether a structured result has one of the shapes that are rendered: papers, links, a page."""
    if isinstance(value, dict):
        return any(_holds_objects(value.get(name)) for name in ("data", "organic")) or bool(value.get("markdown"))
    return _holds_objects(value) and all("title" in item for item in value)


def _holds_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _text(block: Any) -> str:
    """What a content block says; one that is no text is named, a link with its name and address."""
    kind = block.get("type") if isinstance(block, dict) else None
    inner = block.get("resource") if kind == "resource" else block
    text = inner.get("text") if isinstance(inner, dict) else None
    if isinstance(text, str):
        return text
    if kind is None or kind == "text":
        raise ToolReplyInvalid("the tool server's answer is not a tool result")
    if isinstance(inner, dict) and isinstance(inner.get("uri"), str):
        named = (inner.get(name) for name in ("title", "name", "description"))
        return ": ".join([*dict.fromkeys(name for name in named if isinstance(name, str) and name), inner["uri"]])
    return f"[{kind}]"


def _answer(error: BaseException) -> httpx.Response | None:
    """The HTTP answer that a connection failed with, however deep it lies."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else filter(None, [error.__cause__])
    return next(filter(None, map(_answer, inner)), None)


def _first_argument(tool: Tool) -> str:
    schema = tool.inputSchema
    return str(next(iter(schema.get("required") or schema.get("properties") or ["query"])))
