"""The MCP server: the three tools at `/mcp`, under today's and yesterday's names, and `GET /health`."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from mcp.server.fastmcp import FastMCP
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import CallToolResult, TextContent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from backends.errors import ToolFailed
from backends.printable import one_line
from servers.tool_server.sources import Sources, is_paper_address

MAX_CALLS = 64
"""Calls worked on at the same time; the others wait in line."""
_log = logging.getLogger("tool_server")


def tool_server(sources: Sources, max_calls: int = MAX_CALLS) -> FastMCP:
    """The server over its sources, for HTTP (see `http_app`) and stdio alike."""
    server = FastMCP(
        "trajgraph tools", stateless_http=True, json_response=True, log_level="WARNING",
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),  # see guard.py
    )  # fmt: skip
    slots = {name: asyncio.Semaphore(max_calls) for name in ("pubmed_search", "browse_webpage", "google_search")}

    async def logged(tool: str, about: str, work: Callable[[], Awaitable[dict[str, Any]]]) -> CallToolResult:
        """The result as one text block of JSON; a line in the log."""
        started, failed = time.monotonic(), "cancelled"
        try:
            async with slots[tool]:  # callers who wait for one tool are in nobody's way at another
                value = await work()
            failed = "its answer is an error" if value.get("error") else ""  # which may hold the address's secrets
        except ToolFailed as error:
            failed = str(error)
            return CallToolResult(content=[TextContent(type="text", text=failed)], isError=True)
        except Exception as error:
            failed = type(error).__name__
            raise
        finally:
            took = round((time.monotonic() - started) * 1000)
            _log.info(
                "%s %s %s ms %s",
                tool,
                f"failed ({one_line(failed)})" if failed else "ok",
                took,
                json.dumps(about)[:200],
            )
        return CallToolResult(content=[TextContent(type="text", text=json.dumps(value, ensure_ascii=False))])

    async def read(url: str, offset: int = 0) -> dict[str, Any]:
        """A page from its character `offset` on, of `total`: `{url, success, markdown, offset, total}`; or why there is
        none, which is an answer too: `{url, success, error}`.
        """
        try:
            found, page = url, await sources.pubmed.page(url) if is_paper_address(url) else None
            if page is None:
                found, page = await sources.web.read(url)
            if not 0 <= offset < len(page):
                raise ToolFailed(f"it has {len(page):,} characters, and none from offset {offset:,} on")
        except ToolFailed as error:
            return {"url": url, "success": False, "error": f"cannot open {url}: {error}"}
        return {"url": found, "success": True, "markdown": page[offset:], "offset": offset, "total": len(page)}

    async def search(query: str, limit: int, offset: int) -> dict[str, Any]:
        """Papers; a year or a journal that is not known is left out, and shown as `N/A`."""
        found = await sources.pubmed.search(query, limit, offset)
        data = [
            {name: value for name, value in paper.items() if value is not None or name not in ("year", "venue")}
            for paper in found["data"]
        ]
        return {**found, "data": data}

    @server.tool(structured_output=False)
    async def pubmed_search(query: str, limit: int = 10, offset: int = 0) -> CallToolResult:
        """Search PubMed: words, "phrases", AND/OR/NOT, [tiab] [mesh] [au] [dp] [pmid]. `limit` papers from `offset`."""
        return await logged("pubmed_search", query, lambda: search(query, limit, offset))

    @server.tool(structured_output=False)
    async def browse_webpage(url: str, offset: int = 0) -> CallToolResult:
        """Read a web page or a PDF as Markdown, from its character `offset` on."""
        return await logged("browse_webpage", _loggable(url), lambda: read(url, offset))

    @server.tool(structured_output=False)
    async def google_search(query: str, limit: int = 10) -> CallToolResult:
        """Search the web."""
        return await logged("google_search", query, lambda: sources.google.search(query, limit))

    @server.tool(structured_output=False)
    async def crawl4ai_docker_fetch_webpage_content(url: str, use_ai2_config: bool = False) -> CallToolResult:
        """The earlier name of browse_webpage."""
        return await logged("browse_webpage", _loggable(url), lambda: read(url))

    @server.tool(structured_output=False)
    async def serper_google_webpage_search(query: str, num_results: int = 10) -> CallToolResult:
        """The earlier name of google_search."""
        return await logged("google_search", query, lambda: sources.google.search(query, num_results))

    async def health(_: Request) -> Response:
        """200 when PubMed can be searched; beside it, what keeps a web search from working."""
        pubmed, google = await sources.pubmed.problem(), await sources.google.problem()
        said = {"pubmed_search": pubmed or "ok", "browse_webpage": "ok", "google_search": google or "ok"}
        return JSONResponse(said, status_code=503 if pubmed else 200)

    for path in ("/mcp/health", "/health"):  # the latter is the earlier backend's
        server.custom_route(path, methods=["GET"])(health)
    return server


def http_app(sources: Sources, max_calls: int = MAX_CALLS) -> Starlette:
    """The server as an ASGI application; its sources are closed when it shuts down."""
    app = tool_server(sources, max_calls).streamable_http_app()
    sessions = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(inner: Starlette) -> AsyncIterator[Any]:
        async with sessions(inner) as state:
            try:
                yield state
            finally:
                await sources.aclose()

    app.router.lifespan_context = lifespan
    return app


def _loggable(url: str) -> str:
    """An address without what may be secret in it: credentials and query."""
    try:
        parts = urlsplit(url if "\n" not in url else "")
    except ValueError:
        return "an address that is none"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
