"""Records as a table that `datasets` loads: the same columns and types in every row, whatever a tool gave."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from serializers.tags import read_attributes
from training.atif import listed
from training.rows import Row


def as_columns(row: Row, system: str | None) -> dict[str, Any]:
    """A record in columns of one type each, with its system prompt; what differs from row to row is JSON in a text."""
    trajectory, about, calls = row.trajectory, row.metadata, listed(row.trajectory.get("tool_calls"))
    return {
        "question": row.question,
        "system_prompt": system or "",
        "interleaved_text": row.text,
        "final_answer": _text(trajectory["final_answer"] if "final_answer" in trajectory else _answer(row)),
        "tool_calls": [
            {
                "tool_name": _text(call.get("tool_name")), "query": _text(call.get("query")),
                "parameters": _json(call.get("parameters")), "result": _json(call.get("result")),
                "timestamp": _text(call.get("timestamp")),
            }
            for call in (calls if any("result" in call for call in calls) else _calls(row))
        ],
        "pmids_cited": _texts(trajectory["pmids_cited"] if "pmids_cited" in trajectory else _cited(row)),
        "model": _text(about.get("model")),
        "stop_reason": _text(about.get("stop_reason")),
        "gates": _texts(about.get("gates")),
        "reject_reasons": _texts(about.get("reject_reasons")),
        "metadata": _json(dict(about)),
    }  # fmt: skip


def _answer(row: Row) -> str:
    """The answer in the text of a row that does not say it apart."""
    return next((piece.body.strip() for piece in reversed(row.parsed.of("answer"))), "")


def _calls(row: Row) -> Iterator[dict[str, Any]]:
    """The calls in its text, each with what stands as its result."""
    results = {piece.call: piece.body.strip("\n") for piece in row.parsed.of("tool_output")}
    for piece in row.parsed.of("call_tool"):
        parameters = read_attributes(piece.attributes)
        name, theirs = parameters.pop("name", ""), row.arguments(piece)
        given = parameters if theirs is None else theirs
        yield {"tool_name": name, "query": piece.body, "parameters": given, "result": results.get(piece.call)}


def _cited(row: Row) -> list[str]:
    return list(dict.fromkeys(citation.paper_id for citation in row.parsed.cited if citation.paper_id))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else _json(value)


def _texts(value: Any) -> list[str]:
    return [_text(one) for one in value] if isinstance(value, list) else []


def _json(value: Mapping[str, Any] | Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
