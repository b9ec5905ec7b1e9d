"""Who computes next: the graph that is about to ask the model, so that the model server waits for none."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

Waiting = Callable[[], AbstractAsyncContextManager[Any]]
"""What somebody waits within, for a server or for the disk."""
_AT_ONCE = 8
"""Enough that the loop is never idle while a graph has work."""
_Line = deque[asyncio.Future[None]]


class ModelFirst(AbstractAsyncContextManager[None]):
    """A few graphs compute at a time; who waits for something is away meanwhile, and queues up again behind.

    Left to itself an event loop advances all graphs whose answers came together by one step each, so that the first has
    its next request out only when the last has. In turn, that request is being answered meanwhile. A graph whose next
    request goes to the model (it starts, or its tool has answered) is before one whose reply has yet to be read: what
    the model is asked sooner, it answers sooner. Among its like, who came first is first.
    """

    def __init__(self) -> None:
        self._free = _AT_ONCE
        self._to_model, self._replied = _Line(), _Line()

    async def __aenter__(self) -> None:
        try:
            await self._take(self._to_model)
        except asyncio.CancelledError:
            self._give()
            raise

    async def __aexit__(self, *error: object) -> None:
        self._give()

    def at_model(self) -> AbstractAsyncContextManager[None]:
        """Around a wait for the model's reply, within one's own turn."""
        return self._gone(self._replied)

    def away(self) -> AbstractAsyncContextManager[None]:
        """Around a wait for anything else, on the way to the model."""
        return self._gone(self._to_model)

    @asynccontextmanager
    async def _gone(self, line: _Line) -> AsyncIterator[None]:
        self._give()
        try:
            yield
        finally:
            await self._take(line)

    async def _take(self, line: _Line) -> None:
        """Have a turn; also where it raises CancelledError, since whoever leaves gives one back."""
        if self._free > 0:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._free -= 1
            raise

    def _give(self) -> None:
        for line in (self._to_model, self._replied):
            while line:
                turn = line.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._free += 1
