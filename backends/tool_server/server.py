"""The MCP server: the three tools over streamable HTTP at `/mcp`, and `GET /mcp/health`."""

import json
from typing import Any

from mcp.server.fastmcp import FastMCP
from mcp.types import CallToolResult, TextContent
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from backends.tool_server.corpus import Corpus


def tool_server(corpus: Corpus) -> FastMCP:
    """The server over a corpus; `.streamable_http_app()` is the ASGI application."""
    server = FastMCP("trajgraph offline tools", stateless_http=True, json_response=True, log_level="WARNING")

    @server.tool(structured_output=False)
    def pubmed_search(query: str, limit: int = 10, offset: int = 0) -> CallToolResult:
        """Search PubMed (the offline corpus). Words are combined with AND; `limit` papers from `offset` on."""
        return _json(corpus.search(query, limit, offset))

    @server.tool(structured_output=False)
    def browse_webpage(url: str) -> CallToolResult:
        """Read a web page as Markdown. Offline, these are the PubMed pages of the corpus."""
        return _json(corpus.page(url))

    @server.tool(structured_output=False)
    def google_search(query: str, limit: int = 10) -> CallToolResult:
        """Search the web. Offline, the links lead into the corpus."""
        return _json(corpus.links(query, limit))

    async def health(_: Request) -> Response:
        return PlainTextResponse("OK")

    server.custom_route("/mcp/health", methods=["GET"])(health)
    return server


def _json(value: dict[str, Any]) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=json.dumps(value, ensure_ascii=False))])
