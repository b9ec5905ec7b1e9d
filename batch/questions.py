"""The questions file: checked once from end to end, then streamed."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from backends.errors import UserError
from backends.json_codec import load_json
from serializers.bounds import storable
from serializers.record import QuestionRow


@dataclass(frozen=True)
class BadRow:
    """An unusable row: its line in the file, its place among the rows (both 1-based), and what is wrong with it."""

    line: int
    place: int
    why: str


@dataclass(frozen=True)
class QuestionsFile:
    """What the check found."""

    path: Path
    rows: int
    sha256: str
    bad: tuple[BadRow, ...]
    stamp: tuple[int, int]
    """Its size and time of change when it was checked."""

    def asked(self, limit: int | None = None) -> int:
        """Usable rows among the first `limit`."""
        return min(self.rows, limit or self.rows) - len(self.bad_within(limit))

    def stream(self, limit: int | None = None) -> Iterator[tuple[int, QuestionRow]]:
        """(place, row) of the usable rows among the first `limit`; a place is 1-based and counts bad rows too.

        Raises UserError when the file is no longer what it was when it was checked.
        """
        bad = {row.place for row in self.bad}
        with self.path.open("rb") as lines:
            for place, line in enumerate(filter(bytes.strip, lines), start=1):
                if _stamp(lines) != self.stamp:
                    raise UserError(
                        f"{self.path} was changed during the run: put it back, and the same command continues"
                    )
                if limit is not None and place > limit:
                    return
                if place in bad:
                    continue
                row = _read_row(line)
                if isinstance(row, str):
                    raise UserError(f"{self.path}, row {place}: {row}")
                yield place, row

    def bad_within(self, limit: int | None = None) -> list[BadRow]:
        """Bad rows among the first `limit`."""
        return [row for row in self.bad if limit is None or row.place <= limit]


def check_questions(path: Path, *, skip_bad_rows: bool = False, limit: int | None = None) -> QuestionsFile:
    """Read the whole file once. Raises UserError when it is missing, empty, or has a bad row (within `limit`, if one is
    given) that is not to be skipped.
    """
    digest = hashlib.sha256()
    rows = 0
    bad: list[BadRow] = []
    try:
        if not path.is_file() and path.exists():
            raise UserError(f"{path}: no regular file, and it is read more than once: write it to a file first")
        with path.open("rb") as lines:
            stamp = _stamp(lines)
            for number, line in enumerate(lines, start=1):
                digest.update(line)
                if not line.strip():
                    continue
                rows += 1
                row = _read_row(line)
                if isinstance(row, str):
                    if not skip_bad_rows and (limit is None or rows <= limit):
                        raise UserError(f"{path}, line {number}: {row} (leave such rows out with --skip-bad-rows)")
                    bad.append(BadRow(number, rows, row))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error} (--questions-file)") from error
    if rows == len(bad):
        raise UserError(f"{path}: no question in it (--questions-file wants one JSON object a line)")
    return QuestionsFile(path, rows, digest.hexdigest(), tuple(bad), stamp)


def _stamp(file: BinaryIO) -> tuple[int, int]:
    about = os.fstat(file.fileno())
    return about.st_size, about.st_mtime_ns


def _read_row(line: bytes) -> QuestionRow | str:
    """The row, or what is wrong with it."""
    try:
        row: Any = load_json(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error})"
    if not isinstance(row, dict):
        return "not a JSON object"
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        return 'no "question" in it'
    terms = row.get("expected_search_terms")
    return QuestionRow(
        question=question,
        topic=str(row.get("topic") or ""),
        question_type=str(row.get("question_type") or ""),
        expected_search_terms=storable(terms) if isinstance(terms, list) else [],
    )
