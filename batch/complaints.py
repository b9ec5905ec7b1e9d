"""What goes wrong again and again: said while the run goes on, and its end when nothing can succeed."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from backends.errors import UsageError
from backends.model_client import Replies
from batch.rollout import Outcome
from batch.stats import plain_reason
from serializers.evidence import failed

log = logging.getLogger("trajgraph")
_LEAST_REFUSED = 10
_SAME_ERRORS = 3
_LONGEST, _MOST_REASONS = 300, 100
_CUT_PROMPTS = (
    "the model server cuts prompts in silence: it counts fewer tokens than were sent, and such trajectories are "
    "rejected as prompt_cut; give it a longer context (Ollama: num_ctx, else 4,096) or name it with --max-model-len"
)
_NUMBER = re.compile(r"\d+")


class Complaints:
    """Hears of every outcome of a run, which has so many samples `pending` and so many questions `in_flight`.

    `replies` are those that have come: a turn at which any question was answered is none at which each would be
    refused. What is forbidden (403) is forbidden to all when no reply comes between so many.
    """

    def __init__(self, pending: int, in_flight: int, replies: Callable[[], Replies], retried: Collection[str]) -> None:
        self._most_refused = max(min(pending, in_flight), _LEAST_REFUSED)
        self._replies, self._retried = replies, retried
        self._refused: Counter[str] = Counter()
        self._forbidden, self._before = 0, 0
        """How many were forbidden since a reply came, and how many replies there were then."""
        self._reasons: Counter[str] = Counter()
        self._tools: dict[str, Counter[str | None]] = {}
        """By tool how often it has answered with which error; None stands for a result."""

    def hear(self, outcome: Outcome) -> None:
        """Raises UsageError when so many questions were refused in the same way, and none went on: each would be."""
        if outcome.kind == "failed":
            self._count("failed", plain_reason(outcome.row), f"{outcome.row['error']}: {outcome.row['message']}")
            if outcome.forbidden:
                self._forbid(outcome.row["message"])
            elif outcome.turn is not None and outcome.row["sample_id"] not in self._retried:
                self._refuse(outcome.row["message"], outcome.turn)
            return
        metadata = outcome.row["metadata"]
        if outcome.kind == "rejected":
            for reason in metadata["reject_reasons"]:
                self._count("rejected", reason, reason)
            if outcome.asked_nothing:
                self._refuse("the prompt and the question alone are longer than the model's context", 0)
        for call in outcome.row["trajectory"]["tool_calls"]:
            self._hear_tool(call["tool_name"], call["result"])

    def _forbid(self, said: str) -> None:
        if (replies := self._replies().count) != self._before:
            self._forbidden, self._before = 0, replies
        self._forbidden += 1
        if self._forbidden >= self._most_refused:
            raise UsageError(
                f"{self._forbidden} questions in a row were forbidden, and no other was answered: {said}; fix it and "
                "run the same command to resume"
            )

    def _refuse(self, said: str, turn: int) -> None:
        if self._replies().last_turn >= turn:
            self._refused.clear()
            return
        self._refused[key := _NUMBER.sub("#", said)] += 1
        if self._refused[key] >= self._most_refused:
            raise UsageError(
                f"the first {self._refused[key]} questions were all refused in the same way: {said}; fix it and run "
                "the same command to resume, with --allow-changed-settings where a flag is the mend (trajgraph doctor "
                "looks closer)"
            )

    def _count(self, what: str, reason: str, shown: str) -> None:
        """Say it at the first time, the tenth, the hundredth, …"""
        key = f"{what} {reason}"
        if key not in self._reasons and len(self._reasons) >= _MOST_REASONS:
            return
        self._reasons[key] += 1
        count = self._reasons[key]
        if count == 1 and reason == "prompt_cut":
            log.warning(_CUT_PROMPTS)
        elif str(count).strip("0") == "1":
            log.info("%s, %s: %s", what, "the first" if count == 1 else f"{count} so far", shown[:_LONGEST])

    def _hear_tool(self, name: str, result: Any) -> None:
        said = result.get("error") if isinstance(result, Mapping) else None
        error = str(said or result)[:_LONGEST] if failed(result) else None
        answers = self._tools.setdefault(name, Counter())
        if len(answers) > 1:
            return
        answers[error] += 1
        if error and len(answers) == 1 and answers[error] == _SAME_ERRORS:
            log.warning("%s has answered nothing but this so far: %s", name, error)
