"""`--where`: which rows an export takes, by what they hold."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from backends.errors import UsageError
from quality.gates import GATES, Thresholds, failed_gate_names, is_error, share_of_useless
from training.atif import mapping
from training.messages import thoughtless, turns
from training.rows import Row

_CONDITION = re.compile(r"\s*(\w+)\s*(!=|>=|<=|=|>|<)\s*(.*?)\s*")
_FIELDS: dict[str, Callable[[Row], Any]] = {
    "sample_id": lambda row: row.sample_id,
    "topic": lambda row: str(row.record.get("topic", "")),
    "question_type": lambda row: str(row.record.get("question_type", "")),
    "calls": lambda row: len(row.parsed.of("call_tool")),
    "turns": turns,
    "tokens": lambda row: row.tokens,
    "cites": lambda row: len(row.parsed.cited),
    "thoughtless": thoughtless,
    "nudges": lambda row: len(row.nudges),
    "repairs": lambda row: len(row.listed("repairs")),
    "tool_errors": lambda row: sum(map(is_error, row.parsed.of("tool_output"))),
    "tool_error_share": lambda row: share_of_useless(row.parsed),
    "numbers_missing": lambda row: sum(bool(citation.numbers_missing) for citation in row.parsed.cited),
    "grounded": lambda row: sum(citation.verdict == "grounded" for citation in row.parsed.cited),
    "grounded_share": lambda row: _share(citation.verdict == "grounded" for citation in row.parsed.cited),
    "output_tokens": lambda row: _whole(mapping(row.metadata.get("usage")).get("output_tokens")),
    "stop_reason": lambda row: str(row.metadata.get("stop_reason") or ""),
    "model": lambda row: str(row.metadata.get("model") or ""),
}
_TEXTS = ("sample_id", "topic", "question_type", "stop_reason", "model", "gate", "passes_every_gate")


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _share(each: Iterable[bool]) -> float:
    """The share of what is so; 0 of nothing."""
    found = list(each)
    return sum(found) / len(found) if found else 0.0


def conditions(
    stated: Sequence[str], thresholds: Thresholds, tokens: Callable[[Row], int] | None = None
) -> Callable[[Row], bool]:
    """`calls>=2`, `topic=Lipids`, `gate!=duplicate_call`: all must hold. `tokens` counts those of a whole row. Raises
    UsageError for what is none.
    """
    checks = []
    fields: dict[str, Callable[[Row], Any]] = {
        **_FIELDS,
        **({"tokens": tokens} if tokens else {}),
        "gate": lambda row: failed_gate_names(row.parsed, thresholds),
        "gates": lambda row: len(failed_gate_names(row.parsed, thresholds)),
        "passes_every_gate": lambda row: "false" if failed_gate_names(row.parsed, thresholds) else "true",
    }
    for text in stated:
        match = _CONDITION.fullmatch(text)
        if match and match[1] in GATES and match[1] not in fields:
            raise UsageError(f"--where {text}: a gate is failed or not: gate={match[1]} or gate!={match[1]}")
        if not match or match[1] not in fields:
            raise UsageError(f"--where {text}: write FIELD=VALUE (also != > < >= <=) with one of {', '.join(fields)}")
        if match[1] == "gate" and match[3] not in GATES:
            raise UsageError(f"--where {text}: the gates are {', '.join(GATES)}")
        if match[1] == "passes_every_gate" and match[3] not in ("true", "false"):
            raise UsageError(f"--where {text}: write true or false")
        if match[1] in _TEXTS and match[2] not in ("=", "!="):
            raise UsageError(f"--where {text}: {match[1]} is a text; write = or !=")
        checks.append((fields[match[1]], match[2], match[3]))
    return lambda row: all(_holds(read(row), operator, value) for read, operator, value in checks)


def _holds(value: Any, operator: str, wanted: str) -> bool:
    if isinstance(value, list):
        return (wanted in value) == (operator == "=")
    if isinstance(value, int | float):
        try:
            number = float(wanted)
        except ValueError:
            number = math.nan
        if math.isnan(number):
            raise UsageError(f"--where: {wanted!r} is no number")
        holds: dict[str, bool] = {
            "=": value == number, "!=": value != number, ">": value > number, "<": value < number,
            ">=": value >= number, "<=": value <= number,
        }  # fmt: skip
        return holds[operator]
    return bool(value == wanted if operator == "=" else operator == "!=" and value != wanted)
