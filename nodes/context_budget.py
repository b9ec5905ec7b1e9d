"""Keeping the prompt within the context: the oldest tool outputs are shortened, for the model and the record alike."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, ToolMessage

from nodes.clients import Chat
from nodes.prompts import full_text
from serializers.escaping import escape_attribute, escape_tags
from serializers.tool_output import MAX_RESULT

_SINGLE = re.compile(r"[^A-Za-z\s]")
KEPT_CHARACTERS = 600
"""What is left of a shortened output at least: enough for the first title and its id."""
_SHORTEST_REPLY = 32
"""Tokens below which no reply is asked for."""
_TEMPLATE = 16
"""Tokens that a template may put around a message."""
_WORD = re.compile(r"[A-Za-z]{2,}")
_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_CUT_TAG = re.compile(r"<[a-z]{0,8}(?: id=[^<>]{0,200})?\Z")
_TOKENS_A_WORD = 0.75
"""Fewer than any tokenizer makes of English words."""
_SAFE, _MOST_A_WORD = 0.7, 0.95
"""Of what this tokenizer made of a word of the first prompt, so much is sure of any other text."""


Build = Callable[[Sequence[AnyMessage]], list[dict[str, str]]]


async def fit_context(
    chat: Chat, build: Build, messages: Sequence[AnyMessage], max_tokens: int, *, refused: bool = False
) -> tuple[list[AnyMessage], int]:
    """The messages that had to be shortened (same ids, to replace the old ones) and the tokens left for the reply, none
    where it has no room.

    `build` makes the prompt. A quarter of the context at most is kept free for the reply. Shortens nothing while the
    context is unknown; what cannot be made to fit is left to the server to refuse. `refused` says that it has refused
    this prompt: then the estimate was too low, and only a count or the worst case will do.
    """
    size = chat.max_model_len
    if size is None:
        return [], max_tokens
    reserve = min(max_tokens, size // 4)
    ceiling = token_upper_bound(build(())[:2], messages)
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
    room = size - tokens - 1
    if room < _SHORTEST_REPLY:
        room = 0 if counted or refused else reserve  # an estimate is on the safe side: the server knows better
    return shortened, min(max_tokens, room)


def prompt_was_cut(prompt: Sequence[dict[str, str]], messages: Sequence[AnyMessage], reply: AIMessage) -> bool:
    """Whether the server counted fewer tokens in `prompt` than it can have: then it left out a part without a word.

    The count must reach a safe lower bound for all of the prompt's words, and grow by one for what was appended since
    the last turn; a template may drop the thoughts of earlier turns. A server that counts nothing, or no prompts,
    cannot be judged.
    """
    counted = reply.usage_metadata["input_tokens"] if reply.usage_metadata else 0
    replies = [message for message in messages if isinstance(message, AIMessage)]
    if not counted or not replies:
        return False
    first, before = (one.response_metadata.get("prompt_tokens") for one in (replies[0], replies[-1]))
    begun = _words(said["content"] for said in prompt[:2])
    if not isinstance(first, int) or not isinstance(before, int) or first < begun * _TOKENS_A_WORD:
        return False  # what it says are no counts of the prompt
    a_word = min(first / max(begun, 1) * _SAFE, _MOST_A_WORD)
    if counted < _words(_THOUGHT.sub("", said["content"]) for said in prompt) * a_word:
        return True
    last = max(at for at, message in enumerate(messages) if isinstance(message, AIMessage))
    appended = _words(message.text for message in messages[last + 1 :]) * _TOKENS_A_WORD
    return counted < before - sum(map(_thought_tokens, replies)) + int(appended)


def _thought_tokens(reply: AIMessage) -> int:
    """As many as the thoughts of a reply can have."""
    thoughts = sum(len(thought.encode()) for thought in _THOUGHT.findall(reply.text))
    return min(thoughts, reply.usage_metadata["output_tokens"]) if reply.usage_metadata else thoughts


def _words(texts: Iterable[str]) -> int:
    return sum(map(_words_in, texts))


@lru_cache(1024)
def _words_in(text: str) -> int:
    """Kept, as each turn's prompt holds the texts of all before it: 2 ms of CPU a trajectory instead of 5."""
    return len(_WORD.findall(text))


def remaining_tokens(chat: Chat, prompt: Sequence[dict[str, str]], reply: AIMessage, max_tokens: int) -> int:
    """Tokens, `max_tokens` at most, that may follow a reply to `prompt`, by the server's own count if it sent one."""
    if chat.max_model_len is None:
        return max_tokens
    usage = reply.usage_metadata
    begun = {"role": "assistant", "content": full_text(reply)}
    taken = usage["input_tokens"] + usage["output_tokens"] if usage else estimate_tokens([*prompt, begun])
    return min(max_tokens, chat.max_model_len - taken - _TEMPLATE)


def token_upper_bound(begin: Sequence[dict[str, str]], messages: Sequence[AnyMessage]) -> int:
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
    for paper in filter(lambda paper: isinstance(paper, dict), result["data"]):
        begun = kept.find(f'<snippet id="{escape_attribute(escape_tags(str(paper.get("paperId"))))}"')
        if begun < 0:
            break
        closed = kept.find("</snippet>", begun) >= 0
        left.append(paper if closed else {**paper, "abstract": kept[begun:].partition("\nAbstract: ")[2]})
    return {**result, "data": left}
