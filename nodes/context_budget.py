"""Keeping the prompt within the context: the oldest tool outputs are shortened, for the model and the record alike."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from langchain_core.messages import AIMessage, AnyMessage, ToolMessage

from nodes.prompts import full_text
from serializers.escaping import escape_attribute
from serializers.tool_output import MAX_RESULT

_SINGLE = re.compile(r"[^A-Za-z\s]")
KEPT_CHARACTERS = 600
"""What is left of a shortened output at least: enough for the first title and its id."""
_TEMPLATE = 16
"""Tokens that a template may put around a message."""
_WORD = re.compile(r"[A-Za-z]{2,}")
_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_CUT_TAG = re.compile(r"<[a-z]{0,8}(?: id=[^<>]{0,200})?\Z")
_TOKENS_A_WORD = 0.75
"""Fewer than any tokenizer makes of English words."""


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
        """What follows a reply that was cut off; None where the server cannot take it up."""

    async def count_tokens(self, messages: list[dict[str, str]]) -> int | None:
        """Tokens of a prompt by the server's own tokenizer; None where it has none to ask."""


Build = Callable[[Sequence[AnyMessage]], list[dict[str, str]]]


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
    ceiling = most_tokens(build(())[:2], messages)
    if ceiling + max_tokens < size and not refused:
        return [], max_tokens
    prompt = build(messages)
    counted = await chat.count_tokens(prompt)
    tokens = counted or min(ceiling, estimate_tokens(prompt))
    if refused and not counted:
        tokens = max(tokens, size + 1)  # the server has counted more than we
    kept = list(messages)
    shortened: list[AnyMessage] = []
    per_character = tokens / max(sum(len(message["content"]) for message in prompt), 1)
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
    elif refused and not counted:  # nothing to shorten: it was the reply that had no room
        tokens = min(tokens, estimate_tokens(prompt))
    return shortened, max(min(max_tokens, size - tokens - 1), min(max_tokens, 16))


def prompt_was_cut(prompt: Sequence[dict[str, str]], messages: Sequence[AnyMessage], reply: AIMessage) -> bool:
    """Whether the server counted fewer tokens in `prompt` than it can have: then it left out a part without a word.

    The count must grow from turn to turn by what was appended, at a safe lower bound; a template may drop the thoughts
    of earlier turns. A server that counts nothing, or no prompts, cannot be judged.
    """
    counted = _prompt_tokens(reply)
    replies = [message for message in messages if isinstance(message, AIMessage)]
    if not counted or not replies:
        return False
    first, before = (one.response_metadata.get("prompt_tokens") for one in (replies[0], replies[-1]))
    if not isinstance(first, int) or first < _fewest_tokens(said["content"] for said in prompt[:2]):
        return False  # what it says are no counts of the prompt
    last = max(at for at, message in enumerate(messages) if isinstance(message, AIMessage))
    droppable = sum(len(thought.encode()) for one in replies for thought in _THOUGHT.findall(one.text))
    fewest = _fewest_tokens(message.text for message in messages[last + 1 :])
    return isinstance(before, int) and counted < before - droppable + fewest


def _prompt_tokens(reply: AIMessage) -> int:
    usage = reply.usage_metadata
    if not usage:
        return 0
    return usage["input_tokens"] + ((usage.get("input_token_details") or {}).get("cache_read") or 0)


def _fewest_tokens(texts: Iterable[str]) -> int:
    return int(sum(len(_WORD.findall(text)) for text in texts) * _TOKENS_A_WORD)


def room_behind(chat: Chat, prompt: Sequence[dict[str, str]], reply: AIMessage, max_tokens: int) -> int:
    """Tokens, `max_tokens` at most, that may follow a reply to `prompt`, by the server's own count if it sent one."""
    if chat.max_model_len is None:
        return max_tokens
    usage = reply.usage_metadata
    begun = {"role": "assistant", "content": full_text(reply)}
    taken = usage["input_tokens"] + usage["output_tokens"] if usage else estimate_tokens([*prompt, begun])
    return min(max_tokens, chat.max_model_len - taken - _TEMPLATE)


def most_tokens(begin: Sequence[dict[str, str]], messages: Sequence[AnyMessage]) -> int:
    """As many as the prompt can have: what the server counted at the last reply, and since then a token a byte."""
    counted, since = 0, [message["content"] for message in begin]
    for message in messages:
        usage = message.usage_metadata if isinstance(message, AIMessage) else None
        if usage:
            counted, since = usage["input_tokens"] + usage["output_tokens"], []
        else:
            since.append(message.text + str(message.additional_kwargs.get("reminder", "")))
    return counted + sum(len(text.encode("utf-8", "replace")) + 16 for text in since)


def estimate_tokens(prompt: Sequence[dict[str, str]]) -> int:
    """Somewhat more than a tokenizer counts: a token for each digit and sign, three letters a token in prose."""
    texts = [message["content"] for message in prompt]
    singles = sum(len(_SINGLE.findall(text)) for text in texts)
    return sum(len(text.encode("utf-8", "replace")) // 3 + 8 for text in texts) + singles


def shorten_output(message: ToolMessage, length: int) -> ToolMessage:
    """A tool output cut to about `length` characters, which says so where the model and the reader see it. What is open
    in it is closed, and the record keeps no more of the result than is left.
    """
    text = message.text.removeprefix("<tool_output>").removesuffix("</tool_output>")
    kept = _CUT_TAG.sub("", text[: max(length, KEPT_CHARACTERS)])
    note = f"\n[shortened to fit the context: {len(text) - len(kept)} of {len(text)} characters left out]\n"
    open_tag = next(
        (name for name in ("snippet", "webpage") if kept.rfind(f"<{name}") > kept.rfind(f"</{name}>")), None
    )
    content = f"<tool_output>{kept}{f'</{open_tag}>' if open_tag else ''}{note}</tool_output>"
    update = {
        "content": content,
        "additional_kwargs": {**message.additional_kwargs, "shortened_from": len(message.text)},
        "artifact": _left_of(message.artifact, kept),
    }
    return message.model_copy(update=update)


def _left_of(result: Any, kept: str) -> Any:
    """What is left of a recorded result, beside what is left of its text: the papers that are still in it."""
    if not isinstance(result, dict) or not isinstance(result.get("data"), list):
        return {"truncated": True, "preview": kept[:MAX_RESULT]}
    left = []
    for paper in result["data"]:
        begun = kept.find(f'<snippet id="{escape_attribute(str(paper.get("paperId")))}"')
        if begun < 0:
            break
        closed = kept.find("</snippet>", begun) >= 0
        left.append(paper if closed else {**paper, "abstract": kept[begun:].partition("\nAbstract: ")[2]})
    return {**result, "data": left}
