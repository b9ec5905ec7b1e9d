"""A service that is down pauses the run, instead of burning every question's attempts."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from langgraph.errors import GraphDrained

Probe = Callable[[], Awaitable[bool]]
"""Says whether a service answers; never raises."""

_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)


@dataclass
class Downtime:
    """Holds every worker back while one service is away, and asks for it one probe at a time with growing waits."""

    name: str
    probe: Probe
    stopped: asyncio.Event
    """Set when the run is to end; set by us when the service stays away too long."""
    say: Callable[[str], None]
    max_downtime: float | None = None
    """Seconds after which the run ends cleanly; None waits for as long as it takes."""
    gave_up: bool = False
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def wait(self) -> bool:
        """Wait until the service answers. False when it does so at once: then the failure was not its absence.

        Raises GraphDrained when the run ends before that.
        """
        away = self._asking.locked()
        async with self._asking:
            since, asked = time.monotonic(), 0
            while not self.stopped.is_set() and not await self.probe():
                if asked == 0:
                    self.say(f"the {self.name} server is away: paused until it answers")
                away = True
                if self.max_downtime is not None and time.monotonic() - since >= self.max_downtime:
                    self.say(f"the {self.name} server stayed away for {self.max_downtime:g} s: the run ends here")
                    self.gave_up = True
                    self.stopped.set()
                    break
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stopped.wait(), _WAITS[min(asked, len(_WAITS) - 1)])
                asked += 1
            if self.stopped.is_set():
                raise GraphDrained
            if asked:
                self.say(f"the {self.name} server is back after {time.monotonic() - since:.0f} s")
        return away
