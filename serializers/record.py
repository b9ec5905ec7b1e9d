"""One finished question as a record: the JSON line that the earlier scripts wrote, key for key.

Ours go under `metadata` only. Everything about the trajectory is derived from the messages.
"""

import re
from typing import Any, NotRequired

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from typing_extensions import TypedDict

from graph.state import State
from serializers.cites import cited_pmids
from serializers.escaping import escape_attribute, escape_tags
from serializers.interleaved import interleaved_text
from serializers.tool_output import MAX_RECORDED_PAPERS

FORMAT_VERSION = "trajgraph-1"
_SHOWN = re.compile(r"<tool_output>\n?Found \S+ results\. Showing top (\d+)")
_SNIPPET_BEGINS = re.compile(r'^<snippet id="([^"<>\n]{0,200})">Title: ', re.MULTILINE)
_SAMPLE = re.compile(r"_traj_(\d+)(?:_s(\d+))?$")


class QuestionRow(TypedDict):
    """One line of the questions file; a row without the three behind the question has empty ones. `fields` are the
    columns that are none of these.
    """

    question: str
    topic: str
    question_type: str
    expected_search_terms: list[str]
    fields: NotRequired[dict[str, Any]]


class ToolCallRecord(TypedDict):
    """One executed call. `result` is bounded (see `tool_output.Rendered`); `timestamp` is local ISO 8601."""

    tool_name: str
    parameters: dict[str, Any]
    query: str
    result: Any
    timestamp: str


class Trajectory(TypedDict):
    question: str
    interleaved_text: str
    tool_calls: list[ToolCallRecord]
    final_answer: str
    total_tool_calls: int
    tools_used: list[str]
    pmids_cited: list[str]


class Record(TypedDict):
    sample_id: str
    question: str
    topic: str
    question_type: str
    trajectory: Trajectory
    metadata: dict[str, Any]


def family(model_name: str) -> str:
    """What a model's samples are named after: `qwen3` for any Qwen3."""
    return re.split(r"[-_:\s]", model_name.rstrip("/").rsplit("/", 1)[-1])[0].lower() or "model"


def sample_id(named_after: str, row_number: int, sample: int = 1) -> str:
    """`qwen3_traj_00001` for the first question and any Qwen3 model, `qwen3_traj_00001_s2` for its second sample."""
    return f"{named_after}_traj_{row_number:05d}{f'_s{sample}' if sample > 1 else ''}"


def sample_of(name: str) -> tuple[int, int]:
    """A question's place and the sample's number, from its id: `qwen3_traj_00007_s2` is the second of question 7."""
    match = _SAMPLE.search(name)
    return (int(match[1]), int(match[2] or 1)) if match else (0, 1)


def build_record(name: str, row: QuestionRow, state: State, metadata: dict[str, Any]) -> Record:
    """The record of a finished question. `metadata` holds what the messages cannot know (model, source file, times)."""
    messages = state.get("messages", [])
    outputs = {message.tool_call_id: message for message in messages if isinstance(message, ToolMessage)}
    calls = [_tool_call(call, outputs) for call in _executed(messages, outputs)]
    tools_used = list(dict.fromkeys(call["tool_name"] for call in calls))
    answer = state.get("final_answer") or ""
    trajectory = Trajectory(
        question=row["question"],
        interleaved_text=interleaved_text(messages),
        tool_calls=calls,
        final_answer=answer,
        total_tool_calls=len(calls),
        tools_used=tools_used,
        pmids_cited=cited_pmids(answer),
    )
    return Record(
        sample_id=name,
        question=row["question"],
        topic=row["topic"],
        question_type=row["question_type"],
        trajectory=trajectory,
        metadata={
            "expected_search_terms": row["expected_search_terms"],
            **({"question_fields": row["fields"]} if "fields" in row else {}),
            "tools_used": tools_used,
            "total_tool_calls": len(calls),
            **metadata,
            "format_version": FORMAT_VERSION,
            "stop_reason": state.get("stop_reason"),
            **_from_replies(messages),
        },
    )


def _executed(messages: list[AnyMessage], outputs: dict[str, ToolMessage]) -> list[dict[str, Any]]:
    asked = (call for message in messages if isinstance(message, AIMessage) for call in message.tool_calls)
    return [dict(call) for call in asked if call["id"] in outputs]


def _tool_call(call: dict[str, Any], outputs: dict[str, ToolMessage]) -> ToolCallRecord:
    output = outputs[call["id"]]
    parameters = dict(call["args"])
    query = str(parameters.pop("query", ""))
    return ToolCallRecord(
        tool_name=call["name"],
        parameters=parameters,
        query=query,
        result=output.artifact,
        timestamp=output.additional_kwargs.get("timestamp", ""),
    )


def _from_replies(messages: list[AnyMessage]) -> dict[str, Any]:
    replies = [message for message in messages if isinstance(message, AIMessage)]
    usages = [message.usage_metadata for message in replies if message.usage_metadata]
    outputs = [message for message in messages if isinstance(message, ToolMessage)]
    answered = [message.response_metadata.get("endpoint") for message in replies]
    begun = replies[0].additional_kwargs.get("forked_from") if replies else None
    return {
        "turns": len(replies),
        **({"forked_from": begun} if begun else {}),
        **({"endpoint": answered[-1]} if answered and answered[-1] else {}),
        **({"endpoints": answered} if len(set(answered)) > 1 else {}),
        "finish_reasons": [message.response_metadata.get("finish_reason") for message in replies],
        "repairs": [
            {"turn": turn, "repair": name}
            for turn, message in enumerate(replies, start=1)
            for name in message.additional_kwargs.get("repairs", [])
        ],
        "usage": {
            "input_tokens": sum(usage["input_tokens"] for usage in usages),
            "output_tokens": sum(usage["output_tokens"] for usage in usages),
        },
        "tool_errors": [output.name or "" for output in outputs if output.status == "error"],
        "nudges": [
            {"at": len(interleaved_text(messages[:at])), "text": message.text}
            for at, message in enumerate(messages)
            if isinstance(message, HumanMessage)
        ],
        "reminders": {
            str(at): m.additional_kwargs["reminder"]
            for at, m in enumerate(outputs, 1)
            if "reminder" in m.additional_kwargs
        },
        "snippet_ids": [output.additional_kwargs.get("snippet_ids", _older_ids(output)) for output in outputs],
        "shortened_outputs": _marked(outputs, "shortened_from", "shortened"),
        "shortened_papers": {
            str(at): output.additional_kwargs["shortened"]
            for at, output in enumerate(outputs, 1)
            if "shortened" in output.additional_kwargs
        },
        "cassette_calls": _marked(outputs, "from_cassette"),
        "model_seconds": round(sum(message.response_metadata.get("seconds", 0.0) for message in replies), 3),
        "tool_seconds": round(sum(output.additional_kwargs.get("seconds", 0.0) for output in outputs), 3),
    }


def _older_ids(output: ToolMessage) -> list[str] | None:
    """The ids of an output that an earlier version stored: those of its recorded papers, and behind the fifth (no more
    were recorded) those that stand where a snippet begins; None where nothing is recorded of it.
    """
    result = output.artifact
    papers = result.get("data") if isinstance(result, dict) else None
    if not isinstance(papers, list):
        return None
    known = [escape_attribute(escape_tags(str(paper.get("paperId")))) for paper in papers if isinstance(paper, dict)]
    shown = _SHOWN.match(output.text)
    more = int(shown[1]) - len(known) if shown and len(known) == MAX_RECORDED_PAPERS else 0
    begun = _SNIPPET_BEGINS.findall(output.text)
    return [*known, *begun[len(known) : len(known) + max(more, 0)]]


def _marked(outputs: list[ToolMessage], *marks: str) -> list[int]:
    """Numbers of the calls, from 1, whose outputs carry one of the marks."""
    return [at for at, output in enumerate(outputs, 1) if set(marks) & output.additional_kwargs.keys()]
