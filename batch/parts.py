"""The files that the records of one kind are in: sealed parts of so many each, and the one that is appended to.

`…_incremental.jsonl` is appended to. When it holds as many records as a part is to have, it is renamed to
`…_incremental_part00001.jsonl`, and perhaps packed to `….jsonl.zst`; the next record begins a new file. Whoever appends
holds the file's lock, and so does the one who renames it.
"""

import fcntl
import glob
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import zstandard

from backends.errors import UsageError
from batch.jsonl import replaced
from batch.packed import UNREADABLE, lines_in

_PART = re.compile(r"_part(\d{5,})\.jsonl(?:\.zst)?$")


def parts_of(path: Path) -> dict[int, Path]:
    """The sealed parts by their numbers, in order. Of one that was killed while it was packed, the whole one counts."""
    found: dict[int, Path] = {}
    for part in sorted(path.parent.glob(f"{glob.escape(path.stem)}_part*.jsonl*")):
        if number := number_of(part.name):
            found[number] = part  # the packed one, which is there only when it is whole, comes last
    return dict(sorted(found.items()))


def files_of(path: Path) -> list[Path]:
    """All files that the records are in."""
    return [*parts_of(path).values(), *([path] if path.exists() else [])]


def number_of(name: str) -> int | None:
    """The number of the part that a file is; None of any other."""
    return int(match[1]) if (match := _PART.search(name)) else None


def whole(path: Path) -> Path:
    """The file that a part is a part of; any other file itself."""
    return path.with_name(f"{_PART.sub('', path.name)}.jsonl") if _PART.search(path.name) else path


def files_from(path: Path, number: int = 0) -> Iterator[tuple[int, Path, BinaryIO]]:
    """Each file from a part's number on, opened, with its number; the one that is appended to comes last, with the
    number that it will have. None is left out that is sealed meanwhile.
    """
    while True:
        last = _opened(path)  # before one looks: if it is sealed then, it is found as a part
        try:
            parts = parts_of(path)
            number = max(number, 1)
            left = [one for one in parts if one >= number]
            if not left:
                if last:
                    yield max([number, *(one + 1 for one in parts)]), path, last
                return
            for one in left:
                with suppress(FileNotFoundError):  # packed meanwhile: looked for again
                    with parts[one].open("rb") as file:
                        yield one, parts[one], file
                    number = one + 1
                    continue
                break
        finally:
            if last:
                last.close()


def _opened(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


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
            if _PART.search(path.name):
                raise UsageError(f"{path}: cut off; take its last line out, and its question is asked again")
            return  # another process is just writing it
        yield line


def seal(path: Path) -> int:
    """Make the file that is appended to the next part; returns its number."""
    number = max(parts_of(path), default=0) + 1
    path.rename(path.with_name(f"{path.stem}_part{number:05d}.jsonl"))
    sync_folder(path.parent)
    return number


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
