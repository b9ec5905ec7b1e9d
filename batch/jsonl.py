"""JSON lines on disk: how a row is written, what is read of it, and files that are replaced whole or not at all."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, Literal, TypeVar, overload

import msgspec
from typing_extensions import TypedDict

from backends.errors import UsageError
from serializers.bounds import storable

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
            if is_row(target.read()):
                target.write(b"\n")
            else:
                target.truncate(kept)


def is_row(line: bytes) -> bool:
    """Whether a line is a whole record."""
    try:
        return bool(json.loads(line)["sample_id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def summary(line: bytes) -> Summary:
    """What a record says of itself; its trajectory is passed over unread, at some hundreds of MB a second."""
    return _decoded(_SUMMARY, line)


def named(line: bytes) -> str:
    """The `sample_id` of a record."""
    return _decoded(_ID, line)["sample_id"]


def _decoded(decoder: "msgspec.json.Decoder[Row]", line: bytes) -> Row:
    try:
        return decoder.decode(line)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error


def atomic_write(path: Path, parts: Iterable[str]) -> None:
    """Write a file in one step: the old one stays until the new one is on disk."""
    with replaced(path) as target:
        target.writelines(parts)


@overload
def replaced(path: Path) -> AbstractContextManager[IO[str]]: ...
@overload
def replaced(path: Path, *, binary: Literal[True]) -> AbstractContextManager[IO[bytes]]: ...
@contextmanager
def replaced(path: Path, *, binary: bool = False) -> Iterator[Any]:
    """A file to write in the place of another, which stays until all of the new one is on disk."""
    new = path.with_name(f".{path.name}.new")
    try:
        new.unlink(missing_ok=True)  # what a crash left, or a link to elsewhere
        with new.open("wb") if binary else new.open("w", encoding="utf-8", errors="replace") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


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
