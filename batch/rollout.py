"""One sample of a question to its end: started or resumed from its checkpoint, and again after a passing failure."""

import asyncio
import contextlib
import logging
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from langgraph.errors import GraphDrained

from backends.chat_pool import ChatPool
from backends.errors import (
    BackendError,
    BadRequest,
    DiskRefused,
    InvalidResponse,
    ModelTimeout,
    Unauthorized,
    UsageError,
)
from backends.model_client import Replies
from batch.config import RunConfig, Settings
from batch.run_files import Ids
from batch.stop import Stopped, StopSignal
from batch.token_files import left_out, token_line
from graph.build import TrajectoryGraph, recursion_limit
from graph.fork import forked
from graph.queued_writes import QueuedWrites
from graph.state import State
from quality.verdict import judge
from serializers.record import QuestionRow, Record, build_record, sample_of

Kind = Literal["accepted", "rejected", "failed"]
RETRY_WAITS = (2.0, 4.0, 6.0)
"""Seconds before each further attempt at the same step."""
_SUSPECT = 3
"""How often a step may fail while its service goes down before it is tried alone, and then counts as any other."""
_MOST_GUESSED = 20
_LONGEST_BUSY = 15.0
"""Seconds until a server that had too much to do is asked again."""
log = logging.getLogger("trajgraph")


class RetriesExhausted(Exception):
    """A question that failed for good, after so many attempts at the same step; the failure is its `__cause__`."""

    def __init__(self, attempts: int) -> None:
        super().__init__(attempts)
        self.attempts = attempts


@dataclass(frozen=True)
class Outcome:
    """What became of a sample: where it belongs, and the row to write there."""

    kind: Kind
    row: Mapping[str, Any]
    tokens: Mapping[str, Any] | None = None
    """Those of its replies, if they are kept."""
    turn: int | None = None
    """At which the model refused it."""
    forbidden: bool = False
    """Whether it was refused with 403."""

    @property
    def asked_nothing(self) -> bool:
        """Whether its prompt was too long from the start."""
        about = self.row.get("metadata", {})
        return about.get("stop_reason") == "context_overflow" and not about["finish_reasons"]


def _refused_at(error: BaseException) -> int | None:
    """The turn at which a request was refused that may be refused to all; None for any other failure."""
    if isinstance(error, BadRequest):
        return error.turn
    return error.turn if isinstance(error, InvalidResponse) and error.is_no_completion else None


WaitForRecovery = Callable[[BackendError], Awaitable[bool]]
"""Pauses while the service that failed is down; True if it was. Raises Stopped when the run ends meanwhile."""


@dataclass(frozen=True)
class Rollout:
    """How samples are rolled out."""

    graph: TrajectoryGraph
    saver: QueuedWrites
    config: RunConfig
    settings: Settings
    ids: Ids
    stop: StopSignal
    wait_for_recovery: WaitForRecovery
    chat: ChatPool
    waits: tuple[float, ...] = RETRY_WAITS
    _reported: set[str] = field(default_factory=set)
    """What is said once."""
    _alone: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by one of those that may themselves be what brings a service down."""

    async def __call__(self, sample_id: str, row: QuestionRow) -> Outcome:
        """What becomes of a sample. Raises Stopped when the run ends before that; a failure of the run's own disk is
        raised as it is.
        """
        thread, seed = self.ids.thread(sample_id, row["question"]), self.config.seed_of(sample_id)
        if self.config.samples.fork_at and thread not in self.saver.threads:
            await self._fork(sample_id, row["question"], thread)
        try:
            state, attempts = await self.run_graph(thread, row["question"], seed)
        except RetriesExhausted as failure:
            error = failure.__cause__ or failure
            about = {"sample_id": sample_id, "question": row["question"], "error": type(error).__name__}
            failed: dict[str, Any] = {**about, "message": str(error), "attempts": failure.attempts}
            return Outcome("failed", failed, turn=_refused_at(error), forbidden=isinstance(error, Unauthorized))
        finally:
            self.chat.forget(thread)
        record = build_record(sample_id, row, state, self._metadata(thread, attempts, seed))
        record = judge(record, self.config.hard_gates)
        kind: Kind = "rejected" if record["metadata"]["reject_reasons"] else "accepted"
        return Outcome(kind, record, self._tokens(record, state) if self.config.model.keep_token_ids else None)

    def _tokens(self, record: Record, state: State) -> dict[str, Any]:
        tokens = token_line(record, state.get("messages", []))
        for why in left_out(tokens):
            if why not in self._reported:
                self._reported.add(why)
                log.warning("tokens of a reply are left out: %s", why)
        return tokens

    async def _fork(self, sample_id: str, question: str, thread: str) -> None:
        """Have a sample begin with the first so many calls of the question's first one, and what came back; where that
        has not so many, it begins by itself.
        """
        row_number, number = sample_of(sample_id)
        first = self.ids.thread(first_id := self.ids.sample(row_number, 1), question)
        if number == 1 or first not in self.saver.threads:
            return
        stored = await self.graph.aget_state({"configurable": {"thread_id": first}})
        begun = forked(stored.values.get("messages", []), self.config.samples.fork_at or 0, first_id)
        if begun:
            await self.graph.aupdate_state(
                {"configurable": {"thread_id": thread}},
                {"question": question, "asked": question, "messages": begun}, as_node="execute_mcp",
            )  # fmt: skip

    def replies(self) -> Replies:
        """What the model has answered so far, in all questions."""
        return self.chat.replies

    async def forget(self, sample_id: str, question: str) -> None:
        """Delete the steps of a sample, whose record is on disk."""
        await self.saver.adelete_thread(self.ids.thread(sample_id, question))

    async def look_for(self, sample_id: str, question: str) -> None:
        """A sample may have steps that another process has stored since."""
        thread = self.ids.thread(sample_id, question)
        self.saver.threads.add(thread)
        if await self.saver.aget_tuple({"configurable": {"thread_id": thread, "checkpoint_ns": ""}}) is None:
            self.saver.threads.discard(thread)

    async def run_graph(self, thread: str, question: str, seed: int | None = None) -> tuple[State, int]:
        """The final state of a question and how many attempts it took, one when nothing failed.

        A step that succeeded is not asked again, and starts the count anew. Time in which a service was down is waited
        out and does not count, unless it goes down with this step time and again. Raises RetriesExhausted, or Stopped.
        """
        config: Any = {"configurable": {"thread_id": thread}, "recursion_limit": recursion_limit(self.config.limits)}
        if seed is not None:
            config["configurable"]["seed"] = seed
        failures = at_this_step = busy = outages = timeouts = 0
        busy_since = 0.0
        down: BackendError | None = None
        checkpoint = await self._last_checkpoint_id(config, thread)
        while True:
            inputs: Any = {"question": question} if checkpoint is None else None
            config["configurable"]["timeouts"] = [timeouts] if timeouts else []
            try:
                async with self._by_turns(down if outages >= _SUSPECT else None):
                    ended = await self.graph.ainvoke(
                        inputs, config, durability="async", control=self.stop.control, version="v2"
                    )
                return ended.value, failures + 1
            except GraphDrained as drained:
                raise Stopped from drained
            except (Stopped, sqlite3.Error, DiskRefused):
                raise
            except Unauthorized as error:
                if error.forbidden:  # perhaps for this question's words alone: whether for all is judged over many
                    raise RetriesExhausted(at_this_step + 1) from error
                raise UsageError(f"{error}; fix it and run the same command to resume") from error
            except BackendError as error:
                self.stop.check()
                before, checkpoint = checkpoint, await self._last_checkpoint_id(config, thread)
                if checkpoint != before:
                    at_this_step = busy = outages = 0
                    timeouts = 0
                if error.busy and (busy < _MOST_GUESSED or not error.guessed):
                    busy_since = busy_since if busy else time.monotonic()
                    busy += 1
                    most = self.config.max_downtime
                    if most is None or time.monotonic() - busy_since < most:
                        await self._back_off(error, busy)
                        continue
                if error.retryable and not error.answered and await self.wait_for_recovery(error) and error.was_asked:
                    outages, down = outages + 1, error
                    if outages <= _SUSPECT:
                        continue
                if not error.was_asked:
                    continue
                failures, at_this_step = failures + 1, at_this_step + 1
                if isinstance(error, ModelTimeout):  # perhaps an endless reply: with half the budget it ends in time
                    timeouts += 1
                if not error.retryable or at_this_step > len(self.waits):
                    raise RetriesExhausted(at_this_step) from error
                await self.stop.sleep(max(self.waits[at_this_step - 1], error.retry_after or 0.0))
            except Exception as error:
                raise RetriesExhausted(at_this_step + 1) from error

    @contextlib.asynccontextmanager
    async def _by_turns(self, down: BackendError | None) -> AsyncIterator[None]:
        """One at a time of those with which a service went down again and again: alone, once it is up."""
        async with self._alone if down else nullcontext():
            if down:
                await self.wait_for_recovery(down)
            self.stop.check()
            yield

    async def _last_checkpoint_id(self, config: Any, thread: str) -> str | None:
        """The id of the thread's last checkpoint; None when it has none, or none from which it can be resumed."""
        if thread not in self.saver.threads:
            return None
        try:
            stored = await self.graph.aget_state(config)
            if (stored.metadata or {}).get("step") == -1:  # killed before its first step: the question is in the writes
                return str(stored.config["configurable"]["checkpoint_id"])
            stored.values["question"], list(stored.values.get("messages", []))
            if stored.values.get("stop_reason") == "context_overflow" and not stored.values.get("messages"):
                await self.saver.adelete_thread(thread)  # nothing was asked: the context may be longer now
                return None
            return str(stored.config["configurable"]["checkpoint_id"])
        except (sqlite3.Error, DiskRefused):
            raise
        except Exception as error:
            log.info("thread %s: its checkpoint cannot be read (%s); it starts again", thread, type(error).__name__)
            await self.saver.adelete_thread(thread)
            return None

    async def _back_off(self, error: BackendError, times: int) -> None:
        """Wait while a service has too much to do; no attempt is spent."""
        if type(error).__name__ not in self._reported:
            self._reported.add(type(error).__name__)
            log.info("%s: fewer requests at a time", error)
        share = 0.5 + random.random() / 2  # noqa: S311
        await self.stop.sleep(max(error.retry_after or 0.0, share * min(0.5 * 2 ** min(times, 10), _LONGEST_BUSY)))

    def _metadata(self, thread: str, attempts: int, seed: int | None) -> dict[str, Any]:
        instance = self.config.instance_id
        return {
            "generation_time": datetime.now().isoformat(),
            "model": self.config.model.model_name,
            "source_file": self.settings["source_file"],
            **({"instance_id": instance, "api_model": self.config.model.model_name} if instance else {}),
            "attempts": attempts,
            "temperature": self.config.model.sampling.temperature,
            **({} if seed is None else {"seed": seed}),
            **({"sampling": sampling} if (sampling := self.config.model.sampling.sampling) else {}),
            "max_tool_calls": self.config.limits.max_tool_calls,
            "tool_role": self.config.tool_role,
            "run_id": self.ids.run_id,
            "thread_id": thread,
            "prompt_sha256": self.settings["prompt_sha256"],
            "tools_sha256": self.settings["tools_sha256"],
        }
