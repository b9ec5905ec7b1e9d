"""What a sealed part adds up to, kept beside it, so that nobody reads it for that again."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batch.finished import Finished, Kind
from batch.jsonl import atomic_write, damaged, summary
from batch.parts import number_in, packed_part, parts_of, whole_lines
from batch.stats import Stats

_VERSION = 1


@dataclass
class Counts:
    """Sums over records, and which samples they are."""

    stats: Stats = field(default_factory=Stats)
    finished: Finished = field(default_factory=Finished)


def counts_of(part: Path) -> Counts | None:
    """What is kept of a part; None where nothing is, or the part is not the one that was counted."""
    try:
        content = read_checked(beside(part))
        if content["version"] != _VERSION or content["part"] != stamp_of(part):
            return None
        return Counts(Stats.from_dict(content["stats"]), Finished.from_dict(content["samples"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def finish_part(part: Path, kind: Kind, *, pack: bool) -> None:
    """Pack a sealed part if asked, and count it. Done again, it changes nothing. Raises UsageError for damage."""
    if pack or part.suffix == ".zst":
        part = packed_part(part)
    if counts_of(part):
        return
    stamp, found = stamp_of(part), Counts()
    with part.open("rb") as file:
        for number, line in enumerate(whole_lines(part, file), start=1):
            with damaged(part, number):
                record = summary(line)
                if found.finished.add(record["sample_id"], kind):
                    found.stats.add(kind, record)
    content = {"version": _VERSION, "part": stamp, "stats": found.stats.to_dict(), "samples": found.finished.to_dict()}
    write_checked(beside(part), content)


def finish_parts(path: Path, kind: Kind, *, pack: bool) -> None:
    """Do so with all parts of a kind: what a process that was killed has left. Counts without a part go."""
    parts = parts_of(path)
    for part in parts.values():
        finish_part(part, kind, pack=pack)
    kept = {beside(part).name for part in parts.values()}
    for left in path.parent.iterdir():
        is_counts = left.name.endswith("_counts.json") and number_in(path, left.name.replace("_counts.json", ".jsonl"))
        if is_counts and left.name not in kept:
            left.unlink()


def stamp_of(part: Path) -> list[Any]:
    """By which a part is known: its name, its size and its time of change."""
    about = part.stat()
    return [part.name, about.st_size, about.st_mtime_ns]


def beside(part: Path) -> Path:
    """Where the counts of a part are."""
    return part.with_name(f"{part.name.partition('.jsonl')[0]}_counts.json")


def write_checked(path: Path, content: Mapping[str, Any]) -> None:
    """Put JSON on disk in one step, behind its hash."""
    text = json.dumps(content, ensure_ascii=True)
    atomic_write(path, [f"{hashlib.sha256(text.encode()).hexdigest()}\n", text])


def read_checked(path: Path) -> dict[str, Any]:
    """What `write_checked` wrote. Raises OSError, and ValueError for anything else."""
    digest, _, text = path.read_text(encoding="utf-8").partition("\n")
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise ValueError("cut off")
    content: dict[str, Any] = json.loads(text)
    return content
