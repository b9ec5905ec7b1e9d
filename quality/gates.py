"""Gates: named, deterministic checks of a trajectory. The hard ones decide whether it is accepted.

They read a record's text and need nothing else; where the record has metadata of ours, they use it.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.config import QUERY_NAMES
from backends.errors import UsageError
from quality.citations import Citation, citations
from quality.language import is_english
from serializers.evidence import output_failed, says_nothing
from serializers.repetition import repeats_itself
from serializers.reply import model_ended
from serializers.segments import Segment, split_segments

DEFAULT_HARD_GATES = (
    "unclosed_answer", "no_answer", "answer_not_last", "truncated", "forged_tool_output", "unanswered_call",
    "unbalanced_tags", "call_limit_passed",
)  # fmt: skip
"""The checks of a finished trajectory (see `quality/gates.py`) that no training set should fail."""

Fault = bool | list[Segment]
"""The segments at fault, or True where it is the trajectory as a whole; nothing where all is well."""
_ATTRIBUTE = re.compile(r"""([\w-]{1,40})\s{0,8}=\s{0,8}("[^"]*"|'[^']*'|[^\s"'=<>]+)""")
_BYTES_A_TOKEN = 3.6


@dataclass(frozen=True)
class Thresholds:
    """From where on the gates with a number in them count."""

    max_tool_calls: int = 5
    tool_error_share: float = 0.5
    """Share of tool outputs that may be errors."""
    token_limit: int = 16_384


@dataclass(frozen=True)
class Trajectory:
    """A record, parsed once, for all gates."""

    text: str
    segments: list[Segment]
    unmatched_closing_tags: list[str]
    cited: list[Citation]
    executed: int | None
    """Calls that were executed; None where the record does not say."""
    metadata: Mapping[str, Any]
    tokens: int | None = None

    def of(self, *kinds: str) -> list[Segment]:
        """The segments of these kinds."""
        return [piece for piece in self.segments if piece.kind in kinds]


def parse_trajectory(record: Mapping[str, Any], tokens: int | None = None) -> Trajectory:
    """From any record: ours, the earlier scripts', or less. Never raises."""
    trajectory = record.get("trajectory")
    trajectory = trajectory if isinstance(trajectory, Mapping) else {}
    text, metadata = trajectory.get("interleaved_text"), record.get("metadata")
    text = text if isinstance(text, str) else ""
    calls = trajectory.get("tool_calls")
    segments, unmatched_closing_tags = split_segments(text)
    executed = len(calls) if isinstance(calls, list) else None
    about = metadata if isinstance(metadata, Mapping) else {}
    return Trajectory(
        text, segments, unmatched_closing_tags, citations(segments, _shown_ids(about)), executed, about, tokens
    )


def _shown_ids(metadata: Mapping[str, Any]) -> list[list[str] | None] | None:
    """The ids of the results, call by call; None where the record is not ours, or older: then the text says."""
    shown = metadata.get("snippet_ids")
    if not isinstance(shown, list):
        return None
    return [list(map(str, ids)) if isinstance(ids, list) else None for ids in shown]


def failed_gates(trajectory: Trajectory, thresholds: Thresholds | None = None) -> dict[str, list[Segment]]:
    """The gates that a trajectory does not pass, in the order of `GATES`, each with the segments at fault (none where
    it is the whole).
    """
    limits = thresholds or Thresholds()
    found = {name: find(trajectory, limits) for name, find in GATES.items()}
    return {name: fault if isinstance(fault, list) else [] for name, fault in found.items() if fault}


def failed_gate_names(trajectory: Trajectory, thresholds: Thresholds | None = None) -> list[str]:
    """The names of the gates that a trajectory does not pass."""
    return list(failed_gates(trajectory, thresholds))


def check_names(names: Sequence[str]) -> None:
    """Raises UsageError when one is no gate's."""
    if unknown := [name for name in names if name not in GATES]:
        raise UsageError(f"--hard-gates {', '.join(unknown)}: the gates are {', '.join(GATES)}")


def is_error(output: Segment) -> bool:
    """Whether a tool output says that the call failed."""
    return output_failed(output.body)


def useless(trajectory: Trajectory) -> list[Segment]:
    """The tool outputs that are errors, or say nothing."""
    return [output for output in trajectory.of("tool_output") if is_error(output) or says_nothing(output.body)]


def share_of_useless(trajectory: Trajectory) -> float:
    """Their share of all tool outputs; 0 where there are none."""
    return len(useless(trajectory)) / max(1, len(trajectory.of("tool_output")))


def unclosed_answer(trajectory: Trajectory, _: Thresholds) -> Fault:
    """The answer was begun and not closed."""
    return [answer for answer in trajectory.of("answer")[-1:] if not answer.closed]


def no_answer(trajectory: Trajectory, _: Thresholds) -> Fault:
    """There is no answer, or nothing in it."""
    answers = trajectory.of("answer")
    return not answers or [answer for answer in answers[-1:] if answer.closed and _empty(answer)]


def answer_not_last(trajectory: Trajectory, _: Thresholds) -> Fault:
    """Something follows the answer."""
    answered = (at for at, piece in enumerate(trajectory.segments) if piece.kind == "answer" and piece.closed)
    first = next(answered, None)
    return first is not None and trajectory.segments[first + 1 :]


def truncated(trajectory: Trajectory, _: Thresholds) -> Fault:
    """The last reply was cut off, within a thought or a call, or by what the server says of it; not by the end of the
    context, which is called so.
    """
    if trajectory.metadata.get("stop_reason") == "context_overflow":
        return False
    last = trajectory.segments[-1:]
    if last and not last[0].closed and last[0].kind in ("think", "call_tool", "tool_output"):
        return last
    listed = trajectory.metadata.get("finish_reasons")
    reasons = listed if isinstance(listed, list) and listed else [None]
    return not model_ended(reasons[-1]) or trajectory.metadata.get("stop_reason") == "truncated"


def forged_tool_output(trajectory: Trajectory, _: Thresholds) -> Fault:
    """A tool output that answers no call, or that no tool gave."""
    outputs = trajectory.of("tool_output")
    forged = [output for output in outputs if not output.call]
    return forged or (trajectory.executed is not None and len(outputs) > trajectory.executed)


def unanswered_call(trajectory: Trajectory, _: Thresholds) -> Fault:
    """A call without a result, after which the model went on."""
    answered = {output.call for output in trajectory.of("tool_output")}
    spoken = [piece.start for piece in trajectory.of("think", "answer")]
    return [
        call
        for call in trajectory.of("call_tool")
        if call.closed and call.call not in answered and any(call.end <= start for start in spoken)
    ]


def unbalanced_tags(trajectory: Trajectory, _: Thresholds) -> Fault:
    """A tag that is closed and not opened, or left open in the middle."""
    left_open = [
        piece
        for piece in trajectory.segments[:-1]
        if not piece.closed and piece.kind != "text" and (piece.kind != "answer" or piece.end < len(trajectory.text))
    ]
    return left_open or bool(trajectory.unmatched_closing_tags)


def no_tool_use(trajectory: Trajectory, _: Thresholds) -> Fault:
    """Answered without reading anything."""
    return bool(trajectory.of("answer")) and not trajectory.of("tool_output", "call_tool")


def tool_error_share(trajectory: Trajectory, limits: Thresholds) -> Fault:
    """Too many of the tool outputs are errors, or say nothing."""
    return useless(trajectory) if share_of_useless(trajectory) > limits.tool_error_share else False


def nothing_found(trajectory: Trajectory, _: Thresholds) -> Fault:
    """It answers, and no tool output says anything."""
    return bool(trajectory.of("answer")) and share_of_useless(trajectory) == 1


def empty_query(trajectory: Trajectory, _: Thresholds) -> Fault:
    """A call that asks for nothing."""
    return [
        call
        for call in trajectory.of("call_tool")
        if _empty(call) and not {name.lower() for name, _ in _ATTRIBUTE.findall(call.attributes)} & set(QUERY_NAMES)
    ]


def no_citation(trajectory: Trajectory, _: Thresholds) -> Fault:
    """An answer that cites nothing."""
    answers = [answer for answer in trajectory.of("answer") if not _empty(answer)]
    return [
        answer
        for answer in answers[-1:]
        if not any(answer.start <= citation.start < answer.end for citation in trajectory.cited)
    ]


def number_not_in_source(trajectory: Trajectory, _: Thresholds) -> Fault:
    """A number in a cited sentence, or in what is cited, that does not stand in the source."""
    return _with(trajectory, [citation.start for citation in trajectory.cited if citation.numbers_missing])


def duplicate_call(trajectory: Trajectory, _: Thresholds) -> Fault:
    """The same call twice, in whatever letters, order of attributes and number of results."""
    seen: set[tuple[object, ...]] = set()
    again = []
    for call in trajectory.of("call_tool"):
        given = {name.lower(): value.strip("\"'") for name, value in _ATTRIBUTE.findall(call.attributes)}
        given.pop("limit", None)
        asked = (*sorted(given.items()), " ".join(call.body.casefold().split()))
        if asked in seen:
            again.append(call)
        seen.add(asked)
    return again


def call_limit_passed(trajectory: Trajectory, limits: Thresholds) -> Fault:
    """More calls than the rule allows: the run's own, where the record names it."""
    listed = trajectory.metadata.get("max_tool_calls")
    limit = listed if isinstance(listed, int) else limits.max_tool_calls
    return trajectory.of("call_tool")[max(limit, 0) :] or (trajectory.executed or 0) > limit


def empty_think(trajectory: Trajectory, _: Thresholds) -> Fault:
    """A thought with nothing in it."""
    return list(filter(_empty, trajectory.of("think")))


def repetition(trajectory: Trajectory, _: Thresholds) -> Fault:
    """What the model wrote goes round in circles: the same hundred letters come four times."""
    return [piece for piece in trajectory.of("think", "answer", "text") if repeats_itself(piece.body)]


def thought_missing(trajectory: Trajectory, _: Thresholds) -> Fault:
    """It searches and answers without one thought."""
    return bool(trajectory.segments) and not trajectory.of("think")


def ungrounded_citation(trajectory: Trajectory, _: Thresholds) -> Fault:
    """A citation of something that had not been shown, or of nothing."""
    return _with(trajectory, [citation.start for citation in trajectory.cited if citation.verdict != "grounded"])


def over_token_limit(trajectory: Trajectory, limits: Thresholds) -> Fault:
    """Longer than a training run takes in: as counted, else by an estimate of 3.6 bytes a token."""
    tokens = trajectory.tokens if trajectory.tokens is not None else estimated_tokens(trajectory.text)
    return tokens > limits.token_limit


def language(trajectory: Trajectory, _: Thresholds) -> Fault:
    """The model wrote in another language than English."""
    return [
        piece
        for piece in trajectory.segments
        if piece.kind != "tool_output" and not is_english(piece.body, prose=piece.kind != "call_tool")
    ]


def _with(trajectory: Trajectory, starts: list[int]) -> list[Segment]:
    """The segments in which one of these places (in order) lies."""
    return [piece for piece in trajectory.segments if bisect_left(starts, piece.start) < bisect_left(starts, piece.end)]


def _empty(piece: Segment) -> bool:
    return not any(map(str.isalnum, piece.body))


def estimated_tokens(text: str) -> int:
    """Near what a tokenizer counts for English prose."""
    return int(len(text.encode("utf-8", "replace")) / _BYTES_A_TOKEN)


_ALL: Sequence[Callable[[Trajectory, Thresholds], Fault]] = (
    unclosed_answer, no_answer, answer_not_last, truncated, forged_tool_output, unanswered_call, unbalanced_tags,
    no_tool_use, nothing_found, tool_error_share, empty_query, duplicate_call, call_limit_passed, empty_think,
    thought_missing, repetition, no_citation, ungrounded_citation, number_not_in_source, over_token_limit, language,
)  # fmt: skip
GATES: Mapping[str, Callable[[Trajectory, Thresholds], Fault]] = {gate.__name__: gate for gate in _ALL}
"""By name; the docstring of each says what it finds."""
