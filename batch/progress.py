"""What a run has finished and what is left of it, as its files say."""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from threading import Lock
from typing import Any, Protocol

from backends.json_codec import sound
from batch.config import RunConfig
from batch.finished import Finished, Kind
from batch.index import Differs, RunIndex
from batch.jsonl import Summary, atomic_write, truncate_partial_line
from batch.logs import ends, log
from batch.part_counts import finish_parts
from batch.questions import QuestionsFile
from batch.records import read_lines, sample_ids, set_aside, summaries
from batch.run_copy import RunCopy
from batch.run_files import KINDS, Ids, RunFiles, mark_set_aside, mark_sorted
from batch.stats import Stats
from serializers.record import QuestionRow, sample_of


class Steps(Protocol):
    """The checkpoints of a run, wherever they are."""

    @property
    def threads(self) -> set[str]:
        """Those that have some."""

    async def adelete_thread(self, thread: str) -> None:
        """Delete a thread."""

    async def flush(self) -> None:
        """Have it on disk."""


class Progress:
    """The samples of one run. What is held in memory are two bits a sample, and counts."""

    def __init__(self, files: RunFiles, questions: QuestionsFile, config: RunConfig, ids: Ids) -> None:
        self.files = files
        self.questions = questions
        self.stats = Stats()
        self._config = config
        self._ids = ids
        self._index = RunIndex(files)
        self._before = 0
        self._saving = Lock()
        self._copy = RunCopy(files, config) if config.upload_to else None
        self._finished = Finished()
        self.failed_before: set[str] = set()
        """Samples that an earlier command failed."""
        self._not_asked = 0
        """Samples that an earlier command wanted, and this one does not."""
        self._open = 0
        """Questions of which more samples may be asked."""

    async def load_finished(self, saver: Steps, *, changed: bool = False, redo: Collection[str] = ()) -> None:
        """Bring an earlier process's files in order, count what is in them, and delete the checkpoints of what is
        finished. `changed` says that the run goes on under other settings, perhaps about other questions; `redo` are
        rejected samples that are wanted anew.
        """
        if redo or changed:  # records will be moved
            with suppress(OSError):
                self.files.index.unlink()
        if redo:
            for record in summaries(self.files.rejected):
                if record["sample_id"] in redo:
                    await saver.adelete_thread(self._ids.thread(record["sample_id"], record["question"]))
            await saver.flush()
            set_aside(self.files.rejected, self.files.superseded, lambda record: record["sample_id"] not in redo)
            mark_set_aside(self.files)
        every = replace(self.questions, limit=None).stream() if changed else ()
        asked = {number: row["question"] for number, row in every}
        for path in list(self.files.outputs.values())[:2]:
            truncate_partial_line(path)
            if changed and (aside := set_aside(path, self.files.superseded, lambda record: _is_asked(record, asked))):
                log.info(
                    "%d trajectories of questions that are no longer in the file went to %s",
                    aside,
                    self.files.superseded,
                )
        for kind in KINDS:
            finish_parts(self.files.outputs[kind], kind, pack=self._config.zstd)
        self._index = RunIndex.read(self.files)
        self.stats, self._finished = self._index.stats.copy(), self._index.finished.copy()
        self._before = self.stats.counts.total()
        failed = self.failed_before = {str(row["sample_id"]) for row in read_lines(self.files.failed)}
        self.files.failed.unlink(missing_ok=True)  # its questions are pending again
        if (limit := self.questions.limit) is not None:  # a run is never about fewer questions than it has worked on
            rows = self.questions.rows
            failed_rows = (row for row, _ in map(sample_of, failed) if row <= rows)
            self.questions = replace(self.questions, limit=max(limit, self._finished.last_row(rows), *failed_rows, 0))
        if not self._config.keep_checkpoints:
            if changed or self._config.samples.fork_at:
                every = replace(self.questions, limit=None).stream() if saver.threads else ()
                gone = saver.threads - {thread for number, row in every for thread in self._wanted(number, row)}
            else:
                ended = self._index.uncleaned() if saver.threads else ()
                threads = (self._ids.thread(record["sample_id"], record["question"]) for record in ended)
                gone = saver.threads.intersection(threads)
            for thread in gone:
                await saver.adelete_thread(thread)
            await saver.flush()
        if changed:
            mark_sorted(self.files)
        self._not_asked = self._unwanted()
        self._count_open()

    def read_finished(self, *, retried: bool = False) -> None:
        """See what other processes have finished: before this one works on its share, or when all are done. Those that
        failed are none where they will be `retried`.
        """
        self._finished = RunIndex.read(self.files).finished.copy()
        for name in () if retried else sample_ids(self.files.failed):
            self._finished.add(name, "failed")
        self._count_open()

    def save_index(self, *, at_end: bool = False) -> None:
        """Keep what the records add up to. `at_end` all checkpoints of what is written are deleted."""
        with self._saving:
            try:
                self._index.advance()
            except Differs:  # they have been put in order
                self._index = RunIndex.anew(self.files)
            self._index.save(all_cleaned=at_end, kept=self._config.keep_checkpoints)

    def upload(self, *, at_end: bool = False) -> None:
        """Copy what is new to the store, if there is one. Raises UsageError."""
        if self._copy:
            if at_end:
                log.info("copying what is new to %s", self._config.upload_to)
            with self._saving:
                if at_end:
                    self._copy.seal_all()
            self.save_index(at_end=at_end)
            with self._saving:
                self._copy.update(at_end=at_end)

    def _count_open(self) -> None:
        if self._config.samples.accept:
            self._open = sum(1 for number, _ in self.pending_questions() if self._finished.get(number, 1) != "failed")

    def _unwanted(self) -> int:
        """How many samples are finished that this command does not ask for."""
        most, questions, known = self._config.samples.most, self.questions, self._finished
        last = min(questions.rows, questions.limit or questions.rows)
        if questions.share.count == 1:
            bad = [row.row_number for row in questions.bad_rows()]
            unusable = sum(bool(known.get(row, number)) for row in bad for number in range(1, most + 1))
            return known.count() - known.count(last, most) + unusable
        return sum(number > most or not questions.asks(row) for row, number in known.rows())

    def _wanted(self, row_number: int, row: QuestionRow) -> list[str]:
        """The threads of a question that are gone on from: its next sample's, and the one that others begin with."""
        name, forks = self.next_sample(row_number), self._config.samples.fork_at
        names = [name, *([self.first_sample(row_number)] if forks else [])] if name else []
        return [self._ids.thread(str(one), row["question"]) for one in names]

    def pending_questions(self) -> Iterator[tuple[int, QuestionRow]]:
        """(row number, row) of the questions of which samples are still wanted."""
        return self.questions.stream(lambda number: self.next_sample(number) is not None)

    def pending_threads(self) -> Iterator[tuple[int, str]]:
        """(row number, thread) of the samples that come next, and of those that they begin with."""
        for number, row in self.pending_questions():
            yield from ((number, thread) for thread in self._wanted(number, row))

    def next_sample(self, row_number: int) -> str | None:
        """The id of the next sample that a question wants; None when it has enough."""
        accepted = 0
        for number in range(1, self._config.samples.most + 1):
            kind = self._finished.get(row_number, number)
            accepted += kind == "accepted"
            if accepted == self._config.samples.accept:
                return None
            if kind is None:
                return self._ids.sample(row_number, number)
        return None

    def first_sample(self, row_number: int) -> str:
        """The id of a question's first sample."""
        return self._ids.sample(row_number, 1)

    def finish_sample(self, name: str, kind: Kind) -> None:
        """Remember what a sample became."""
        self._finished.set(*sample_of(name), kind)

    def finish_question(self) -> None:
        """A question is asked no more."""
        self._open -= 1

    def count(self, kind: str, row: Mapping[str, Any]) -> None:
        """Count a row that is on disk."""
        if kind == "failed":
            self.stats.add_failure(row)
            said = f"failed: {row['error']}: {row['message']}"
        else:
            self.stats.add(kind, row)
            about = row["metadata"]
            reasons = f" for {', '.join(about['reject_reasons'])}" if about["reject_reasons"] else ""
            said = f"{kind}{reasons}: {about['total_tool_calls']} calls, {about.get('turns', 0)} replies"
            said += f", the last from {about['endpoint']}" if "endpoints" in about else ""
        facts = {"event": "sample", "sample_id": row["sample_id"], "outcome": kind}
        ends.info("%s %s", row["sample_id"], said, extra={"facts": facts})

    @property
    def asked(self) -> int:
        """How many samples are wanted in all, as far as is known."""
        counted = self.stats.counts.total()
        if self._config.samples.accept:
            return counted + self._open
        return self.questions.asked * self._config.samples.most + self._not_asked

    def write_stats(self, seconds: float) -> dict[str, Any]:
        """Write the statistics file; returns its content."""
        about = {
            "generation_time": datetime.now().isoformat(),
            "model": self._config.model.model_name,
            "source_file": self._config.source_file,
            "wall_seconds": round(seconds, 3),
            "finished_before": self._before,
        }
        bad_rows = len(self.questions.bad_rows())
        stats = self.stats.content(questions=self.questions.asked, asked=self.asked, bad_rows=bad_rows, about=about)
        atomic_write(self.files.stats, [json.dumps(stats, ensure_ascii=False, indent=1), "\n"])
        return stats


def _is_asked(record: Summary, asked: Mapping[int, str]) -> bool:
    """Whether a record's question still has its place."""
    wanted = asked.get(sample_of(record["sample_id"])[0])
    return wanted is not None and sound(wanted) == record["question"]
