"""JSON lines on disk: appended whole or not at all, read back line by line."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_SAMPLE_ID = re.compile(rb'\{"sample_id": "([^"]+)"')
_SUMMARY = ("sample_id", "topic", "question_type", "metadata")
_METADATA = b', "metadata": {'
_TEXT = rb'("[^"\\]*(?:\\.[^"\\]*)*")'
_HEAD = re.compile(
    rb"\{"
    + b", ".join(b'"%b": %b' % (name, _TEXT) for name in (b"sample_id", b"question", b"topic", b"question_type"))
    + rb', "trajectory": \{'
)


def encoded(row: Mapping[str, Any]) -> bytes:
    """A row as its line, without the end; a lone surrogate becomes `?`."""
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "replace")


def append_line(path: Path, line: bytes) -> None:
    """Append one line and wait until it is on disk; what could only be written in part is taken back."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        left = memoryview(line + b"\n")
        try:
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def drop_torn_line(path: Path) -> None:
    """Cut off a last line that a crash left without its end."""
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
            target.truncate(kept)


def sample_ids(path: Path) -> Iterator[str]:
    """The `sample_id` of each line, without parsing the rest of it where we wrote it."""
    for line in _lines(path):
        match = _SAMPLE_ID.match(line)
        yield match[1].decode() if match else str(json.loads(line)["sample_id"])


def summaries(path: Path) -> Iterator[dict[str, Any]]:
    """`sample_id`, `topic`, `question_type` and `metadata` of each record."""
    return map(summary, _lines(path))


def summary(line: bytes) -> dict[str, Any]:
    """What a record says of itself. The trajectory between its head and its tail is not parsed where we wrote it, so
    that a hundred thousand records are looked through in seconds.
    """
    head, at = _HEAD.match(line), line.rfind(_METADATA)
    if not head or at < 0:
        row = json.loads(line)
        return {name: row[name] for name in _SUMMARY}
    metadata = line[at + len(_METADATA) - 1 :].rstrip()[:-1]
    return dict(zip(_SUMMARY, map(json.loads, (head[1], head[3], head[4], metadata)), strict=True))


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file; none when it does not exist."""
    return map(json.loads, _lines(path))


def write_whole(path: Path, text: str) -> None:
    """Write a file in one step: the old one stays until the new one is on disk."""
    new = path.with_name(f".{path.name}.new")
    with new.open("w", encoding="utf-8", errors="replace") as target:
        target.write(text)
        target.flush()
        os.fsync(target.fileno())
    new.replace(path)


def _lines(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as lines:
            yield from lines
