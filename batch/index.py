"""The index of a run: up to which byte its records are counted, what they add up to, and which samples they are.

It only saves reading: what was written since is read from the records; where it does not fit them, all are read anew.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from batch.finished import Finished, Kind
from batch.jsonl import Summary, damaged, summary
from batch.logs import log
from batch.part_counts import Counts, counts_of, read_checked, stamp_of, write_checked
from batch.parts import files_from, parts_of
from batch.records import lines_after
from batch.run_files import KINDS, RunFiles
from batch.stats import Stats

_VERSION = 2
_COMPARED = 4096
"""Bytes before the end of what is counted by which a file is known."""


class Differs(Exception):
    """The records are not those that were counted."""


@dataclass
class _Place:
    """How far the records of a kind are read."""

    number: int = 1
    """The part that is read, or that the file which is appended to will be."""
    parts: str = ""
    """The hash of what those before it are known by."""
    bytes: int = 0
    lines: int = 0
    ends: str = ""
    """The hash of what stands before that place."""
    stamp: tuple[int, ...] = ()
    """Of the file when it was read: its place on the disk and its times."""
    cleaned: tuple[int, int] = (1, 0)
    """Up to which part and byte the checkpoints of its samples are deleted for certain."""

    def begin(self, number: int) -> None:
        """Stand at the beginning of another part."""
        self.number, self.bytes, self.lines, self.ends, self.stamp = number, 0, 0, "", ()


@dataclass
class RunIndex:
    """What the records of a run say, read once."""

    files: RunFiles
    stats: Stats = field(default_factory=Stats)
    finished: Finished = field(default_factory=Finished)
    places: dict[Kind, _Place] = field(default_factory=lambda: {kind: _Place() for kind in KINDS})
    ahead: bool = False
    """Whether it holds more than is before its places: of a part that is just being sealed."""

    @classmethod
    def read(cls, files: RunFiles) -> "RunIndex":
        """The index as it is on disk, brought up to what the records hold now."""
        index = cls._stored(files)
        try:
            index.advance()
            return index
        except Differs:
            log.info("%s does not fit the records: they are read anew", files.index)
            return cls.anew(files)

    @classmethod
    def anew(cls, files: RunFiles) -> "RunIndex":
        """All that the records hold, without what is on disk of them all; sealed parts have counts of their own."""
        index = cls(files)
        index.advance()
        return index

    def advance(self) -> None:
        """Read what was appended since."""
        self.ahead = False
        for kind in KINDS:
            self._advance(kind, self.files.outputs[kind], self.places[kind])

    def _advance(self, kind: Kind, path: Path, place: _Place) -> None:
        """A part that is not yet counted is read, and read again the next time: its samples are known then. Only behind
        those that are counted may one go on.
        """
        if place.parts != _known_by(path, place.number):
            raise Differs
        seen, goes_on = False, True
        for number, where, file in files_from(path, place.number):
            if number != place.number and place.bytes and not seen:
                raise Differs
            at = place if goes_on else _Place()
            if goes_on and number != place.number:
                place.begin(number)
            seen, is_part = True, where != path
            counts = counts_of(where) if is_part else None
            if at.bytes or not self._add(counts):
                self._read(kind, where, file, at, is_part=is_part)
            goes_on = goes_on and counts is not None
            if goes_on:
                place.begin(number + 1)
            elif is_part:
                at.begin(number)
                self.ahead = True
        if place.bytes and not seen:
            raise Differs
        place.parts = _known_by(path, place.number)

    def _read(self, kind: Kind, where: Path, file: BinaryIO, place: _Place, *, is_part: bool) -> None:
        """Each whole record behind a place; the place goes along. Raises UsageError for a damaged one."""
        about = os.fstat(file.fileno())
        stamp = (about.st_ino, about.st_mtime_ns, about.st_ctime_ns)
        if place.bytes:
            edited = not is_part and about.st_size == place.bytes and tuple(place.stamp) != stamp
            if edited or _ends(where, file, place.bytes) != place.ends:
                raise Differs
        for end, line in lines_after(where, file, place.bytes):
            with damaged(where, place.lines + 1):
                record = summary(line)
                if self.finished.add(record["sample_id"], kind):
                    self.stats.add(kind, record)
            place.bytes, place.lines = end, place.lines + 1
        if not is_part:
            place.ends, place.stamp = _ends(where, file, place.bytes), stamp

    def _add(self, counts: Counts | None) -> bool:
        """Take over what a part adds up to; False where it is not known, or some of it is counted already."""
        if counts is None or not self.finished.add_all(counts.finished):
            return False
        self.stats.add_all(counts.stats)
        return True

    def uncleaned(self) -> Iterator[Summary]:
        """The records whose checkpoints may not be deleted yet."""
        for kind in KINDS:
            place = self.places[kind]
            first, at = place.cleaned
            for number, where, file in files_from(self.files.outputs[kind], first):
                for end, line in lines_after(where, file, at if number == first else 0):
                    if (number, end) <= (place.number, place.bytes):
                        yield summary(line)
                if number >= place.number:
                    break

    def save(self, *, all_cleaned: bool = False, kept: bool = False) -> None:
        """Put it on disk, unless it is ahead of its places. Checkpoints are deleted soon after a record is written: of
        what was counted at the last `save` they are, by now; with `all_cleaned`, of everything; none where they are
        `kept`.
        """
        if self.ahead:
            return
        if all_cleaned and not kept:
            self._clean()
        content = {
            "version": _VERSION, "run_id": self.files.run_id, "stats": self.stats.to_dict(),
            "files": {kind: vars(place) for kind, place in self.places.items()}, "samples": self.finished.to_dict(),
        }  # fmt: skip
        write_checked(self.files.index, content)
        if not kept:
            self._clean()

    def _clean(self) -> None:
        for place in self.places.values():
            place.cleaned = (place.number, place.bytes)

    @classmethod
    def _stored(cls, files: RunFiles) -> "RunIndex":
        """What is on disk; an empty one where there is none, or one that cannot be read."""
        try:
            content = read_checked(files.index)
            if content["version"] != _VERSION or content["run_id"] != files.run_id:
                raise ValueError("of another version or run")
            return cls(
                files, Stats.from_dict(content["stats"]), Finished.from_dict(content["samples"]),
                {kind: _Place(**content["files"][kind]) for kind in KINDS},
            )  # fmt: skip
        except FileNotFoundError:
            return cls(files)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.info("%s cannot be read (%s): the records are read anew", files.index, error)
            return cls(files)


def _known_by(path: Path, number: int) -> str:
    """The hash of what the parts before a number are known by; empty where there are none."""
    try:
        parts = [stamp_of(part) for at, part in parts_of(path).items() if at < number]
    except FileNotFoundError as error:
        raise Differs from error
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest() if parts else ""


def _ends(where: Path, file: BinaryIO, at: int) -> str:
    """The hash of what stands before a place."""
    if not at:
        return ""
    if where.suffix == ".zst":
        file.seek(0)
        last = b""
        for end, line in lines_after(where, file, 0):
            last = (last + line)[-2 * _COMPARED :] if end <= at else last
        file.seek(0)
        return hashlib.sha256(last[-_COMPARED:]).hexdigest()
    file.seek(max(at - _COMPARED, 0))
    return hashlib.sha256(file.read(min(at, _COMPARED))).hexdigest()
