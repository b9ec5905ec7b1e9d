"""Rows on their way to a SQLite file: queued by many, committed together."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from pathlib import Path
from typing import Any

_GATHERED = 0.05
"""Seconds in which rows are gathered while nobody waits for one."""
_APART = 0.03
"""Seconds from the end of a commit to the next: few large ones write fewer pages than many small ones."""
_TOGETHER = 1024
"""Rows a statement, at most: for each statement, this thread has to wait until the event loop lets it go on."""
_LOG = 500
"""Pages of 4 kB after which SQLite's log is brought into the file, and to which it is cut back."""
_ROWS = "SELECT * FROM (VALUES {}) WHERE column1 IS NOT NULL"
Rows = list[tuple[Any, ...]]


class WriteQueue:
    """One commit and a few thread hops for many rows, when somebody waits for one of them, or a moment later.

    `statements` have a `{rows}` for their values; a transaction has them in that order. One that fails is the end:
    everything after it raises its error.
    """

    def __init__(self, path: Path, statements: Sequence[str]) -> None:
        self._path = path
        self._statements = statements
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._waiting: dict[str, list[tuple[str, Rows]]] = {}
        """By the key with which rows begin."""
        self._group: asyncio.Future[None] | None = None
        """Done when what waits now is committed."""
        self._committing: asyncio.Future[None] | None = None
        self._wanted = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self._error: Exception | None = None

    def put(self, statement: str, rows: Rows) -> "asyncio.Future[None]":
        """Queue rows for a statement. What comes back is done when their transaction has ended, well or not."""
        if self._error:
            raise self._error
        self._waiting.setdefault(rows[0][0], []).append((statement, rows))
        self._group = self._group or asyncio.get_running_loop().create_future()
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        return self._group

    def drop(self, key: str) -> None:
        """Take back what waits in rows that begin with `key`."""
        self._waiting.pop(key, None)

    async def stored(self, group: "asyncio.Future[None] | None" = None) -> None:
        """Wait until rows are on disk: those of `group`, else all. Raises the error of a transaction that failed."""
        group = group or self._group or self._committing
        if group:
            if group is self._group:
                self._wanted.set()
            if not group.done():
                await asyncio.wait({group})
        if self._error:
            raise self._error

    async def close(self) -> None:
        """Commit what waits, bring it all into the one file, give back what is free of it, and let it go."""
        try:
            await self.stored()
            await self._in_thread(self._tidy)
        finally:
            self._thread.submit(self._disconnect)
            self._thread.shutdown()

    async def _write(self) -> None:
        while self._group:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), _GATHERED)
            await asyncio.sleep(self._not_before - asyncio.get_running_loop().time())
            self._wanted.clear()
            waiting = [queued for of_one in self._waiting.values() for queued in of_one]
            self._waiting, self._committing, self._group = {}, self._group, None
            try:
                if self._error is None:  # what came while a transaction failed would stand on rows that are not there
                    await self._in_thread(self._transact, waiting)
            except Exception as failure:
                self._error = failure
            self._committing.set_result(None)
            self._not_before = asyncio.get_running_loop().time() + _APART

    async def _in_thread(self, act: Callable[..., None], *given: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, act, *given)

    def _transact(self, waiting: list[tuple[str, Rows]]) -> None:
        with self._writer as writer:  # commits, or rolls back
            for statement in self._statements:
                rows = [row for wanted, queued in waiting if wanted == statement for row in queued]
                for at in range(0, len(rows), _TOGETHER):
                    taken = rows[at : at + _TOGETHER]
                    places = 1 << (len(taken) - 1).bit_length()  # few sizes, so that each is prepared once
                    values = [value for row in taken for value in row]
                    values += [None] * (places * len(taken[0]) - len(values))
                    writer.execute(_for_rows(statement, places, len(taken[0])), values)

    @cached_property
    def _writer(self) -> sqlite3.Connection:
        writer = sqlite3.connect(self._path, timeout=60)
        log = (f"wal_autocheckpoint={_LOG}", f"journal_size_limit={_LOG * 4096}")
        for setting in ("synchronous=NORMAL", "secure_delete=OFF", *log):
            writer.execute(f"PRAGMA {setting}")
        return writer

    def _tidy(self) -> None:
        (pages,), (free,) = (self._writer.execute(f"PRAGMA {of}").fetchone() for of in ("page_count", "freelist_count"))
        if 2 * free > pages:
            with contextlib.suppress(sqlite3.Error):  # a full disk, say: nothing depends on it
                self._writer.execute("VACUUM")
        self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _disconnect(self) -> None:
        if "_writer" in self.__dict__:  # else nothing was ever written
            self._writer.close()


@cache
def _for_rows(statement: str, count: int, columns: int) -> str:
    """A statement for so many rows; those that begin with NULL are none."""
    row = f"({', '.join('?' * columns)})"
    return statement.format(rows=_ROWS.format(", ".join([row] * count)))
