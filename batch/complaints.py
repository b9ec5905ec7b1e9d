"""What goes wrong again and again: said while the run goes on, and its end when nothing can succeed."""

import logging
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from backends.errors import UsageError
from batch.rollout import Outcome
from batch.stats import plain_reason
from serializers.evidence import failed

log = logging.getLogger("trajgraph")
_REFUSALS = ("BadRequest", "ToolRejected")
_LEAST_REFUSED = 10
_SAME_ERRORS = 3
_LONGEST = 300
_CUT_PROMPTS = (
    "the model server cuts prompts in silence: it counts fewer tokens than were sent, and such trajectories are "
    "rejected as prompt_cut; give it a longer context (Ollama: num_ctx, else 4,096) or name it with --max-model-len"
)
_NUMBER = re.compile(r"\d+")


class Complaints:
    """Hears of every outcome of a run, which has so many samples `pending` and so many questions `in_flight`."""

    def __init__(self, pending: int, in_flight: int) -> None:
        self._most_refused = max(min(pending, in_flight), _LEAST_REFUSED)
        self._finished = False
        self._refused: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._tools: dict[str, Counter[str | None]] = {}
        """By tool how often it has answered with which error; None stands for a result."""

    def hear(self, outcome: Outcome) -> None:
        """Raises UsageError when every question so far was refused in the same way: then each of them would be."""
        if outcome.kind == "failed":
            self._hear_failure(outcome.row)
            return
        metadata = outcome.row["metadata"]
        nothing_asked = not metadata["finish_reasons"]
        if outcome.kind == "rejected":
            for reason in metadata["reject_reasons"]:
                self._count("rejected", reason)
            if nothing_asked and metadata["stop_reason"] == "context_overflow":
                self._refuse("the prompt and the question alone are longer than the model's context")
        self._finished |= not nothing_asked
        for call in outcome.row["trajectory"]["tool_calls"]:
            self._hear_tool(call["tool_name"], call["result"])

    def _hear_failure(self, row: Mapping[str, Any]) -> None:
        self._count("failed", plain_reason(row))
        if row["error"] in _REFUSALS:
            self._refuse(row["message"])

    def _refuse(self, said: str) -> None:
        self._refused[key := _NUMBER.sub("#", said)] += 1
        if not self._finished and self._refused[key] >= self._most_refused:
            raise UsageError(
                f"the first {self._refused[key]} questions were all refused in the same way: {said}; fix it and run "
                "the same command to resume (trajgraph doctor looks closer)"
            )

    def _count(self, what: str, reason: str) -> None:
        """Say it at the first time, the tenth, the hundredth, …"""
        self._reasons[key := f"{what} {reason}"] += 1
        count = self._reasons[key]
        if count == 1 and reason == "prompt_cut":
            log.warning(_CUT_PROMPTS)
        elif str(count).strip("0") == "1":
            log.info("%s, %s: %s", what, "the first" if count == 1 else f"{count} so far", reason)

    def _hear_tool(self, name: str, result: Any) -> None:
        said = result.get("error") if isinstance(result, Mapping) else None
        error = str(said or result)[:_LONGEST] if failed(result) else None
        answers = self._tools.setdefault(name, Counter())
        answers[error] += 1
        if error and len(answers) == 1 and answers[error] == _SAME_ERRORS:
            log.warning("%s has answered nothing but this so far: %s", name, error)
