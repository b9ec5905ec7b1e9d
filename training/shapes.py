"""Rows of others, read as records: the sibling scripts' flat ones, ATIF, OpenAI's messages, ShareGPT, DR Tulu's."""

from collections.abc import Mapping
from typing import Any

from training.atif import OURS, READ_FROM, from_atif, is_atif, listed, mapping, parsed
from training.chats import of_chat
from training.own import is_ours, of_ours
from training.unknown import UnknownShape, check_protocol

_CHATS = ("messages", "conversations")


def as_record(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row as a record; itself where it is one. Raises UnknownShape."""
    trajectory = row.get("trajectory")
    if isinstance(trajectory, Mapping) and isinstance(trajectory.get("interleaved_text"), str):
        return _with_text(row, trajectory["interleaved_text"])
    if is_ours(row):
        return of_ours(row)
    if isinstance(row.get("interleaved_text"), str):
        return _with_text(_of_flat(row), row["interleaved_text"])
    if is_atif(row):
        return from_atif(row)
    chat = next((row[name] for name in _CHATS if isinstance(row.get(name), list) and row[name]), None)
    if chat is not None:
        return of_chat(row, chat)
    if "chosen" in row and "rejected" in row:
        raise UnknownShape("it is a preference pair, and no whole trajectory")
    if isinstance(row.get("text"), str) and OURS.search(row["text"]):
        inside = {"question": row.get("question"), "interleaved_text": row["text"]}
        others = {name: value for name, value in row.items() if name != "text"}
        return _with_text({**others, "trajectory": inside}, row["text"])
    raise UnknownShape("it has no interleaved_text, trajectory, list of messages or conversations, or ATIF's steps")


def _of_flat(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """From a row with the text at its top: the sibling scripts', or `--format records`."""
    inside = {name: row[name] for name in ("interleaved_text", "tool_calls", "final_answer", "question") if name in row}
    others = {name: value for name, value in row.items() if name != "interleaved_text"}
    if isinstance(row.get("metadata"), str):  # `--format records`
        others["metadata"] = mapping(parsed(row["metadata"]))
        opened = ({**call, **{name: parsed(call.get(name)) for name in ("parameters", "result")}}
                  for call in listed(row.get("tool_calls")))  # fmt: skip
        is_of_others = READ_FROM in others["metadata"]
        inside["tool_calls"] = [{**call, "arguments": call["parameters"]} if is_of_others else call for call in opened]
    return {**others, "trajectory": inside}


def _with_text(record: Mapping[str, Any], text: str) -> Mapping[str, Any]:
    """A record, if its text is ours and none of another protocol's."""
    if "<call_tool" not in text and "format_version" not in mapping(record.get("metadata")):
        check_protocol([text])
    return record
