"""Why a trajectory is accepted or rejected."""

from collections import Counter
from collections.abc import Sequence

from quality.gates import DEFAULT_HARD_GATES, failed_gate_names, parse_trajectory
from serializers.record import Record


def judge(record: Record, hard_gates: Sequence[str] = DEFAULT_HARD_GATES) -> Record:
    """The record with its verdict in its metadata: the gates that it fails, its citations counted by what they rest on,
    and the reasons that reject it (the failed ones among `hard_gates`, and an end without an answer).
    """
    trajectory, metadata = parse_trajectory(record), record["metadata"]
    gates = failed_gate_names(trajectory)
    if not record["trajectory"]["final_answer"].strip() and not {"no_answer", "unclosed_answer"} & set(gates):
        gates.insert(0, "no_answer")
    citations: Counter[str] = Counter(citation.verdict for citation in trajectory.cited)
    citations["numbers_missing"] = sum(bool(citation.numbers_missing) for citation in trajectory.cited)
    verdict = {
        "gates": gates,
        "citations": dict(citations),
        "reject_reasons": reject_reasons(gates, metadata["stop_reason"] or "no_answer", hard_gates),
    }
    return Record({**record, "metadata": {**metadata, **verdict}})


def reject_reasons(gates: Sequence[str], stop_reason: str, hard_gates: Sequence[str]) -> list[str]:
    """Why a finished trajectory is rejected; empty when it is accepted. Why it ended comes first."""
    ended = [] if stop_reason == "answer" else [stop_reason]
    return list(dict.fromkeys([*ended, *(gate for gate in gates if gate in hard_gates)]))
