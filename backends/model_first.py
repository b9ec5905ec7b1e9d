"""Who computes next: the graph that is about to ask the model, so that the model server waits for none."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

Waiting = Callable[[], AbstractAsyncContextManager[Any]]
"""What somebody waits within, for a server or for the disk."""
_AT_ONCE = 4
"""More make each other late; fewer have the event loop turn more often, for less at a time."""
_Line = deque[asyncio.Future[None]]


class ModelFirst(AbstractAsyncContextManager[None]):
    """A few graphs compute at a time; who waits for something is away meanwhile, and queues up again behind.

    Left to itself an event loop advances all graphs whose answers came together by one step each, so that the first has
    its next request out only when the last has. In turn, that request is being answered meanwhile. A graph whose next
    request goes to the model (it starts, or its tool has answered) is before one whose reply has yet to be read: what
    the model is asked sooner, it answers sooner. What may be put off comes in a lull, but for the oldest of too many.
    Among its like, who came first is first.
    """

    def __init__(self, put_off: int = 0, lull: float = 0.005) -> None:
        """`put_off`: how many may wait for a lull at a time; `lull`: seconds in which no graph computed."""
        self._put_off = put_off
        self._lull = lull
        self._free = _AT_ONCE
        """Below 0 while one whose wait was cancelled computes on, without having come to its turn."""
        self._to_model, self._replied, self._later = _Line(), _Line(), _Line()
        self._storing = 0
        self._last_computed = 0.0
        self._looking: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        await self._enter(self._to_model)

    async def __aexit__(self, *error: object) -> None:
        self.leave()

    def at_model(self) -> AbstractAsyncContextManager[None]:
        """Around a wait for the model's reply, within one's own turn."""
        return _Gone(self, self._replied)

    def away(self) -> AbstractAsyncContextManager[None]:
        """Around a wait for anything else, on the way to the model."""
        return _Gone(self, self._to_model)

    @asynccontextmanager
    async def at_disk(self) -> AsyncIterator[None]:
        """Around a wait until something is on disk, on the way to the model: no lull."""
        async with self.away():
            self._storing += 1
            try:
                yield
            finally:
                self._storing -= 1

    @asynccontextmanager
    async def afterwards(self, now: bool) -> AsyncIterator[None]:
        """A turn for what no request to the model waits for: `now`, like a graph, or in a lull."""
        if self._later and len(self._later) >= self._put_off:
            self._to_model.append(self._later.popleft())
            if self._free > 0:
                self._pass_on(self._to_model)
        await self._enter(self._to_model if now else self._later)
        try:
            yield
        finally:
            self._give()

    async def _enter(self, line: _Line) -> None:
        try:
            await self.take(line)
        except asyncio.CancelledError:
            self._give()
            raise

    async def take(self, line: _Line) -> None:
        """Have a turn; also where it raises CancelledError, since whoever leaves gives one back."""
        if self._free > 0 and line is not self._later:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(turn)
        if line is self._later:
            self._look_for_lull()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._free -= 1
            raise

    def leave(self) -> None:
        """Give one's turn back, having computed."""
        self._last_computed = time.monotonic()
        self._give()

    def _give(self) -> None:
        self._free += 1
        if self._free > 0 and not (self._pass_on(self._to_model) or self._pass_on(self._replied)):
            self._look_for_lull()

    def _pass_on(self, line: _Line) -> bool:
        while line:
            turn = line.popleft()
            if not turn.done():
                self._free -= 1
                turn.set_result(None)
                return True
        return False

    def _look_for_lull(self) -> None:
        """Let the first of those that were put off come if this is a lull, else look again when it may be."""
        if self._looking or not self._later or self._free < _AT_ONCE or self._storing:
            return
        left = self._last_computed + self._lull - time.monotonic()
        if left > 0:
            self._looking = asyncio.get_running_loop().call_later(left, self._look_again)
        else:
            self._pass_on(self._later)

    def _look_again(self) -> None:
        self._looking = None
        self._look_for_lull()


class _Gone(AbstractAsyncContextManager[None]):
    """A wait within one's turn: the turn is free meanwhile, and had again from a line."""

    def __init__(self, turn: ModelFirst, line: _Line) -> None:
        self._turn, self._line = turn, line

    async def __aenter__(self) -> None:
        self._turn.leave()

    async def __aexit__(self, *error: object) -> None:
        await self._turn.take(self._line)
