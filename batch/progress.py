"""What a run has finished and what is left of it, as its files say."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from backends.json_codec import sound
from batch.config import RunConfig
from batch.jsonl import Summary, atomic_write, read_lines, sample_ids, set_aside, summaries, truncate_partial_line
from batch.logs import ends, log
from batch.questions import QuestionsFile
from batch.run_files import Ids, RunFiles, mark_set_aside, mark_sorted
from batch.stats import Stats
from graph.checkpoints import GroupSaver
from serializers.record import QuestionRow, sample_of


class Progress:
    """The samples of one run. What is held in memory are those that an earlier process finished, and counts."""

    def __init__(self, files: RunFiles, questions: QuestionsFile, config: RunConfig, ids: Ids) -> None:
        self.files = files
        self.questions = questions
        self.stats = Stats()
        self._config = config
        self._ids = ids
        self._finished: dict[str, str] = {}
        """What each sample became that an earlier process finished, or that others may follow."""
        self.failed_before: set[str] = set()
        """Samples that an earlier command failed."""
        self._not_asked = 0
        """Samples that an earlier command wanted, and this one does not."""
        self._open = 0
        """Questions of which more samples may be asked."""

    async def load_finished(self, saver: GroupSaver, *, changed: bool = False, redo: Collection[str] = ()) -> None:
        """Bring an earlier process's files in order, count what is in them, and delete the checkpoints of what is
        finished. `changed` says that the run goes on under other settings, perhaps about other questions; `redo` are
        rejected samples that are wanted anew.
        """
        if redo:
            for record in summaries(self.files.rejected):
                if record["sample_id"] in redo:
                    await saver.adelete_thread(self._ids.thread(record["sample_id"], record["question"]))
            await saver.flush()
            set_aside(self.files.rejected, self.files.superseded, lambda record: record["sample_id"] not in redo)
            mark_set_aside(self.files)
        every = replace(self.questions, limit=None).stream() if changed else ()
        asked = {number: row["question"] for number, row in every}
        threads = set[str]()
        for kind, path in list(self.files.outputs.items())[:2]:
            truncate_partial_line(path)
            if changed and (aside := set_aside(path, self.files.superseded, lambda record: _is_asked(record, asked))):
                log.info(
                    "%d trajectories of questions that are no longer in the file went to %s",
                    aside,
                    self.files.superseded,
                )
            for record in summaries(path):
                if record["sample_id"] not in self._finished:
                    self._finished[record["sample_id"]] = kind
                    self.stats.add(kind, record)
                    threads.add(self._ids.thread(record["sample_id"], record["question"]))
        failed = self.failed_before = {str(row["sample_id"]) for row in read_lines(self.files.failed)}
        self.files.failed.unlink(missing_ok=True)  # its questions are pending again
        if (limit := self.questions.limit) is not None:  # a run is never about fewer questions than it has worked on
            numbers = (sample_of(name)[0] for name in self._finished.keys() | failed)
            limit = max([limit, *(number for number in numbers if number <= self.questions.rows)])
            self.questions = replace(self.questions, limit=limit)
        if not self._config.keep_checkpoints:
            named = ((self.next_sample(number), question) for number, question in asked.items())
            wanted = {self._ids.thread(name, question) for name, question in named if name}
            for thread in saver.threads - wanted if changed else threads & saver.threads:
                await saver.adelete_thread(thread)
        if changed:
            mark_sorted(self.files)
        self._not_asked = sum(not self._is_wanted(name) for name in self._finished)
        self._count_open()

    def read_finished(self, *, retried: bool = False) -> None:
        """See what other processes have finished: before this one works on its share, or when all are done. Those that
        failed are none where they will be `retried`.
        """
        for kind, path in list(self.files.outputs.items())[: 2 if retried else 3]:
            self._finished.update(dict.fromkeys(sample_ids(path), kind))
        self._count_open()

    def _count_open(self) -> None:
        if self._config.samples.accept:
            failed = {sample_of(name)[0] for name, kind in self._finished.items() if kind == "failed"}
            self._open = sum(number not in failed for number, _ in self.pending_questions())

    def pending_questions(self) -> Iterator[tuple[int, QuestionRow]]:
        """(row number, row) of the questions of which samples are still wanted."""
        return ((number, row) for number, row in self.questions.stream() if self.next_sample(number))

    def pending_threads(self) -> Iterator[tuple[int, str]]:
        """(row number, thread) of the samples that come next."""
        for number, row in self.pending_questions():
            yield number, self._ids.thread(str(self.next_sample(number)), row["question"])

    def next_sample(self, row_number: int) -> str | None:
        """The id of the next sample that a question wants; None when it has enough."""
        accepted = 0
        for number in range(1, self._config.samples.most + 1):
            name = self._ids.sample(row_number, number)
            kind = self._finished.get(name)
            accepted += kind == "accepted"
            if accepted == self._config.samples.accept:
                return None
            if kind is None:
                return name
        return None

    def _is_wanted(self, name: str) -> bool:
        """Whether a sample is one of those that this command asks for."""
        row, number = sample_of(name)
        return number <= self._config.samples.most and self.questions.asks(row)

    def finish_sample(self, name: str, kind: str) -> None:
        """Remember what a sample became, while its question may want more."""
        self._finished[name] = kind

    def finish_question(self, row_number: int) -> None:
        """Forget a question that is asked no more."""
        self._open -= 1
        for number in range(1, self._config.samples.most + 1):
            if self._finished.pop(self._ids.sample(row_number, number), None) is None:
                return

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
            "source_file": self._config.questions_file.name,
            "wall_seconds": round(seconds, 3),
        }
        bad_rows = len(self.questions.bad_rows())
        stats = self.stats.content(questions=self.questions.asked, asked=self.asked, bad_rows=bad_rows, about=about)
        atomic_write(self.files.stats, [json.dumps(stats, ensure_ascii=False, indent=1), "\n"])
        return stats


def _is_asked(record: Summary, asked: Mapping[int, str]) -> bool:
    """Whether a record's question still has its place."""
    wanted = asked.get(sample_of(record["sample_id"])[0])
    return wanted is not None and sound(wanted) == record["question"]
