"""Which rows an export takes, and how many are left out for what."""

from bisect import insort
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from quality.gates import Thresholds, failed_gate_names
from training.questions import KnownQuestions
from training.rows import Row, Unknown
from training.sources import Prompts, Source

_WHERE, _HARD, _LOST = "left out by --where", "fail a hard gate", "made under a prompt that is not kept"
_KNOWN, _WORSE, _UNREADABLE = "whose question is among those of --without", "beside better ones (--best)", "unreadable"
_SHAPE = "of a shape that is not known"
_UNNAMED = "without the name of a prompt, exported without one: no run beside them says what they were made under"
_TOOLS = "whose tools are defined beside the conversation, exported without the definitions"
_GIVEN = "without the name of a prompt, exported under the one of --system-prompt-file"
UNTOLD = (_UNNAMED, _GIVEN, _TOOLS)
LEFT_OUT = (_UNREADABLE, _SHAPE, _WHERE, _KNOWN, _HARD, _LOST, _WORSE)
_Place = tuple[Path, int]


@dataclass
class Choice:
    """The rows to take. `hard` are the gates that none of them may fail; `best` so many of each question, the first by
    gates failed, failed calls, and length.
    """

    keep: Callable[[Row], bool]
    thresholds: Thresholds
    hard: Sequence[str]
    prompts: Prompts
    without: KnownQuestions = field(default_factory=lambda: KnownQuestions(()))
    best: int | None = None
    unknown: Unknown = field(default_factory=Unknown)
    seen: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("trajectories read", *LEFT_OUT, *UNTOLD), 0))
    """How many rows there were, and why so many of them are left out."""

    def rows(self, given: Source, count: Callable[[str], int] | None) -> Iterator[Row]:
        """Those to take, read once, or twice where the best are to be known first."""
        best = self._best(given, count) if self.best is not None else None
        for row in chain.from_iterable(given.rows(path, count) for path in given.files):
            self.seen["trajectories read"] += 1
            if reason := self._against(row):
                self.seen[reason] += 1
                self.unknown.add(row)
            elif best is not None and (row.path, row.line) not in best:
                self.seen[_WORSE] += 1
            else:
                self.seen[_UNNAMED] += self.prompts.system(row) is None
                self.seen[_GIVEN] += self.prompts.is_given(row)
                self.seen[_TOOLS] += row.has_tools_beside
                yield row

    def said(self) -> str:
        """What was left out, behind the words that nothing is left."""
        if not (counted := "; ".join(f"{self.seen[name]:,} rows {name}" for name in LEFT_OUT if self.seen[name])):
            return ""
        kept = ""
        if self.seen[_LOST]:
            given = self.prompts.given is not None
            kept = (
                ". The prompt of --system-prompt-file is not theirs"
                if given
                else (". Put the file beside their …_run.json, or give the prompt as --system-prompt-file")
            )
        shape = "".join(f". {line}" for line in self.unknown.lines())
        return f" (left out: {counted}{kept}{shape})"

    def _against(self, row: Row) -> str | None:
        """Why a row is not taken; None where it is."""
        if not row.record:
            return _SHAPE if row.unknown else _UNREADABLE
        if not self.keep(row):
            return _WHERE
        if self.without.holds(row.question):
            return _KNOWN
        if set(failed_gate_names(row.parsed, self.thresholds)) & set(self.hard):
            return _HARD
        return _LOST if self.prompts.is_lost(row) else None

    def _best(self, given: Source, count: Callable[[str], int] | None) -> set[_Place]:
        """Where the best rows of each question stand."""
        found: dict[int, list[tuple[tuple[int, int, int], _Place]]] = defaultdict(list)
        for row in chain.from_iterable(given.rows(path, count) for path in given.files):
            if not self._against(row):
                rows = found[hash(row.question)]
                insort(rows, (row.faults(self.thresholds), (row.path, row.line)))
                del rows[self.best :]
        return {place for rows in found.values() for _, place in rows}
