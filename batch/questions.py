"""The questions file: checked once from end to end, then streamed."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from backends.errors import UsageError
from backends.json_codec import load_json
from batch.question_parts import Stamp, open_part, question_parts, stamp_of
from serializers.bounds import storable
from serializers.record import QuestionRow

_KNOWN = ("question", "topic", "question_type", "expected_search_terms")
_MOST_COMPARED = 2_000_000
"""Questions among which those are looked for that stand more than once."""


@dataclass(frozen=True)
class BadRow:
    """An unusable row: its line in the file, its number among the rows (both 1-based), and what is wrong with it."""

    line: int
    row_number: int
    why: str


@dataclass(frozen=True)
class Share:
    """Every `count`-th question, from the one at `index` on."""

    index: int = 0
    count: int = 1

    def holds(self, row_number: int) -> bool:
        """Whether a question, by its 1-based place in the file, is in this share."""
        return (row_number - 1) % self.count == self.index

    def of(self, index: int, count: int) -> "Share":
        """A share of this share."""
        return Share(self.index + self.count * index, self.count * count)


@dataclass(frozen=True)
class QuestionsFile:
    """What the check found, and which of the questions are asked."""

    path: Path | str
    rows: int
    sha256: str
    bad: tuple[BadRow, ...]
    stamp: tuple[Stamp, ...]
    """Of each of its parts, when it was checked."""
    limit: int | None = None
    """Only the first so many rows."""
    share: Share = field(default_factory=Share)
    repeated: int = 0
    """Questions that had stood before, the first of them in `first_repeated` (its row, and that of the other)."""
    first_repeated: tuple[int, int] = (0, 0)

    @cached_property
    def _bad_numbers(self) -> frozenset[int]:
        return frozenset(row.row_number for row in self.bad)

    def asks(self, row_number: int) -> bool:
        """Whether a question, by its 1-based place in the file, is asked."""
        last = min(self.rows, self.limit or self.rows)
        return 0 < row_number <= last and self.share.holds(row_number) and row_number not in self._bad_numbers

    @cached_property
    def asked(self) -> int:
        """How many questions are asked."""
        last = min(self.rows, self.limit or self.rows)
        return len(range(self.share.index + 1, last + 1, self.share.count)) - len(self.bad_rows())

    def stream(self, wanted: Callable[[int], bool] | None = None) -> Iterator[tuple[int, QuestionRow]]:
        """(row number, row) of the questions that are asked, or of those `wanted`; a number is 1-based and counts bad
        rows too.

        Raises UsageError when the file is no longer what it was when it was checked.
        """
        parts, numbers = question_parts(self.path), count(1)
        changed = UsageError(f"{self.path} was changed during the run: put it back and run the same command to resume")
        if len(parts) != len(self.stamp):
            raise changed
        for part, stamp in zip(parts, self.stamp, strict=True):
            with open_part(part) as (lines, file):
                for line, row_number in zip(filter(bytes.strip, lines), numbers, strict=False):
                    if self.limit is not None and row_number > self.limit:
                        return
                    if row_number in self._bad_numbers or not self.share.holds(row_number):
                        continue
                    if wanted and not wanted(row_number):
                        continue
                    if stamp_of(part, file) != stamp:
                        raise changed
                    row = _read_row(line)
                    if isinstance(row, str):
                        raise UsageError(f"{self.path}, row {row_number}: {row}")
                    yield row_number, row

    def bad_rows(self) -> list[BadRow]:
        """The unusable rows among those that are asked."""
        return [
            row for row in self.bad
            if self.share.holds(row.row_number) and (self.limit is None or row.row_number <= self.limit)
        ]  # fmt: skip


def check_questions(
    path: Path | str,
    *,
    skip_bad_rows: bool = False,
    limit: int | None = None,
    share: Share | None = None,
    dedupe: bool = False,
    flag: str = "--questions-file",
) -> QuestionsFile:
    """Read the whole file once; with `dedupe`, a question that has stood before is no row that is asked. Raises
    UsageError when it is missing, empty, or has a bad row (within `limit`, if there is one) that is not to be skipped;
    `flag` names the file.
    """
    digest = hashlib.sha256()
    fix = flag if flag != "--questions-file" else "leave such rows out with --skip-bad-rows"
    rows, stamps = 0, list[Stamp]()
    bad: list[BadRow] = []
    places: dict[int, int] = {}
    repeated, first = 0, (0, 0)
    try:
        if isinstance(path, Path) and not path.is_file() and not path.is_dir() and path.exists():
            raise UsageError(f"{path}: no regular file, and it is read more than once: write it to a file first")
        for part in question_parts(path):
            with open_part(part) as (lines, file):
                stamps.append(stamp_of(part, file))
                for number, line in enumerate(lines, start=1):
                    digest.update(line)
                    if not line.strip():
                        continue
                    rows += 1
                    row = _read_row(line)
                    if isinstance(row, str):
                        if not skip_bad_rows and (limit is None or rows <= limit):
                            raise UsageError(f"{part}, line {number}: {row} ({fix})")
                        bad.append(BadRow(number, rows, row if str(part) == str(path) else f"{part.name}: {row}"))
                        continue
                    if rows > _MOST_COMPARED:
                        continue
                    before = places.setdefault(hash(" ".join(row["question"].split())), rows)
                    if before != rows:
                        repeated, first = repeated + 1, first if repeated else (rows, before)
                        if dedupe:
                            bad.append(BadRow(number, rows, f"the same question as row {before}"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error} ({flag})") from error
    if rows == len(bad):
        raise UsageError(f"{path}: no question in it ({flag} wants one JSON object a line)")
    return QuestionsFile(
        path, rows, digest.hexdigest(), tuple(bad), tuple(stamps), limit, share or Share(), repeated, first
    )


def _read_row(line: bytes) -> QuestionRow | str:
    """The row, or what is wrong with it."""
    try:
        row: Any = load_json(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON ({_encoding_of(line) or error})"
    if not isinstance(row, dict):
        return "not a JSON object"
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        return 'no "question" in it'
    terms = row.get("expected_search_terms")
    found = QuestionRow(
        question=question,
        topic=str(row.get("topic") or ""),
        question_type=str(row.get("question_type") or ""),
        expected_search_terms=storable(terms) if isinstance(terms, list) else [],
    )
    if others := {name: storable(value) for name, value in row.items() if name not in _KNOWN}:
        found["fields"] = others
    return found


def _encoding_of(line: bytes) -> str:
    """What a line is that is no UTF-8, and how to make it so; empty when that is not known."""
    if b"\0" in line:
        return "it is UTF-16: iconv -f UTF-16 -t UTF-8 FILE > NEW"
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        try:
            line.decode("gb18030")
        except UnicodeDecodeError:
            return "it is no UTF-8"
        return "it is no UTF-8, perhaps GBK: iconv -f GBK -t UTF-8 FILE > NEW"
    if line.count(b"\r") > 1:
        return "its lines end with CR alone: tr '\\r' '\\n' < FILE > NEW"
    return "it is a JSON array: jq -c '.[]' FILE > NEW" if line.strip() == b"[" else ""
