"""Model clients at a scripted model."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from backends.chat_model import LocalChatModel, open_chat_model
from backends.config import ModelConfig
from backends.model_client import ChatClient
from tests.support.servers import ScriptedModel

PROMPT = [{"role": "user", "content": "hello"}]


KEY = "s3cr3t-key"


@asynccontextmanager
async def client(model: ScriptedModel, timeout: float = 10) -> AsyncIterator[LocalChatModel]:
    address = ModelConfig((model.url,), api_key=KEY, model_timeout=timeout)
    async with open_chat_model(address, model.url, concurrency=2) as chat:
        yield chat


async def ask(model: ScriptedModel, timeout: float = 10) -> Any:
    async with client(model, timeout) as chat:
        return await ChatClient(chat, ["</call_tool>"]).ask(PROMPT, 100)
