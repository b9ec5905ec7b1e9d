"""fastmcp's own server: fastmcp_server.py PORT plain|stateless|events|sse|stdio"""

import sys
from typing import Any

import uvicorn
from fastmcp import Context, FastMCP
from fastmcp.server.event_store import EventStore

port, manner = int(sys.argv[1]), sys.argv[2]
server = FastMCP("papers")


@server.tool
async def pubmed_search(query: str, ctx: Context, limit: int = 10) -> dict[str, Any]:
    """Search papers."""
    await ctx.report_progress(1, 2)
    await ctx.info("half way")
    paper = {"paperId": "12345678", "title": query, "abstract": "It helped in 12% of 340 patients.", "year": "2020"}
    return {"total": 1, "data": [{**paper, "venue": "J", "authors": [{"name": "Smith, J"}]}]}


@server.tool
async def browse_webpage(url: str) -> str:
    """Read a page."""
    return f"# Page\n\nSome text at {url}."


@server.tool
async def google_search(query: str) -> list[dict[str, str]]:
    """Search the web."""
    return [
        {"title": "First", "link": "https://x.org/1", "snippet": query},
        {"title": "Second", "link": "", "snippet": ""},
    ]


if manner == "stdio":
    server.run("stdio", show_banner=False)
    sys.exit()
if manner == "sse":
    app = server.http_app(path="/mcp/sse", transport="sse")
elif manner == "stateless":
    app = server.http_app(stateless_http=True, json_response=True)
elif manner == "events":
    app = server.http_app(event_store=EventStore(), retry_interval=200)
else:
    app = server.http_app()
uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
