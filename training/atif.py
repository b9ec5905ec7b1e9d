"""ATIF, the Agent Trajectory Interchange Format: a trajectory as steps, read.

A reply is a step: its thought, what it says, its call, and what the tool gave. Where these do not give the reply back
letter for letter, it stands in the step's `extra.text` too.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from backends.config import QUERY_NAMES
from serializers.bounds import storable
from serializers.escaping import escape_tags
from serializers.segments import split_segments
from serializers.tags import Call, read_attributes, write_call
from training.unknown import UnknownShape, check_held, check_order, check_protocol, check_thoughts, check_words

OURS = re.compile(r"<(?:think|call_tool|tool_output|answer)\b")
THOUGHT = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)
_Result = TypeVar("_Result")
_OUTPUT_ENDS = re.compile(r"<(?=\s*/\s*tool_output)", re.IGNORECASE)
_THOUGHT_ENDS = re.compile(r"<(?=\s*/?\s*(?:think|tool_output|call_tool|answer)\b)", re.IGNORECASE)
AGENT, TEXT = "trajgraph", "text"
"""In `extra`: the very letters, where the fields do not give them back."""
READ_FROM = "read_from"
"""In the metadata of rows of others: their shape."""
_KINDS_OF_TEXT, _OF_TEXT = {TEXT, "input_text", "output_text"}, {"type", TEXT, "annotations", "cache_control"}
_MEDIA = re.compile("image|audio|video|file")


def is_atif(record: Mapping[str, Any]) -> bool:
    """Whether a row is such a document."""
    return str(record.get("schema_version", "")).startswith("ATIF-") and isinstance(record.get("steps"), list)


def from_atif(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document as a record: ours as it was, another's in our words. Raises UnknownShape where it is not certain what
    another's says.
    """
    steps, extra, agent = listed(document["steps"]), mapping(document.get("extra")), mapping(document.get("agent"))
    is_ours = agent.get("name") == AGENT or AGENT in extra
    if not is_ours:
        _check(document, steps)
    whole = extra[TEXT] if is_ours and isinstance(extra.get(TEXT), str) else None
    text = "\n".join(filter(None, _read(steps, is_ours=is_ours))) if whole is None else whole
    question = next((said_in(step.get("message")) for step in steps if step.get("source") == "user"), "")
    if not is_ours:
        check_held(question, text)
    metadata = mapping(parsed(extra.get("metadata"))) if is_ours else of_others(
        "ATIF", None, agent={name: agent[name] for name in ("name", "version") if name in agent},
        model=agent.get("model_name"),
        run_id=document.get("session_id"), usage=_usage(document, steps),
    )  # fmt: skip
    made = [call for step in steps for call in listed(step.get("tool_calls"))]
    calls = [_with_aside(call) if READ_FROM in metadata else {} for call in made]
    system = next((said_in(step.get("message")) for step in steps if step.get("source") == "system"), "")
    return {
        **({"system_prompt": system} if system else {}),
        "tools": agent.get("tool_definitions"),
        "sample_id": extra.get("sample_id") or document.get("trajectory_id") or document.get("session_id"),
        "question": question, "topic": extra.get("topic", ""), "question_type": extra.get("question_type", ""),
        "trajectory": {"question": question, "interleaved_text": text, "tool_calls": calls},
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


def of_others(read_from: str, theirs: Any, **known: Any) -> dict[str, Any]:
    """The metadata of a row of others: what is known, and theirs apart, as their words may mean something else."""
    found = {name: value for name, value in known.items() if value not in (None, "", {})}
    return {READ_FROM: read_from, **found, **({"theirs": theirs} if theirs else {})}


def called(name: Any, arguments: Any) -> dict[str, Any]:
    """A call of others as a record keeps it, with the very arguments."""
    return {"tool_name": name, "arguments": mapping(parsed(arguments))}


def _with_aside(call: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with what our export had to put aside."""
    aside = mapping(parsed(mapping(call.get("extra")).get("arguments")))
    return called(call.get("function_name"), {**mapping(parsed(call.get("arguments"))), **aside})


def _check(document: Mapping[str, Any], steps: list[Mapping[str, Any]]) -> None:
    """Of others."""
    named = {"system": "system", "user": "user", "agent": "assistant"}
    roles = list[str]()
    for step in steps:
        roles.append(named.get(str(step.get("source")), "unknown"))
        if mapping(step.get("observation")).get("results"):
            if roles[-1] != "assistant":
                raise UnknownShape("a step of it that is no reply has results")
            roles.append("tool")
    check_order(roles)
    agents = [step for step in steps if step.get("source") == "agent"]
    replies = [said_in(step.get("message")) for step in agents]
    check_thoughts(replies)
    if any(step.get("tool_calls") for step in agents):
        check_words(replies)
    else:
        check_protocol(replies)
    numbers = [step["step_id"] for step in steps if type(step.get("step_id")) is int]
    if len(steps) < len(document["steps"]) or numbers != sorted(numbers):
        raise UnknownShape("its steps are no list of steps in their order")
    if document.get("continued_trajectory_ref"):
        raise UnknownShape("it goes on in another document")


def _read(steps: list[Mapping[str, Any]], *, is_ours: bool) -> Iterator[str]:
    agents = [step for step in steps if step.get("source") == "agent"]
    for step in agents:
        yield from _texts_of(step, is_last=step is agents[-1], is_ours=is_ours)


def _results(step: Mapping[str, Any], *, is_ours: bool) -> list[Mapping[str, Any]]:
    """What tools gave, in the order of the step's calls."""
    observation, calls = step.get("observation") or {}, listed(step.get("tool_calls"))
    given = mapping(observation).get("results") or []
    if any(one.get("content") is None and one.get("subagent_trajectory_ref") for one in listed(given)):
        raise UnknownShape("a result of it stands in a trajectory of its own")
    if not isinstance(observation, Mapping) or not isinstance(given, list) or len(listed(given)) < len(given):
        raise UnknownShape("an observation of it is no list of results")
    named = [("" if one.get("source_call_id") is None else str(one["source_call_id"]), one) for one in listed(given)]
    if is_ours and not calls:
        return [one for _, one in named]
    return in_order([str(call.get("tool_call_id", "")) for call in calls], named)


def in_order(calls: list[str], results: list[tuple[str, _Result]]) -> list[_Result]:
    """Results of a reply's calls, each with the id that it names, in the order of the calls: as they came where calls
    or results name none. Raises UnknownShape where they are not those of the first calls, one each: what stands in a
    text is of the first call that waits.
    """
    if len(results) > len(calls):
        raise UnknownShape("a result of it follows no call that I can read")
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
    thought = THOUGHT.match(said)
    answer = said[thought.end() :] if thought else said
    return (
        said
        if not answer.strip() or OURS.search(answer)
        else f"{said[: len(said) - len(answer)]}<answer>{answer}</answer>"
    )


def _texts_of(step: Mapping[str, Any], *, is_last: bool, is_ours: bool) -> Iterator[str]:
    own = mapping(step.get("extra")).get(TEXT)
    yield own if is_ours and isinstance(own, str) else reply_of(step, is_last=is_last)
    for result in _results(step, is_ours=is_ours):
        written = mapping(result.get("extra")).get(TEXT)
        yield written if is_ours and isinstance(written, str) else output_of(result)


def reply_of(step: Mapping[str, Any], *, is_last: bool) -> str:
    """A reply as our models write it."""
    thought, said = said_in(step.get("reasoning_content")), said_in(step.get("message"))
    calls = [written_call(call.get("function_name"), call.get("arguments")) for call in listed(step.get("tool_calls"))]
    parts = [
        f"<think>{within_thought(thought)}</think>" if thought else "",
        as_answer(said) if is_last and not calls else said,
        *calls,
    ]
    return "\n".join(part for part in parts if part)


def written_call(name: Any, arguments: Any) -> str:
    """A call as ours are written, its arguments an object or JSON: where attributes cannot hold them, all of them as
    JSON in its body, as models write them, too. Raises UnknownShape for one that cannot be read.
    """
    given = parsed(arguments) if arguments else {}
    if not isinstance(name, str) or not isinstance(given, Mapping):
        raise UnknownShape("a call of it cannot be read")
    others = {str(key): _plain(value) for key, value in given.items() if value is not None}
    asked = next((one for one in QUERY_NAMES if isinstance(given.get(one), str)), None)
    query = escape_tags(str(others.pop(asked))) if asked else ""
    whole = json.dumps(dict(given), ensure_ascii=False).replace("<", "\\u003c")
    for call in (Call(name, query, others), Call(name, whole, {})):
        text = write_call(call)
        pieces, _ = split_segments(text)
        read = read_attributes(pieces[0].attributes) if len(pieces) == 1 and pieces[0].body == call.query else {}
        wanted = {**{key: str(one) for key, one in call.parameters.items()}, "name": name}
        if {key: str(value) for key, value in read.items()} == wanted and "name" not in call.parameters:
            return text
    raise UnknownShape(f"a call of it cannot be written as ours: {name}")


def _plain(value: Any) -> str | int:
    is_plain = isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))
    return value if is_plain else json.dumps(value, ensure_ascii=False)


def output_of(result: Mapping[str, Any]) -> str:
    return f"<tool_output>\n{within_output(given_in(result.get('content')))}\n</tool_output>"


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
        if not isinstance(value, str):
            return value
        found = json.loads(value)
        return storable(found, 200) if "\\ud" in value.lower() else found  # lone surrogates, which nothing can write
    except (ValueError, RecursionError):
        return None


def listed(value: Any) -> list[Mapping[str, Any]]:
    """The objects in a list; none where it is none."""
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def said_in(message: Any) -> str:
    """The text of a message, or of the parts of one. Raises UnknownShape where it is none."""
    if message is None or isinstance(message, str):
        return message or ""
    if not isinstance(message, list):
        raise UnknownShape("a message of it is no text")
    parts = [{"text": part} if isinstance(part, str) else mapping(part) for part in message]
    kinds = {str(part.get("type", TEXT)) for part in parts} - _KINDS_OF_TEXT
    if kinds or not all(isinstance(part.get("text", ""), str | None) and "text" in part for part in parts):
        raise UnknownShape(f"a message of it has a part that is no text: {', '.join(kinds) or 'an object'}")
    return "\n".join(part["text"] for part in parts if part["text"])


def given_in(result: Any) -> str:
    """The text of what a tool gave, or of parts that are text alone; of other data, as JSON. Raises UnknownShape for a
    picture, a sound, a file.
    """
    if result is None or isinstance(result, str):
        return result or ""
    parts = [mapping(part) for part in result] if isinstance(result, list) else []
    if any(_MEDIA.search(str(part.get("type", ""))) for part in parts):
        return said_in(result)
    texts = isinstance(result, list) and all(isinstance(part, str) or _is_text(mapping(part)) for part in result)
    return said_in(result) if texts else json.dumps(result, ensure_ascii=False)


def _is_text(part: Mapping[str, Any]) -> bool:
    return "text" in part and set(part) <= _OF_TEXT and part.get("type", TEXT) in _KINDS_OF_TEXT
