"""Conversations of others, OpenAI's or ShareGPT's, read as records."""

import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from training.atif import (
    THOUGHT,
    UnknownShape,
    as_answer,
    called,
    check_order,
    given_in,
    in_order,
    listed,
    mapping,
    of_others,
    parsed,
    said_in,
    within_output,
    within_thought,
    written_call,
)

_ROLES = {
    "developer": "system", "human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "function_call": "call", "tool_call": "call", "observation": "tool", "function": "tool", "ipython": "tool",
    "tool_response": "tool",
}  # fmt: skip
_KNOWN_ROLES = ("system", "user", "assistant", "call", "tool")
OTHER_PROTOCOLS = re.compile(
    r"<(?:search|information|result|tool_call|tool_response|use_mcp_tool|functioncall|thinking|reasoning)>|<function="
    r"|<\|(?:tool_call|python_tag|begin_of_thought)|\[TOOL_CALLS\]|^(?:Observation|Action):",
    re.MULTILINE,
)
_OURS_BUT_THOUGHTS = re.compile(r"<(?:call_tool|tool_output|answer)\b")
_OUTPUT = re.compile(r"<tool_output>(?:(?!</?tool_output).)*</tool_output>\s*", re.DOTALL)
_ARGUMENTS, _THOUGHTS = ("arguments", "args", "parameters", "input"), ("reasoning_content", "reasoning", "thinking")
_BESIDE_ARGUMENTS = {"name", "id", "type", "index", "description", "strict"}

_Said = tuple[str, Any, Mapping[str, Any]]
"""A message's role, its text (of a call: what describes it), and itself."""
_Call = tuple[str, Any, Any]
"""A call's id, the tool's name, the arguments."""


def of_chat(row: Mapping[str, Any], chat: list[Any]) -> Mapping[str, Any]:
    """A conversation as a record. Raises UnknownShape where it is not certain what was said, or to whom."""
    said = _messages(row, chat)
    replies = [content for role, content, _ in said if role == "assistant"]
    is_tagged = any(map(_OURS_BUT_THOUGHTS.search, replies))
    is_told_apart = is_tagged or any(role in ("call", "tool") for role, _, _ in said)
    if not is_told_apart and (found := next(filter(None, map(OTHER_PROTOCOLS.search, replies)), None)):
        raise UnknownShape(f"its calls or thoughts stand in the text in another way: {found[0]}")
    check_order(_order(said))
    parts, calls, turns = list[str](), list[_Call](), list(_turns(said))
    for at, (spoken, results) in enumerate(turns):
        made = [call for one in spoken for call in _calls_of(one)]
        ends = at == len(turns) - 1 and not made and not results and not is_tagged
        parts += [text for one in spoken for text in _reply(one, ends=ends) if text]
        in_text = [("", None, None)] * sum(str(content).count("<call_tool") for _, content, _ in spoken)
        parts += [_as_output(content) for _, content, _ in _in_turn(made or in_text, results, calls)]
        calls += made
    text, question = "\n".join(parts), next(content for role, content, _ in said if role == "user")
    system = next((content for role, content, _ in said if role == "system"), "")
    theirs = parsed(row.get("metadata"))
    known = {name: value for name, value in row.items() if name not in ("messages", "conversations")}
    made_of = [called(name, arguments) for _, name, arguments in calls] or [{}] * text.count("<call_tool")
    return {
        **known, **({"system_prompt": system} if system else {}),
        "sample_id": next((row[name] for name in ("sample_id", "id") if row.get(name) not in (None, "")), None),
        "question": question,
        "trajectory": {"question": question, "interleaved_text": text, "tool_calls": made_of},
        "metadata": of_others("messages", theirs, model=mapping(theirs).get("model")),
    }  # fmt: skip


def _messages(row: Mapping[str, Any], chat: list[Any]) -> list[_Said]:
    """What is said."""
    said = [_said(mapping(message), at) for at, message in enumerate(chat, 1)]
    beside = said_in(row.get("system"))
    if beside and said[0][:2] != ("system", beside):  # the same one may stand in both places
        said.insert(0, ("system", beside, {}))
    said = [one for one in said if one[0] != "system" or one[1]]
    first = next((at for at, one in enumerate(said) if one[0] == "user"), len(said))
    outputs = [one[0] == "user" and one[1].startswith("<tool_output") for one in said[first + 1 :]]  # of ours
    return said[: first + 1] + [
        ("tool", one[1], one[2]) if is_output else one
        for one, is_output in zip(said[first + 1 :], outputs, strict=True)
    ]


def _order(said: list[_Said]) -> list[str]:
    """The roles, a call being a part of the reply before it."""
    order = list[str]()
    for role, _, _ in said:
        if role != "call" or order[-1:] != ["assistant"]:
            order.append("assistant" if role == "call" else role)
    return order


def _said(message: Mapping[str, Any], at: int) -> _Said:
    role = str(message.get("role") or message.get("from") or "").lower()
    role = _ROLES.get(role, role)
    if role not in _KNOWN_ROLES:
        raise UnknownShape(f"a message of it has a role that I do not know: {role or 'none'} (message {at})")
    content = message["content"] if message.get("content") is not None else message.get("value")
    return role, content if role == "call" else given_in(content) if role == "tool" else said_in(content), message


def _turns(said: list[_Said]) -> Iterator[tuple[list[_Said], list[_Said]]]:
    """What the model said at once, with what tools gave for it."""
    behind = said[next(at for at, one in enumerate(said) if one[0] == "user") + 1 :]
    groups = [list(group) for _, group in groupby(behind, key=lambda one: one[0] == "tool")]
    if groups and groups[0][0][0] == "tool":
        raise UnknownShape("a result of it follows no call that I can read")
    for at in range(0, len(groups), 2):
        yield groups[at], groups[at + 1] if at + 1 < len(groups) else []


def _in_turn(calls: list[_Call], results: list[_Said], before: list[_Call]) -> list[_Said]:
    """Results in the order of the calls."""
    ids = [identity for identity, _, _ in calls]
    named = [(_identity(one[2].get("tool_call_id")), one) for one in results]
    tools = [one[2].get("name") for one in results]
    names = {name for name, _ in named} - {""}
    if names & {identity for identity, _, _ in before} - set(ids):
        raise UnknownShape("a result of it does not follow its call")
    if not names and all(tools) and any(name for _, name, _ in calls) and tools != [name for _, name, _ in calls]:
        raise UnknownShape("its results are not in the order of the calls, by the tools that they name")
    return in_order(ids, named)


def _identity(value: Any) -> str:
    return "" if value is None else str(value)


def _calls_of(one: _Said) -> list[_Call]:
    role, content, message = one
    given = message.get("tool_calls") or []
    if not isinstance(given, list) or len(listed(given)) < len(given):
        raise UnknownShape("its tool_calls are no list of calls")
    if isinstance(message.get("function_call"), Mapping):  # OpenAI's first way
        given = [message["function_call"], *given]
    if role == "call":
        described = parsed(content[_thought_in(content) :] if isinstance(content, str) else content)
        given = described if isinstance(described, list) else [described]
    return [_call(mapping(call)) for call in given]


def _call(call: Mapping[str, Any]) -> _Call:
    about = mapping(parsed(call.get("function", call)))
    key = next((name for name in _ARGUMENTS if about.get(name) is not None), None)
    if key is None and set(about) - _BESIDE_ARGUMENTS - set(_ARGUMENTS):
        raise UnknownShape("a call of it has no arguments that I can read")
    return _identity(call.get("id")), about.get("name"), about[key] if key else {}


def _reply(one: _Said, *, ends: bool) -> Iterator[str]:
    """A reply's thought, words and calls."""
    role, content, message = one
    words = content if role == "assistant" else content[: _thought_in(content)] if isinstance(content, str) else ""
    thought = next(filter(None, (said_in(message.get(name)) for name in _THOUGHTS)), "")
    if thought and not ("<think>" in words and thought.strip() in words):
        yield f"<think>{within_thought(thought)}</think>"
    yield as_answer(words) if ends else words.rstrip() if role == "call" else words
    yield from (written_call(name, arguments) for _, name, arguments in _calls_of(one))


def _thought_in(content: str) -> int:
    """Where a thought ends that stands before what describes a call."""
    return found.end() if (found := THOUGHT.match(content)) else 0


def _as_output(content: str) -> str:
    """What a tool gave: one output of ours as it is, anything else within one."""
    return content.strip() if _OUTPUT.fullmatch(content) else f"<tool_output>\n{within_output(content)}\n</tool_output>"
