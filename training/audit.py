"""The audit: how many trajectories of a file pass which gate, and what is wrong with one of them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from quality.gates import GATES, Thresholds, failed_gate_names, failed_gates, is_error
from training.rows import Row, Unknown
from training.sources import Source

_LONGEST_HEAD = 28
_VERDICTS = ("grounded", "never_retrieved", "retrieved_later", "numbers_missing")


@dataclass
class Audit:
    """Counts over one file, or over all."""

    name: str
    rows: int = 0
    unreadable: int = 0
    unknown_shapes: int = 0
    unknown: Unknown = field(default_factory=Unknown)
    clean: int = 0
    """Rows that pass every gate."""
    unfit: int = 0
    """Rows that fail a hard one, or cannot be judged."""
    outputs: int = 0
    errors: int = 0
    whole_answers: int = 0
    gates: Counter[str] = field(default_factory=Counter)
    citations: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row, failed: Sequence[str], hard: Sequence[str]) -> None:
        """Count a row that fails these gates."""
        self.rows += 1
        self.unreadable += not row.record and not row.unknown
        self.unknown_shapes += bool(row.unknown)
        self.unknown.add(row)
        self.clean += not failed and bool(row.record)
        self.unfit += bool(set(failed) & set(hard)) or not row.record
        outputs = row.parsed.of("tool_output")
        self.outputs += len(outputs)
        self.errors += sum(map(is_error, outputs))
        self.whole_answers += any(piece.closed for piece in row.parsed.of("answer"))
        self.gates.update(failed)
        self.citations.update(citation.verdict for citation in row.parsed.cited)
        self.citations["numbers_missing"] += sum(bool(citation.numbers_missing) for citation in row.parsed.cited)

    def content(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "file": self.name, "rows": self.rows, "unreadable": self.unreadable, "unknown_shapes": self.unknown_shapes,
            "unknown_reasons": self.unknown.counts(), "clean": self.clean, "unfit": self.unfit,
            "whole_answers": self.whole_answers, "tool_outputs": self.outputs, "tool_errors": self.errors,
            "gates": {name: self.gates[name] for name in GATES},
            "citations": {name: self.citations[name] for name in _VERDICTS},
        }  # fmt: skip


def audit(
    given: Sequence[Source],
    thresholds: Thresholds,
    hard: Sequence[str],
    keep: Callable[[Row], object] | None = None,
    count: Callable[[str], int] | None = None,
) -> tuple[list[Audit], Audit]:
    """Counts by file, its parts together, and in total; `keep(row)` is called for each row that fails no hard gate."""
    parts = [(source, path) for source in given for path in source.files]
    files, total = [Audit(path.name) for _, path in parts], Audit("total")
    for (source, path), counts in zip(parts, files, strict=True):
        for row in source.rows(path, count):
            failed = failed_gate_names(row.parsed, thresholds) if row.record else []
            counts.add(row, failed, hard)
            total.add(row, failed, hard)
            if keep and row.record and not set(failed) & set(hard):
                keep(row)
    return files, total


def table(audits: Sequence[Audit], hard: Sequence[str]) -> str:
    """For a terminal: a line for each gate, a column for each file; hard gates are marked."""
    heads = [audit.name for audit in audits]
    legend: list[str] = []
    if any(len(head) > _LONGEST_HEAD for head in heads):  # names are not cut: numbers stand for them
        named = [(f"({number})" if audit.name != "total" else "total") for number, audit in enumerate(audits, 1)]
        legend = [f"{short} {head}" for short, head in zip(named, heads, strict=True) if short != head]
        heads = named
    widths = [max(len(head), 7) for head in heads]
    lines = [*legend, f"{'':<24}" + "".join(f"  {head:>{width}}" for head, width in zip(heads, widths, strict=True))]

    def line(name: str, values: list[Any]) -> None:
        lines.append(
            f"{name:<24}" + "".join(f"  {value:>{width}}" for value, width in zip(values, widths, strict=True))
        )

    line("rows", [audit.rows for audit in audits])
    line("whole answers", [audit.whole_answers for audit in audits])
    line("tool outputs", [audit.outputs for audit in audits])
    line("  of them errors", [audit.errors for audit in audits])
    for name in GATES:
        line(f"{'! ' if name in hard else '  '}{name}", [audit.gates[name] for audit in audits])
    for verdict in _VERDICTS:
        line(f"citations {verdict.replace('_', ' ')}", [audit.citations[verdict] for audit in audits])
    line("unreadable lines", [audit.unreadable for audit in audits])
    if any(audit.unknown_shapes for audit in audits):
        line("a shape I do not know", [audit.unknown_shapes for audit in audits])
    line("fail a hard gate (!)", [audit.unfit - audit.unreadable - audit.unknown_shapes for audit in audits])
    line("pass every gate", [audit.clean for audit in audits])
    of_files = audits[:-1] if len(audits) > 1 else audits  # the last is the total
    lines += [line for audit in of_files for line in audit.unknown.lines()]
    return "\n".join(lines)


def explained(row: Row, thresholds: Thresholds) -> str:
    """What is wrong with one trajectory, gate by gate, and where each of its citations leads."""
    if row.unknown:
        return f"{row.sample_id}: a shape I do not know: {row.why_unknown}"
    failed = failed_gates(row.parsed, thresholds)
    lines = [f"{row.sample_id} ({row.path.name}, line {row.line}): {row.question}"]
    for name, segments in failed.items():
        where = ", ".join(f"{piece.kind}{f' {piece.call}' if piece.call else ''}" for piece in segments)
        lines.append(f"  {name}: {GATES[name].__doc__}{f' ({where})' if where else ''}")
    if not failed:
        lines.append("  passes every gate")
    for citation in row.parsed.cited:
        where = f"call {citation.call}, place {citation.place}" if citation.call or citation.place else "nowhere"
        missing = f"; numbers not in it: {', '.join(citation.numbers_missing)}" if citation.numbers_missing else ""
        lines.append(f"  cites {citation.paper_id or 'nothing'}: {citation.verdict}, {where}{missing}")
    return "\n".join(lines)
