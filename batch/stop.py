"""The early end of a run: asked for once, with a reason, and heard by everything that is at work."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from langgraph.runtime import RunControl

Reason = Literal["interrupted", "outage", "worker"]
log = logging.getLogger("trajgraph")


class Stopped(Exception):
    """The run ends before this is done; all that was done is kept."""


@dataclass
class StopSignal:
    """Why a run ends early, if it does. Every graph in flight saves its step first."""

    reason: Reason | None = None
    event: asyncio.Event = field(default_factory=asyncio.Event)
    control: RunControl = field(default_factory=RunControl)
    """What the graphs watch."""
    on_request: list[Callable[[], None]] = field(default_factory=list)

    def request(self, reason: Reason) -> None:
        """End the run at the next step of each graph; the first reason stands."""
        self.reason = self.reason or reason
        self.event.set()
        self.control.request_drain()
        for act in self.on_request:
            act()

    def check(self) -> None:
        """Raises Stopped when the run is to end."""
        if self.reason:
            raise Stopped

    async def sleep(self, seconds: float) -> None:
        """Wait; raises Stopped when the run is to end meanwhile."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.event.wait(), seconds)
        self.check()

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM lets the steps in flight end and be saved; the second stops at once."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def stop() -> None:
            if self.reason and task:
                task.cancel()
                return
            self.request("interrupted")
            log.info("finishing the steps in flight; once more to stop at once")

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
