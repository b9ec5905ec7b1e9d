"""The two services as the nodes know them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from langchain_core.messages import AIMessage


class Chat(Protocol):
    """The model, as the nodes know it. Messages are as OpenAI's API takes them: `role`, `content`, `tool_call_id`."""

    max_model_len: int | None
    """Tokens of prompt and reply together; None while nobody has said."""

    async def ask(
        self, messages: list[dict[str, str]], max_tokens: int, seed: int | None, *, stops: bool = True
    ) -> AIMessage:
        """One reply, ended by the protocol's stop strings unless `stops` says no; raises a `ModelError`."""

    async def continue_reply(
        self, messages: list[dict[str, str]], begun: str, max_tokens: int, seed: int | None
    ) -> AIMessage | None:
        """What follows a reply that was cut off; None where the server cannot continue it."""

    async def count_tokens(self, messages: list[dict[str, str]]) -> int | None:
        """Tokens of a prompt by the server's own tokenizer; None where it has none to ask."""


CallTool = Callable[[str, str, Mapping[str, Any]], Awaitable[tuple[Any, bool]]]
"""Calls a tool by the model's name for it, with the query and the other parameters; raises a `ToolError`.

Gives the result, and whether it was kept from an earlier call.
"""
