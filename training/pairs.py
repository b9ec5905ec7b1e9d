"""Pairs for preference training: two replies to the same beginning, one of each trajectory."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from quality.gates import failed_gate_names
from training.export_spec import ExportSpec
from training.made import Made
from training.messages import NUDGED, Message, unmarked
from training.rows import Row

_Chat = tuple[Row, list[Message]]
"""A row and its conversation."""


def pairs(rows: Iterable[Row], spec: ExportSpec, left_out: "Counter[str]") -> Iterator[Made]:
    """Accepted beside rejected trajectories of the same question, made under the same prompt, each pair up to the first
    reply in which they differ: what tools gave is in what both of them had seen, and is not trained on.
    """
    by_question: dict[tuple[str, str | None], tuple[list[Row], list[Row]]] = {}
    for row in rows:
        fit = not row.reject_reasons and not set(failed_gate_names(row.parsed, spec.thresholds)) & set(spec.hard)
        by_question.setdefault((row.question, spec.prompts.system(row)), ([], []))[0 if fit else 1].append(row)
    for good, bad in by_question.values():
        if spec.best is not None:
            good = sorted(good, key=lambda row: row.faults(spec.thresholds))[: spec.best]
        for better, worse in _matched(
            [(row, spec.messages(row)) for row in good], [(row, spec.messages(row)) for row in bad]
        ):
            at = _shared(better[1], worse[1])
            chat = [side[1][: at + 1] for side in (better, worse)]
            replies = [side[at] if at < len(side) else None for side in chat]
            chosen, rejected = replies
            if not (chosen and rejected and chosen["role"] == rejected["role"] == "assistant"):
                left_out["of two that do not differ in a reply"] += 1
            elif NUDGED in chosen:
                left_out["whose better reply had to be asked again"] += 1
            else:
                content = {
                    "prompt": unmarked(chat[0][:at]), "chosen": unmarked([chosen]), "rejected": unmarked([rejected]),
                    "rejected_id": worse[0].sample_id,
                }  # fmt: skip
                said = [[str(reply["content"])] for reply in (chosen, rejected)]
                yield Made([better[0], worse[0]], content, list(map(unmarked, chat)), said, is_pair=True)


def _matched(good: list[_Chat], bad: list[_Chat]) -> Iterator[tuple[_Chat, _Chat]]:
    """Each rejected one beside an accepted one of its own: the one with which it has the most in common."""
    left = list(good)
    for worse in bad[: len(good)]:
        better = max(left, key=lambda one: _shared(one[1], worse[1]))
        left.remove(better)
        yield better, worse


def _shared(one: Sequence[Message], other: Sequence[Message]) -> int:
    """How many messages two conversations have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (ours, theirs) in pairs if ours != theirs), min(len(one), len(other)))
