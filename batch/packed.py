"""Lines of bytes from a file that may be compressed or a table, and into one."""

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, BinaryIO

import zstandard

from backends.errors import UsageError, extra_missing

PACKED = (".gz", ".zst")
TABLE = ".parquet"
UNREADABLE = (OSError, EOFError, zlib.error, zstandard.ZstdError)
"""What reading such a file may raise."""
_READ = 1 << 20
_BATCH = 500
"""Rows of a table that are held in memory."""


def lines_in(name: str, file: BinaryIO) -> Iterator[bytes]:
    """The lines of an open file, unpacked as its name says; of Parquet, each row as JSON. Raises EOFError where it is
    cut off, and UsageError for Parquet that cannot be read.
    """
    if name.endswith(TABLE):
        return _rows(name, file)
    if not name.endswith(PACKED):
        return iter(file)
    if not file.read(1):
        raise EOFError("it is empty, and no compressed file")
    file.seek(0)
    return iter(gzip.GzipFile(fileobj=file)) if name.endswith(".gz") else _split(_unpacked(file))


@contextmanager
def packed_into(file: IO[bytes], how: str | None) -> Iterator[Any]:
    """A file to write to, packed as `gzip` or `zstd`, or as it is."""
    if how is None:
        yield file
    elif how == "gzip":
        with gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as packed:
            yield packed
    else:
        with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as packed:
            yield packed


def _rows(name: str, file: BinaryIO) -> Iterator[bytes]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise extra_missing(f"{name}: Parquet", "training") from error
    try:
        for batch in parquet.ParquetFile(file).iter_batches(_BATCH):
            for row in batch.to_pylist():
                yield json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n"
    except (arrow.ArrowException, ValueError, LookupError, OverflowError) as error:  # texts, zones and dates of it
        raise UsageError(f"{name}: no Parquet that can be read ({' '.join(str(error).split())[:200]})") from error


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
    """The same bytes, line by line; a line ends with LF alone, as in any file that is opened as bytes."""
    rest: list[bytes] = []
    for piece in pieces:
        *whole, last = piece.split(b"\n")
        for line in whole:
            yield b"".join([*rest, line, b"\n"])
            rest = []
        if last:
            rest.append(last)
    if rest:
        yield b"".join(rest)
