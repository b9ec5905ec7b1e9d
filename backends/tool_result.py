"""What a tool said: the value of an MCP result, in whatever blocks it comes."""

import json
from collections.abc import Mapping
from typing import Any

from backends.errors import ToolFailed, ToolReplyInvalid

NO_RESULT = "No result."
"""What the model reads of an answer without content."""
_NOT_JSON = object()


def read_result(result: Mapping[str, Any]) -> Any:
    """The value of a `CallToolResult`: its text, parsed where it is JSON; its structured content where there is no
    text, or where that has a shape that we know and the text has none; `No result.` where there is nothing.

    Raises ToolFailed when the server flags an error, ToolReplyInvalid when it is no such result.
    """
    content, structured = result.get("content"), result.get("structuredContent")
    if not isinstance(content, list) and structured is None:
        raise ToolReplyInvalid("the tool server's answer is not a tool result")
    blocks = content if isinstance(content, list) else []
    said = [_text(block) for block in blocks]
    texts = [text for text, block in zip(said, blocks, strict=True) if block.get("type") in ("text", "resource")]
    text = "\n".join(said)
    if result.get("isError"):
        raise ToolFailed(text or "the tool failed without a word")
    value = _json("\n".join(texts))
    if value is _NOT_JSON and len(texts) > 1:  # a list comes as a block an item
        values = list(map(_json, texts))
        value = values if all(isinstance(item, dict) for item in values) else value
    if value is not _NOT_JSON and (value or structured is None):
        return value
    if isinstance(structured, dict) and structured.keys() == {"result"}:
        structured = structured["result"]
        if isinstance(structured, str):
            inner = _json(structured)
            return text if text.strip() else structured if inner is _NOT_JSON else inner
    if structured is not None and (not text.strip() or _is_known(structured)):
        return structured
    return text if text.strip() else NO_RESULT


def _json(text: str) -> Any:
    """An object or a list in JSON; any other text stays as it is written (`3.10` is no number to round)."""
    try:
        value = json.loads(text) if text.lstrip()[:1] in ("{", "[") else _NOT_JSON
    except (ValueError, RecursionError):
        return _NOT_JSON
    return value


def _is_known(value: Any) -> bool:
    """Whether a structured result has one of the shapes that are rendered: papers, links, a page."""
    if isinstance(value, dict):
        return any(_holds_objects(value.get(name)) for name in ("data", "organic")) or bool(value.get("markdown"))
    return _holds_objects(value) and all("title" in item for item in value)


def _holds_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _text(block: Any) -> str:
    """What a content block says; one that is no text is named, a link with its name and address."""
    kind = block.get("type") if isinstance(block, dict) else None
    inner = block.get("resource") if kind == "resource" else block
    text = inner.get("text") if isinstance(inner, dict) else None
    if isinstance(text, str):
        return text
    if kind is None or kind == "text":
        raise ToolReplyInvalid("the tool server's answer is not a tool result")
    if isinstance(inner, dict) and isinstance(inner.get("uri"), str):
        named = (inner.get(name) for name in ("title", "name", "description"))
        return ": ".join([*dict.fromkeys(name for name in named if isinstance(name, str) and name), inner["uri"]])
    return f"[{kind}]"
