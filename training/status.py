"""How a run is doing, read from its files while another process writes them."""

import re
import time
from pathlib import Path

from graph.lines import sample_ids
from graph.questions import check_questions
from graph.run_files import RunFiles, read_run, working_process

_TAIL = 5_000_000
_WRITTEN = re.compile(rb'"generation_time": "(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)')
_TIME = "%Y-%m-%dT%H:%M:%S"


def standing(run: Path) -> tuple[str, bool]:
    """One line, and whether a process is at work."""
    files, content = read_run(run)
    options = content["options"]
    asked = check_questions(Path(options["questions_file"]), skip_bad_rows=True).asked(options.get("limit"))
    asked *= options.get("samples_per_question") or 1
    counts = {
        "accepted": _count(files.trajectories), "rejected": _count(files.rejected), "failed": _count(files.failed)
    }  # fmt: skip
    pending = max(asked - sum(counts.values()), 0)
    process = working_process(files)
    listed = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    line = f"{files.stem}: {listed}, {pending:,} pending of {asked:,}"
    if process is None:
        return f"{line}; nobody is working on it", False
    return f"{line}; process {process} is at work{_pace(files, pending)}", True


def _count(path: Path) -> int:
    return sum(1 for _ in sample_ids(path)) if path.exists() else 0


def _pace(files: RunFiles, pending: int) -> str:
    """From the times in the last records."""
    if not files.trajectories.exists():
        return ""
    with files.trajectories.open("rb") as lines:
        lines.seek(max(files.trajectories.stat().st_size - _TAIL, 0))
        times = [time.mktime(time.strptime(text.decode(), _TIME)) for text in _WRITTEN.findall(lines.read())]
    if len(times) < 2:
        return ""
    rate = (len(times) - 1) / max(times[-1] - times[0], 1.0)
    return f", {rate:.1f}/s, about {pending / rate / 60:.0f} min left"
