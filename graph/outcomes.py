"""What becomes of a question: a record, accepted or rejected, or a failure; as the line that will be written."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from graph.attempts import Attempts, Unsettled
from graph.checkpoints import thread_id
from graph.lines import encoded
from graph.settings import RunSettings
from serializers.record import QuestionRow, build_record, sample_of

Kind = Literal["accepted", "rejected", "failed"]


@dataclass(frozen=True)
class Outcome:
    """Where a question belongs, and its JSON line."""

    kind: Kind
    line: bytes


Settle = Callable[[str, QuestionRow], Awaitable[Outcome]]
"""Settles a sample, by its id, in this process or another. Raises GraphDrained when the run ends before that."""


@dataclass(frozen=True)
class Settler:
    """Settles questions in this process."""

    attempts: Attempts
    settings: RunSettings
    run_id: str
    seeded: bool = False
    """Whether each sample of a question is asked for under a seed of its own, its number."""

    async def __call__(self, identity: str, row: QuestionRow) -> Outcome:
        thread, seed = thread_id(self.run_id, identity), sample_of(identity)[1] if self.seeded else None
        try:
            state, attempts = await self.attempts.settle(thread, row["question"], seed)
        except Unsettled as failure:
            error = failure.__cause__ or failure
            about = {"sample_id": identity, "question": row["question"], "error": type(error).__name__}
            return Outcome("failed", encoded({**about, "message": str(error), "attempts": failure.attempts}))
        record = build_record(identity, row, state, self._about(thread, attempts, seed), self.settings.hard_gates)
        return Outcome("rejected" if record["metadata"]["reject_reasons"] else "accepted", encoded(record))

    def _about(self, thread: str, attempts: int, seed: int | None) -> dict[str, Any]:
        return {
            "generation_time": datetime.now().isoformat(),
            "model": self.settings.model_name,
            "source_file": self.settings.source_file,
            "attempts": attempts,
            **({"seed": seed} if self.seeded else {}),
            "max_tool_calls": self.settings.max_tool_calls,
            "tool_role": self.settings.tool_role,
            "run_id": self.run_id,
            "thread_id": thread,
            "prompt_sha256": self.settings.prompt_sha256,
            "tools_sha256": self.settings.tools_sha256,
        }
