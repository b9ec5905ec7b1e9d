"""Many questions: a graph for each, so many at a time, every one of them ending in exactly one file."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from backends.errors import UsageError
from backends.model_client import Replies
from batch import token_files
from batch.append import LineWriter
from batch.complaints import Complaints
from batch.config import RunConfig
from batch.finished import Kind
from batch.jsonl import encoded
from batch.logs import log
from batch.part_counts import finish_part
from batch.parts import part_at
from batch.progress import Progress
from batch.rollout import Outcome
from batch.stop import Stopped, StopSignal
from serializers.record import QuestionRow, sample_of


class Rollouts(Protocol):
    """How samples are rolled out: in this process, or on a cluster."""

    async def __call__(self, sample_id: str, row: QuestionRow) -> Outcome:
        """What becomes of a sample. Raises Stopped when the run ends first."""

    def replies(self) -> Replies:
        """What the model has answered so far."""

    async def forget(self, sample_id: str, question: str) -> None:
        """Delete the steps of a sample, whose record is on disk."""


@dataclass
class Runner:
    """Works through the questions that are left. It owns the checkpoints of its rollouts; files may be shared."""

    rollout: Rollouts
    progress: Progress
    config: RunConfig
    stop: StopSignal

    def __post_init__(self) -> None:
        files = self.progress.files
        self._writers = {kind: self._writer(kind) for kind in files.outputs}
        self._tokens = self._in_parts(files.tokens, token_files.MOST, token_files.to_parquet)
        self._reading = asyncio.Lock()
        self._sealing = set[asyncio.Task[None]]()
        self._held: list[tuple[QuestionRow, str, Outcome]] = []
        pending = self.progress.asked - self.progress.stats.counts.total()
        self._complaints = Complaints(
            pending, self.config.concurrency, self.rollout.replies, self.progress.failed_before
        )

    async def run(self) -> None:
        """Until none is left, or the run is to end."""
        rows = self.progress.pending_questions()
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self.config.concurrency):
                    tasks.create_task(self._work(rows))
            while self._held:
                await self._write(*self._held.pop())
        except ExceptionGroup as failed:  # the first one ended the others
            raise failed.exceptions[0] from failed.exceptions[0].__cause__
        finally:
            await asyncio.gather(*self._sealing, return_exceptions=True)

    def _writer(self, kind: Kind) -> LineWriter:
        """Of records in parts, or of the failed, which are few."""
        path, config = self.progress.files.outputs[kind], self.config
        if config.most_in_part is None or kind == "failed":
            return LineWriter(path)
        return self._in_parts(path, config.most_in_part, partial(finish_part, kind=kind, pack=config.zstd))

    def _in_parts(self, path: Path, most: int, finish_part: Callable[[Path], None]) -> LineWriter:
        async def finish(part: Path) -> None:
            try:
                await asyncio.to_thread(finish_part, part)
            except (OSError, UsageError) as error:
                log.warning(
                    "%s is not finished yet (%s): it is tried again at the end, or by the next command", part, error
                )

        def sealed(number: int) -> None:
            self._sealing.add(task := asyncio.create_task(finish(part_at(path, number))))
            task.add_done_callback(self._sealing.discard)

        return LineWriter(path, most, sealed)

    async def _work(self, rows: Iterator[tuple[int, QuestionRow]]) -> None:
        while found := await self._next(rows):
            row_number, row = found
            while name := self.progress.next_sample(row_number):
                try:
                    self.stop.check()
                    outcome = await self.rollout(name, row)
                except Stopped:
                    return
                await self._write_outcome(row, name, outcome)
                if outcome.kind == "failed":
                    break  # the next run tries again
                self.progress.finish_sample(name, outcome.kind)
            ended = not self.config.keep_checkpoints and not self.progress.next_sample(row_number)
            if self.config.samples.fork_at and ended:
                await self.rollout.forget(self.progress.first_sample(row_number), row["question"])
            self.progress.finish_question()

    async def _next(self, rows: Iterator[tuple[int, QuestionRow]]) -> tuple[int, QuestionRow] | None:
        """The next question; one in a store is waited for beside the others' work."""
        if not isinstance(self.config.questions_file, str):
            return next(rows, None)
        async with self._reading:
            return await asyncio.to_thread(next, rows, None)

    async def _write_outcome(self, row: QuestionRow, name: str, outcome: Outcome) -> None:
        """An outcome to its place in a file; only then are its checkpoints deleted.

        While no question has had a reply, those that are too long for the context are held back: should that be so of
        all, none of them is finished.
        """
        if outcome.asked_nothing and self.rollout.replies().last_turn < 0:
            self._held.append((row, name, outcome))
            self._complaints.hear(outcome)
            return
        while self._held:
            await self._write(*self._held.pop())
        await self._write(row, name, outcome)
        self._complaints.hear(outcome)

    async def _write(self, row: QuestionRow, name: str, outcome: Outcome) -> None:
        if outcome.tokens:
            await self._tokens.append(encoded(outcome.tokens))
        await self._writers[outcome.kind].append(encoded(outcome.row))
        self.progress.count(outcome.kind, outcome.row)
        is_begun_from = self.config.samples.fork_at and sample_of(name)[1] == 1  # until all samples are there
        if outcome.kind != "failed" and not self.config.keep_checkpoints and not is_begun_from:
            await self.rollout.forget(name, row["question"])
