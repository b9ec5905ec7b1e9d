"""A service that is down pauses the run, instead of burning every question's attempts."""

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from langgraph.errors import GraphDrained

from backends.errors import BackendError, ModelError, ToolError
from batch.attempts import Stop

Probe = Callable[[], Awaitable[str | None]]
"""Says where and why a service is down, None when it is not; never raises."""

SERVICES: dict[str, type[BackendError]] = {"model": ModelError, "tool": ToolError}
_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)


@dataclass
class Downtimes:
    """Holds every question back while a service is down, and asks for it one probe at a time with growing waits."""

    probes: Mapping[str, Probe]
    """By the names of `SERVICES`."""
    stop: Stop
    """Requested by us when a service stays down too long."""
    say: Callable[[str], None]
    max_downtime: float | None = None
    """Seconds after which the run ends cleanly; None waits for as long as it takes."""
    gave_up: bool = False
    _answers: Counter[str] = field(default_factory=Counter)
    _was_down: dict[str, bool] = field(default_factory=dict)
    _asking: dict[str, asyncio.Lock] = field(default_factory=lambda: {name: asyncio.Lock() for name in SERVICES})

    async def away(self, error: BackendError) -> bool:
        """Wait until the service that failed answers; see `wait`."""
        return await self.wait(service_of(error))

    async def wait(self, name: str) -> bool:
        """Wait until a service answers. False when it does so at once: then the failure was not its absence.

        Raises GraphDrained when the run ends before that.
        """
        asking, stopped = self._asking[name], self.stop.event
        asked_before = self._answers[name]
        async with asking:
            if self._answers[name] != asked_before:  # somebody has asked while we stood in line
                return self._was_down[name]
            since, asked = time.monotonic(), 0
            while not stopped.is_set() and (reason := await self.probes[name]()):
                if asked == 0:
                    self.say(f"the {name} server is down ({reason}): paused until it answers")
                if self.max_downtime is not None and time.monotonic() - since >= self.max_downtime:
                    self.say(f"the {name} server stayed down for {self.max_downtime:g} s ({reason}): the run ends here")
                    self.gave_up = True
                    self.stop.request()
                    break
                left = (self.max_downtime or math.inf) - (time.monotonic() - since)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopped.wait(), min(_WAITS[min(asked, len(_WAITS) - 1)], left))
                asked += 1
            if stopped.is_set():
                raise GraphDrained
            if asked:
                self.say(f"the {name} server is up again after {time.monotonic() - since:.0f} s")
            self._answers[name] += 1
            self._was_down[name] = asked > 0
        return asked > 0


def service_of(error: BackendError) -> str:
    """The name of the service that failed."""
    return next(name for name, kind in SERVICES.items() if isinstance(error, kind))
