"""Both services connected: what a graph needs from outside, from one set of addresses."""

import hashlib
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from backends.bounded import check_address
from backends.cassette import Failed, ToolsMode, open_cassette
from backends.chat_model import ModelAddress, open_chat_model
from backends.model_client import ChatClient
from backends.model_first import Waiting
from backends.model_info import resolve_model
from backends.tools import ToolClient, map_tools, open_tool_client


def default_mcp_url() -> str:
    """The tool server's address from MCP_URL, else from MCP_TRANSPORT_HOST and MCP_TRANSPORT_PORT."""
    if url := os.environ.get("MCP_URL"):
        return url
    host, port = os.environ.get("MCP_TRANSPORT_HOST", "127.0.0.1"), os.environ.get("MCP_TRANSPORT_PORT", "8003")
    return f"http://{host}:{port}/mcp"


@dataclass(frozen=True)
class ToolsAddress:
    """Where the tools are, which of the model's tools are wanted, and how the server's are named if not as usual."""

    url: str
    tools: tuple[str, ...]
    tool_map: tuple[str, ...] = ()
    timeout: float = 120.0
    """Seconds until a call without a result is given up."""
    cassette: Path | None = None
    mode: ToolsMode = "auto"
    token: str | None = field(default_factory=lambda: os.environ.get("MCP_TOKEN"), repr=False)
    """What a server that is not on this machine asks for."""

    def __post_init__(self) -> None:
        check_address("--mcp-url", self.url)


@dataclass(frozen=True)
class Services:
    """Live clients: `chat.ask` and `tools.call`."""

    chat: ChatClient
    tools: ToolClient

    @property
    def tools_sha256(self) -> str:
        """Hash of how the model's tools reach the server: names, arguments, input schemas."""
        schemas = {tool.name: tool.inputSchema for tool in self.tools.served}
        routes: dict[str, Any] = {
            name: {**asdict(route), "accepts": schemas[route.server_name]} for name, route in self.tools.routes.items()
        }
        return hashlib.sha256(json.dumps(routes, sort_keys=True).encode()).hexdigest()


@asynccontextmanager
async def open_services(
    model: ModelAddress,
    tools: ToolsAddress,
    *,
    stop: Sequence[str],
    concurrency: int,
    failed: Failed,
    at_model: Waiting = nullcontext,
    away: Waiting = nullcontext,
) -> AsyncIterator[Services]:
    """Both clients, connected and checked; a graph waits for the model within `at_model()` and for a tool within
    `away()`. `failed` judges whether a tool's result says that the call failed. Raises UserError before any completion
    is asked for.
    """
    served = await resolve_model(model.url, model.model, model.api_key)
    with open_cassette(tools.cassette, tools.mode, failed) if tools.cassette else nullcontext() as cassette:
        async with (
            open_chat_model(replace(model, model=served.name), concurrency=concurrency) as chat,
            open_tool_client(
                tools.url,
                concurrency=concurrency,
                timeout=tools.timeout,
                token=tools.token,
                cassette=cassette,
                waiting=away,
            ) as client,
        ):
            client.routes = map_tools(client.served, tools.tools, tools.tool_map, address=tools.url)
            max_model_len = model.max_model_len or served.max_model_len
            yield Services(ChatClient(chat, stop, max_model_len, served.continues, at_model, concurrency), client)
