"""Records as a table that `datasets` loads: the same columns and types in every row, whatever a tool gave."""

import json
from collections.abc import Mapping
from typing import Any

from training.atif import listed
from training.rows import Row


def as_columns(row: Row, system: str | None) -> dict[str, Any]:
    """A record in columns of one type each, with its system prompt; what differs from row to row is JSON in a text."""
    trajectory, about = row.trajectory, row.metadata
    return {
        "question": row.question,
        "system_prompt": system or "",
        "interleaved_text": row.text,
        "final_answer": _text(trajectory.get("final_answer")),
        "tool_calls": [
            {
                "tool_name": _text(call.get("tool_name")), "query": _text(call.get("query")),
                "parameters": _json(call.get("parameters")), "result": _json(call.get("result")),
                "timestamp": _text(call.get("timestamp")),
            }
            for call in listed(trajectory.get("tool_calls"))
        ],
        "pmids_cited": _texts(trajectory.get("pmids_cited")),
        "model": _text(about.get("model")),
        "stop_reason": _text(about.get("stop_reason")),
        "gates": _texts(about.get("gates")),
        "reject_reasons": _texts(about.get("reject_reasons")),
        "metadata": _json(dict(about)),
    }  # fmt: skip


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else _json(value)


def _texts(value: Any) -> list[str]:
    return [_text(one) for one in value] if isinstance(value, list) else []


def _json(value: Mapping[str, Any] | Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
