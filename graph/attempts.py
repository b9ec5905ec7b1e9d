"""One question to its end: started or taken up from its checkpoint, and again after a failure that may pass."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from langgraph.errors import GraphDrained
from langgraph.runtime import RunControl

from backends.errors import BackendError, ModelDenied, UserError
from graph.build import TrajectoryGraph, recursion_limit
from graph.group_saver import GroupSaver
from graph.settings import Limits
from graph.state import State


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

    def request(self) -> None:
        """End the run at the next step of each graph."""
        self.event.set()
        self.control.request_drain()


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

    async def settle(self, thread: str, question: str, seed: int | None = None) -> tuple[State, int]:
        """The final state of a question and how many attempts it took, one when nothing failed.

        A step that succeeded is not asked again, and starts the count anew. Time in which a service was down is waited
        out and does not count. Raises Unsettled, or GraphDrained when the run is to end; a failure of the run's own
        disk is raised as it is.
        """
        config: Any = {"configurable": {"thread_id": thread}, "recursion_limit": recursion_limit(self.limits)}
        if seed is not None:
            config["configurable"]["seed"] = seed
        failures = at_this_step = 0
        standing = await self._standing(config, thread)
        while True:
            inputs: Any = {"question": question} if standing is None else None
            try:
                async with self.turn:
                    ended = await self.graph.ainvoke(
                        inputs, config, durability="async", control=self.stop.control, version="v2"
                    )
                return ended.value, failures + 1
            except (GraphDrained, sqlite3.Error):
                raise
            except ModelDenied as error:
                raise UserError(f"{error}; mend that, and the same command continues") from error
            except BackendError as error:
                stood_at, standing = standing, await self._standing(config, thread)
                at_this_step = at_this_step if standing == stood_at else 0
                if error.retryable and await self.away(error):
                    continue
                failures, at_this_step = failures + 1, at_this_step + 1
                if not error.retryable or at_this_step > len(self.waits):
                    raise Unsettled(at_this_step) from error
                await self._wait(max(self.waits[at_this_step - 1], error.retry_after or 0.0))
            except Exception as error:
                raise Unsettled(at_this_step + 1) from error

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

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.event.wait(), seconds)
            raise GraphDrained
