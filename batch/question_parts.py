"""Where questions are read from: JSONL, as it is or compressed, Parquet, or a folder of such files, line by line."""

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from backends.errors import UsageError

Stamp = tuple[int, int]
"""A file's size and time of change."""
_JSONL = (".jsonl", ".ndjson", ".json")
_PACKED = (".gz", ".zst")
_BATCH, _READ = 1000, 1 << 20


def question_parts(path: Path) -> list[Path]:
    """The files that hold the questions, in order of their names. Raises UsageError for a folder without any."""
    if not path.is_dir():
        return [path]
    found = sorted(part for part in path.iterdir() if part.is_file() and _is_part(part.name))
    if not found:
        raise UsageError(f"{path}: no questions in this folder (.jsonl, .jsonl.gz, .jsonl.zst or .parquet)")
    return found


def _is_part(name: str) -> bool:
    bare = next((name.removesuffix(end) for end in _PACKED if name.endswith(end)), name)
    return not name.startswith((".", "_")) and (bare.endswith(_JSONL) or name.endswith(".parquet"))


@contextmanager
def open_part(part: Path) -> Iterator[tuple[Iterator[bytes], BinaryIO]]:
    """The lines of a part, and the file itself as it lies on disk. Raises UsageError for one that cannot be read."""
    with part.open("rb") as file:
        try:
            yield _lines(part, file), file
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise UsageError(f"{part}: {getattr(error, 'strerror', None) or error} (--questions-file)") from error


def _lines(part: Path, file: BinaryIO) -> Iterator[bytes]:
    if part.suffix in _PACKED and not os.fstat(file.fileno()).st_size:
        raise EOFError("it is empty, and no compressed file")
    if part.suffix == ".gz":
        return iter(gzip.GzipFile(fileobj=file))
    if part.suffix == ".zst":
        return _split(_unpacked(file))
    return _rows(part, file) if part.suffix == ".parquet" else iter(file)


def _unpacked(file: BinaryIO) -> Iterator[bytes]:
    """What zstd frames hold. Raises EOFError where the last one is cut off."""
    frame = None
    while read := file.read(_READ):
        while read:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(read)
            read, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame:
        raise EOFError("Compressed file ended before the end of its last frame")


def _split(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).splitlines(keepends=True) or [b""]
        if rest.endswith(b"\n"):
            whole, rest = [*whole, rest], b""
        yield from whole
    if rest:
        yield rest


def _rows(part: Path, file: BinaryIO) -> Iterator[bytes]:
    """Each row of a Parquet file as a line of JSON."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(f"{part}: Parquet is an extra: pip install 'trajgraph[training]'") from error
    try:
        table = parquet.ParquetFile(file)
        for batch in table.iter_batches(_BATCH):
            for row in batch.to_pylist():
                yield json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n"
    except arrow.ArrowException as error:
        raise UsageError(f"{part}: no Parquet that can be read ({' '.join(str(error).split())[:200]})") from error


def stamp_of(file: BinaryIO) -> Stamp:
    """Of an open file."""
    about: Any = os.fstat(file.fileno())
    return about.st_size, about.st_mtime_ns
