"""Our own exports, read again: what a format has no place for stands in a column of its own, `metadata`."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from training.atif import listed, mapping, parsed, said_in

CALLS = "calls"
"""In the column, of rows of others: the calls, with the very arguments."""
_ASSISTANT, _SYSTEM = ("assistant", "gpt"), "system"


def beside(question: str, metadata: Mapping[str, Any], **more: Any) -> str:
    """The column: the record's metadata (but for the server's address), the question as it was asked, and more."""
    kept = {name: value for name, value in metadata.items() if name != "endpoint"}
    return json.dumps({**kept, **more, "question": question}, ensure_ascii=False)


def is_ours(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of our exports that has the column."""
    return isinstance(row.get("train_spans"), list) and isinstance(row.get("metadata"), str)


def of_ours(row: Mapping[str, Any]) -> dict[str, Any]:
    """Such a row as the record that it was made of: its text, prompt, nudges and reminders."""
    about = mapping(parsed(row["metadata"]))
    chat = listed(row.get("messages")) or listed(row.get("conversations"))
    text = row["text"] if isinstance(row.get("text"), str) else "\n".join(_texts(chat, about))
    first = next((said_in(one.get("content")) for one in chat[:1] if one.get("role") == _SYSTEM), "")
    question, calls = about.pop("question", ""), listed(about.pop(CALLS, None))
    system = about.pop("system_prompt", "") or first or row.get(_SYSTEM, "")
    others = {name: row[name] for name in ("sample_id", "topic", "question_type") if name in row}
    return {
        **others, "question": question, "system_prompt": system,
        "trajectory": {
            "question": question, "interleaved_text": text, "tool_calls": calls or [{}] * text.count("<call_tool"),
        },
        "metadata": about,
    }  # fmt: skip


def _texts(chat: list[Mapping[str, Any]], about: Mapping[str, Any]) -> Iterator[str]:
    """The interleaved text's parts: what is neither prompt nor question, without nudges and reminders."""
    placed = [nudge for nudge in listed(about.get("nudges")) if type(nudge.get("at")) is int]
    nudges = [str(nudge.get("text")) for nudge in sorted(placed, key=lambda one: one["at"])]
    numbered = [(int(at), str(text)) for at, text in mapping(about.get("reminders")).items() if at.isdecimal()]
    reminders = [text for _, text in sorted(numbered)]
    begun = 1 + any(message.get("role") == _SYSTEM for message in chat[:1])
    for message in chat[begun:]:
        said = said_in(message["value"] if "value" in message else message.get("content"))
        if (message.get("role") or message.get("from")) not in _ASSISTANT:
            while nudges and (said == nudges[0] or said.startswith(f"{nudges[0]}\n<tool_output")):
                said = said[len(nudges.pop(0)) + 1 :]
            while reminders and (ended := f"</tool_output>\n{reminders[0]}") in said:
                said = said.replace(ended, "</tool_output>", 1)
                reminders.pop(0)
        if said:
            yield said
