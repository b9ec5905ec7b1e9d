"""Tool clients at servers of a few lines."""

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from mcp.server.fastmcp import FastMCP
from mcp.types import Tool
from starlette.requests import Request
from starlette.responses import Response

from backends.config import TOOL_NAMES
from backends.mcp_servers import mcp_servers
from backends.tool_routes import map_tools
from backends.tools import ToolClient, open_tool_client
from tests.support.servers import with_message


def tool(name: str, *arguments: str) -> Tool:
    properties = {argument: {"type": "string"} for argument in arguments}
    return Tool(name=name, inputSchema={"type": "object", "properties": properties, "required": list(arguments[:1])})


def tools_at(*words: str, token: str | None = None, **more: Any) -> AbstractAsyncContextManager[ToolClient]:
    """A client of servers as `--mcp` names them."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return open_tool_client(mcp_servers(words, headers), **more)


def counting_server(
    delay: float = 0.0, *, stateless: bool = False, json_response: bool = False
) -> tuple[FastMCP, list[str]]:
    """A stateful server that notes its sessions and calls."""
    seen: list[str] = []
    server = FastMCP("counting", log_level="CRITICAL", stateless_http=stateless, json_response=json_response)

    async def pubmed_search(query: str) -> dict[str, Any]:
        seen.append(query)
        await asyncio.sleep(delay)
        return {"total": 0, "data": []}

    server.add_tool(pubmed_search)
    return server, seen


async def connected(client: ToolClient) -> ToolClient:
    client.routes = map_tools(client.served, TOOL_NAMES[:1])
    return client


def calling(reply: Callable[[Request, str], Response]) -> Any:
    """A stateless server whose calls are answered by `reply`, GETs too."""
    app = counting_server(stateless=True)[0].streamable_http_app()

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "GET"):
            await app(scope, receive, send)
            return
        message = await receive() if scope["method"] == "POST" else {"type": "http.request", "body": b""}
        body: Any = message.get("body", b"")
        if b'"tools/call"' in body:
            await reply(Request(scope), json.loads(body)["id"])(scope, receive, send)
        elif scope["method"] == "GET" and b"last-event-id" in dict(scope["headers"]):
            await reply(Request(scope), "")(scope, receive, send)
        else:
            await app(scope, with_message(message, receive), send)

    return wrapped
