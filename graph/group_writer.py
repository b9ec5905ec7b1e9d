"""Rows on their way to a store of checkpoints: queued by many graphs, one transaction for all that wait."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

Queued = list[tuple[str, str, Sequence[Any]]]
"""(thread, statement, row), in the order in which each thread queued them."""
Transact = Callable[[Queued], Awaitable[Mapping[str, Exception]]]
"""Commits rows; returns the threads whose rows alone cannot be stored. Raises what concerns all."""


class GroupWriter:
    """Queues rows; a transaction that fails as a whole fails all after it."""

    def __init__(self, transact: Transact) -> None:
        self._transact = transact
        self._waiting: dict[str, list[tuple[str, Sequence[Any]]]] = {}
        """(statement, row) by thread."""
        self._group: asyncio.Future[None] | None = None
        """Done when what waits now is committed."""
        self._committing: asyncio.Future[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        self._refused: dict[str, Exception] = {}
        """Threads whose rows cannot be stored."""

    def put(self, thread: str, statement: str, rows: Iterable[Sequence[Any]]) -> "asyncio.Future[None]":
        """Queue rows of a thread. What comes back is done when their transaction has ended, well or not."""
        if self._error:
            raise self._error
        self._waiting.setdefault(thread, []).extend((statement, row) for row in rows)
        self._group = self._group or asyncio.get_running_loop().create_future()
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        return self._group

    def drop(self, thread: str) -> None:
        """Take back what waits of a thread."""
        self._waiting.pop(thread, None)
        self._refused.pop(thread, None)

    async def flush(self, group: "asyncio.Future[None] | None" = None, thread: str | None = None) -> None:
        """Wait until rows are stored: those of `group`, else all. Raises the error of a transaction that failed, or why
        those of `thread` cannot be stored.
        """
        group = group or self._group or self._committing
        if group and not group.done():
            await asyncio.wait({group})
        if error := self._error or self._refused.get(thread or ""):
            raise error

    async def _write(self) -> None:
        while self._group:
            queued = [(thread, *one) for thread, of_thread in self._waiting.items() for one in of_thread]
            self._waiting, self._committing, self._group = {}, self._group, None
            try:
                if self._error is None:  # what came while a transaction failed would stand on rows that are not there
                    self._refused.update(await self._transact(queued))
            except Exception as failure:
                self._error = failure
            self._committing.set_result(None)
