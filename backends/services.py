"""Both services connected: what a graph needs from outside."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from backends.cassette import Failed, open_cassette
from backends.chat_pool import ChatPool
from backends.config import ModelConfig, ToolsConfig
from backends.model_info import ModelInfo
from backends.pool_watch import watch
from backends.tool_routes import map_tools
from backends.tools import ToolClient, open_tool_client


@dataclass(frozen=True)
class Services:
    """Live clients: `chat.ask` and `tools.call`."""

    chat: ChatPool
    tools: ToolClient

    @property
    def model(self) -> ModelInfo:
        """What the first server says of it."""
        return next(one.served for one in self.chat.endpoints.all if one.served)

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
        open_model(model, stop=stop, concurrency=concurrency) as chat,
        open_tools(tools, concurrency=concurrency, failed=failed) as client,
    ):
        yield Services(chat, client)


@asynccontextmanager
async def open_model(
    model: ModelConfig, *, stop: Sequence[str], concurrency: int, timeout: float | None = None
) -> AsyncIterator[ChatPool]:
    """The model alone, at all its servers. `timeout` bounds a reply where less is to be waited for."""
    model = replace(model, model_timeout=min(model.model_timeout, timeout or model.model_timeout))
    pool = ChatPool(model, stop, concurrency)
    watching = None
    try:
        await pool.endpoints.connect()
        if not pool.endpoints.is_single:
            watching = asyncio.create_task(watch(pool.endpoints, model.endpoints))
        yield pool
    finally:
        if watching:
            watching.cancel()
        await pool.endpoints.aclose()


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
