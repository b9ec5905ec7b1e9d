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
from training.atif import AGENT, TEXT, UnknownShape, from_atif, output_of, reply_of
from training.messages import replies_and_outputs
from training.rows import Row

VERSION = "ATIF-v1.7"
_ASKED_BY = {"browse_webpage": "url"}
"""The argument that a call's body is, where it is not `query`."""


def to_atif(row: Row, system: str | None, types: dict[str, type] | None = None) -> dict[str, Any]:
    """A row as a document. An argument has one type in all rows that share `types`: one of another is not among the
    arguments, but in the call's `extra`.
    """
    steps: list[dict[str, Any]] = [{"source": "system", "message": system}] if system else []
    steps.append({"source": "user", "message": row.question})
    made, about = str(row.record.get("metadata", {}).get("generation_time") or ""), row.metadata
    for segments in replies_and_outputs(row.parsed.segments):
        if segments[0].kind == "tool_output":
            _observe(steps, segments[0], row)
        else:
            steps.append(_step_of(row, segments, {} if types is None else types))
    steps += [
        {"source": "user", "message": text, "extra": {"asked_again_at": at}} for at, text in sorted(row.nudges)
    ]  # fmt: skip
    usage = about.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    document = {
        "schema_version": VERSION,
        "session_id": _text(about.get("run_id")),
        "trajectory_id": row.sample_id,
        "agent": {"name": AGENT, "version": version("trajgraph"), "model_name": _text(about.get("model"))},
        "steps": [{"step_id": at, **step} for at, step in enumerate(steps, 1)],
        "final_metrics": {
            "total_prompt_tokens": usage.get("input_tokens"), "total_completion_tokens": usage.get("output_tokens"),
            "total_steps": len(steps),
        },
        "extra": {
            "sample_id": row.sample_id, "topic": str(row.record.get("topic", "")), "generation_time": made,
            "question_type": str(row.record.get("question_type", "")),
            "metadata": json.dumps(dict(about), ensure_ascii=False),
        },
    }  # fmt: skip
    found: dict[str, Any] = _without_none(document)
    with suppress(UnknownShape):
        if from_atif(found)["trajectory"]["interleaved_text"] == row.text:
            return found
    return {**found, "extra": {**found["extra"], TEXT: row.text}}


def _step_of(row: Row, segments: Sequence[Segment], types: dict[str, type]) -> dict[str, Any]:
    """A reply."""
    text = row.text[segments[0].start : segments[-1].end]
    thoughts = [piece.body.strip("\n") for piece in segments if piece.kind == "think"]
    said = "\n".join(piece.body.strip("\n") for piece in segments if piece.kind in ("answer", "text"))
    step: dict[str, Any] = {"source": "agent", "message": said.strip("\n")}
    if thoughts:
        step["reasoning_content"] = "\n".join(thoughts)
    calls = [piece for piece in segments if piece.kind == "call_tool"]
    if calls:
        step["tool_calls"] = [_call_of(piece, types) for piece in calls]
    with suppress(UnknownShape):
        if reply_of(step, is_last=not calls) == text:
            return step
    return {**step, "extra": {TEXT: text}}


def _call_of(piece: Segment, types: dict[str, type]) -> dict[str, Any]:
    attributes = read_attributes(piece.attributes)
    name = str(attributes.pop("name", ""))
    own = {key: value for key, value in attributes.items() if types.setdefault(key, type(value)) is type(value)}
    others = {key: str(value) for key, value in attributes.items() if key not in own}
    asked = {_ASKED_BY.get(name, "query"): piece.body} if piece.body else {}
    found = {"tool_call_id": f"call-{piece.call}", "function_name": name, "arguments": {**asked, **own}}
    return {**found, "extra": {"arguments": json.dumps(others)}} if others else found


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


def _text(value: Any) -> str | None:
    return str(value) if value else None


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(one) for name, one in value.items() if one is not None}
    return [_without_none(one) for one in value] if isinstance(value, list) else value
