"""Who computes next: the graph whose answer came first."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

Waiting = Callable[[], AbstractAsyncContextManager[Any]]
"""What a client waits for its server within."""
_AT_ONCE = 8
"""Enough that one may wait for its checkpoint while others compute."""


class FirstCome(AbstractAsyncContextManager[None]):
    """A few graphs compute at a time, in the order in which they came; who waits for a server is `away`.

    Left to itself an event loop advances all graphs whose answers came together by one step each, so that the first has
    its next request out only when the last has. In turn, that request is being answered meanwhile.
    """

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(_AT_ONCE)

    async def __aenter__(self) -> None:
        await self._free.acquire()

    async def __aexit__(self, *error: object) -> None:
        self._free.release()

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Around a wait for a server, within one's own turn."""
        self._free.release()
        try:
            yield
        finally:
            await self._free.acquire()
