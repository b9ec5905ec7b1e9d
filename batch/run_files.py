"""The files of a run, all under one stem: found or created, locked, appended to, read back."""

import fcntl
import glob
import hashlib
import json
import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from backends.errors import UsageError
from batch.config import RunConfig, Settings, made_under
from batch.finished import Kind
from batch.flags import to_dict
from batch.jsonl import atomic_write
from batch.logs import log
from batch.run_lock import holders, try_lock
from serializers.record import family, sample_id

KINDS: tuple[Kind, ...] = ("accepted", "rejected")
"""Of records; what failed is asked again."""
UNSORTED = "other_questions"
"""In `run.json` while records may be of questions that are no longer asked."""
_LONGEST_NAME = 255
"""Bytes."""
_ENDING = 10.0
"""Seconds within which the workers of a killed run are gone."""


@dataclass(frozen=True)
class Ids:
    """The names of a run's samples and of their threads, the same whenever it is resumed.

    A sample is named after the instance, or the model's family: runs that share a folder under `--instance-id` never
    have a name twice. Threads are UUIDs (LangGraph Studio takes no others). `made_under` is a hash of what decides the
    content of a trajectory beside its question: a checkpoint of another question, prompt, tool or limit is another
    thread's, and is never resumed. A run that was started before that was so has none, and keeps its threads.
    """

    run_id: str
    made_under: str | None = None
    named_after: str = ""

    @classmethod
    def of_run(cls, files: "RunFiles", content: Mapping[str, Any]) -> "Ids":
        """Those of a stored run; one of an earlier version named its samples after the model, in any instance."""
        return cls(
            files.run_id, content.get("made_under"),
            content.get("named_after") or family(str(content["settings"]["model_name"])),
        )  # fmt: skip

    def sample(self, row_number: int, number: int) -> str:
        """The id of a question's sample."""
        return sample_id(self.named_after, row_number, number)

    def thread(self, sample: str, question: str) -> str:
        """The thread of a sample of a question."""
        own = sample
        if self.made_under is not None:
            own += hashlib.sha256(f"{self.made_under}\0{question}".encode("utf-8", "replace")).hexdigest()
        return str(uuid.uuid5(uuid.UUID(self.run_id), own))


@dataclass(frozen=True)
class RunFiles:
    """Where a run keeps its things. `run_id` is a UUID."""

    folder: Path
    stem: str
    run_id: str

    def _path(self, ending: str) -> Path:
        return self.folder / f"{self.stem}_{ending}"

    @property
    def trajectories(self) -> Path:
        return self._path("incremental.jsonl")

    @property
    def rejected(self) -> Path:
        return self._path("rejected.jsonl")

    @property
    def failed(self) -> Path:
        return self._path("failed.jsonl")

    @property
    def outputs(self) -> dict[Kind, Path]:
        """Where a sample goes by what became of it: `accepted`, `rejected`, `failed`."""
        return {"accepted": self.trajectories, "rejected": self.rejected, "failed": self.failed}

    @property
    def superseded(self) -> Path:
        """Records that a change of the questions file has taken out of the run."""
        return self._path("superseded.jsonl")

    @property
    def tokens(self) -> Path:
        """The tokens of replies, while they are appended; then they are its parts."""
        return self._path("tokens.jsonl")

    @property
    def run(self) -> Path:
        return self._path("run.json")

    @property
    def index(self) -> Path:
        """What the records add up to, so that they need not be read again."""
        return self._path("index")

    @property
    def log(self) -> Path:
        """What was said of the run, line by line."""
        return self._path("run.log")

    @property
    def lock(self) -> Path:
        """Held by the process that works on the run."""
        return self._path("run.lock")

    @property
    def checkpoints(self) -> Path:
        return self._path("checkpoints.sqlite")

    def checkpoints_of(self, worker: int, workers: int) -> Path:
        """Those of one of several processes, while they are at work."""
        return self._path(f"checkpoints_{worker + 1}of{workers}.sqlite")

    @property
    def worker_checkpoints(self) -> list[Path]:
        """Those of processes that are at work, or were killed."""
        return sorted(self.folder.glob(f"{glob.escape(self.stem)}_checkpoints_*of*.sqlite"))

    @property
    def longest_name(self) -> str:
        """The longest of all names, while the file is written."""
        return f".{self.stem}_incremental_part00001_counts.json.new"

    @property
    def stats(self) -> Path:
        return self.folder / f"{self.stem.replace('pubmed_trajectory', 'trajectory_stats', 1)}.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Held by one process at a time. Raises UsageError with the pid of the one that has it."""
        with self.lock.open("a+") as lock:
            os.set_inheritable(lock.fileno(), True)  # a run's worker processes hold it too, until the last has ended
            deadline = time.monotonic() + _ENDING
            while not try_lock(lock):
                lock.seek(0)
                first, held_by = lock.read().strip(), holders(lock)
                if first in held_by or not held_by or time.monotonic() > deadline:
                    named = first if first in held_by else ", ".join(held_by) or first or "unknown"
                    raise UsageError(
                        f"process {named} is working on {self.run}: wait for it, stop it, or start another run with "
                        "--fresh"
                    )
                time.sleep(0.05)  # the first process was killed a moment ago: its workers are ending
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield


def create_run(config: RunConfig, settings: Settings, prompt: str) -> RunFiles:
    """A new run with its `run.json`. `prompt` is the prompt; no secrets."""
    parts = (config.model.model_name, config.instance_id, config.shard and f"shard{config.shard.replace('/', 'of')}")
    tail = "_".join(re.sub(r"[/:]", "_", part) for part in parts if part)
    now = datetime.now()
    while True:
        run_id = str(uuid.uuid4())
        own = f"_{run_id[:8]}" if config.upload_to else ""  # runs of other folders may lie beside it there
        files = RunFiles(config.output, f"pubmed_trajectory_{now:%Y%m%d_%H%M%S}_{tail}{own}", run_id)
        if len(os.fsencode(files.longest_name)) > _LONGEST_NAME:
            raise UsageError("--instance-id and --model-name are too long for the names of files: give a shorter one")
        content = {
            "run_id": files.run_id, "settings": settings, "options": to_dict(config), "prompt": prompt,
            "made_under": made_under(settings), "versions": _versions(), "created": datetime.now(UTC).isoformat(),
            "named_after": config.instance_id or family(config.model.model_name),
        }  # fmt: skip
        if not files.run.exists():  # nobody else makes one: the folder is locked
            atomic_write(files.run, [json.dumps(content, ensure_ascii=False, indent=1)])
            return files
        now += timedelta(seconds=1)


def read_run(path: Path) -> tuple[RunFiles, dict[str, Any]]:
    """A stored run and its `run.json`. `path` is that file or a folder, whose newest run is taken."""
    if path.is_dir():
        if not (runs := runs_in(path)):
            raise UsageError(f"{path}: no run in this folder (a run is its …_run.json)")
        return runs[-1]
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = RunFiles(path.parent, path.name.removesuffix("_run.json"), str(uuid.UUID(content["run_id"])))
        content["settings"], content["options"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: not a run ({error}); give a …_run.json or its folder") from error
    return files, content


def runs_in(folder: Path, *, strict: bool = False) -> list[tuple[RunFiles, dict[str, Any]]]:
    """The runs in a folder, the newest last by their own time. What cannot be read is named; if `strict`, it raises."""
    found = []
    for path in sorted(folder.glob("*_run.json")):
        try:
            found.append((path, *read_run(path)))
        except UsageError as error:
            if strict:
                raise UsageError(f"{error}. Mend it or move it away, or start another run with --fresh") from error
            log.warning("left out: %s", error)
    found.sort(key=lambda run: (_begun(run[2], run[0]), run[0]))
    return [(files, content) for _, files, content in found]


def same_ids(files: RunFiles, content: Mapping[str, Any]) -> list[RunFiles]:
    """The other runs in a run's folder that give their samples the same ids: not those of another share of the file."""
    mine, ours = Ids.of_run(files, content).named_after, content["settings"]
    parts = ("source_file", "questions_sha256")

    def is_other_share(theirs: Mapping[str, Any]) -> bool:
        shards = [str(one.get("shard") or "") for one in (ours, theirs)]
        alike = all(ours.get(name) == theirs.get(name) for name in parts)
        return alike and all(shards) and shards[0] != shards[1] and len({one.partition("/")[2] for one in shards}) == 1

    return [
        other for other, about in runs_in(files.folder)
        if other.run != files.run and Ids.of_run(other, about).named_after == mine
        and not is_other_share(about["settings"])
    ]  # fmt: skip


def named_runs(paths: Sequence[Path]) -> list[tuple[RunFiles, dict[str, Any]]]:
    """The runs of folders and `…_run.json` files, each once. Raises UsageError for a path that names none."""
    found: dict[Path, tuple[RunFiles, dict[str, Any]]] = {}
    for path in paths:
        runs = runs_in(path) if path.is_dir() else []
        for files, content in runs or [read_run(path)]:
            found.setdefault(files.run.resolve(), (files, content))
    return list(found.values())


def _begun(content: dict[str, Any], path: Path) -> float:
    """When a run began, in seconds since 1970: as it says itself, in UTC; one of an earlier version by its file."""
    try:
        return datetime.fromisoformat(str(content["created"])).timestamp()
    except (KeyError, ValueError):
        return path.stat().st_mtime


@contextmanager
def folder_locked(folder: Path) -> Iterator[None]:
    """Two commands that look for a run at the same time do so one after the other."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def check_writable(folder: Path) -> None:
    """Make the output folder and try it. Raises UsageError when nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"--output {folder}: cannot be written ({error.strerror or error})") from error


def mark_set_aside(files: RunFiles) -> None:
    """Note that the rejected samples that `--redo` wants anew are set aside."""
    _rewrite(files, lambda content: {**content, "redo": {**(content.get("redo") or {}), "set_aside": True}})


def mark_sorted(files: RunFiles) -> None:
    """Note that a run's records are all of questions that it asks."""
    _rewrite(files, lambda content: {name: value for name, value in content.items() if name != UNSORTED})


def _rewrite(files: RunFiles, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    content = change(json.loads(files.run.read_text(encoding="utf-8")))
    atomic_write(files.run, [json.dumps(content, ensure_ascii=False, indent=1)])


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("trajgraph", "langgraph", "langchain-openai", "langchain-mcp-adapters")}
