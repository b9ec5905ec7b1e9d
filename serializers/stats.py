"""The numbers of a run, in the shape of the earlier scripts' stats file."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any


def build_stats(
    accepted: Iterable[Mapping[str, Any]],
    rejected: Iterable[Mapping[str, Any]],
    *,
    asked: int,
    failed: int,
    bad_rows: int,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Statistics over the records, read one by one. accepted + rejected + failed + pending = `asked`, always.

    `topics`, `question_types` and `avg_tool_calls` describe the accepted; the rest both. Tokens are as the server
    counted them; seconds are summed over questions, so they exceed the run's own time when it is concurrent.
    """
    sums: Counter[str] = Counter()
    topics: Counter[str] = Counter()
    question_types: Counter[str] = Counter()
    stop_reasons: Counter[str] = Counter()
    reject_reasons: Counter[str] = Counter()
    tool_errors: Counter[str] = Counter()
    for kind, records in (("accepted", accepted), ("rejected", rejected)):
        for record in records:
            metadata = record["metadata"]
            sums[kind] += 1
            if kind == "accepted":
                topics[record["topic"]] += 1
                question_types[record["question_type"]] += 1
                sums["tool_calls"] += metadata["total_tool_calls"]
            stop_reasons[metadata["stop_reason"]] += 1
            reject_reasons.update(metadata["reject_reasons"])
            tool_errors.update(metadata["tool_errors"])
            for name in ("input_tokens", "output_tokens"):
                sums[name] += metadata["usage"][name]
            for name in ("model_seconds", "tool_seconds"):
                sums[name] += metadata[name]
    total = sums["accepted"]
    return {
        "total_samples": total,
        "topics": dict(topics),
        "question_types": dict(question_types),
        "avg_tool_calls": round(sums["tool_calls"] / total, 3) if total else 0,
        **about,
        "questions": asked,
        "accepted": total,
        "rejected": sums["rejected"],
        "failed": failed,
        "pending": asked - total - sums["rejected"] - failed,
        "bad_rows": bad_rows,
        "stop_reasons": dict(stop_reasons),
        "reject_reasons": dict(reject_reasons),
        "tool_errors": dict(tool_errors),
        "tokens": {"input": sums["input_tokens"], "output": sums["output_tokens"]},
        "seconds": {"model": round(sums["model_seconds"], 3), "tools": round(sums["tool_seconds"], 3)},
    }
