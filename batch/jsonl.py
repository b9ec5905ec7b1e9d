"""JSON lines on disk: appended whole or not at all, read back line by line."""

import asyncio
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec
from typing_extensions import TypedDict

from backends.errors import UsageError
from serializers.bounds import storable
from serializers.record import sample_of

Row = TypeVar("Row")


class Summary(TypedDict):
    """What a record says of itself, without its trajectory."""

    sample_id: str
    question: str
    topic: str
    question_type: str
    metadata: dict[str, Any]


class _Id(TypedDict):
    sample_id: str


_SUMMARY, _ID = msgspec.json.Decoder(Summary), msgspec.json.Decoder(_Id)


_GROUP = 200
"""Records that are held in memory while a file is divided."""
_LINE_ENDS = {letter: f"\\u{ord(letter):04x}" for letter in "\u2028\u2029\x85"}


def encoded(row: Mapping[str, Any]) -> bytes:
    """A row as its line, without the end: no character that some readers take for a line's end, no number that is none;
    a lone surrogate becomes `?`.
    """
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(storable(dict(row), 200), ensure_ascii=False, allow_nan=False)
    for letter, escaped in _LINE_ENDS.items():
        text = text.replace(letter, escaped)
    return text.encode("utf-8", "replace")


def append_lines(path: Path, lines: Sequence[bytes]) -> None:
    """Append lines in one write and wait until they are on disk; what could only be written in part is taken back."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # the processes of a run append to the same files
        if (size := os.fstat(descriptor).st_size) and os.pread(descriptor, 1, size - 1) != b"\n":
            truncate_partial_line(path)  # of a process that was killed while it wrote
            size = os.fstat(descriptor).st_size
        left = memoryview(b"".join([line + b"\n" for line in lines]))
        try:
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


class LineWriter:
    """Appends lines to a file for many who wait: what comes while the disk is busy goes together in the next write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def append(self, line: bytes) -> None:
        """Returns when the line is on disk. Raises OSError when it cannot be."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((line, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        await done

    async def _write(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            error: Exception | None = None
            try:
                await asyncio.to_thread(append_lines, self._path, [line for line, _ in group])
            except Exception as failure:
                error = failure
            for _, done in group:
                if not done.done():
                    done.set_exception(error) if error else done.set_result(None)


def truncate_partial_line(path: Path) -> None:
    """Cut off a last line that a crash left without its end; a whole row that only lacks its line feed is kept."""
    if not path.exists():
        return
    with path.open("r+b") as target:
        end = target.seek(0, os.SEEK_END)
        kept = end
        while kept > 0:
            step = min(65536, kept)
            target.seek(kept - step)
            found = target.read(step).rfind(b"\n")
            if found >= 0:
                kept = kept - step + found + 1
                break
            kept -= step
        if kept < end:
            target.seek(kept)
            if _is_row(target.read()):
                target.write(b"\n")
            else:
                target.truncate(kept)


def _is_row(line: bytes) -> bool:
    try:
        return bool(json.loads(line)["sample_id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def sample_ids(path: Path) -> Iterator[str]:
    """The `sample_id` of each line."""
    return _each(path, lambda line: _decoded(_ID, line)["sample_id"])


def summaries(path: Path) -> Iterator[Summary]:
    """What each record says of itself."""
    return _each(path, summary)


def summary(line: bytes) -> Summary:
    """What a record says of itself; its trajectory is passed over unread, at some hundreds of MB a second."""
    return _decoded(_SUMMARY, line)


def _decoded(decoder: "msgspec.json.Decoder[Row]", line: bytes) -> Row:
    try:
        return decoder.decode(line)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error


class Tail:
    """The whole lines that others append to a file, from where it ends now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = path.stat().st_size if path.exists() else 0

    def read(self) -> Iterator[bytes]:
        """The lines since the last time."""
        if not self._path.exists():
            return
        with self._path.open("rb") as lines:
            fcntl.flock(lines, fcntl.LOCK_SH)  # none is read that is taken back, as on a full disk
            lines.seek(self._at)
            for line in lines:
                if not line.endswith(b"\n"):
                    return
                self._at += len(line)
                yield line


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file; none when it does not exist."""
    return _each(path, json.loads)


def atomic_write(path: Path, parts: Iterable[str]) -> None:
    """Write a file in one step: the old one stays until the new one is on disk."""
    with replaced(path) as target:
        target.writelines(parts)


@contextmanager
def replaced(path: Path) -> Iterator[IO[str]]:
    """A file to write in the place of another, which stays until all of the new one is on disk."""
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("w", encoding="utf-8", errors="replace") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def set_aside(path: Path, aside: Path, stays: Callable[[Summary], bool]) -> int:
    """Move the records that do not stay to another file; returns how many."""
    moved, group = 0, list[bytes]()
    for line in _each(path, bytes):
        if not stays(summary(line)):
            moved, group = moved + 1, [*group, line.rstrip(b"\n")]
        if len(group) == _GROUP:
            append_lines(aside, group)
            group = []
    if group:
        append_lines(aside, group)
    if moved:
        atomic_write(path, (line.decode() for line in _each(path, bytes) if stays(summary(line))))
    return moved


def put_in_order(path: Path) -> None:
    """Sort the records of a file by question and sample; only their ids and places are held in memory."""
    places: list[tuple[tuple[int, int], int]] = []
    at = 0
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            places.append((sample_of(_decoded(_ID, line)["sample_id"]), at))
            at += len(line)

        def line_at(place: int) -> str:
            lines.seek(place)
            return lines.readline().decode()

        if places != sorted(places):
            atomic_write(path, (line_at(place) for _, place in sorted(places)))


def _each(path: Path, read: Callable[[bytes], Row]) -> Iterator[Row]:
    """What `read` makes of each line; nothing when there is no file. Raises UsageError for a line that is damaged."""
    if not path.exists():
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return  # another process is just writing it
            with damaged(path, number):
                row = read(line)
            yield row


@contextmanager
def damaged(path: Path, number: int) -> Iterator[None]:
    """Raises UsageError where a line cannot be read."""
    try:
        yield
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{path}, line {number}: damaged ({type(error).__name__}); take the line out, and its question is asked "
            "again"
        ) from error
