"""What becomes of a question: a record, accepted or rejected, or a failure; as the line that will be written."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Literal

from batch.attempts import Attempts, Unsettled
from batch.jsonl import encoded
from batch.settings import RunSettings
from graph.checkpoints import ThreadIds
from graph.state import State
from quality.verdict import judge
from serializers.record import QuestionRow, build_record, sample_of

Kind = Literal["accepted", "rejected", "failed"]


@dataclass(frozen=True)
class Outcome:
    """Where a question belongs, and its JSON line."""

    kind: Kind
    line: bytes


LetGo = Callable[[], Awaitable[None]]
"""Forgets the checkpoints of a question, for when its line is safe."""


@dataclass(frozen=True)
class Settled:
    """A question that has come to its end, in this process or another."""

    outcome: Callable[[bool], Awaitable[Outcome]]
    """What became of it: now, or, if False, when the graphs leave time for it."""
    let_go: LetGo
    stored: Callable[[], Awaitable[None]]
    """Waits until its last reply is on disk: before anything else is paid for in its place."""


Settle = Callable[[str, QuestionRow], Awaitable[Settled]]
"""Brings a sample, by its id, to its end. Raises GraphDrained when the run ends before that."""


@dataclass(frozen=True)
class Settler:
    """Settles questions in this process."""

    attempts: Attempts
    settings: RunSettings
    threads: ThreadIds
    seeded: bool = False
    """Whether each sample of a question is asked for under a seed of its own, its number."""
    afterwards: Callable[[bool], AbstractAsyncContextManager[Any]] = nullcontext
    """What a record is built within: the next question may be asked meanwhile."""

    async def __call__(self, identity: str, row: QuestionRow) -> Settled:
        thread, seed = self.threads.of(identity, row["question"]), sample_of(identity)[1] if self.seeded else None
        try:
            state, attempts = await self.attempts.settle(thread, row["question"], seed)
        except Unsettled as failure:
            outcome = partial(self._failed, identity, row, failure)
        else:
            outcome = partial(self._recorded, identity, row, state, self._about(thread, attempts, seed))
        let_go = partial(self.attempts.saver.adelete_thread, thread)
        return Settled(outcome, let_go, partial(self.attempts.stored, thread))

    async def _recorded(
        self, identity: str, row: QuestionRow, state: State, about: dict[str, Any], now: bool
    ) -> Outcome:
        async with self.afterwards(now):
            record = judge(build_record(identity, row, state, about), self.settings.hard_gates)
            return Outcome("rejected" if record["metadata"]["reject_reasons"] else "accepted", encoded(record))

    async def _failed(self, identity: str, row: QuestionRow, failure: Unsettled, now: bool) -> Outcome:
        error = failure.__cause__ or failure
        about = {"sample_id": identity, "question": row["question"], "error": type(error).__name__}
        return Outcome("failed", encoded({**about, "message": str(error), "attempts": failure.attempts}))

    def _about(self, thread: str, attempts: int, seed: int | None) -> dict[str, Any]:
        return {
            "generation_time": datetime.now().isoformat(),
            "model": self.settings.model_name,
            "source_file": self.settings.source_file,
            "attempts": attempts,
            **({"seed": seed} if self.seeded else {}),
            "max_tool_calls": self.settings.max_tool_calls,
            "tool_role": self.settings.tool_role,
            "run_id": self.threads.run_id,
            "thread_id": thread,
            "prompt_sha256": self.settings.prompt_sha256,
            "tools_sha256": self.settings.tools_sha256,
        }
