"""The types of an export's columns, as a card says them: `datasets` takes them from there, and not from the first rows,
which may be empty where later ones are not.
"""

from collections.abc import Mapping
from typing import Any

_CALL = ("tool_name", "query", "parameters", "result", "timestamp")
_LISTS = {
    "tool_calls": _CALL, "messages": ("role", "content", "tool_call_id"), "prompt": ("role", "content", "tool_call_id"),
    "conversations": ("from", "value"), "chosen": ("role", "content"), "rejected": ("role", "content"),
}  # fmt: skip
"""Lists of objects of texts; of `conversations` the row says it."""
_NESTED = ("agent", "steps", "final_metrics", "extra")
"""Columns of ATIF, whose objects have what the calls of a run have."""


def features(sample: Mapping[str, Any]) -> str:
    """As YAML, for a row like this one; empty where the types are not known before all rows are read."""
    if any(name in sample for name in _NESTED):
        return ""
    return (
        "dataset_info:\n  features:\n" + "\n".join(f"  - {_column(name, one)}" for name, one in sample.items()) + "\n"
    )


def _column(name: str, value: Any) -> str:
    if name == "train_spans":
        return f"{{name: {name}, sequence: {{sequence: int64}}}}"
    fields = tuple(value[0]) if name == "conversations" and value else _LISTS.get(name)
    if fields:
        return f"{{name: {name}, list: [{', '.join(f'{{name: {field}, dtype: string}}' for field in fields)}]}}"
    if isinstance(value, list):
        return f"{{name: {name}, sequence: string}}"
    kinds = {bool: "bool", int: "int64"}
    return f"{{name: {name}, dtype: {kinds.get(type(value), 'string')}}}"
