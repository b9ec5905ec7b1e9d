"""Records, appended whole or not at all, and sealed as a part when there are enough of them."""

import asyncio
import fcntl
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from batch.jsonl import truncate_partial_line
from batch.parts import next_number, seal

_READ = 1 << 20


class Appender:
    """Appends records, in one process of perhaps several; `most` are in a part, or None where there are none."""

    def __init__(self, path: Path, most: int | None = None) -> None:
        self._path = path
        self._most = most
        self._number, self._end, self._lines = 0, 0, 0
        """Which part the file will be, up to which place it was counted, and how many lines it had up to there."""

    def append(self, lines: Sequence[bytes]) -> tuple[int, int | None]:
        """Append lines in one write and wait until they are on disk; what could only be written in part is taken back.
        Returns how many of them fitted into the part, and its number if it is full and sealed now.
        """
        descriptor = self._locked()
        try:
            size = self._whole(descriptor)
            room = len(lines) if self._most is None else max(self._most - self._count(descriptor, size), 0)
            left = memoryview(b"".join([line + b"\n" for line in lines[:room]]))
            try:
                while left:
                    left = left[os.write(descriptor, left) :]
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
            is_full = self._most is not None and len(lines) >= room
            return min(room, len(lines)), self._seal() if is_full else None
        finally:
            os.close(descriptor)

    def seal(self) -> int | None:
        """Seal what there is, however little; returns the part's number, or None where there is nothing."""
        descriptor = self._locked()
        try:
            self._number = next_number(self._path, self._number)
            return self._seal() if self._whole(descriptor) else None
        finally:
            os.close(descriptor)

    def _seal(self) -> int | None:
        """None where it fails, as on a full disk: what was appended is there, and is sealed the next time."""
        try:
            seal(self._path, self._number)
            return self._number
        except OSError:
            return None

    def _whole(self, descriptor: int) -> int:
        """The size of the file, without a line that a process left in part which was killed while it wrote."""
        if (size := os.fstat(descriptor).st_size) and os.pread(descriptor, 1, size - 1) != b"\n":
            truncate_partial_line(self._path)
            size = os.fstat(descriptor).st_size
        return size

    def _locked(self) -> int:
        """The file that is appended to, under a lock: not one that another process has sealed meanwhile."""
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # the processes of a run append to the same files
                with suppress(FileNotFoundError):
                    if os.fstat(descriptor).st_ino == self._path.stat().st_ino:
                        return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _count(self, descriptor: int, size: int) -> int:
        """The lines of the file; only what was appended since the last time is read."""
        number = next_number(self._path, self._number)
        if number != self._number or size < self._end:
            self._number, self._end, self._lines = number, 0, 0
        while self._end < size and (read := os.pread(descriptor, min(_READ, size - self._end), self._end)):
            self._end, self._lines = self._end + len(read), self._lines + read.count(b"\n")
        return self._lines


class LineWriter:
    """Appends lines to a file for many who wait: what comes while the disk is busy goes together in the next write."""

    def __init__(self, path: Path, most: int | None = None, sealed: Callable[[int], None] = lambda part: None) -> None:
        self._appender = Appender(path, most)
        self._sealed = sealed
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
            try:
                written, part = await asyncio.to_thread(self._appender.append, [line for line, _ in group])
            except Exception as error:
                for _, done in group:
                    if not done.done():
                        done.set_exception(error)
                continue
            self._waiting[:0] = group[written:]  # what did not fit into the part
            for _, done in group[:written]:
                if not done.done():
                    done.set_result(None)
            if part is not None:
                self._sealed(part)
