"""Conversations of others, OpenAI's or ShareGPT's, read as records."""

import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from serializers.segments import split_segments
from training.atif import (
    THOUGHT,
    as_answer,
    called,
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
from training.unknown import UnknownShape, check_held, check_order, check_protocol, check_thoughts, check_words

_ROLES = {
    "developer": "system", "human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "function_call": "call", "tool_call": "call", "observation": "tool", "function": "tool", "ipython": "tool",
    "tool_response": "tool",
}  # fmt: skip
_KNOWN_ROLES = ("system", "user", "assistant", "call", "tool")
_OURS_BUT_THOUGHTS = re.compile(r"<(?:call_tool|tool_output|answer)\b")
_OUTPUT = re.compile(r"<tool_output>(?:(?!</?tool_output).)*</tool_output>\s*", re.DOTALL)
_ARGUMENTS = ("arguments", "args", "parameters", "input")
_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought", "reasoning_details")
_BESIDE_ARGUMENTS = {"name", "id", "call_id", "type", "index", "description", "strict"}

_Said = tuple[str, Any, Mapping[str, Any]]
"""A message's role, its text (of a call: what describes it), and itself."""
_Call = tuple[str, Any, Any]
"""A call's id, the tool's name, the arguments."""
_IN_TEXT: _Call = ("", None, None)
"""A call that stands in what the model said."""


def of_chat(row: Mapping[str, Any], chat: list[Any]) -> Mapping[str, Any]:
    """A conversation as a record. Raises UnknownShape where it is not certain what was said, or to whom."""
    said = _messages(row, chat)
    replies = [content for role, content, _ in said if role == "assistant"]
    stand_apart = any(map(_calls_of, said))
    is_tagged = not stand_apart and any(map(_OURS_BUT_THOUGHTS.search, replies))
    if stand_apart:
        check_words(replies)
    elif not is_tagged:
        check_protocol(replies)
    if not is_tagged:
        check_thoughts(replies)
    check_order(_order(said))
    parts, calls, turns = list[str](), list[_Call](), list(_turns(said))
    for at, (spoken, results) in enumerate(turns):
        made = [call for one in spoken for call in _calls_of(one)]
        ends = at == len(turns) - 1 and not made and not results and not is_tagged
        parts += [text for one in spoken for text in _reply(one, ends=ends) if text]
        pieces = [piece for role, content, _ in spoken if role == "assistant" for piece in split_segments(content)[0]]
        in_text = [_IN_TEXT for piece in pieces if piece.kind == "call_tool"]
        parts += [_as_output(content) for _, content, _ in _in_turn(made or in_text, results, calls)]
        calls += made
    text, question = "\n".join(parts), next(content for role, content, _ in said if role == "user")
    check_held(question, text)
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
    for beside in filter(None, (said_in(row.get(name)) for name in ("system", "system_prompt"))):
        if said[0][:2] != ("system", beside):  # the same one may stand in both places
            said.insert(0, ("system", beside, {}))
    said = [one for one in said if one[0] != "system" or one[1]]
    first = next((at for at, one in enumerate(said) if one[0] == "user"), len(said))
    outputs = [one[0] == "user" and bool(_OUTPUT.fullmatch(one[1])) for one in said[first + 1 :]]  # of ours
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
    if not {"content", "value", *_THOUGHTS, "tool_calls", "function_call"} & set(message):
        raise UnknownShape("a message of it has no content")
    if role != "assistant" and message.get("tool_calls"):
        raise UnknownShape("a message of it that is no reply has calls")
    content = message.get("value") if message.get("content") in (None, "") else message["content"]
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
    named = [(_identity(one[2].get("tool_call_id", one[2].get("call_id"))), one) for one in results]
    names = {name for name, _ in named} - {""}
    if names & {identity for identity, _, _ in before} - set(ids):
        raise UnknownShape("a result of it does not follow its call")
    paired = in_order(ids, named)
    for (_, name, _), (_, _, result) in zip(calls, paired, strict=False):
        if name and result.get("name") and result["name"] != name:
            raise UnknownShape("a result of it names another tool than the call before it")
    return paired


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
    function = mapping(parsed(call.get("function", call)))
    about = {**{name: call[name] for name in _ARGUMENTS if name in call}, **function}
    key = next((name for name in _ARGUMENTS if about.get(name) is not None), None)
    if key is None and set(about) - _BESIDE_ARGUMENTS - set(_ARGUMENTS):
        raise UnknownShape("a call of it has no arguments that I can read")
    return _identity(call.get("id", call.get("call_id"))), about.get("name"), about[key] if key else {}


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
