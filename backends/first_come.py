"""Who computes next: the graph that is about to ask the model, so that the model server waits for none; else who came
first.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

Waiting = Callable[[], AbstractAsyncContextManager[Any]]
"""What a client waits for its server within."""
_AT_ONCE = 8
"""Enough that the loop is never idle while a graph has work."""


class FirstCome(AbstractAsyncContextManager[None]):
    """A few graphs compute at a time; who waits for a server is away meanwhile, and queues up again behind.

    Left to itself an event loop advances all graphs whose answers came together by one step each, so that the first has
    its next request out only when the last has. In turn, that request is being answered meanwhile. Of those that wait,
    a graph whose next request goes to the model (it starts, or its tool has answered) is before one whose reply has yet
    to be read: what the model is asked sooner, it answers sooner.
    """

    def __init__(self) -> None:
        self._free = _AT_ONCE
        self._to_model: deque[asyncio.Future[None]] = deque()
        self._replied: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        try:
            await self._take(self._to_model)
        except asyncio.CancelledError:
            self._give()
            raise

    async def __aexit__(self, *error: object) -> None:
        self._give()

    @asynccontextmanager
    async def at_model(self) -> AsyncIterator[None]:
        """Around a wait for the model's reply, within one's own turn."""
        self._give()
        try:
            yield
        finally:
            await self._take(self._replied)

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Around a wait for anything else, on the way to the model."""
        self._give()
        try:
            yield
        finally:
            await self._take(self._to_model)

    async def _take(self, line: "deque[asyncio.Future[None]]") -> None:
        if self._free > 0:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._free -= turn.cancelled()  # taken all the same: who leaves gives it back
            raise

    def _give(self) -> None:
        for line in (self._to_model, self._replied):
            while line:
                turn = line.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._free += 1
