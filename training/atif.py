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
from serializers.tags import Call, write_call

OURS = re.compile(r"<(?:think|call_tool|tool_output|answer)\b")
_Result = TypeVar("_Result")
_OUTPUT_ENDS = re.compile(r"<(?=\s*/\s*tool_output)", re.IGNORECASE)
_THOUGHT_ENDS = re.compile(r"<(?=\s*/?\s*(?:think|tool_output|call_tool|answer)\b)", re.IGNORECASE)
TEXT = "text"
"""In `extra`: the very letters, where the fields do not give them back."""


def is_atif(record: Mapping[str, Any]) -> bool:
    """Whether a row is such a document."""
    return str(record.get("schema_version", "")).startswith("ATIF-") and isinstance(record.get("steps"), list)


class UnknownShape(ValueError):
    """A row that is no trajectory of a shape that is known; says why."""


def from_atif(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document as a record: ours as it was, another's in our words. Raises UnknownShape where another's has a result
    of no call.
    """
    given, extra = listed(document.get("steps")), mapping(document.get("extra"))
    whole = extra[TEXT] if isinstance(extra.get(TEXT), str) else None
    steps = given if whole is not None else list(map(_paired, given))
    last = max((at for at, step in enumerate(steps) if step.get("source") == "agent"), default=-1)
    parts = [part for at, step in enumerate(steps) for part in _texts_of(step, is_last=at == last) if part]
    question = next((said_in(step.get("message")) for step in steps if step.get("source") == "user"), "")
    calls = [call for step in steps for call in listed(step.get("tool_calls"))]
    text = "\n".join(parts) if whole is None else whole
    metadata = mapping(parsed(extra.get("metadata"))) or {"model": mapping(document.get("agent")).get("model_name")}
    system = next((said_in(step.get("message")) for step in steps if step.get("source") == "system"), "")
    return {
        **({"system_prompt": system} if system else {}),
        "sample_id": extra.get("sample_id") or document.get("trajectory_id") or document.get("session_id"),
        "question": question, "topic": extra.get("topic", ""), "question_type": extra.get("question_type", ""),
        "trajectory": {"question": question, "interleaved_text": text, "tool_calls": [{} for _ in calls]},
        "metadata": metadata,
    }  # fmt: skip


def _paired(step: Mapping[str, Any]) -> Mapping[str, Any]:
    """A step whose results stand in the order of its calls."""
    observation = mapping(step.get("observation"))
    calls = [str(call.get("tool_call_id") or "") for call in listed(step.get("tool_calls"))]
    results = in_order(
        calls, [(str(one.get("source_call_id") or ""), one) for one in listed(observation.get("results"))]
    )
    return {**step, "observation": {**observation, "results": results}}


def in_order(calls: list[str], results: list[tuple[str, _Result]]) -> list[_Result]:
    """Results of a reply's calls, each with the id that it names, in the order of the calls: as they came where calls
    or results name none. Raises UnknownShape where one names no call of this reply, or two name the same.
    """
    named = [identity for identity, _ in results if identity]
    if not named or not any(calls):
        return [result for _, result in results]
    if len(set(named)) < len(results) or not set(named) <= set(calls):
        raise UnknownShape("its results are not one for each call of the reply before them, by the ids that they name")
    return [result for _, result in sorted(results, key=lambda one: calls.index(one[0]))]


def as_answer(said: str) -> str:
    """What ends a trajectory, within the tags of an answer: as it is where it has tags of ours."""
    return said if not said.strip() or OURS.search(said) else f"<answer>{said}</answer>"


def _texts_of(step: Mapping[str, Any], *, is_last: bool) -> Iterator[str]:
    if step.get("source") != "agent":
        return
    own = mapping(step.get("extra")).get(TEXT)
    yield own if isinstance(own, str) else reply_of(step, is_last=is_last)
    for result in listed(mapping(step.get("observation")).get("results")):
        written = mapping(result.get("extra")).get(TEXT)
        yield written if isinstance(written, str) else output_of(result)


def reply_of(step: Mapping[str, Any], *, is_last: bool) -> str:
    """A reply as our models write it."""
    thought, said = step.get("reasoning_content"), said_in(step.get("message"))
    calls = [_written(call) for call in listed(step.get("tool_calls"))]
    parts = [
        f"<think>{within_thought(str(thought))}</think>" if thought else "",
        as_answer(said) if is_last and not calls else said,
        *calls,
    ]
    return "\n".join(part for part in parts if part)


def _written(call: Mapping[str, Any]) -> str:
    arguments = mapping(call.get("arguments"))
    name = next((one for one in QUERY_NAMES if isinstance(arguments.get(one), str)), None)
    query = escape_tags(str(arguments.pop(name))) if name else ""
    others = {key: _plain(value) for key, value in arguments.items()}
    return write_call(Call(str(call.get("function_name", "")), query, others))


def _plain(value: Any) -> str | int:
    return value if isinstance(value, int) and not isinstance(value, bool) else str(value)


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
        return "\n".join(str(part.get("text")) for part in message if isinstance(part, Mapping) and part.get("text"))
    return str(message) if message else ""
