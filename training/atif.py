"""ATIF, the Agent Trajectory Interchange Format: a trajectory as steps, read.

A reply is a step: its thought, what it says, its call, and what the tool gave. Where these do not give the reply back
letter for letter, it stands in the step's `extra.text` too.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from backends.config import QUERY_NAMES
from serializers.escaping import escape_tags
from serializers.segments import split_segments
from serializers.tags import Call, read_attributes, write_call

OURS = re.compile(r"<(?:think|call_tool|tool_output|answer)\b")
_THOUGHT = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)
_Result = TypeVar("_Result")
_OUTPUT_ENDS = re.compile(r"<(?=\s*/\s*tool_output)", re.IGNORECASE)
_THOUGHT_ENDS = re.compile(r"<(?=\s*/?\s*(?:think|tool_output|call_tool|answer)\b)", re.IGNORECASE)
AGENT, TEXT = "trajgraph", "text"
"""In `extra`: the very letters, where the fields do not give them back."""
NO_QUESTION = "no message of it is from the user: it has no question"


class UnknownShape(ValueError):
    """A row that is no trajectory of a shape that is known; says why."""


def is_atif(record: Mapping[str, Any]) -> bool:
    """Whether a row is such a document."""
    return str(record.get("schema_version", "")).startswith("ATIF-") and isinstance(record.get("steps"), list)


def from_atif(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document as a record: ours as it was, another's in our words. Raises UnknownShape where another's has a result
    of no call.
    """
    steps, extra = listed(document.get("steps")), mapping(document.get("extra"))
    is_ours = mapping(document.get("agent")).get("name") == AGENT
    whole = extra[TEXT] if is_ours and isinstance(extra.get(TEXT), str) else None
    text = "\n".join(filter(None, _read(steps, is_ours=is_ours))) if whole is None else whole
    question = next((said_in(step.get("message")) for step in steps if step.get("source") == "user"), "")
    if not question and not is_ours:
        raise UnknownShape(NO_QUESTION)
    calls = [call for step in steps for call in listed(step.get("tool_calls"))]
    about = {"model": mapping(document.get("agent")).get("model_name"), "usage": _usage(document, steps)}
    metadata = mapping(parsed(extra.get("metadata"))) or about
    told = [said_in(step.get("message")) for step in steps if step.get("source") == "system"]
    system = only_system(told)
    return {
        **({"system_prompt": system} if system else {}),
        "tools": mapping(document.get("agent")).get("tool_definitions"),
        "sample_id": extra.get("sample_id") or document.get("trajectory_id") or document.get("session_id"),
        "question": question, "topic": extra.get("topic", ""), "question_type": extra.get("question_type", ""),
        "trajectory": {"question": question, "interleaved_text": text, "tool_calls": [{} for _ in calls]},
        "metadata": metadata,
    }  # fmt: skip


def _usage(document: Mapping[str, Any], steps: list[Mapping[str, Any]]) -> dict[str, int]:
    """Tokens in all: as the document says, else those of its steps."""
    total, found = mapping(document.get("final_metrics")), dict[str, int]()
    for name, theirs in (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens")):
        each = [total.get(f"total_{theirs}")]
        if type(each[0]) is not int:
            each = [mapping(step.get("metrics")).get(theirs) for step in steps]
        if numbers := [one for one in each if type(one) is int]:
            found[name] = sum(numbers)
    return found


def only_system(told: list[str]) -> str:
    """What the model was told before the question; raises UnknownShape where it was told more than once."""
    if len(told) > 1:
        raise UnknownShape("it has more than one system message")
    return next(iter(told), "")


def _read(steps: list[Mapping[str, Any]], *, is_ours: bool) -> Iterator[str]:
    asked = [
        step for step in steps if step.get("source") == "user" and "asked_again_at" not in mapping(step.get("extra"))
    ]
    agents = [step for step in steps if step.get("source") == "agent"]
    if len(asked) > 1:
        raise UnknownShape("a second step of it is from the user: a trajectory has one question")
    if not agents or any(step.get("observation") for step in steps if step.get("source") != "agent"):
        raise UnknownShape("no reply is among its steps" if not agents else "a step of it that is no reply has results")
    for step in agents:
        yield from _texts_of(step, is_last=step is agents[-1], is_ours=is_ours)


def _results(step: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What tools gave, in the order of the step's calls."""
    observation, calls = step.get("observation") or {}, listed(step.get("tool_calls"))
    given = mapping(observation).get("results") or []
    if any("content" not in one and one.get("subagent_trajectory_ref") for one in listed(given)):
        raise UnknownShape("a result of it stands in a trajectory of its own")
    if not isinstance(observation, Mapping) or not isinstance(given, list) or len(listed(given)) < len(given):
        raise UnknownShape("an observation of it is no list of results")
    named = [("" if one.get("source_call_id") is None else str(one["source_call_id"]), one) for one in listed(given)]
    if not calls and any(name for name, _ in named):
        raise UnknownShape("a result of it does not follow its call")
    return in_order([str(call.get("tool_call_id", "")) for call in calls], named)


def in_order(calls: list[str], results: list[tuple[str, _Result]]) -> list[_Result]:
    """Results of a reply's calls, each with the id that it names, in the order of the calls: as they came where calls
    or results name none. Raises UnknownShape where they are not those of the first calls, one each: what stands in a
    text is of the first call that waits.
    """
    named = [identity for identity, _ in results if identity]
    if not named or not any(calls):
        if results and len(results) < len(calls):
            raise UnknownShape("its results are fewer than the calls before them, and do not name theirs")
        return [result for _, result in results]
    in_turn = sorted(named, key=lambda one: calls.index(one) if one in calls else -1)
    if len(named) < len(results) or in_turn != calls[: len(results)]:
        raise UnknownShape("its results are not one for each call of the reply before them, by the ids that they name")
    return [result for _, result in sorted(results, key=lambda one: calls.index(one[0]))]


def as_answer(said: str) -> str:
    """What ends a trajectory, within the tags of an answer, a thought before it without: as it is where it has any."""
    thought = _THOUGHT.match(said)
    answer = said[thought.end() :] if thought else said
    return (
        said
        if not answer.strip() or OURS.search(answer)
        else f"{said[: len(said) - len(answer)]}<answer>{answer}</answer>"
    )


def _texts_of(step: Mapping[str, Any], *, is_last: bool, is_ours: bool) -> Iterator[str]:
    own = mapping(step.get("extra")).get(TEXT)
    yield own if is_ours and isinstance(own, str) else reply_of(step, is_last=is_last)
    for result in _results(step):
        written = mapping(result.get("extra")).get(TEXT)
        yield written if is_ours and isinstance(written, str) else output_of(result)


def reply_of(step: Mapping[str, Any], *, is_last: bool) -> str:
    """A reply as our models write it."""
    thought, said = step.get("reasoning_content"), said_in(step.get("message"))
    calls = [written_call(call.get("function_name"), call.get("arguments")) for call in listed(step.get("tool_calls"))]
    parts = [
        f"<think>{within_thought(str(thought))}</think>" if thought else "",
        as_answer(said) if is_last and not calls else said,
        *calls,
    ]
    return "\n".join(part for part in parts if part)


def written_call(name: Any, arguments: Any) -> str:
    """A call as ours are written, its arguments an object or JSON. Raises UnknownShape for one that cannot be read, or
    that would be read as another one.
    """
    given = parsed(arguments) if arguments else {}
    if not isinstance(name, str) or not isinstance(given, Mapping):
        raise UnknownShape("a call of it cannot be read")
    others = {str(key): _plain(value) for key, value in given.items() if value is not None}
    asked = next((one for one in QUERY_NAMES if isinstance(given.get(one), str)), None)
    query = escape_tags(str(others.pop(asked))) if asked else ""
    text = write_call(Call(name, query, others))
    pieces, _ = split_segments(text)
    read = read_attributes(pieces[0].attributes) if len(pieces) == 1 and pieces[0].body == query else {}
    if {key: str(value) for key, value in read.items()} != {
        **{key: str(one) for key, one in others.items()},
        "name": name,
    }:
        raise UnknownShape("a call of it cannot be written as ours: its arguments would be read as others")
    return text


def _plain(value: Any) -> str | int:
    is_plain = isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))
    return value if is_plain else json.dumps(value, ensure_ascii=False)


def output_of(result: Mapping[str, Any]) -> str:
    return f"<tool_output>\n{within_output(said_in(result.get('content')))}\n</tool_output>"


def within_output(text: str) -> str:
    """What a tool gave, that cannot end its own output."""
    return _OUTPUT_ENDS.sub("&lt;", text)


def within_thought(text: str) -> str:
    """A thought of another protocol, that cannot end itself or give itself a result."""
    return _THOUGHT_ENDS.sub("&lt;", text)


def mapping(value: Any) -> dict[str, Any]:
    """An object; an empty one where it is none."""
    return dict(value) if isinstance(value, Mapping) else {}


def parsed(value: Any) -> Any:
    """What a text holds as JSON; None where it holds none."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return None


def listed(value: Any) -> list[Mapping[str, Any]]:
    """The objects in a list; none where it is none."""
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def said_in(message: Any) -> str:
    """The text of a message: of several parts, of those that are text."""
    if isinstance(message, list):
        kinds = {part.get("type", TEXT) for part in message if isinstance(part, Mapping)} - {TEXT}
        if kinds:
            raise UnknownShape(f"a message of it has a part that is no text: {', '.join(map(str, kinds))}")
        return "\n".join(str(part.get("text")) for part in message if isinstance(part, Mapping) and part.get("text"))
    return str(message) if message else ""
