"""A service that is down pauses the run, instead of burning every question's attempts."""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from backends.errors import BackendError, ModelError, ToolError
from batch.stop import Stopped, StopSignal

Probe = Callable[[], Awaitable[str | None]]
"""Says where and why a service is down, None when it is not; never raises."""

SERVICES: dict[str, type[BackendError]] = {"model": ModelError, "tool": ToolError}
_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
log = logging.getLogger("trajgraph")


@dataclass
class Outages:
    """Holds every question back while a service is down, and asks for it one probe at a time with growing waits."""

    probes: Mapping[str, Probe]
    """By the names of `SERVICES`."""
    stop: StopSignal
    """Requested by us when a service stays down too long."""
    max_downtime: float | None = None
    """Seconds after which the run ends cleanly; None waits for as long as it takes."""
    _answers: Counter[str] = field(default_factory=Counter)
    _was_down: dict[str, bool] = field(default_factory=dict)
    _asking: dict[str, asyncio.Lock] = field(default_factory=lambda: {name: asyncio.Lock() for name in SERVICES})

    async def wait_for_recovery(self, error: BackendError) -> bool:
        """Wait until the service that failed answers. False when it does so at once: then it was not down.

        Raises Stopped when the run ends before that.
        """
        name = next(name for name, kind in SERVICES.items() if isinstance(error, kind))
        asked_before = self._answers[name]
        async with self._asking[name]:
            if self._answers[name] != asked_before:  # somebody has asked while we stood in line
                return self._was_down[name]
            since, asked = time.monotonic(), 0
            self.stop.check()
            while reason := await self.probes[name]():
                self.stop.check()
                down_for = time.monotonic() - since
                if asked == 0:
                    log.info("the %s server is down (%s): paused until it answers", name, reason)
                if self.max_downtime is not None and down_for >= self.max_downtime:
                    log.info("the %s server stayed down for %g s (%s): the run ends", name, self.max_downtime, reason)
                    self.stop.request("outage")
                    raise Stopped
                left = (self.max_downtime or math.inf) - down_for
                await self.stop.sleep(min(_WAITS[min(asked, len(_WAITS) - 1)], left))
                asked += 1
            self.stop.check()
            if asked:
                log.info("the %s server is up again after %.0f s", name, time.monotonic() - since)
            self._answers[name] += 1
            self._was_down[name] = asked > 0
        return asked > 0
