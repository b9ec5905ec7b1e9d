"""A reply that was cut off: what may still come of it, and how it is continued."""

import re
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.messages.ai import add_usage

from backends.reply_tokens import joined
from nodes.clients import Chat
from nodes.context_budget import remaining_tokens
from nodes.prompts import full_text

_SMALLEST_CONTEXT = 1000
_SAME_BEGINNING = 20
"""Characters by which a reply that begins anew is known."""
_SLACK = 16
"""Tokens by which a server may count otherwise than we."""
_CLOSED_THOUGHT = re.compile(r"<think>\n*(.*?)\n*</think>\n*", re.DOTALL)


def counted_room(cut_off: AIMessage | None, size: int | None) -> int:
    """Tokens that a context of `size` holds for another reply in the place of one, by the server's own count of this
    very prompt; 0 where nothing is known.
    """
    usage = cut_off.usage_metadata if cut_off else None
    return size - usage["input_tokens"] - 1 if usage and size else 0


def is_spent(cut_off: AIMessage, max_tokens: int, budget: int) -> bool:
    """Whether `max_tokens`, of a `budget`, give no longer reply than the one that was cut off."""
    had = cut_off.usage_metadata["output_tokens"] if cut_off.usage_metadata else 0
    return max_tokens <= had + (_SLACK if max_tokens < budget else 0)


def given_up(cut_off: AIMessage, context_full: bool) -> AIMessage:
    """A cut-off reply that stays so, as no longer one can be had."""
    about = {**cut_off.response_metadata, "attempt": 2, "context_full": context_full}
    return cut_off.model_copy(update={"response_metadata": about})


def second(reply: AIMessage, cut_off: AIMessage, size: int | None) -> None:
    """Writes into a second reply what it cost together with the first, and whether the context's end cut it too."""
    about = reply.response_metadata
    at_length = about.get("finish_reason") == "length"
    by_context = (at_length and about["max_tokens"] < about["budget"]) or ended_early(reply, size)
    about |= {"attempt": 2, "context_full": by_context}
    about["seconds"] += cut_off.response_metadata.get("seconds", 0.0)
    reply.usage_metadata = add_usage(cut_off.usage_metadata, reply.usage_metadata)


def ended_early(cut_off: AIMessage, size: int | None) -> bool:
    """Whether a reply that its length ended has fewer tokens than it was given and reaches the end of the context, of
    `size` tokens or of one that the server has not told: no other can be longer.
    """
    usage, about = cut_off.usage_metadata, cut_off.response_metadata
    if not usage or about.get("finish_reason") != "length" or usage["output_tokens"] >= about["max_tokens"]:
        return False
    return usage["total_tokens"] >= (size - _SLACK if size else _SMALLEST_CONTEXT)


async def continued(
    chat: Chat, prompt: list[dict[str, str]], begun: AIMessage, budget: int, seed: int | None
) -> AIMessage | None:
    """A cut-off reply with what follows it, from the very prompt that it started from; None where that cannot be: not
    in the room that the context leaves, not before its thought is closed, or where the server began anew.
    """
    text = full_text(begun).rstrip()  # templates take white space off the end: it would stand in the record alone
    closed = _CLOSED_THOUGHT.match(text)
    if not closed or not text[closed.end() :]:
        return None  # Qwen's template would put an empty thought in front of it
    room = remaining_tokens(chat, prompt, begun, budget)
    parsed = bool(begun.additional_kwargs.get("reasoning_content"))
    rest, written = None, text
    for written in dict.fromkeys([as_rendered(text)] if parsed else [text, as_rendered(text)]):
        rest = await chat.continue_reply(prompt, written, room, seed) if room > 0 else None
        if rest is not None:
            break
    if rest is None or (room < budget and rest.response_metadata.get("finish_reason") == "length"):
        return None
    return _joined(begun, text, rest, written)


def as_rendered(text: str) -> str:
    """A reply with its first thought as Qwen3's template writes it: a server that looks for the text in the rendered
    prompt finds it there.
    """
    match = _CLOSED_THOUGHT.match(text)
    if not match or not text[match.end() :]:
        return text
    return f"<think>\n{match[1]}\n</think>\n\n{text[match.end() :]}"


def _begins_anew(text: str, more: str) -> bool:
    """Whether `more` is another reply, and not what follows `text`: it thinks, begins with the same words, or opens an
    answer or a call within one.
    """
    match, more = _CLOSED_THOUGHT.match(text), more.lstrip()
    begun = text[match.end() :].lstrip() if match else text
    if more.startswith("<think>") or (len(begun) > 2 and more.startswith(begun[:_SAME_BEGINNING])):
        return True
    if "<answer>" in begun and "<answer>" in more:
        return True
    in_call = begun.count("<call_tool") > begun.count("</call_tool>")
    return in_call and "<call_tool" in more.partition("</call_tool>")[0]


def _joined(begun: AIMessage, text: str, rest: AIMessage, sent: str) -> AIMessage | None:
    """A reply in two pieces as one; None where the second is another reply. A server that parses thoughts may take the
    second piece for one, though the first has closed it; some repeat what was `sent`.
    """
    thought = rest.additional_kwargs.get("reasoning_content", "")
    more = (thought + rest.text).removeprefix(sent)
    if (thought and rest.text.strip()) or _begins_anew(text, more):
        return None
    about: dict[str, Any] = {**rest.response_metadata, "continued": True}
    if tokens := joined(begun.response_metadata.get("tokens"), about.pop("tokens", None)):
        about["tokens"] = tokens if more == thought + rest.text else {"left_out": "a reply's end repeats its beginning"}
    about["ran_on"] = bool(begun.response_metadata.get("in_thought"))
    return AIMessage(text + more, response_metadata=about, usage_metadata=rest.usage_metadata)
