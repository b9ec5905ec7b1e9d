"""A reply that was cut off: what may still come of it, and how it is continued."""

import re
from typing import Any

from langchain_core.messages import AIMessage

from nodes.clients import Chat
from nodes.context_budget import remaining_tokens
from nodes.prompts import full_text

_SMALLEST_CONTEXT = 1000
_SLACK = 16
"""Tokens by which a server may count otherwise than we."""
_CLOSED_THOUGHT = re.compile(r"<think>\n*(.*?)\n*</think>\n*", re.DOTALL)


def is_context_full(cut_off: AIMessage, size: int | None) -> bool:
    """Whether what cut a reply off was the end of the context, of `size` tokens, by the server's own count."""
    usage = cut_off.usage_metadata
    return bool(usage and size and usage["input_tokens"] + usage["output_tokens"] >= size - _SLACK)


def ended_early(reply: AIMessage, max_tokens: int, size: int | None) -> bool:
    """Whether a reply was cut off before its `max_tokens` were used up, by the end of the context: of `size` tokens, or
    of one that the server has not told.
    """
    usage = reply.usage_metadata
    if not usage or reply.response_metadata.get("finish_reason") != "length":
        return False
    early = usage["output_tokens"] < max_tokens
    return early and (is_context_full(reply, size) if size else usage["total_tokens"] > _SMALLEST_CONTEXT)


async def continued(
    chat: Chat, prompt: list[dict[str, str]], begun: AIMessage, budget: int, seed: int | None
) -> AIMessage | None:
    """A cut-off reply with what follows it, from the very prompt that it started from; None where that cannot be: not
    in the room that the context leaves, or within a thought.
    """
    text = full_text(begun).rstrip()  # templates take white space off the end: it would stand in the record alone
    if text.rfind("<think>") > text.rfind("</think>"):
        return None  # Qwen's template would put an empty thought in front of one that is open
    room = remaining_tokens(chat, prompt, begun, budget)
    parsed = bool(begun.additional_kwargs.get("reasoning_content"))
    rest = None
    for written in dict.fromkeys([as_rendered(text)] if parsed else [text, as_rendered(text)]):
        rest = rest or (await chat.continue_reply(prompt, written, room, seed) if room > 0 else None)
    if rest is None or (room < budget and rest.response_metadata.get("finish_reason") == "length"):
        return None
    return _joined(begun, text, rest)


def as_rendered(text: str) -> str:
    """A reply with its first thought as Qwen3's template writes it: a server that looks for the text in the rendered
    prompt finds it there.
    """
    match = _CLOSED_THOUGHT.match(text)
    if not match or not text[match.end() :]:
        return text
    return f"<think>\n{match[1]}\n</think>\n\n{text[match.end() :]}"


def _joined(begun: AIMessage, text: str, rest: AIMessage) -> AIMessage:
    """A reply in two pieces as one. A server that parses thoughts may take the second for one, though the first has
    closed it.
    """
    thought = rest.additional_kwargs.get("reasoning_content", "")
    about: dict[str, Any] = {**rest.response_metadata, "continued": True}
    about["ran_on"] = bool(begun.response_metadata.get("in_thought"))
    return AIMessage(text + thought + rest.text, response_metadata=about, usage_metadata=rest.usage_metadata)
