"""Rows of others, read as records: the sibling scripts' flat ones, ATIF, OpenAI's messages, ShareGPT, DR Tulu's."""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from serializers.escaping import escape_tags
from serializers.tags import Call, write_call
from training.atif import (
    OURS,
    UnknownShape,
    as_answer,
    from_atif,
    in_order,
    is_atif,
    listed,
    mapping,
    parsed,
    said_in,
    within_output,
    within_thought,
)

_ROLES = {"human": "user", "gpt": "assistant", "observation": "tool", "function_call": "call", "function": "tool",
          "ipython": "tool"}  # fmt: skip
_OF_OTHERS = re.compile(
    r"<(?:search|information|result|tool_call|tool_response|use_mcp_tool)>|^Observation:", re.MULTILINE
)
_OUTPUT = re.compile(r"<tool_output>.*?</tool_output>", re.DOTALL)
NUDGE = "nudge-"
"""Begins the id of a message, in our own exports, by which the model was asked again: no tool gave it."""
_QUERIES = ("query", "q", "url", "text")


_Said = tuple[str, str, Mapping[str, Any]]
"""A message's role, its text, and itself."""


def as_record(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row as a record; itself where it is one. Raises UnknownShape."""
    if isinstance(row.get("trajectory"), Mapping):
        return _with_text(row, row["trajectory"].get("interleaved_text"))
    if isinstance(row.get("interleaved_text"), str):
        beside = ("interleaved_text", "tool_calls", "final_answer", "question")
        inside = {name: row[name] for name in beside if name in row}
        others = {name: value for name, value in row.items() if name != "interleaved_text"}
        if isinstance(row.get("metadata"), str):  # `--format records`
            others["metadata"] = mapping(parsed(row["metadata"]))
        return _with_text({**others, "trajectory": inside}, row["interleaved_text"])
    if isinstance(row.get("text"), str) and OURS.search(row["text"]):  # our own `--format text`, or Parquet
        trajectory = {"question": row.get("question"), "interleaved_text": row["text"]}
        system = {"system_prompt": _prompt_in(_said_in(listed(row.get("messages"))))}  # of `--format parquet`
        return {**system, **{name: value for name, value in row.items() if name != "text"}, "trajectory": trajectory}
    if is_atif(row):
        return from_atif(row)
    if "chosen" in row and "rejected" in row:
        raise UnknownShape("it is a preference pair, and no whole trajectory")
    chat = next((row[name] for name in ("messages", "conversations") if isinstance(row.get(name), list)), None)
    if chat is None:
        raise UnknownShape("it has no interleaved_text, trajectory, messages, conversations or ATIF's steps")
    return _of_chat(row, chat)


def _with_text(record: Mapping[str, Any], text: Any) -> Mapping[str, Any]:
    """A record, if its text is none of another protocol's."""
    if isinstance(text, str) and "<call_tool" not in text and (found := _OF_OTHERS.search(text)):
        raise UnknownShape(f"its calls and results stand in the text in another way: {found[0]}")
    return record


def _of_chat(row: Mapping[str, Any], chat: list[Any]) -> Mapping[str, Any]:
    """From messages."""
    said = _paired(_said_in(map(mapping, chat)))
    if not any(role == "assistant" for role, _, _ in said):
        raise UnknownShape("no reply is among its messages")
    question = next((content for role, content, _ in said if role == "user"), "")
    first = next(at for at, (role, _, _) in enumerate(said) if role == "user") if question else -1
    parts, nudges = list[str](), list[dict[str, Any]]()
    for at, (role, content, message) in enumerate(said):
        if role == "user" and at != first and not content.startswith("<tool_output"):
            raise UnknownShape(f"its message {at + 1} is a second one from the user: a trajectory has one question")
        if role == "assistant":
            parts += filter(None, _reply(content, message, is_last=at == len(said) - 1))
        elif role == "call":
            parts.append(_call(content))
        elif role == "tool" and str(message.get("tool_call_id")).startswith(NUDGE):
            nudges.append({"at": len("\n".join(parts)), "text": content})
        elif role == "tool" or (role == "user" and at != first):
            parts.append(_as_output(content))
        elif role not in ("system", "developer", "user"):
            raise UnknownShape(f"its message {at + 1} has a role that I do not know: {role or 'none'}")
    text = "\n".join(parts)
    known = {name: value for name, value in row.items() if name not in ("messages", "conversations")}
    system = _prompt_in(said) or said_in(row.get("system"))
    return {
        **({"system_prompt": system} if system else {}), **known,
        "sample_id": row.get("sample_id") or row.get("id"), "question": question,
        "trajectory": {"question": question, "interleaved_text": text, "tool_calls": [{}] * text.count("<call_tool")},
        "metadata": {**mapping(row.get("metadata")), **({"nudges": nudges} if nudges else {})},
    }  # fmt: skip


def _said_in(chat: Iterable[Mapping[str, Any]]) -> list[_Said]:
    return [(_role_of(one), _content_of(one), one) for one in chat]


def _prompt_in(said: list[_Said]) -> str:
    return next((content for role, content, _ in said if role in ("system", "developer")), "")


def _paired(said: list[_Said]) -> list[_Said]:
    """Messages, with the results of each reply in the order of its calls."""
    paired = list[_Said]()
    for role, group in groupby(said, key=lambda one: one[0]):
        if role != "tool":
            paired += group
            continue
        before = paired[-1][2] if paired and paired[-1][0] == "assistant" else {}
        calls = [str(call.get("id") or "") for call in listed(before.get("tool_calls"))]
        paired += in_order(calls, [(str(one[2].get("tool_call_id") or ""), one) for one in group])
    return paired


def _role_of(message: Mapping[str, Any]) -> str:
    role = str(message.get("role") or message.get("from") or "")
    return _ROLES.get(role, role)


def _content_of(message: Mapping[str, Any]) -> str:
    return said_in(message.get("content") if "content" in message else message.get("value"))


def _reply(content: str, message: Mapping[str, Any], *, is_last: bool) -> Iterator[str]:
    thought, calls = message.get("reasoning_content") or message.get("reasoning"), message.get("tool_calls") or ()
    if thought:
        yield f"<think>{within_thought(str(thought))}</think>"
    yield as_answer(content) if is_last and not calls and not message.get("function_call") else content
    if isinstance(message.get("function_call"), Mapping):  # OpenAI's first way
        yield _call(message["function_call"])
    for call in listed(calls):
        yield _call(call.get("function"))


def _call(function: Any) -> str:
    """A call, be it an object or JSON."""
    function = _parsed(function)
    arguments = _parsed(function.get("arguments"))
    name = next((one for one in _QUERIES if isinstance(arguments.get(one), str)), None)
    query = escape_tags(str(arguments.pop(name))) if name else ""
    return write_call(Call(str(function.get("name", "")), query, {key: str(value) for key, value in arguments.items()}))


def _parsed(value: Any) -> dict[str, Any]:
    return mapping(parsed(value))


def _as_output(content: str) -> str:
    """What a tool gave: one output of ours as it is, without the reminder behind it; anything else within one."""
    ours = _OUTPUT.match(content)
    alone = ours and content.count("<tool_output") == content.count("</tool_output") == 1
    return ours[0] if ours and alone else f"<tool_output>\n{within_output(content)}\n</tool_output>"
