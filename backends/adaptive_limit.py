"""How many requests may be in flight to a server that says when it has too many."""

import asyncio
import time
from collections import deque
from contextlib import AbstractAsyncContextManager

from backends.errors import ModelError


class Closed(ModelError):
    """The run ends: nothing more is asked."""


class AdaptiveLimit(AbstractAsyncContextManager[None]):
    """At most `most` at a time: half as many after an overload, once in the time of a reply, and one more for each
    round of replies that went well.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.limit = float(most)
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.reply_time = 1.0
        """Seconds, as of late."""
        self._lowered = float("-inf")
        self._closed = False

    def close(self) -> None:
        """Let nobody in any more; those that wait and come raise Closed."""
        self._closed = True
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)

    async def __aenter__(self) -> None:
        while not self._closed and self._in_flight >= max(int(self.limit), 1):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():
                    self._let_in()
                raise
        if self._closed:
            raise Closed("the run ends")
        self._in_flight += 1

    async def __aexit__(self, *_: object) -> None:
        self._in_flight -= 1
        self._let_in()

    def answered(self, seconds: float) -> None:
        """A reply came, after so many seconds."""
        self.reply_time += 0.2 * (seconds - self.reply_time)
        if self.limit < self._most:
            self.limit = min(self.limit + 1 / max(self.limit, 1.0), self._most)
            self._let_in()

    def overloaded(self) -> None:
        """The server has too many."""
        now = time.monotonic()
        if now - self._lowered >= self.reply_time:
            self._lowered = now
            self.limit = max(min(self.limit, self._in_flight) / 2, 1.0)

    def _let_in(self) -> None:
        free = max(int(self.limit), 1) - self._in_flight
        while self._waiting and free > 0:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1
