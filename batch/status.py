"""How a run is doing, read from its files while another process writes them."""

import json
import sqlite3
import time
import uuid
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from batch.config import RunConfig
from batch.flags import from_dict
from batch.index import RunIndex
from batch.questions import QuestionsFile, check_questions
from batch.records import read_lines, sample_ids
from batch.run_files import Ids, RunFiles
from batch.run_lock import process_at_work
from batch.stats import Stats, shares
from batch.watch import duration, outcome_line
from serializers.record import sample_of

_STUCK = 300.0
"""Seconds without a step after which a question is called stuck."""
_NAMED = 3
_LONGEST_LOOK = 200_000
"""Questions among which stuck ones are looked for by name."""


def status_of(files: RunFiles, content: dict[str, Any]) -> tuple[str, bool]:
    """A line or a few, and whether a process is at work."""
    config = from_dict(RunConfig, content["options"])
    questions = check_questions(
        config.questions_file, skip_bad_rows=True, limit=config.limit, share=config.share(), dedupe=config.dedupe
    )
    index = RunIndex.read(files)
    stats = index.stats
    failed = Counter(sample_of(name)[0] for name in sample_ids(files.failed))
    samples = config.samples
    listed = f"{stats.counts['accepted']:,} accepted, {stats.counts['rejected']:,} rejected, {failed.total():,} failed"
    if samples.accept:
        accepted, tried = Counter[int](), Counter[int]()
        for row, number in index.finished.rows():
            tried[row] += 1
            accepted[row] += index.finished.get(row, number) == "accepted"
        enough = sum(accepted[row] >= samples.accept or tried[row] >= samples.most for row in tried)
        pending = questions.asked - enough
        line = f"{files.stem}: {listed}; {enough:,} of {questions.asked:,} questions have enough"
    else:
        asked = questions.asked * samples.most
        pending = max(asked - stats.counts.total() - failed.total(), 0)
        line = f"{files.stem}: {listed}, {pending:,} pending of {asked:,}"
    process = process_at_work(files.lock)
    if process is None:
        return f"{line}; no process is working on it", False
    rate = _rate(files, stats.counts.total())
    left = "" if not rate or samples.accept else f", about {duration(pending / rate)} left" if pending else ", ending"
    pace = f", {rate:.2g}/s{left}" if rate else ""
    facts = {
        "accepted": stats.counts["accepted"], "rejected": stats.counts["rejected"], "failed": failed.total(),
        "reject_reasons": dict(stats.reasons.most_common(1)), "tool_errors": stats.tool_errors,
        **_per_second(stats, rate),
    }  # fmt: skip
    lines = [
        f"{line}; process {process} is at work{pace}",
        f"  {config.model.where}: {outcome_line(facts, 200)}",
        *(f"  {line}" for line in shares(stats.endpoints)),
    ]
    return "\n".join([*lines, *_stuck(files, content, questions)]), True


def _per_second(stats: Stats, rate: float) -> dict[str, float]:
    """Replies and tokens a second, from what samples take on average and how many end."""
    each = rate / max(stats.counts.total(), 1)
    return {"replies_per_second": each * stats.replies, "tokens_per_second": each * stats.output_tokens}


def _rate(files: RunFiles, finished: int) -> float:
    """Samples a second that the process at work has finished since it began; 0 where too few are known."""
    try:
        before = json.loads(files.stats.read_text(encoding="utf-8"))["finished_before"]
        seconds = max(time.time() - files.lock.stat().st_mtime, 1.0)
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
    return (finished - before) / seconds if finished - before > 1 else 0.0


def _stuck(files: RunFiles, content: dict[str, Any], questions: QuestionsFile) -> list[str]:
    """The questions in work whose last step is long ago, the oldest first."""
    steps: dict[str, float] = {}
    for path in (files.checkpoints, *files.worker_checkpoints):
        for thread, at in _last_steps(path):
            steps[thread] = max(at, steps.get(thread, 0.0))
    old = sorted((at, thread) for thread, at in steps.items() if time.time() - at > _STUCK)
    if not old:
        return []
    ids, names = Ids.of_run(files, content), dict[str, str]()
    ended = (record for path in files.outputs.values() for record in read_lines(path))
    done = {ids.thread(str(one["sample_id"]), str(one["question"])) for one in ended}
    if not (old := [(at, thread) for at, thread in old if thread not in done]):
        return []
    wanted = {thread for _, thread in old[:_NAMED]}
    for number, row in questions.stream() if questions.asked <= _LONGEST_LOOK else ():
        for sample in range(1, 5):
            name = ids.sample(number, sample)
            if (thread := ids.thread(name, row["question"])) in wanted:
                names[thread] = name
    each = [f"{names.get(thread, thread)}, last step {duration(time.time() - at)} ago" for at, thread in old[:_NAMED]]
    more = f"; and {len(old) - _NAMED} more" if len(old) > _NAMED else ""
    return [f"  no step for long: {'; '.join(each)}{more}"]


def _last_steps(path: Path) -> list[tuple[str, float]]:
    """Each thread with the time of its last checkpoint, which is in its id."""
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=2)) as stored:
            rows = stored.execute("SELECT thread_id, max(checkpoint_id) FROM checkpoints GROUP BY thread_id").fetchall()
        return [(thread, _time_of(uuid.UUID(checkpoint))) for thread, checkpoint in rows]
    except (sqlite3.Error, ValueError):
        return []


def _time_of(checkpoint: uuid.UUID) -> float:
    """Seconds since 1970 of a UUID of version 6, whose time comes highest bits first, in 100 ns since 1582."""
    high = checkpoint.int >> 80
    return (((high << 12) | ((checkpoint.int >> 64) & 0x0FFF)) - 0x01B21DD213814000) / 1e7
