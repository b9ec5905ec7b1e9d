"""The records of one kind, read in order whatever files they are in; what the others append, as it comes."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from batch.append import Appender
from batch.jsonl import Row, Summary, atomic_write, damaged, named, replaced, summary
from batch.packed import packed_into
from batch.parts import files_from, files_of, next_number, whole_lines
from serializers.record import sample_of

_GROUP = 200
"""Records that are held in memory while a file is divided."""


def sample_ids(path: Path) -> Iterator[str]:
    """The `sample_id` of each line."""
    return _each(path, named)


def summaries(path: Path) -> Iterator[Summary]:
    """What each record says of itself."""
    return _each(path, summary)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file, whole or in parts; none when it does not exist."""
    return _each(path, json.loads)


def _each(path: Path, read: Callable[[bytes], Row]) -> Iterator[Row]:
    """What `read` makes of each line; nothing when there is no file. Raises UsageError for a line that is damaged."""
    for _, where, file in files_from(path):
        for number, line in enumerate(whole_lines(where, file), start=1):
            with damaged(where, number):
                row = read(line)
            yield row


class Tail:
    """The whole lines that others append to a file, from where it ends now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number, self._at = next_number(path), path.stat().st_size if path.exists() else 0

    def read(self) -> Iterator[bytes]:
        """The lines since the last time."""
        for number, where, file in files_from(self._path, self._number):
            if number != self._number:
                self._number, self._at = number, 0
            for end, line in lines_after(where, file, self._at):
                self._at = end
                yield line
            if where != self._path:
                self._number, self._at = number + 1, 0


def lines_after(path: Path, file: Any, at: int) -> Iterator[tuple[int, bytes]]:
    """(where it ends, line) of each whole line of an open file behind a place, in bytes of what is not packed."""
    end = 0
    if path.suffix != ".zst":
        file.seek(at)
        end = at
    for line in whole_lines(path, file):
        end += len(line)
        if end > at:
            yield end, line


def set_aside(path: Path, aside: Path, stays: Callable[[Summary], bool]) -> int:
    """Move the records that do not stay to another file; returns how many."""
    moved, target = 0, Appender(aside)
    for where in files_of(path):
        group, before = list[bytes](), moved
        for line, said in _lines_of(where):
            if not stays(said):
                moved, group = moved + 1, [*group, line.rstrip(b"\n")]
            if len(group) == _GROUP:
                target.append(group)
                group = []
        if group:
            target.append(group)
        if moved > before:
            _keep(where, stays)
    return moved


def _lines_of(where: Path) -> Iterator[tuple[bytes, Summary]]:
    with where.open("rb") as file:
        for number, line in enumerate(whole_lines(where, file), start=1):
            with damaged(where, number):
                said = summary(line)
            yield line, said


def _keep(where: Path, stays: Callable[[Summary], bool]) -> None:
    """Keep only some records of a file, in one step."""
    with (
        replaced(where, binary=True) as target,
        packed_into(target, "zstd" if where.suffix == ".zst" else None) as packed,
    ):
        for line, said in _lines_of(where):
            if stays(said):
                packed.write(line)


def put_in_order(path: Path) -> None:
    """Sort the records of a file by question and sample; only their ids and places are held in memory."""
    places: list[tuple[tuple[int, int], int]] = []
    at = 0
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            places.append((sample_of(named(line)), at))
            at += len(line)

        def line_at(place: int) -> str:
            lines.seek(place)
            return lines.readline().decode()

        if places != sorted(places):
            atomic_write(path, (line_at(place) for _, place in sorted(places)))
