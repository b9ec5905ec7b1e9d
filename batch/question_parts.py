"""Where questions are read from: JSONL, as it is or compressed, Parquet, or a folder of such files, line by line; on a
disk, or in a store (`s3://`, `hf://`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from backends.errors import UsageError
from batch.packed import PACKED, TABLE, UNREADABLE, lines_in
from batch.remote import RemoteFile, folder_at, told

Stamp = tuple[int | str, ...]
"""A file's size and time of change, or the hash that its store keeps of it."""
_JSONL = (".jsonl", ".ndjson", ".json")


def question_parts(place: Path | str) -> list[Path | RemoteFile]:
    """The files that hold the questions, in order of their names; a place in a store is a text. Raises UsageError for a
    folder without any, and OSError.
    """
    if isinstance(place, str):
        files, is_folder = folder_at(place)
        found: Any = [file for file in files if _is_part(file.name)] if is_folder else files
    elif not place.is_dir():
        return [place]
    else:
        found = sorted(part for part in place.iterdir() if _is_part(part.name) and not part.is_dir())
    if not found:
        raise UsageError(f"{place}: no questions in this folder (.jsonl, .jsonl.gz, .jsonl.zst or .parquet)")
    return list(found)


def _is_part(name: str) -> bool:
    bare = next((name.removesuffix(end) for end in PACKED if name.endswith(end)), name)
    return not name.startswith((".", "_")) and (bare.endswith(_JSONL) or name.endswith(TABLE))


@contextmanager
def open_part(part: Path | RemoteFile) -> Iterator[tuple[Iterator[bytes], BinaryIO]]:
    """The lines of a part, and the file itself as it lies there. Raises UsageError for one that cannot be read."""
    with part.open("rb") as file:
        yield _guarded(part, file), file


def _guarded(part: Path | RemoteFile, file: BinaryIO) -> Iterator[bytes]:
    try:
        with told(str(part)) if isinstance(part, RemoteFile) else nullcontext():
            yield from lines_in(str(part), file)
    except UNREADABLE as error:
        raise UsageError(f"{part}: {getattr(error, 'strerror', None) or error}") from error


def stamp_of(part: Path | RemoteFile, file: BinaryIO) -> Stamp:
    """Of an open part."""
    if isinstance(part, RemoteFile):
        return part.size, part.hash or ""
    about = os.fstat(file.fileno())
    return about.st_size, about.st_mtime_ns
