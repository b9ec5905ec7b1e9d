"""ATIF, the Agent Trajectory Interchange Format (version 1.7): a trajectory as steps, written.

A reply is a step: its thought, what it says, its call, and what the tool gave. Where these do not give the reply back
letter for letter, it stands in the step's `extra.text` too.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any

from serializers.segments import Segment
from serializers.tags import read_attributes
from training.atif import AGENT, TEXT, from_atif, mapping, output_of, reply_of
from training.messages import replies_and_outputs
from training.rows import Row
from training.unknown import UnknownShape

VERSION = "ATIF-v1.7"
_ASKED_BY = {"browse_webpage": "url"}
"""The argument that a call's body is, where it is not `query`."""


def to_atif(row: Row, system: str | None, types: dict[str, str] | None = None) -> dict[str, Any]:
    """A row as a document. An argument has one type in all rows that share `types`: one of another is not among the
    arguments, but in the call's `extra`.
    """
    steps: list[dict[str, Any]] = [{"source": "system", "message": system}] if system else []
    steps.append({"source": "user", "message": row.question})
    made, about = str(row.metadata.get("generation_time") or ""), row.metadata
    for segments in replies_and_outputs(row.parsed.segments):
        if segments[0].kind == "tool_output":
            _observe(steps, segments[0], row)
        else:
            steps.append(_step_of(row, segments, {} if types is None else types))
    steps += [
        {"source": "user", "message": text, "extra": {"asked_again_at": at}} for at, text in sorted(row.nudges)
    ]  # fmt: skip
    usage, theirs = mapping(about.get("usage")), mapping(about.get("agent"))
    document = {
        "schema_version": VERSION,
        "session_id": _text(about.get("run_id")),
        "trajectory_id": row.sample_id,
        "agent": {
            "name": AGENT, "version": version("trajgraph"),
            **{name: str(theirs[name]) for name in ("name", "version") if theirs.get(name)},
            "model_name": _text(about.get("model")),
        },
        "steps": [{"step_id": at, **step} for at, step in enumerate(steps, 1)],
        "final_metrics": {
            "total_prompt_tokens": _whole(usage.get("input_tokens")),
            "total_completion_tokens": _whole(usage.get("output_tokens")),
            "total_steps": len(steps),
        },
        "extra": {
            AGENT: version("trajgraph"), "sample_id": row.sample_id, "generation_time": made,
            "topic": str(row.record.get("topic", "")), "question_type": str(row.record.get("question_type", "")),
            "metadata": json.dumps(dict(about), ensure_ascii=False),
        },
    }  # fmt: skip
    found: dict[str, Any] = _without_none(document)
    with suppress(UnknownShape):
        if from_atif(found)["trajectory"]["interleaved_text"] == row.text:
            return found
    return {**found, "extra": {**found["extra"], TEXT: row.text}}


def _step_of(row: Row, segments: Sequence[Segment], types: dict[str, str]) -> dict[str, Any]:
    """A reply."""
    text = row.text[segments[0].start : segments[-1].end]
    thoughts = [piece.body.strip("\n") for piece in segments if piece.kind == "think"]
    said = "\n".join(piece.body.strip("\n") for piece in segments if piece.kind in ("answer", "text"))
    step: dict[str, Any] = {"source": "agent", "message": said.strip("\n")}
    if thoughts:
        step["reasoning_content"] = "\n".join(thoughts)
    calls = [piece for piece in segments if piece.kind == "call_tool"]
    if calls:
        step["tool_calls"] = [_call_of(piece, row.arguments(piece), types) for piece in calls]
    with suppress(UnknownShape):
        if reply_of(step, is_last=not calls) == text:
            return step
    return {**step, "extra": {TEXT: text}}


def _call_of(piece: Segment, theirs: Any, types: dict[str, str]) -> dict[str, Any]:
    attributes: dict[str, Any] = dict(read_attributes(piece.attributes))
    name = str(attributes.pop("name", ""))
    asked = {_ASKED_BY.get(name, "query"): piece.body} if piece.body else {}
    given = mapping(theirs) if isinstance(theirs, Mapping) else {**asked, **attributes}
    given = _without_none(given)
    own = {key: value for key, value in given.items() if types.setdefault(key, (kind := _kind(value))) == kind}
    others = {key: value for key, value in given.items() if key not in own}
    found = {"tool_call_id": f"call-{piece.call}", "function_name": name, "arguments": own}
    return {**found, "extra": {"arguments": json.dumps(others, ensure_ascii=False)}} if others else found


def _kind(value: Any) -> str:
    """What a column that holds it has to be."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_kind(value[name])}' for name in sorted(value))}}}"
    if isinstance(value, list):
        return f"[{', '.join(sorted({_kind(one) for one in value}))}]"
    return type(value).__name__


def _observe(steps: list[dict[str, Any]], piece: Segment, row: Row) -> None:
    """What a tool gave, in the step that asked for it; what answers none is an observation of the step before."""
    step = next((one for one in reversed(steps) if one["source"] == "agent"), None)
    if step is None:
        steps.append(step := {"source": "agent", "message": "", "extra": {TEXT: ""}})
    ids = [call["tool_call_id"] for call in step.get("tool_calls", ())]
    result: dict[str, Any] = {"content": piece.body.removeprefix("\n").removesuffix("\n")}
    if f"call-{piece.call}" in ids:
        result["source_call_id"] = f"call-{piece.call}"
    if reminder := row.reminders.get(str(piece.call)):
        result["extra"] = {"reminder": reminder}
    written = row.text[piece.start : piece.end]
    if output_of(result) != written:
        result["extra"] = {**result.get("extra", {}), TEXT: written}
    step.setdefault("observation", {"results": []})["results"].append(result)


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None


def _text(value: Any) -> str | None:
    return str(value) if value else None


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(one) for name, one in value.items() if one is not None}
    return [_without_none(one) for one in value] if isinstance(value, list) else value
