"""Gates: named, deterministic checks of a trajectory. The hard ones decide whether it is accepted.

They read a record's text and need nothing else; where the record has metadata of ours, they use it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graph.settings import HARD as HARD
from serializers.citations import Citation, citations
from serializers.segments import Segment, segments

ENDED = ("stop", "eos_token", "stop_sequence", "tool_calls", None)
"""Reasons with which the model itself ended its reply; with any other (`length`, `content_filter`) it was cut off."""
_FOREIGN = re.compile(r"[\u0400-\u04ff\u0600-\u06ff\u0900-\u097f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_BYTES_A_TOKEN = 3.6


@dataclass(frozen=True)
class Thresholds:
    """From where on the gates with a number in them count."""

    max_tool_calls: int = 5
    tool_error_share: float = 0.5
    """Share of tool outputs that may be errors."""
    token_limit: int = 16_384
    foreign_letters: int = 5
    """Letters of other scripts (Greek aside) that the model may write."""


@dataclass(frozen=True)
class Trajectory:
    """A record taken apart, once, for all gates."""

    text: str
    pieces: list[Segment]
    strays: list[str]
    cited: list[Citation]
    executed: int | None
    """Calls that were executed; None where the record does not say."""
    metadata: Mapping[str, Any]
    tokens: int | None = None

    def of(self, *kinds: str) -> list[Segment]:
        """The pieces of these kinds."""
        return [piece for piece in self.pieces if piece.kind in kinds]


def taken_apart(record: Mapping[str, Any], tokens: int | None = None) -> Trajectory:
    """From any record: ours, the earlier scripts', or less. Never raises."""
    trajectory = record.get("trajectory")
    trajectory = trajectory if isinstance(trajectory, Mapping) else {}
    text, metadata = trajectory.get("interleaved_text"), record.get("metadata")
    text = text if isinstance(text, str) else ""
    calls = trajectory.get("tool_calls")
    pieces, strays = segments(text)
    executed = len(calls) if isinstance(calls, list) else None
    about = metadata if isinstance(metadata, Mapping) else {}
    return Trajectory(text, pieces, strays, citations(pieces), executed, about, tokens)


def violated(trajectory: Trajectory, thresholds: Thresholds | None = None) -> list[str]:
    """The names of the gates that a trajectory does not pass, in the order of `GATES`."""
    limits = thresholds or Thresholds()
    return [name for name, fails in GATES.items() if fails(trajectory, limits)]


def unclosed_answer(trajectory: Trajectory, _: Thresholds) -> bool:
    """The answer was begun and not closed."""
    answers = trajectory.of("answer")
    return bool(answers) and not answers[-1].closed


def no_answer(trajectory: Trajectory, _: Thresholds) -> bool:
    """There is no answer, or nothing in it."""
    answers = trajectory.of("answer")
    return not answers or (answers[-1].closed and not answers[-1].body.strip())


def truncated(trajectory: Trajectory, _: Thresholds) -> bool:
    """The last reply was cut off, within a thought or a call, or by what the server says of it."""
    last = trajectory.pieces[-1] if trajectory.pieces else None
    told = trajectory.metadata.get("finish_reasons")
    reasons = told if isinstance(told, list) and told else [None]
    open_end = last is not None and not last.closed and last.kind in ("think", "call_tool", "tool_output")
    return open_end or reasons[-1] not in ENDED or trajectory.metadata.get("stop_reason") == "truncated"


def forged_tool_output(trajectory: Trajectory, _: Thresholds) -> bool:
    """A tool output that follows no call, or that no tool gave."""
    outputs, before = trajectory.of("tool_output"), "text"
    for piece in trajectory.pieces:
        if piece.kind == "tool_output" and before != "call_tool":
            return True
        before = piece.kind if piece.kind != "text" else before
    return trajectory.executed is not None and len(outputs) > trajectory.executed


def unbalanced_tags(trajectory: Trajectory, _: Thresholds) -> bool:
    """A tag that is closed and not opened, or left open in the middle."""
    return bool(trajectory.strays) or any(
        not piece.closed
        for piece in trajectory.pieces[:-1]
        if piece.kind != "answer" or piece.end < len(trajectory.text)
    )


def no_tool_use(trajectory: Trajectory, _: Thresholds) -> bool:
    """Answered without reading anything."""
    return bool(trajectory.of("answer")) and not trajectory.of("tool_output", "call_tool")


def tool_error_share(trajectory: Trajectory, limits: Thresholds) -> bool:
    """Too many of the tool outputs are errors."""
    outputs = trajectory.of("tool_output")
    errors = sum(piece.body.lstrip().startswith("Error:") for piece in outputs)
    return bool(errors) and errors / len(outputs) > limits.tool_error_share


def duplicate_call(trajectory: Trajectory, _: Thresholds) -> bool:
    """The same call twice."""
    calls = [(" ".join(piece.attributes.split()), " ".join(piece.body.split())) for piece in trajectory.of("call_tool")]
    return len(set(calls)) < len(calls)


def call_limit_passed(trajectory: Trajectory, limits: Thresholds) -> bool:
    """More calls than the rule allows: the run's own, where the record names it."""
    limit = trajectory.metadata.get("max_tool_calls")
    calls = max(len(trajectory.of("call_tool")), trajectory.executed or 0)
    return calls > (limit if isinstance(limit, int) else limits.max_tool_calls)


def empty_think(trajectory: Trajectory, _: Thresholds) -> bool:
    """A thought with nothing in it."""
    return any(not piece.body.strip() for piece in trajectory.of("think"))


def thought_missing(trajectory: Trajectory, _: Thresholds) -> bool:
    """It searches and answers without one thought."""
    return bool(trajectory.pieces) and not trajectory.of("think")


def ungrounded_citation(trajectory: Trajectory, _: Thresholds) -> bool:
    """A citation of something that had not been shown."""
    return any(citation.verdict != "grounded" for citation in trajectory.cited)


def over_token_limit(trajectory: Trajectory, limits: Thresholds) -> bool:
    """Longer than a training run takes in: as counted, else by an estimate of 3.6 bytes a token."""
    tokens = trajectory.tokens if trajectory.tokens is not None else estimated_tokens(trajectory.text)
    return tokens > limits.token_limit


def language(trajectory: Trajectory, limits: Thresholds) -> bool:
    """The model wrote in another script than English's."""
    written = (piece.body for piece in trajectory.pieces if piece.kind != "tool_output")
    return sum(len(_FOREIGN.findall(text)) for text in written) > limits.foreign_letters


def estimated_tokens(text: str) -> int:
    """Near what a tokenizer counts for English prose."""
    return int(len(text.encode("utf-8", "replace")) / _BYTES_A_TOKEN)


_ALL: Sequence[Callable[[Trajectory, Thresholds], bool]] = (
    unclosed_answer, no_answer, truncated, forged_tool_output, unbalanced_tags, no_tool_use, tool_error_share,
    duplicate_call, call_limit_passed, empty_think, thought_missing, ungrounded_citation, over_token_limit, language,
)  # fmt: skip
GATES: Mapping[str, Callable[[Trajectory, Thresholds], bool]] = {gate.__name__: gate for gate in _ALL}
"""By name; the docstring of each says what it finds."""
