"""A chat completion as any server sends it, in the one shape that is read: odd fields do not cost a usable reply."""

import json
from collections.abc import Mapping
from typing import Any

from backends.errors import InvalidResponse
from backends.json_codec import sound

_THOUGHT_FIELDS = ("reasoning", "reasoning_content", "thinking", "reasoning_details", "reasoning_text", "thoughts")
_THOUGHT_PARTS = ("thinking", "reasoning", "thought", "redacted_thinking", "reasoning.text", "reasoning.summary")
_WORDS = ("text", "thinking", "reasoning", "summary", "content", "value")
_MOST_LEVELS = 20
_ACTIONS = ("<call_tool", "<answer", "<tool_call")
_MOST_TOKENS = 2**40
_END_TOKENS = (
    "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|return|>", "<|end_of_text|>",
    "<|endofassistant|>", "</s>", "<end_of_turn>", "<｜end▁of▁sentence｜>",
)  # fmt: skip


def plain_completion(response: Any) -> dict[str, Any]:
    """One choice, with `role`, `content` and `reasoning_content` as texts; `finish_reason` and `stop_reason` as texts
    or not at all; whole counts in `usage`. Raises InvalidResponse where there is no message.
    """
    choice = choice_of(response)
    plain: dict[str, Any] = {"index": 0, "message": plain_message(choice["message"])}
    for name in ("finish_reason", "stop_reason", "matched_stop"):
        said = choice.get(name)
        if name == "finish_reason" and isinstance(said, Mapping):
            said = said.get("type")
        if isinstance(said, str):
            plain[name] = said.strip().lower() if name == "finish_reason" else sound(said)
    named = response.get("model")
    return {
        "id": "", "object": "chat.completion", "created": 0, "model": sound(named) if isinstance(named, str) else "",
        "choices": [plain], "usage": _usage(response.get("usage")),
    }  # fmt: skip


def choice_of(response: Any) -> Mapping[str, Any]:
    """The choice that is read, as it came. Raises InvalidResponse where there is none."""
    choices = response.get("choices") if isinstance(response, Mapping) else None
    usable = [
        choice
        for choice in (choices if isinstance(choices, list) else ())
        if isinstance(choice, Mapping) and isinstance(choice.get("message"), Mapping)
    ]
    if not usable:
        raise InvalidResponse("the model server's reply is not a chat completion")
    return next((choice for choice in usable if choice.get("index") in (0, "0")), usable[0])


def plain_message(message: Mapping[str, Any]) -> dict[str, str]:
    """Text and thought of a message, wherever they are; a native call in the place of a text that is not there."""
    content, thought = _parts(message.get("content"))
    thought = thought_of(message) or thought
    if not any(action in content for action in _ACTIONS) and (native := _native_call(message)):
        content = f"{content}\n{native}".strip()
    plain = {"role": "assistant", "content": sound(content)}
    return {**plain, "reasoning_content": sound(thought)} if thought else plain


def without_end_token(text: str) -> str:
    """A text without the template's token behind it, with which the model ends its turn: some servers send it along."""
    ended = text.rstrip()
    while token := next(filter(ended.endswith, _END_TOKENS), None):
        text = ended = ended.removesuffix(token).rstrip()
    return text


def thought_of(message: Mapping[str, Any]) -> str:
    """The reasoning that a message (or a streamed piece of one) has in a field of its own."""
    return next(iter(thought_fields(message).values()), "")


def thought_fields(message: Mapping[str, Any]) -> dict[str, str]:
    """The fields of a message that hold a thought, with their words."""
    said = {name: _words(message[name]) for name in _THOUGHT_FIELDS if name in message}
    return {name: words for name, words in said.items() if words.strip()}


def _parts(content: Any) -> tuple[str, str]:
    """Text and thought of a message's content: a text, or a list of parts."""
    if isinstance(content, str):
        return content, ""
    text, thought = "", ""
    for part in content if isinstance(content, list) else [content]:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in _THOUGHT_PARTS:
            thought += _words(part)
        elif kind not in ("refusal", "tool_use", "tool_call"):
            text += _words(part)
    return text, thought


def _words(value: Any, levels: int = _MOST_LEVELS) -> str:
    if isinstance(value, str):
        return value
    if levels == 0:
        return ""
    if isinstance(value, list):
        return "\n".join(filter(None, (_words(item, levels - 1) for item in value)))
    if isinstance(value, Mapping):
        return next(filter(None, (_words(value[name], levels - 1) for name in _WORDS if name in value)), "")
    return ""


def _native_call(message: Mapping[str, Any]) -> str:
    """The first of a message's own calls, in the words in which Qwen would have written it."""
    calls, content = message.get("tool_calls"), message.get("content")
    parts = [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []
    listed = [
        *(calls if isinstance(calls, list) else [calls]),
        message.get("function_call"),
        *(part for part in parts if part.get("type") in ("tool_use", "tool_call")),
    ]
    for one in listed:
        function = one.get("function", one) if isinstance(one, Mapping) else None
        if isinstance(function, Mapping) and isinstance(function.get("name"), str):
            given = function.get("arguments", function.get("input"))
            break
    else:
        return ""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            given = {"query": given}
    arguments = given if isinstance(given, Mapping) else {"query": given} if isinstance(given, str) else {}
    return (
        f"<tool_call>{json.dumps({'name': function['name'], 'arguments': arguments}, ensure_ascii=False)}</tool_call>"
    )


def _usage(usage: Any) -> dict[str, Any] | None:
    if not isinstance(usage, Mapping):
        return None
    counts = [_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens")]
    prompt, completion = counts
    if prompt is None and completion is None:
        return None
    details = usage.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, Mapping) else None
    sums = {"prompt_tokens": prompt or 0, "completion_tokens": completion or 0}
    plain: dict[str, Any] = {**sums, "total_tokens": sum(sums.values())}
    return {**plain, "prompt_tokens_details": {"cached_tokens": cached}} if cached else plain


def _count(value: Any) -> int | None:
    """A number of tokens, however it is written; None for what can be none."""
    try:
        number = int(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else -1
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < _MOST_TOKENS else None
