"""Trajectories from any file: a run's, the earlier scripts', repaired or broken ones; read one by one."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from backends.errors import UsageError
from backends.printable import one_line
from batch.packed import UNREADABLE, lines_in
from batch.parts import files_from
from quality.gates import Thresholds, Trajectory, estimated_tokens, failed_gate_names, is_error, parse_trajectory
from serializers.bounds import storable
from serializers.segments import Segment
from serializers.tags import read_attributes
from training.atif import READ_FROM, listed, parsed
from training.shapes import as_record
from training.unknown import UnknownShape

_LONGEST = 200


@dataclass
class Unknown:
    """Rows of shapes that are not known: how many for which reason, and the first of them."""

    found: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, row: "Row") -> None:
        """Count a row, if its shape is not known."""
        if row.unknown:
            kind = row.unknown.partition(": ")[0].partition(" (")[0]  # what differs from row to row stands behind
            many, first = self.found.get(kind, (0, row.why_unknown))
            self.found[kind] = (many + 1, first)

    def counts(self) -> dict[str, int]:
        """How many for each reason, the most first."""
        return dict(sorted(((why, many) for why, (many, _) in self.found.items()), key=lambda one: -one[1]))

    def lines(self) -> list[str]:
        """Each reason, with the first of its rows."""
        return [
            f"{self.found[why][1]}{f' (and {many - 1:,} more)' if many > 1 else ''}"
            for why, many in self.counts().items()
        ]


@dataclass(frozen=True)
class Row:
    """One line of a file. `record` is empty where the line is no JSON object."""

    path: Path
    line: int
    record: Mapping[str, Any]
    """As ours are, whatever shape it was written in; empty where it is not known."""
    digest: int = 0
    """Of the line; the same in every process."""
    count: Callable[[str], int] | None = None
    """Counts the tokens of a text; where there is none, they are estimated."""
    unknown: str = ""
    """Why a line is an object of a shape that is not known: no record, and no trajectory without an answer."""

    @property
    def why_unknown(self) -> str:
        """Where it stands, and why its shape is not known; empty where it is."""
        return f"{self.place}: {one_line(self.unknown)[:_LONGEST]}" if self.unknown else ""

    @property
    def place(self) -> str:
        """Its file and line."""
        return f"{self.path}, line {self.line}"

    @property
    def sample_id(self) -> str:
        """Its id, else its line and a digest: rows without an id of several files are told apart."""
        found = self.record.get("sample_id")
        return f"line-{self.line}-{self.fingerprint}" if found in (None, "") else str(found)

    @cached_property
    def fingerprint(self) -> str:
        """Of its file's name, its place there, and what it holds."""
        about = f"{self.path.name}\n{self.line}\n{self.digest}"
        return hashlib.sha256(about.encode("utf-8", "replace")).hexdigest()[:8]

    @property
    def names(self) -> tuple[str, ...]:
        """What it may be called by: its id, the same apart from another's, or its line."""
        return self.sample_id, self.apart, f"line {self.line}"

    @property
    def apart(self) -> str:
        """Its id where another row has the same."""
        return f"{self.sample_id}-{self.fingerprint}"

    @property
    def question(self) -> str:
        """The question, wherever the row has it."""
        return str(self.record.get("question") or self.trajectory.get("question") or "")

    @property
    def own_prompt(self) -> str | None:
        """The system prompt, where the row brings it along."""
        found = self.record.get("system_prompt")
        return found if isinstance(found, str) and found else None

    @property
    def has_tools_beside(self) -> bool:
        """Whether tools are defined beside the conversation, and not in the system prompt."""
        tools = self.record.get("tools") or self.record.get("functions")
        as_data = parsed(tools)
        return bool(tools if as_data is None else as_data)

    @property
    def trajectory(self) -> Mapping[str, Any]:
        """The record's `trajectory`."""
        found = self.record.get("trajectory")
        return found if isinstance(found, Mapping) else {}

    @property
    def text(self) -> str:
        """The interleaved text."""
        found = self.trajectory.get("interleaved_text")
        return found if isinstance(found, str) else ""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The record's `metadata`."""
        found = self.record.get("metadata")
        return found if isinstance(found, Mapping) else {}

    def listed(self, name: str) -> list[Any]:
        """A list in the metadata; empty where there is none."""
        found = self.metadata.get(name)
        return found if isinstance(found, list) else []

    @property
    def nudges(self) -> list[tuple[int, str]]:
        """Where in the text the model was asked again, and with which words."""
        listed = [nudge for nudge in self.listed("nudges") if isinstance(nudge, Mapping)]
        return [(nudge["at"], str(nudge.get("text"))) for nudge in listed if type(nudge.get("at")) is int]

    @property
    def reminders(self) -> Mapping[str, str]:
        """What stood behind a tool output for the model, by the output's number."""
        found = self.metadata.get("reminders")
        return {str(at): str(text) for at, text in found.items()} if isinstance(found, Mapping) else {}

    def arguments(self, call: Segment) -> Any:
        """The very arguments of a call of others; None where the text alone says them."""
        kept = listed(self.trajectory.get("tool_calls"))
        return kept[call.call - 1].get("arguments") if 0 < call.call <= len(kept) else None

    @property
    def is_of_others(self) -> bool:
        """Whether another agent made it: its model read the question as it is, under the prompt that stands in it."""
        return READ_FROM in self.metadata

    @property
    def tools(self) -> list[str]:
        """The name in each call."""
        return [str(read_attributes(piece.attributes).get("name", "")) for piece in self.parsed.of("call_tool")]

    @property
    def reject_reasons(self) -> list[str] | None:
        """Why the run rejected it; None where it does not say."""
        found = self.metadata.get("reject_reasons")
        return [str(reason) for reason in found] if isinstance(found, list) else None

    @property
    def seconds(self) -> float | None:
        """Seconds that the model took."""
        found = self.metadata.get("model_seconds")
        return found if isinstance(found, int | float) and 0 <= found < math.inf else None

    @property
    def tokens(self) -> int:
        """Tokens of the text: counted, else estimated."""
        return estimated_tokens(self.text) if self.parsed.tokens is None else self.parsed.tokens

    def faults(self, thresholds: Thresholds) -> tuple[int, int, int]:
        """By what the better of two is told: gates failed, failed calls, length; less is better."""
        errors = sum(map(is_error, self.parsed.of("tool_output")))
        return len(failed_gate_names(self.parsed, thresholds)), errors, len(self.text)

    @cached_property
    def parsed(self) -> Trajectory:
        """The trajectory, parsed."""
        return parse_trajectory(self.record, self.count(self.text) if self.count else None)


def read_rows(path: Path, count: Callable[[str], int] | None = None) -> Iterator[Row]:
    """Every line that is not blank, of the parts of a file, too. Raises UsageError when it cannot be read."""
    where = path
    try:
        for _, where, file in files_from(path):
            for number, line in enumerate(_lines(str(where), file), start=1):
                if line.strip():
                    record, unknown = _record(line)
                    yield Row(where, number, record, _digest(line.strip()), count, unknown)
    except UNREADABLE as error:
        raise UsageError(f"{where}: {getattr(error, 'strerror', None) or error}") from error


def _digest(line: bytes) -> int:
    return int.from_bytes(hashlib.sha256(line).digest()[:8])


def _lines(name: str, file: BinaryIO) -> Iterator[bytes]:
    """The rows of a file: a line each; in a `.json` that is one document, it, or each of its list."""
    if name.endswith(".json"):
        try:
            whole = json.loads(file.read())
        except (ValueError, RecursionError):
            file.seek(0)
        else:
            return (json.dumps(one).encode() for one in (whole if isinstance(whole, list) else [whole]))
    return lines_in(name, file)


def _record(line: bytes) -> tuple[Mapping[str, Any], str]:
    """The record in a line, or why its shape is not known; one that is no JSON object is unreadable."""
    try:
        record: Any = json.loads(line)
        if b"\\ud" in line.lower():  # lone surrogates, which nothing can write
            record = storable(record, 200)
    except (ValueError, RecursionError):
        return {}, ""
    if not isinstance(record, dict):
        return {}, ""
    try:
        return as_record(record), ""
    except UnknownShape as error:
        return {}, str(error)
