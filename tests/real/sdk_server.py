"""The MCP SDK's own server, which primes its streams and may close them before the answer: sdk_server.py PORT"""

import sys
from typing import Any

import anyio
import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.streamable_http import EventMessage, EventStore


class Events(EventStore):
    """All events, in memory."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, Any]] = []

    async def store_event(self, stream_id: str, message: Any) -> str:
        self.kept.append((stream_id, message))
        return str(len(self.kept) - 1)

    async def replay_events_after(self, last_event_id: str, send_callback: Any) -> str:
        stream = self.kept[int(last_event_id)][0]
        for number, (of, message) in enumerate(self.kept):
            if number > int(last_event_id) and of == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


server = MCPServer("papers")


@server.tool()
async def pubmed_search(query: str, ctx: Context, limit: int = 10) -> dict[str, Any]:
    """Search papers; a query with `cut` has its stream closed before it is answered."""
    if "cut" in query:
        await anyio.sleep(0.1)  # the stream has been primed
        await ctx.close_sse_stream()
        await anyio.sleep(0.5)
    return {
        "total": 1,
        "data": [{"paperId": "12345678", "title": query, "abstract": "A.", "year": "2020", "venue": "J"}],
    }


app = server.streamable_http_app(event_store=Events(), retry_interval=200)
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
