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
    the model is asked sooner, it answers sooner. Records come when nobody computes, but for the oldest of too many.
    Among its like, who came first is first.
    """

    def __init__(self, put_off: int = 0) -> None:
        """`put_off`: how many may be put off while others compute."""
        self._put_off = put_off
        self._free = _AT_ONCE
        self._to_model, self._replied, self._done = _Line(), _Line(), _Line()

    async def __aenter__(self) -> None:
        await self._enter(self._to_model)

    async def __aexit__(self, *error: object) -> None:
        self._give()

    def at_model(self) -> AbstractAsyncContextManager[None]:
        """Around a wait for the model's reply, within one's own turn."""
        return self._gone(self._replied)

    def away(self) -> AbstractAsyncContextManager[None]:
        """Around a wait for anything else, on the way to the model."""
        return self._gone(self._to_model)

    @asynccontextmanager
    async def afterwards(self) -> AsyncIterator[None]:
        """A turn for what no request to the model waits for."""
        if self._done and len(self._done) >= self._put_off:
            self._to_model.append(self._done.popleft())
        await self._enter(self._done if self._put_off else self._to_model)
        try:
            yield
        finally:
            self._give()

    async def _enter(self, line: _Line) -> None:
        try:
            await self._take(line)
        except asyncio.CancelledError:
            self._give()
            raise

    @asynccontextmanager
    async def _gone(self, line: _Line) -> AsyncIterator[None]:
        self._give()
        try:
            yield
        finally:
            await self._take(line)

    async def _take(self, line: _Line) -> None:
        """Have a turn; also where it raises CancelledError, since whoever leaves gives one back."""
        if self._free >= (_AT_ONCE if line is self._done else 1):
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
        self._free += 1
        idle = self._free == _AT_ONCE
        for line in (self._to_model, self._replied, *([self._done] if idle else [])):
            while line:
                turn = line.popleft()
                if not turn.done():
                    self._free -= 1
                    turn.set_result(None)
                    return
