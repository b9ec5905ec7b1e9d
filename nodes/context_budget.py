"""Keeping the prompt within the context: the oldest tool outputs are shortened, for the model and the record alike."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, ToolMessage

KEPT_CHARACTERS = 600
"""What is left of a shortened output at least: enough for the first title and its id."""


class Chat(Protocol):
    """The model, as the nodes know it."""

    max_model_len: int | None
    """Tokens of prompt and reply together; None while nobody has said."""

    async def ask(self, messages: list[BaseMessage], max_tokens: int) -> AIMessage:
        """One reply; raises a `ModelError`."""

    async def continue_reply(self, messages: list[BaseMessage], begun: str, max_tokens: int) -> AIMessage | None:
        """What follows a reply that was cut off; None where the server cannot take it up."""

    async def count_tokens(self, messages: list[BaseMessage]) -> int | None:
        """Tokens of a prompt by the server's own tokenizer; None where it has none to ask."""


Build = Callable[[Sequence[AnyMessage]], list[BaseMessage]]


async def fit_context(
    chat: Chat, build: Build, messages: Sequence[AnyMessage], max_tokens: int, *, refused: bool = False
) -> tuple[list[AnyMessage], int]:
    """The messages that had to be shortened (same ids, to replace the old ones) and the tokens left for the reply.

    `build` makes the prompt. A quarter of the context at most is kept free for the reply. Shortens nothing while the
    context is unknown; what cannot be made to fit is left to the server to refuse. `refused` says that it has refused
    this prompt: then the estimate was too low, and only a count or the worst case will do.
    """
    size = chat.max_model_len
    if size is None:
        return [], max_tokens
    reserve = min(max_tokens, size // 4)
    prompt = build(messages)
    tokens = estimate_tokens(prompt)
    if refused or tokens > size - reserve:
        tokens = await chat.count_tokens(prompt) or (3 * tokens if refused else tokens)
    kept = list(messages)
    shortened: list[AnyMessage] = []
    per_character = tokens / max(sum(len(message.text) for message in prompt), 1)
    for at, message in enumerate(messages):
        excess = tokens - (size - reserve)
        if excess <= 0:
            break
        if isinstance(message, ToolMessage) and len(message.text) > 2 * KEPT_CHARACTERS:
            short = shorten_output(message, len(message.text) - int(excess / per_character) - 200)
            tokens -= int((len(message.text) - len(short.text)) * per_character)
            kept[at] = short
            shortened.append(short)
    if shortened:
        tokens = await chat.count_tokens(build(kept)) or tokens
    return shortened, max(min(max_tokens, size - tokens - 1), 1)


def estimate_tokens(prompt: Sequence[BaseMessage]) -> int:
    """More than any tokenizer counts for prose: three bytes a token, and a few for each message's frame."""
    return sum(len(message.text.encode("utf-8", "replace")) // 3 + 8 for message in prompt)


def shorten_output(message: ToolMessage, length: int) -> ToolMessage:
    """A tool output cut to about `length` characters, which says so where the model and the reader see it."""
    text = message.text.removeprefix("<tool_output>").removesuffix("</tool_output>")
    kept = text[: max(length, KEPT_CHARACTERS)]
    note = f"\n[shortened to fit the context: {len(text) - len(kept)} of {len(text)} characters left out]\n"
    beside: dict[str, Any] = {**message.additional_kwargs, "shortened_from": len(message.text)}
    content = f"<tool_output>{kept}{note}</tool_output>"
    return message.model_copy(update={"content": content, "additional_kwargs": beside})
