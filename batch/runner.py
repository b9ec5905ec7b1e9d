"""Many questions: a graph for each, so many at a time, every one of them ending in exactly one file."""

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from langgraph.errors import GraphDrained
from tqdm import tqdm

from backends.printable import one_line
from batch.attempts import Stop
from batch.jsonl import LineWriter, drop_torn_line, encoded, read_lines, set_aside, summaries, summary, write_whole
from batch.outcomes import LetGo, Outcome, Settle, Settled
from batch.questions import QuestionsFile
from batch.run_files import RunFiles, settled
from batch.settings import RunSettings, Samples
from batch.stats import Stats
from graph.checkpoints import ThreadIds
from graph.group_saver import GroupSaver
from serializers.record import QuestionRow, sample_id, sample_of

_CUT = (
    "the model server cuts prompts in silence: it counts fewer tokens than were sent, and such trajectories are "
    "rejected as prompt_cut; give it a longer context (Ollama: num_ctx, else 4,096) or name it with --max-model-len"
)


@dataclass(frozen=True)
class BatchSettings:
    """How a run is worked through; none of it changes what is in the records."""

    concurrency: int = 5
    limit: int | None = None
    incremental: bool = True
    keep_checkpoints: bool = False
    samples: Samples = field(default_factory=Samples)


@dataclass
class Batch:
    """One run over one questions file. Make it, then `await run()`; it owns the run's output files meanwhile."""

    settle: Settle
    saver: GroupSaver
    files: RunFiles
    questions: QuestionsFile
    settings: RunSettings
    threads: ThreadIds
    changed: bool = False
    """Whether the run goes on under other settings than before."""
    how: BatchSettings = field(default_factory=BatchSettings)
    stop: Stop = field(default_factory=Stop)

    def __post_init__(self) -> None:
        self.stats = Stats()
        self.limit = self.how.limit
        self._files = {
            "accepted": LineWriter(self.files.trajectories),
            "rejected": LineWriter(self.files.rejected),
            "failed": LineWriter(self.files.failed),
        }
        self._held: dict[str, tuple[bytes, LetGo]] = {}
        self._done: dict[str, str] = {}
        """What each sample became that an earlier process settled, or that others may follow."""
        self._open = 0
        """Questions of which more samples may be asked."""
        self._told_of_cut = False
        self._all_begun = False
        """Whether no question is left to begin."""
        self._room = asyncio.Semaphore(2 * self.how.concurrency)
        """For those that have ended and are not written: twice as many as may be in flight."""

    async def run(self) -> dict[str, Any]:
        """Work through what is left, write the statistics, and return them. A Ctrl-C ends it early, with all kept."""
        started = time.monotonic()
        await self._settle_the_past()
        rows = self._left()
        self._open = sum(1 for _ in self._left()) if self.how.samples.accept else 0
        self._write_stats(0.0)  # what is true now, should this process be killed
        try:
            with self._interruptible(), self._progress() as bar:
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(self.how.concurrency):
                        tasks.create_task(self._work(rows, tasks, bar))
            await self._write_held()
        except ExceptionGroup as failed:  # the first one ended the others
            raise failed.exceptions[0] from failed.exceptions[0].__cause__
        finally:
            stats = self._write_stats(time.monotonic() - started)
        return stats

    async def _settle_the_past(self) -> None:
        """Bring an earlier process's files in order and see which samples they already hold."""
        done = self._done
        asked = {place: row["question"] for place, row in self.questions.stream()} if self.changed else None
        threads = set[str]()
        for kind, path in (("accepted", self.files.trajectories), ("rejected", self.files.rejected)):
            drop_torn_line(path)
            if asked is not None and (aside := set_aside(path, self.files.superseded, asked)):
                say(f"{aside} trajectories of questions that are no longer in the file went to {self.files.superseded}")
            for record in summaries(path):
                if record["sample_id"] not in done:
                    done[record["sample_id"]] = kind
                    self.stats.add(kind, record)
                    threads.add(self.threads.of(record["sample_id"], record["question"]))
        failed = {str(row["sample_id"]) for row in read_lines(self.files.failed)}
        self.files.failed.unlink(missing_ok=True)  # its questions are pending again
        if self.limit is not None:  # a run is never about fewer questions than it has worked on
            places = (sample_of(identity)[0] for identity in done.keys() | failed)
            self.limit = max([self.limit, *(place for place in places if place <= self.questions.rows)])
        if not self.how.keep_checkpoints:
            if asked is not None:
                threads = self.saver.threads - self._wanted(asked)
            for thread in threads & self.saver.threads:
                await self.saver.adelete_thread(thread)
        if self.changed:
            settled(self.files)

    def _wanted(self, asked: Mapping[int, str]) -> set[str]:
        """The threads of samples that are still to be made."""
        samples = range(1, self.how.samples.most + 1)
        named = (
            (sample_id(self.settings.model_name, place, number), question)
            for place, question in asked.items()
            for number in samples
        )
        return {self.threads.of(identity, question) for identity, question in named if identity not in self._done}

    def _left(self) -> Iterator[tuple[int, QuestionRow]]:
        for place, row in self.questions.stream(self.limit):
            if self._next_sample(place):
                yield place, row

    def _next_sample(self, place: int) -> str | None:
        """The next sample that a question wants; None when it has enough."""
        accepted = 0
        for number in range(1, self.how.samples.most + 1):
            identity = sample_id(self.settings.model_name, place, number)
            kind = self._done.get(identity)
            accepted += kind == "accepted"
            if accepted == self.how.samples.accept:
                return None
            if kind is None:
                return identity
        return None

    async def _work(self, rows: Iterator[tuple[int, QuestionRow]], tasks: asyncio.TaskGroup, bar: "tqdm[Any]") -> None:
        last: Settled | None = None
        for place, row in rows:
            while identity := self._next_sample(place):
                if last:
                    await last.stored()
                if self.stop.event.is_set():
                    return
                try:
                    last = await self.settle(identity, row)
                except GraphDrained:
                    return
                await self._room.acquire()
                if self.how.samples.most == 1:
                    tasks.create_task(self._keep_later(identity, last, bar))
                    break
                outcome = await last.outcome(True)
                tasks.create_task(self._keep(identity, outcome, last.let_go, bar))
                if outcome.kind == "failed":
                    break  # the next run tries again
                self._done[identity] = outcome.kind
            self._open -= 1
            for number in range(1, self.how.samples.most + 1):  # asked of no more
                self._done.pop(sample_id(self.settings.model_name, place, number), None)
        self._all_begun = True

    async def _keep_later(self, identity: str, settled: Settled, bar: "tqdm[Any]") -> None:
        await self._keep(identity, await settled.outcome(self._all_begun), settled.let_go, bar)

    async def _keep(self, identity: str, outcome: Outcome, let_go: LetGo, bar: "tqdm[Any]") -> None:
        """An outcome to its place in a file; only then is its thread let go."""
        if outcome.kind == "accepted" and not self.how.incremental:
            self._held[identity] = outcome.line, let_go
        else:
            await self._files[outcome.kind].append(outcome.line)
            if outcome.kind == "failed":
                self.stats.counts["failed"] += 1
            else:
                about = summary(outcome.line)
                self.stats.add(outcome.kind, about)
                if "prompt_cut" in about["metadata"]["reject_reasons"] and not self._told_of_cut:
                    self._told_of_cut = True
                    say(_CUT)
                await self._let_go(let_go)
        self._room.release()
        bar.update()
        bar.set_postfix(self.stats.counts, refresh=False)

    async def _let_go(self, let_go: LetGo) -> None:
        if not self.how.keep_checkpoints:
            await let_go()

    async def _write_held(self) -> None:
        """Without incremental saving: all trajectories at once, in the order of their questions."""
        if self.how.incremental or self.stop.event.is_set():
            return
        lines = {str(row["sample_id"]): encoded(row) for row in read_lines(self.files.trajectories)}
        lines |= {identity: line for identity, (line, _) in self._held.items()}
        in_order = (lines[identity].decode() + "\n" for identity in sorted(lines, key=sample_of))
        write_whole(self.files.trajectories, in_order)
        while self._held:
            _, (line, let_go) = self._held.popitem()
            self.stats.add("accepted", summary(line))
            await self._let_go(let_go)

    def _write_stats(self, seconds: float) -> dict[str, Any]:
        about = {
            "generation_time": datetime.now().isoformat(),
            "model": self.settings.model_name,
            "source_file": self.settings.source_file,
            "wall_seconds": round(seconds, 3),
        }
        asked, bad_rows = self._asked(), len(self.questions.bad_within(self.limit))
        questions = self.questions.asked(self.limit)
        stats = self.stats.content(questions=questions, asked=asked, bad_rows=bad_rows, about=about)
        write_whole(self.files.stats, [json.dumps(stats, ensure_ascii=False, indent=1), "\n"])
        return stats

    def _asked(self) -> int:
        """How many samples are wanted in all, as far as is known."""
        if self.how.samples.accept:
            return self.stats.counts.total() + len(self._held) + self._open
        wanted = self.questions.asked(self.limit) * self.how.samples.most
        return max(wanted, self.stats.counts.total() + len(self._held))  # an earlier command may have wanted more

    @contextlib.contextmanager
    def _progress(self) -> "Iterator[tqdm[Any]]":
        """The progress line on stderr; silent when that is no terminal."""
        done = self.stats.counts.total()
        with tqdm(total=self._asked(), initial=done, unit=" questions", disable=None, dynamic_ncols=True) as bar:
            yield bar

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM lets the steps in flight end and be saved; the second stops at once."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def stop() -> None:
            if self.stop.event.is_set() and task:
                task.cancel()
                return
            self.stop.request()
            say("finishing the steps in flight; once more to stop at once")

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


def say(line: str) -> None:
    """A line on stderr, above the progress line; a run does not end because nobody can read it."""
    with contextlib.suppress(OSError):
        tqdm.write(f"trajgraph: {one_line(line)}", file=sys.stderr)
