"""Pairs for preference training: two replies to the same beginning, one of each trajectory."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from quality.gates import failed_gate_names
from training.export_spec import ExportSpec
from training.made import Made
from training.messages import NUDGED, Message, unmarked
from training.rows import Row

_ALONE = "without an other one of their question to make a pair with"
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
    taken = Counter[str]()
    for good, bad in by_question.values():
        found, why = _matched([(row, spec.messages(row)) for row in good], [(row, spec.messages(row)) for row in bad])
        left_out.update(why)  # and so the counts of rows add up
        for better, worse in sorted(found, key=lambda pair: pair[0][0].faults(spec.thresholds)):
            if taken[better[0].question] == spec.best:
                left_out["beside better ones (--best)"] += 2
                continue
            taken[better[0].question] += 1
            at = _shared(better[1], worse[1])
            chat = [side[1][: at + 1] for side in (better, worse)]
            chosen, rejected = chat[0][at], chat[1][at]
            content = {
                "prompt": unmarked(chat[0][:at]), "chosen": unmarked([chosen]), "rejected": unmarked([rejected]),
                "rejected_id": worse[0].sample_id,
            }  # fmt: skip
            said = [[str(reply["content"])] for reply in (chosen, rejected)]
            yield Made([better[0], worse[0]], content, list(map(unmarked, chat)), said, is_pair=True)


def _matched(good: list[_Chat], bad: list[_Chat]) -> tuple[list[tuple[_Chat, _Chat]], list[str]]:
    """Each rejected one beside an accepted one of its own: of those with which it makes a pair, the one with which it
    has the most in common. And why others make none.
    """
    left, found, why = list(good), list[tuple[_Chat, _Chat]](), list[str]()
    for worse in bad:
        against = [_against(better[1], worse[1]) for better in left]
        fit = [better for better, reason in zip(left, against, strict=True) if reason is None]
        if fit:
            better = max(fit, key=lambda one: _shared(one[1], worse[1]))
            left.remove(better)
            found.append((better, worse))
        else:
            why.append(str(against[0]) if left else _ALONE)
    return found, why + [_ALONE] * len(left)


def _against(better: Sequence[Message], worse: Sequence[Message]) -> str | None:
    """Why two conversations make no pair; None where they do."""
    at = _shared(better, worse)
    chosen, rejected = (side[at] if at < len(side) else None for side in (better, worse))
    if not (chosen and rejected and chosen["role"] == rejected["role"] == "assistant"):
        return "of two that do not differ in a reply"
    return "whose better reply had to be asked again" if NUDGED in chosen else None


def _shared(one: Sequence[Message], other: Sequence[Message]) -> int:
    """How many messages two conversations have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (ours, theirs) in pairs if ours != theirs), min(len(one), len(other)))
