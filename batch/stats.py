"""The numbers of a run, in the shape of the earlier scripts' stats file."""

import re
import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NUMBER = re.compile(r"\d+")
_LONGEST_REASON, _MOST_REASONS, _SHOWN = 200, 100, 3


class Stats:
    """Sums over a run's records, added one by one; nothing of a record is kept."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """accepted, rejected, failed"""
        self._sums: Counter[str] = Counter()
        self._seen: dict[str, Counter[str]] = {
            name: Counter()
            for name in (
                "topics",
                "question_types",
                "stop_reasons",
                "reject_reasons",
                "fail_reasons",
                "gates",
                "tool_errors",
                "endpoints",
            )
        }

    def add(self, kind: str, record: Mapping[str, Any]) -> None:
        """Count a record, or what it says of itself (`topic`, `question_type`, `metadata`)."""
        metadata = record["metadata"]
        self.counts[kind] += 1
        if kind == "accepted":
            self._seen["topics"][record["topic"]] += 1
            self._seen["question_types"][record["question_type"]] += 1
            self._sums["tool_calls"] += metadata["total_tool_calls"]
        self._seen["stop_reasons"][metadata["stop_reason"]] += 1
        self._seen["reject_reasons"].update(metadata["reject_reasons"])
        self._sums["replies"] += metadata.get("turns", 0)
        gates = metadata.get("gates", [])
        self._seen["gates"].update(gates)
        self._sums["clean"] += not gates and not metadata["reject_reasons"]
        self._seen["tool_errors"].update(metadata["tool_errors"])
        answered = metadata.get("endpoints") or [metadata.get("endpoint")] * metadata.get("turns", 0)
        self._seen["endpoints"].update(address for address in answered if address)
        for name in ("input_tokens", "output_tokens"):
            self._sums[name] += metadata["usage"][name]
        for name in ("model_seconds", "tool_seconds"):
            self._sums[name] += metadata[name]

    def to_dict(self) -> dict[str, Any]:
        """All sums, as JSON."""
        return {"counts": self.counts, "sums": self._sums, "seen": self._seen}

    def add_all(self, other: "Stats") -> None:
        """Count what others add up to."""
        self.counts.update(other.counts)
        self._sums.update(other._sums)
        for name, counter in self._seen.items():
            counter.update(other._seen[name])

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Stats":
        """What `to_dict` made."""
        found = cls()
        found.counts.update(stored["counts"])
        found._sums.update(stored["sums"])
        for name, counter in found._seen.items():
            counter.update(stored["seen"][name])
        return found

    def copy(self) -> "Stats":
        """The same, to be added to apart."""
        return Stats.from_dict(self.to_dict())

    @property
    def replies(self) -> int:
        """Replies of the model in all records."""
        return self._sums["replies"]

    @property
    def output_tokens(self) -> int:
        """Tokens that the model wrote in them."""
        return self._sums["output_tokens"]

    @property
    def tool_errors(self) -> int:
        """Calls in them that failed."""
        return self._seen["tool_errors"].total()

    @property
    def endpoints(self) -> Counter[str]:
        """Replies by the address that gave them."""
        return self._seen["endpoints"]

    @property
    def reasons(self) -> Counter[str]:
        """Why records were rejected."""
        return self._seen["reject_reasons"]

    def add_failure(self, row: Mapping[str, Any]) -> None:
        """Count a row of the failed: one reason for all that say the same with other numbers."""
        self.counts["failed"] += 1
        reason, reasons = plain_reason(row), self._seen["fail_reasons"]
        reasons[reason if reason in reasons or len(reasons) < _MOST_REASONS else "other"] += 1

    def content(self, *, questions: int, asked: int, bad_rows: int, about: Mapping[str, Any]) -> dict[str, Any]:
        """The stats file. accepted + rejected + failed + pending = `asked`, always: the samples wanted of `questions`.

        `topics`, `question_types` and `avg_tool_calls` describe the accepted; the rest both. Tokens are as the server
        counted them; seconds are summed over questions, so they exceed the run's own time when it is concurrent.
        """
        total, sums, seen = self.counts["accepted"], self._sums, self._seen
        return {
            "total_samples": total,
            "topics": dict(seen["topics"]),
            "question_types": dict(seen["question_types"]),
            "avg_tool_calls": round(sums["tool_calls"] / total, 3) if total else 0,
            **about,
            "questions": questions,
            "samples": asked,
            "accepted": total,
            "rejected": self.counts["rejected"],
            "failed": self.counts["failed"],
            "pending": asked - self.counts.total(),
            "bad_rows": bad_rows,
            "stop_reasons": dict(seen["stop_reasons"]),
            "reject_reasons": dict(seen["reject_reasons"]),
            "fail_reasons": dict(seen["fail_reasons"]),
            "gates": dict(seen["gates"]),
            "pass_every_gate": sums["clean"],
            "tool_errors": dict(seen["tool_errors"]),
            "endpoints": dict(seen["endpoints"]),
            "tokens": {"input": sums["input_tokens"], "output": sums["output_tokens"]},
            "seconds": {"model": round(sums["model_seconds"], 3), "tools": round(sums["tool_seconds"], 3)},
        }


def shares(endpoints: Mapping[str, int]) -> list[str]:
    """A line for each address and its share of the replies, the greatest first; none where there is only one."""
    total = sum(endpoints.values())
    each = [f"{name}: {many:,} replies, {100 * many / total:.0f} %" for name, many in commonest(endpoints)]
    return each if len(each) > 1 else []


def plain_reason(row: Mapping[str, Any]) -> str:
    """Why a question failed, without the numbers in which two such reasons may differ."""
    said = _NUMBER.sub("#", f"{row['error']}: {row['message']}")
    return said if len(said) <= _LONGEST_REASON else f"{said[:_LONGEST_REASON]}…"


def describe(stats: Mapping[str, Any]) -> str:
    """The statistics in a few lines for the end of a command."""
    counts = ", ".join(f"{stats[name]} {name}" for name in ("accepted", "rejected", "failed", "pending"))
    samples = "" if stats["samples"] == stats["questions"] else f", {stats['samples']} samples"
    lines = [f"{stats['questions']} question{'s' * (stats['questions'] != 1)}{samples}: {counts}"]
    if stats["rejected"]:
        lines.append(f"rejected for {_listed(stats['reject_reasons'])}")
    if finished := stats["accepted"] + stats["rejected"]:
        clean = stats["pass_every_gate"]
        failed = f"; the others fail {_listed(stats['gates'])}" if stats["gates"] else ""
        lines.append(f"{clean} of {finished} pass every gate ({100 * clean / finished:.0f} %){failed}")
    lines.extend(shares(stats["endpoints"]))
    if stats["failed"]:
        lines.extend(f"{count} failed: {reason}" for reason, count in commonest(stats["fail_reasons"])[:_SHOWN])
        lines.append(f"run the same command again to retry the {stats['failed']} failed")
    return "\n".join(lines)


def next_commands(stats: Mapping[str, Any], run: Path) -> list[str]:
    """What to do next with a run."""
    found, named = [], quoted(run)
    if stats["accepted"]:
        found.append(f"trajgraph export {named} --format messages")
    if stats["accepted"] + stats["rejected"]:
        found += [f"trajgraph audit {named}", f"trajgraph report {named}"]
    if stats["rejected"] and not stats["pending"]:
        found.append("the same command with --redo rejected (or one of the reasons), and another --temperature, say")
    return found


def quoted(path: Path) -> str:
    """A path as a word of a shell's command, no flag."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in commonest(counts))


def commonest(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Names with their counts, the greatest first."""
    return sorted(counts.items(), key=lambda one: -one[1])
