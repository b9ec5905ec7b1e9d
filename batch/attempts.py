"""One question to its end: started or taken up from its checkpoint, and again after a failure that may pass."""

import asyncio
import contextlib
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from langgraph.errors import GraphDrained
from langgraph.runtime import RunControl

from backends.errors import BackendError, ModelDenied, UserError
from graph.build import TrajectoryGraph, recursion_limit
from graph.group_saver import GroupSaver
from graph.limits import Limits
from graph.state import State

_SUSPECT = 3
"""How often a step may fail while its service goes down before it is tried alone, and then counts as any other."""
_MOST_GUESSED = 20
_LONGEST_BUSY = 15.0
"""Seconds until a server that had too much to do is asked again."""


class Unsettled(Exception):
    """A question that failed for good, after so many attempts at the same step; the failure is its `__cause__`."""

    def __init__(self, attempts: int) -> None:
        super().__init__(attempts)
        self.attempts = attempts


@dataclass(frozen=True)
class Stop:
    """The early end of a run: every graph in flight saves its step and raises GraphDrained."""

    event: asyncio.Event = field(default_factory=asyncio.Event)
    control: RunControl = field(default_factory=RunControl)
    told: list[Callable[[], None]] = field(default_factory=list)
    """Called when it is requested."""

    def request(self) -> None:
        """End the run at the next step of each graph."""
        self.event.set()
        self.control.request_drain()
        for tell in self.told:
            tell()


Away = Callable[[BackendError], Awaitable[bool]]
"""Pauses while the service that failed is down; True if it was. Raises GraphDrained when the run ends meanwhile."""


async def never_away(error: BackendError) -> bool:
    """Where nobody asks whether a service is there."""
    return False


@dataclass(frozen=True)
class Attempts:
    """How questions are settled. `waits` are the seconds before each further attempt at the same step."""

    graph: TrajectoryGraph
    saver: GroupSaver
    limits: Limits
    stop: Stop
    say: Callable[[str], None]
    away: Away = never_away
    turn: AbstractAsyncContextManager[None] = field(default_factory=nullcontext)
    waits: tuple[float, ...] = (2.0, 4.0, 6.0)
    max_downtime: float | None = None
    """Seconds after which a service that only says it has too much to do has failed; None waits as long as it takes."""
    _told: set[str] = field(default_factory=set)
    _alone: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by one of those that may themselves be what brings a service down."""

    async def settle(self, thread: str, question: str, seed: int | None = None) -> tuple[State, int]:
        """The final state of a question and how many attempts it took, one when nothing failed.

        A step that succeeded is not asked again, and starts the count anew. Time in which a service was down is waited
        out and does not count, unless it goes down with this step time and again. Raises Unsettled, or GraphDrained
        when the run is to end; a failure of the run's own disk is raised as it is.
        """
        config: Any = {"configurable": {"thread_id": thread}, "recursion_limit": recursion_limit(self.limits)}
        if seed is not None:
            config["configurable"]["seed"] = seed
        failures = at_this_step = busy = downs = 0
        busy_since = 0.0
        went_down: BackendError | None = None
        standing = await self._standing(config, thread)
        while True:
            inputs: Any = {"question": question} if standing is None else None
            try:
                async with self._by_turns(went_down if downs >= _SUSPECT else None), self.turn:
                    ended = await self.graph.ainvoke(
                        inputs, config, durability="async", control=self.stop.control, version="v2"
                    )
                return ended.value, failures + 1
            except (GraphDrained, sqlite3.Error):
                raise
            except ModelDenied as error:
                raise UserError(f"{error}; mend that, and the same command continues") from error
            except BackendError as error:
                if self.stop.event.is_set():
                    raise GraphDrained from error
                stood_at, standing = standing, await self._standing(config, thread)
                if standing != stood_at:
                    at_this_step = busy = downs = 0
                if error.busy and (busy < _MOST_GUESSED or not error.guessed):
                    busy_since = busy_since if busy else time.monotonic()
                    busy += 1
                    if self.max_downtime is None or time.monotonic() - busy_since < self.max_downtime:
                        await self._make_way(error, busy)
                        continue
                if error.retryable and not error.answered and await self.away(error):
                    downs, went_down = downs + 1, error
                    if downs <= _SUSPECT:
                        continue
                failures, at_this_step = failures + 1, at_this_step + 1
                if not error.retryable or at_this_step > len(self.waits):
                    raise Unsettled(at_this_step) from error
                await self._wait(max(self.waits[at_this_step - 1], error.retry_after or 0.0))
            except Exception as error:
                raise Unsettled(at_this_step + 1) from error

    @contextlib.asynccontextmanager
    async def _by_turns(self, went_down: BackendError | None) -> AsyncIterator[None]:
        """One at a time of those with which a service `went_down` again and again: alone, once it is up."""
        async with self._alone if went_down else nullcontext():
            if went_down:
                await self.away(went_down)
            if self.stop.event.is_set():
                raise GraphDrained
            yield

    async def stored(self, thread: str) -> None:
        """Wait until a question's last reply is on disk."""
        async with self.turn:
            await self.saver.stored(thread)

    async def _standing(self, config: Any, thread: str) -> str | None:
        """The id of the thread's last checkpoint; None when it has none, or none from which it can be taken up."""
        if thread not in self.saver.threads:
            return None
        try:
            stored = await self.graph.aget_state(config)
            if (stored.metadata or {}).get("step") == -1:  # killed before its first step: the question is in the writes
                return str(stored.config["configurable"]["checkpoint_id"])
            stored.values["question"], list(stored.values.get("messages", []))
            return str(stored.config["configurable"]["checkpoint_id"])
        except sqlite3.Error:
            raise
        except Exception as error:
            self.say(f"thread {thread}: its checkpoint cannot be read ({type(error).__name__}); it starts again")
            await self.saver.adelete_thread(thread)
            return None

    async def _make_way(self, error: BackendError, times: int) -> None:
        """Wait while a service has too much to do; no attempt is spent."""
        if type(error).__name__ not in self._told:
            self._told.add(type(error).__name__)
            self.say(f"{error}: fewer requests at a time")
        share = 0.5 + random.random() / 2  # noqa: S311
        await self._wait(max(error.retry_after or 0.0, share * min(0.5 * 2 ** min(times, 10), _LONGEST_BUSY)))

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.event.wait(), seconds)
            raise GraphDrained
