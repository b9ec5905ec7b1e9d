"""The index of a run: up to which byte its records are counted, what they add up to, and which samples they are.

It only saves reading: what was written since is read from the records; where it does not fit them, all are read anew.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from batch.finished import Finished, Kind
from batch.jsonl import Summary, atomic_write, damaged, summary
from batch.logs import log
from batch.run_files import RunFiles
from batch.stats import Stats

_VERSION = 1
_COMPARED = 4096
"""Bytes before the end of what is counted by which a file is known."""
KINDS: tuple[Kind, ...] = ("accepted", "rejected")


class Differs(Exception):
    """The records are not those that were counted."""


@dataclass
class _Place:
    """How far a file is read."""

    bytes: int = 0
    lines: int = 0
    ends: str = ""
    """The hash of what stands before that place."""
    stamp: tuple[int, ...] = ()
    """Of the file when it was read: its place on the disk and its times."""
    cleaned: int = 0
    """Up to where the checkpoints of its samples are deleted for certain."""


@dataclass
class RunIndex:
    """What the records of a run say, read once."""

    files: RunFiles
    stats: Stats = field(default_factory=Stats)
    finished: Finished = field(default_factory=Finished)
    places: dict[Kind, _Place] = field(default_factory=lambda: {kind: _Place() for kind in KINDS})

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
        """All that the records hold, without what is on disk."""
        index = cls(files)
        index.advance()
        return index

    def advance(self) -> None:
        """Read what was appended since."""
        for kind in KINDS:
            for _, record in self._since(kind, self.places[kind]):
                if self.finished.add(record["sample_id"], kind):
                    self.stats.add(kind, record)

    def uncleaned(self) -> Iterator[Summary]:
        """The records whose checkpoints may not be deleted yet."""
        for kind in KINDS:
            place = self.places[kind]
            until = place.bytes
            for end, record in self._since(kind, _Place(place.cleaned), known=True):
                if end > until:
                    break
                yield record

    def save(self, *, all_cleaned: bool = False, kept: bool = False) -> None:
        """Put it on disk. Checkpoints are deleted soon after a record is written: of what was counted at the last
        `save` they are, by now; with `all_cleaned`, of everything; none where they are `kept`.
        """
        if all_cleaned and not kept:
            self._clean()
        content = {
            "version": _VERSION, "run_id": self.files.run_id, "stats": self.stats.to_dict(),
            "files": {kind: vars(place) for kind, place in self.places.items()}, "samples": self.finished.to_dict(),
        }  # fmt: skip
        text = json.dumps(content, ensure_ascii=True)
        atomic_write(self.files.index, [f"{hashlib.sha256(text.encode()).hexdigest()}\n", text])
        if not kept:
            self._clean()

    def _clean(self) -> None:
        for place in self.places.values():
            place.cleaned = place.bytes

    @classmethod
    def _stored(cls, files: RunFiles) -> "RunIndex":
        """What is on disk; an empty one where there is none, or one that cannot be read."""
        try:
            digest, _, text = files.index.read_text(encoding="utf-8").partition("\n")
            if hashlib.sha256(text.encode()).hexdigest() != digest:
                raise ValueError("cut off")
            content = json.loads(text)
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

    def _since(self, kind: Kind, place: _Place, *, known: bool = False) -> Iterator[tuple[int, Summary]]:
        """Each whole record behind a place, with where it ends; the place goes along. Raises UsageError for a damaged
        one, and Differs when the file is not the one that the place is in.
        """
        path = self.files.outputs[kind]
        if not path.exists():
            if place.bytes and not known:
                raise Differs
            return
        with path.open("rb") as lines:
            fcntl.flock(lines, fcntl.LOCK_SH)  # none is read that is taken back, as on a full disk
            about = os.fstat(lines.fileno())
            size, stamp = about.st_size, (about.st_ino, about.st_mtime_ns, about.st_ctime_ns)
            fcntl.flock(lines, fcntl.LOCK_UN)
            edited = 0 < size == place.bytes and tuple(place.stamp) != stamp
            if not known and (size < place.bytes or edited or _ends(lines, place.bytes) != place.ends):
                raise Differs
            lines.seek(place.bytes)
            for line in lines:
                if not line.endswith(b"\n") or place.bytes + len(line) > size:
                    break
                with damaged(path, place.lines + 1):
                    record = summary(line)
                place.bytes, place.lines = place.bytes + len(line), place.lines + 1
                yield place.bytes, record
            place.ends, place.stamp = _ends(lines, place.bytes), stamp


def _ends(file: Any, at: int) -> str:
    if not at:
        return ""
    file.seek(max(at - _COMPARED, 0))
    return hashlib.sha256(file.read(min(at, _COMPARED))).hexdigest()
