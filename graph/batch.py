"""Many questions: a graph for each, so many at a time, every one of them ending in exactly one file."""

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from langgraph.errors import GraphDrained
from langgraph.runtime import RunControl
from tqdm import tqdm

from backends.errors import BackendError, ModelError, ToolError
from graph.attempts import Attempts, Unsettled
from graph.build import TrajectoryGraph
from graph.checkpoints import thread_id
from graph.downtime import Downtime, Probe
from graph.group_saver import GroupSaver
from graph.questions import QuestionsFile, stream_questions
from graph.run_files import RunFiles, append_line, drop_torn_line, read_lines, sample_ids, write_whole
from graph.settings import Limits, RunSettings
from serializers.record import QuestionRow, Record, build_record, sample_id
from serializers.stats import build_stats

_SERVICES: dict[type[BackendError], str] = {ModelError: "model", ToolError: "tool"}


@dataclass(frozen=True)
class BatchSettings:
    """How a run is worked through; none of it changes what is in the records."""

    concurrency: int = 5
    limit: int | None = None
    incremental: bool = True
    keep_checkpoints: bool = False
    retry_waits: tuple[float, ...] = (2.0, 4.0, 6.0)
    max_downtime: float | None = None


@dataclass
class Batch:
    """One run over one questions file. Make it, then `await run()`; it owns the run's output files meanwhile."""

    graph: TrajectoryGraph
    saver: GroupSaver
    files: RunFiles
    questions: QuestionsFile
    settings: RunSettings
    how: BatchSettings = field(default_factory=BatchSettings)
    control: RunControl = field(default_factory=RunControl)
    probes: Mapping[type[BackendError], Probe] = field(default_factory=dict)
    """For each kind of failure, how to ask whether its service is there."""

    def __post_init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.limit = self.how.limit
        self.drained = asyncio.Event()
        self._writing = asyncio.Lock()
        self._held: list[Record] = []
        self._written_threads: list[str] = []
        self.downtimes = {
            kind: Downtime(_SERVICES[kind], probe, self.drained, _say, self.how.max_downtime)
            for kind, probe in self.probes.items()
        }
        limits = Limits(max_turns=self.settings.max_turns)
        self.attempts = Attempts(
            self.graph, self.saver, limits, self.control, self.drained, self.downtimes, self.how.retry_waits, _say
        )

    @property
    def gave_up(self) -> bool:
        """Whether the run ended because a service stayed away too long."""
        return any(downtime.gave_up for downtime in self.downtimes.values())

    async def run(self) -> dict[str, Any]:
        """Work through what is left, write the statistics, and return them. A Ctrl-C ends it early, with all kept."""
        started = time.monotonic()
        done = await self._settle_the_past()
        rows = self._left(done)
        try:
            with self._interruptible(), self._progress() as bar:
                workers = [asyncio.create_task(self._work(rows, bar)) for _ in range(self.how.concurrency)]
                try:
                    await asyncio.gather(*workers)
                finally:
                    for worker in workers:
                        worker.cancel()
                    await asyncio.gather(*workers, return_exceptions=True)
            await self._write_held()
        finally:
            stats = self._write_stats(time.monotonic() - started)
        return stats

    async def _settle_the_past(self) -> set[str]:
        """Bring an earlier process's files in order and say which questions they already hold."""
        done: set[str] = set()
        for kind, path in (("accepted", self.files.trajectories), ("rejected", self.files.rejected)):
            drop_torn_line(path)
            found = set(sample_ids(path)) - done
            self.counts[kind] = len(found)
            done |= found
        failed = {str(row["sample_id"]) for row in read_lines(self.files.failed)}
        self.files.failed.unlink(missing_ok=True)  # its questions are pending again
        if self.limit is not None:  # a run is never about fewer questions than it has worked on
            self.limit = max([self.limit, *(int(identity.rsplit("_", 1)[1]) for identity in done | failed)])
        if not self.how.keep_checkpoints:
            finished = {thread_id(self.files.run_id, identity) for identity in done}
            for thread in finished & self.saver.threads:
                await self.saver.adelete_thread(thread)
        return done

    def _left(self, done: set[str]) -> Iterator[tuple[str, QuestionRow]]:
        for place, row in stream_questions(self.questions.path, self.limit):
            identity = sample_id(self.settings.model_name, place)
            if identity not in done:
                yield identity, row

    async def _work(self, rows: Iterator[tuple[str, QuestionRow]], bar: "tqdm[Any]") -> None:
        for identity, row in rows:
            if self.drained.is_set():
                return
            with contextlib.suppress(GraphDrained):
                kind = await self._one(identity, row)
                self.counts[kind] += 1
                bar.update()
                bar.set_postfix({name: self.counts[name] for name in ("accepted", "rejected", "failed")})

    async def _one(self, identity: str, row: QuestionRow) -> str:
        """A question from where it stands to its place in a file; returns which."""
        thread = thread_id(self.files.run_id, identity)
        try:
            state, attempts = await self.attempts.settle(thread, row["question"])
        except Unsettled as failure:
            return await self._fail(identity, row, failure.__cause__ or failure, failure.attempts)
        record = build_record(identity, row, state, self._about(thread, attempts))
        kind = "rejected" if record["metadata"]["reject_reasons"] else "accepted"
        if kind == "accepted" and not self.how.incremental:
            self._held.append(record)
            self._written_threads.append(thread)
            return kind
        path = self.files.rejected if kind == "rejected" else self.files.trajectories
        await self._append(path, dict(record))
        await self._let_go(thread)
        return kind

    async def _fail(self, identity: str, row: QuestionRow, error: BaseException, attempts: int) -> str:
        failure = {
            "sample_id": identity,
            "question": row["question"],
            "error": type(error).__name__,
            "message": str(error),
            "attempts": attempts,
        }
        await self._append(self.files.failed, failure)
        return "failed"

    async def _append(self, path: Path, row: dict[str, Any]) -> None:
        async with self._writing:
            await asyncio.to_thread(append_line, path, row)

    async def _let_go(self, thread: str) -> None:
        if not self.how.keep_checkpoints:
            await self.saver.adelete_thread(thread)

    async def _write_held(self) -> None:
        """Without incremental saving: all trajectories at once, in the order of their questions."""
        if self.how.incremental or self.drained.is_set():
            return
        earlier = list(read_lines(self.files.trajectories))
        rows = sorted([*earlier, *map(dict, self._held)], key=lambda record: str(record["sample_id"]))
        write_whole(self.files.trajectories, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        for thread in self._written_threads:
            await self._let_go(thread)

    def _write_stats(self, seconds: float) -> dict[str, Any]:
        about = {
            "generation_time": datetime.now().isoformat(),
            "model": self.settings.model_name,
            "source_file": self.settings.source_file,
            "wall_seconds": round(seconds, 3),
        }
        stats = build_stats(
            read_lines(self.files.trajectories),
            read_lines(self.files.rejected),
            asked=self.questions.asked(self.limit),
            failed=self.counts["failed"],
            bad_rows=len(self.questions.bad_within(self.limit)),
            about=about,
        )
        write_whole(self.files.stats, json.dumps(stats, ensure_ascii=False, indent=1) + "\n")
        return stats

    @contextlib.contextmanager
    def _progress(self) -> "Iterator[tqdm[Any]]":
        """The progress line on stderr; silent when that is no terminal."""
        done = self.counts["accepted"] + self.counts["rejected"]
        with tqdm(
            total=self.questions.asked(self.limit), initial=done, unit=" questions", disable=None, dynamic_ncols=True
        ) as bar:
            yield bar

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM lets the steps in flight end and be saved; the second stops at once."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def stop() -> None:
            if self.drained.is_set() and task:
                task.cancel()
                return
            self.drained.set()
            self.control.request_drain()
            _say("finishing the steps in flight; once more to stop at once")

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _about(self, thread: str, attempts: int) -> dict[str, Any]:
        return {
            "generation_time": datetime.now().isoformat(),
            "model": self.settings.model_name,
            "source_file": self.settings.source_file,
            "attempts": attempts,
            "run_id": self.files.run_id,
            "thread_id": thread,
            "prompt_sha256": self.settings.prompt_sha256,
            "tools_sha256": self.settings.tools_sha256,
        }


def _say(line: str) -> None:
    """A line on stderr, above the progress line."""
    tqdm.write(f"trajgraph: {line}", file=sys.stderr)
