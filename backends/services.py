"""Both services connected: what a graph needs from outside."""

import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

from backends.cassette import Failed, open_cassette
from backends.chat_model import open_chat_model
from backends.config import ModelConfig, ToolsConfig
from backends.model_client import ChatClient
from backends.model_info import ModelInfo, resolve_model
from backends.tools import ToolClient, map_tools, open_tool_client


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
            name: {**asdict(route), "accepts": schemas[route.server_name]} for name, route in self.tools.routes.items()
        }
        return hashlib.sha256(json.dumps(routes, sort_keys=True).encode()).hexdigest()


@asynccontextmanager
async def open_services(
    model: ModelConfig, tools: ToolsConfig, *, stop: Sequence[str], concurrency: int, failed: Failed
) -> AsyncIterator[Services]:
    """Both clients, connected and checked: the one way to open them. `stop` are the strings that end a reply, `failed`
    judges whether a tool's result says that the call failed. Raises UsageError for what is no such service.
    """
    served = await resolve_model(model.local_model_url, model.model_name, model.api_key)
    opened = open_cassette(tools.cassette, tools.tools_mode, failed) if tools.cassette else nullcontext()
    async with (
        opened as cassette,
        open_chat_model(replace(model, model_name=served.name), concurrency=concurrency) as chat,
        open_tool_client(
            tools.url, concurrency=concurrency, timeout=tools.tool_timeout, token=tools.token, cassette=cassette
        ) as client,
    ):
        client.routes = map_tools(client.served, tools.tools, tools.tool_map, address=tools.url)
        max_model_len = model.max_model_len or served.max_model_len
        yield Services(ChatClient(chat, stop, max_model_len, served.continues, concurrency), client, served)
