"""How a run is doing, read from its files while another process writes them."""

import re
import time
from collections import Counter
from pathlib import Path

from batch.config import RunConfig
from batch.flags import from_dict
from batch.jsonl import sample_ids
from batch.questions import check_questions
from batch.run_files import RunFiles, process_at_work, read_run
from serializers.record import sample_of

_TAIL = 5_000_000
_WRITTEN = re.compile(rb'"generation_time": "(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)')
_TIME = "%Y-%m-%dT%H:%M:%S"


def status_line(run: Path) -> tuple[str, bool]:
    """One line, and whether a process is at work."""
    files, content = read_run(run)
    config = from_dict(RunConfig, content["options"])
    share = config.share()
    questions = check_questions(config.questions_file, skip_bad_rows=True, limit=config.limit, share=share).asked
    accepted, rejected = _by_question(files.trajectories), _by_question(files.rejected)
    failed = _by_question(files.failed)
    listed = f"{accepted.total():,} accepted, {rejected.total():,} rejected, {failed.total():,} failed"
    samples = config.samples
    if samples.accept:
        tried = accepted + rejected
        enough = sum(accepted[number] >= samples.accept or tried[number] >= samples.most for number in tried)
        pending = questions - enough
        line = f"{files.stem}: {listed}; {enough:,} of {questions:,} questions have enough"
    else:
        asked = questions * samples.most
        pending = max(asked - accepted.total() - rejected.total() - failed.total(), 0)
        line = f"{files.stem}: {listed}, {pending:,} pending of {asked:,}"
    process = process_at_work(files)
    if process is None:
        return f"{line}; no process is working on it", False
    return f"{line}; process {process} is at work{_pace(files, None if samples.accept else pending)}", True


def _by_question(path: Path) -> Counter[int]:
    """How many samples of each question, by its row number, are in a file."""
    return Counter(sample_of(name)[0] for name in sample_ids(path)) if path.exists() else Counter()


def _pace(files: RunFiles, pending: int | None) -> str:
    """From the times in the last records of the process at work; what is left is known only where each of them ends a
    question.
    """
    since, times = (files.folder / f"{files.stem}_run.lock").stat().st_mtime, list[float]()
    for path in (files.trajectories, files.rejected):
        if not path.exists():
            continue
        with path.open("rb") as lines:
            lines.seek(max(path.stat().st_size - _TAIL, 0))
            found = [time.mktime(time.strptime(text.decode(), _TIME)) for text in _WRITTEN.findall(lines.read())]
        times += found
        if path.stat().st_size > _TAIL and found:
            since = max(since, found[0])
    recent = sum(at >= since for at in times)
    if recent < 2:
        return ""
    rate = recent / max(time.time() - since, 1.0)
    return f", {rate:.1f}/s" + ("" if pending is None else f", about {pending / rate / 60:.0f} min left")
