"""Rows of others, read as records: the sibling scripts' flat ones, ATIF, OpenAI's messages, ShareGPT, DR Tulu's."""

import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from training.atif import (
    NO_QUESTION,
    OURS,
    UnknownShape,
    as_answer,
    from_atif,
    in_order,
    is_atif,
    listed,
    mapping,
    only_system,
    parsed,
    said_in,
    within_output,
    within_thought,
    written_call,
)
from training.own import is_ours, of_ours

_ROLES = {"human": "user", "gpt": "assistant", "observation": "tool", "function_call": "call", "function": "tool",
          "ipython": "tool"}  # fmt: skip
_OF_OTHERS = re.compile(
    r"<(?:search|information|result|tool_call|tool_response|use_mcp_tool)>|<function=|<\|tool_call|^Observation:",
    re.MULTILINE,
)
_OURS_BUT_THOUGHTS = re.compile(r"<(?:call_tool|tool_output|answer)\b")
_OUTPUT = re.compile(r"<tool_output>.*?</tool_output>", re.DOTALL)
_KNOWN_ROLES = ("system", "developer", "user", "assistant", "call", "tool")


_Said = tuple[str, str, Mapping[str, Any]]
"""A message's role, its text, and itself."""


def as_record(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row as a record; itself where it is one. Raises UnknownShape."""
    if isinstance(row.get("trajectory"), Mapping):
        return _with_text(row, row["trajectory"].get("interleaved_text"))
    if is_ours(row):
        return of_ours(row)
    if isinstance(row.get("interleaved_text"), str):
        beside = ("interleaved_text", "tool_calls", "final_answer", "question")
        inside = {name: row[name] for name in beside if name in row}
        others = {name: value for name, value in row.items() if name != "interleaved_text"}
        if isinstance(row.get("metadata"), str):  # `--format records`
            others["metadata"] = mapping(parsed(row["metadata"]))
            inside["tool_calls"] = [
                {**call, **{name: parsed(call.get(name)) for name in ("parameters", "result")}}
                for call in listed(row.get("tool_calls"))
            ]
        return _with_text({**others, "trajectory": inside}, row["interleaved_text"])
    if isinstance(row.get("text"), str) and OURS.search(row["text"]):
        trajectory = {"question": row.get("question"), "interleaved_text": row["text"]}
        others = {name: value for name, value in row.items() if name != "text"}
        return _with_text({**others, "trajectory": trajectory}, row["text"])
    if is_atif(row):
        return from_atif(row)
    chat = next((row[name] for name in ("messages", "conversations") if isinstance(row.get(name), list)), None)
    if chat is None and "chosen" in row and "rejected" in row:
        raise UnknownShape("it is a preference pair, and no whole trajectory")
    if chat is None:
        raise UnknownShape("it has no interleaved_text, trajectory, list of messages or conversations, or ATIF's steps")
    return _of_chat(row, chat)


def _with_text(record: Mapping[str, Any], text: Any) -> Mapping[str, Any]:
    """A record, if its text is none of another protocol's."""
    if isinstance(text, str) and "<call_tool" not in text and (found := _OF_OTHERS.search(text)):
        raise UnknownShape(f"its calls and results stand in the text in another way: {found[0]}")
    return record


def _of_chat(row: Mapping[str, Any], chat: list[Any]) -> Mapping[str, Any]:
    """From messages."""
    said: list[_Said] = [(_role_of(one), _content_of(one), one) for one in map(mapping, chat)]
    for at, (role, _, _) in enumerate(said, 1):
        if role not in _KNOWN_ROLES:
            raise UnknownShape(f"its message {at} has a role that I do not know: {role or 'none'}")
    if not any(role == "assistant" for role, _, _ in said):
        raise UnknownShape("no reply is among its messages")
    first = next((at for at, (role, _, _) in enumerate(said) if role == "user"), -1)
    replies = [content for role, content, _ in said if role == "assistant"]
    is_tagged = any(map(_OURS_BUT_THOUGHTS.search, replies))
    if not is_tagged and (found := next(filter(None, map(_OF_OTHERS.search, replies)), None)):
        raise UnknownShape(f"its calls stand in the text in another way: {found[0]}")
    parts = list[str]()
    for at, (role, content, message) in enumerate(_paired(said)):
        if role == "user" and at != first and not content.startswith("<tool_output"):
            raise UnknownShape(f"its message {at + 1} is a second one from the user: a trajectory has one question")
        if role == "assistant":
            parts += filter(None, _reply(content, message, is_last=at == len(said) - 1 and not is_tagged))
        elif role == "call":
            calls = parsed(content)
            parts += [_call(call) for call in (calls if isinstance(calls, list) else [calls])]
        elif role == "tool" or (role == "user" and at != first):
            parts.append(_as_output(content))
    text, question = "\n".join(parts), said[first][1] if first >= 0 else str(row.get("question") or "")
    known = {name: value for name, value in row.items() if name not in ("messages", "conversations")}
    told = [content for role, content, _ in said if role in ("system", "developer")]
    system = only_system([*told, *filter(None, [said_in(row.get("system"))])])
    if not question:
        raise UnknownShape(NO_QUESTION)
    return {
        **known, **({"system_prompt": system} if system else {}),
        "sample_id": row.get("sample_id") or row.get("id"), "question": question,
        "trajectory": {"question": question, "interleaved_text": text, "tool_calls": [{}] * text.count("<call_tool")},
        "metadata": mapping(parsed(row.get("metadata"))),
    }  # fmt: skip


def _paired(said: list[_Said]) -> list[_Said]:
    """Messages, with the results of each reply in the order of its calls."""
    paired, earlier = list[_Said](), set[str]()
    for role, group in groupby(said, key=lambda one: one[0]):
        results, before = list(group), paired[-1] if paired else ("", "", {})
        if role != "tool":
            paired += results
            earlier |= {_identity(call.get("id")) for _, _, message in results for call in _calls_of(message)} - {""}
            continue
        calls = _calls_of(before[2]) if before[0] == "assistant" else []
        ids = [_identity(call.get("id")) for call in calls]
        named = [(_identity(one[2].get("tool_call_id")), one) for one in results]
        tools = [one[2].get("name") for one in results]
        if before[0] not in ("assistant", "call") or earlier & {name for name, _ in named} - set(ids):
            raise UnknownShape("a result of it does not follow its call")
        if not any(ids) and all(tools) and calls and tools != [_function_of(call).get("name") for call in calls]:
            raise UnknownShape("its results are not in the order of the calls, by the tools that they name")
        paired += in_order(ids, named)
    return paired


def _identity(value: Any) -> str:
    return "" if value is None else str(value)


def _role_of(message: Mapping[str, Any]) -> str:
    role = str(message.get("role") or message.get("from") or "")
    return _ROLES.get(role, role)


def _content_of(message: Mapping[str, Any]) -> str:
    return said_in(message.get("content") if "content" in message else message.get("value"))


def _reply(content: str, message: Mapping[str, Any], *, is_last: bool) -> Iterator[str]:
    thought, calls = message.get("reasoning_content") or message.get("reasoning"), _calls_of(message)
    if thought:
        yield f"<think>{within_thought(str(thought))}</think>"
    yield as_answer(content) if is_last and not calls and not message.get("function_call") else content
    if isinstance(message.get("function_call"), Mapping):  # OpenAI's first way
        yield _call(message["function_call"])
    for call in calls:
        yield _call(_function_of(call))


def _calls_of(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    given = message.get("tool_calls") or []
    if not isinstance(given, list) or len(listed(given)) < len(given):
        raise UnknownShape("its tool_calls are no list of calls")
    return listed(given)


def _function_of(call: Mapping[str, Any]) -> dict[str, Any]:
    return mapping(call.get("function", call))


def _call(function: Any) -> str:
    """A call, be it an object or JSON."""
    about = mapping(parsed(function))
    return written_call(about.get("name"), about.get("arguments", about.get("args")))


def _as_output(content: str) -> str:
    """What a tool gave: one output of ours as it is, without the reminder behind it; anything else within one."""
    ours = _OUTPUT.match(content)
    alone = ours and content.count("<tool_output") == content.count("</tool_output") == 1
    return ours[0] if ours and alone else f"<tool_output>\n{within_output(content)}\n</tool_output>"
