"""The files that the records of one kind are in: sealed parts of so many each, and the one that is appended to.

`…_incremental.jsonl` is appended to. When it holds as many records as a part is to have, it is renamed to
`…_incremental_part00001.jsonl`, and perhaps packed to `….jsonl.zst`; the next record begins a new file. Whoever appends
holds the file's lock, and so does the one who renames it. Parts of replies' tokens become `….parquet`.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import zstandard

from backends.errors import UsageError
from batch.jsonl import is_row, replaced
from batch.packed import UNREADABLE, lines_in

_PART = re.compile(r"_part(\d{5,})\.(?:jsonl(?:\.zst)?|parquet)$")


def part_at(path: Path, number: int) -> Path:
    """Where a part is sealed."""
    return path.with_name(f"{path.stem}_part{number:05d}.jsonl")


def parts_of(path: Path) -> dict[int, Path]:
    """The sealed parts by their numbers, in order. Of one that was killed while it was packed, the whole one counts."""
    numbers = {number for name in _names(path.parent) if (number := number_in(path, name))}
    numbers |= set(range(1, max(numbers, default=0) + 1))  # a listing may miss one that is packed meanwhile
    while _now_at(path, after := max(numbers, default=0) + 1):
        numbers.add(after)
    each = ((number, _now_at(path, number)) for number in sorted(numbers))
    return {number: part for number, part in each if part}


def _names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def number_in(path: Path, name: str) -> int | None:
    """The number of a part of this file by its name; None of any other file."""
    match = _PART.search(name)
    is_own = match and name.startswith(path.stem) and match.start() == len(path.stem)
    return int(match[1]) if match and is_own and (_has_tables(path) or not name.endswith(".parquet")) else None


def _has_tables(path: Path) -> bool:
    """Whether it is replies' tokens, which become Parquet."""
    return path.stem.endswith("_tokens")


def _now_at(path: Path, number: int) -> Path | None:
    """A part as it is now: packed, or plain; None where it is not."""
    plain = part_at(path, number)
    packed = plain.with_suffix(".parquet") if _has_tables(path) else plain.with_name(f"{plain.name}.zst")
    return next((part for part in (packed, plain, packed) if os.path.lexists(part)), None)  # packed in between


def files_of(path: Path) -> list[Path]:
    """All files that the records are in."""
    return [*parts_of(path).values(), *([path] if path.exists() else [])]


def whole(path: Path) -> Path:
    """The file that a part is a part of; any other file itself."""
    return path.with_name(f"{_PART.sub('', path.name)}.jsonl") if _PART.search(path.name) else path


def next_number(path: Path, number: int = 0) -> int:
    """The number that the file which is appended to will have; none below the given one is looked for."""
    number = number or max(parts_of(path), default=0) + 1
    while _now_at(path, number):
        number += 1
    return number


def files_from(path: Path, number: int = 1) -> Iterator[tuple[int, Path, BinaryIO]]:
    """Each file from a part's number on, opened, with its number; the one that is appended to comes last, with the
    number that it will have. None is left out that is sealed or packed meanwhile. Raises UsageError for a part that
    cannot be opened.
    """
    while True:
        with _opened(path) as last:  # before one looks: if it is sealed then, it is found as a part
            if not _now_at(path, number):
                later = [one for one in parts_of(path) if one > number]  # some were taken out by hand
                if not later:
                    if last:
                        yield number, path, last
                    return
                number = later[0]
        with _opened_part(path, number) as (part, file):
            yield number, part, file
        number += 1


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO | None]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        yield None
    else:
        with file:
            yield file


@contextmanager
def _opened_part(path: Path, number: int) -> Iterator[tuple[Path, BinaryIO]]:
    plain = part_at(path, number)
    packed = plain.with_name(f"{plain.name}.zst")
    for part in (packed, plain, packed):
        with _opened(part) as file:
            if file:
                yield part, file
                return
    raise UsageError(f"{_now_at(path, number) or plain} cannot be opened: put it back, or move it away")


def whole_lines(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """The whole lines of an open file from where it is read to, up to its end of now. Raises UsageError for a packed
    one that is damaged.
    """
    if path.suffix == ".zst":
        try:
            yield from lines_in(path.name, file)
        except UNREADABLE as error:
            raise UsageError(f"{path}: damaged ({error}); move it away, and its questions are asked again") from error
        return
    fcntl.flock(file, fcntl.LOCK_SH)  # none is read that is taken back, as on a full disk
    size = os.fstat(file.fileno()).st_size
    fcntl.flock(file, fcntl.LOCK_UN)
    at = file.tell()
    for line in file:
        at += len(line)
        if not line.endswith(b"\n") or at > size:
            if not _PART.search(path.name):
                return  # another process is just writing it
            if not is_row(line):
                raise UsageError(f"{path}: cut off; take its last line out, and its question is asked again")
            line += b"\n"  # an editor took it
        yield line


def seal(path: Path, number: int) -> None:
    """Make the file that is appended to this part. It is locked."""
    path.rename(part_at(path, number))
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def packed_part(part: Path) -> Path:
    """Pack a part with zstd; the plain one goes when the packed one is on disk. Returns what it is now."""
    if part.suffix == ".zst":
        part.with_suffix("").unlink(missing_ok=True)  # of a process that was killed here
        return part
    packed = part.with_name(f"{part.name}.zst")
    with part.open("rb") as source, replaced(packed, binary=True) as target:
        zstandard.ZstdCompressor().copy_stream(source, target)
    sync_folder(part.parent)
    part.unlink()
    return packed
