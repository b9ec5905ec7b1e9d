"""Both services connected: what a graph needs from outside."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from backends.cassette import Failed, open_cassette
from backends.chat_model import open_chat_model
from backends.config import ModelConfig, ToolsConfig
from backends.model_client import ChatClient
from backends.model_info import ModelInfo, resolve_model
from backends.tool_routes import map_tools
from backends.tools import ToolClient, open_tool_client


@dataclass(frozen=True)
class Services:
    """Live clients: `chat.ask` and `tools.call`."""

    chat: ChatClient
    tools: ToolClient
    model: ModelInfo

    @property
    def tools_sha256(self) -> str:
        """Hash of how the model's tools reach the server: names, arguments, input schemas."""
        schemas = {tool.name: tool.inputSchema for tool in self.tools.served}
        routes: dict[str, Any] = {
            name: {
                "server_name": route.server_name,
                "query_argument": route.query_argument,
                "fixed": route.fixed,
                "accepts": schemas[route.server_name],
            }
            for name, route in self.tools.routes.items()
        }
        return hashlib.sha256(json.dumps(routes, sort_keys=True).encode()).hexdigest()


@asynccontextmanager
async def open_services(
    model: ModelConfig, tools: ToolsConfig, *, stop: Sequence[str], concurrency: int, failed: Failed
) -> AsyncIterator[Services]:
    """Both clients, connected and checked: the one way to open them. `stop` are the strings that end a reply, `failed`
    judges whether a tool's result says that the call failed. Raises UsageError for what is no such service.
    """
    async with (
        open_model(model, stop=stop, concurrency=concurrency) as (chat, info),
        open_tools(tools, concurrency=concurrency, failed=failed) as client,
    ):
        yield Services(chat, client, info)


@asynccontextmanager
async def open_model(
    model: ModelConfig, *, stop: Sequence[str], concurrency: int, timeout: float | None = None
) -> AsyncIterator[tuple[ChatClient, ModelInfo]]:
    """The model alone, with what its server says of it. `timeout` bounds a reply where less is to be waited for."""
    served = await resolve_model(model.local_model_url, model.model_name, model.api_key, model.headers)
    named = replace(
        model, model_name=served.name, model_timeout=min(model.model_timeout, timeout or model.model_timeout)
    )
    async with open_chat_model(named, concurrency=concurrency) as chat:
        size = model.max_model_len or served.max_model_len
        yield ChatClient(chat, stop, size, served.continues, concurrency), served


@asynccontextmanager
async def open_tools(tools: ToolsConfig, *, concurrency: int, failed: Failed) -> AsyncIterator[ToolClient]:
    """The tools alone."""
    servers = [] if tools.tools_mode == "replay" else await asyncio.to_thread(tools.servers)
    opened = open_cassette(tools.cassette, tools.tools_mode, failed) if tools.cassette else nullcontext()
    async with (
        opened as cassette,
        open_tool_client(servers, concurrency=concurrency, timeout=tools.tool_timeout, cassette=cassette) as client,
    ):
        where = ", ".join(server.where for server in servers) or f"the cassette {tools.cassette}"
        client.routes = map_tools(client.served, tools.tools, tools.tool_map, address=where)
        yield client
