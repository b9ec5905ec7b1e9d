"""Exports: rows for the trainers of the field, each with what is to be trained on, split by question, and a card."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.errors import UsageError
from quality.gates import failed_gate_names
from training.chat_template import ChatTemplate
from training.export_spec import ExportSpec
from training.made import singles
from training.pairs import pairs
from training.questions import content_words, split_of
from training.row_files import Packing, RowFiles
from training.rows import Row

_NO_PAIR = (
    ". A pair is an accepted and a rejected trajectory of one question (generate with --samples-per-question), and "
    "--where is asked of both"
)
_READ_BY_MESSAGE = ("messages", "sharegpt", "parquet")


@dataclass
class ExportResult:
    """What an export wrote."""

    files: dict[str, Path] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)
    """By split."""
    tokens: list[int] = field(default_factory=list)
    gates: Counter[str] = field(default_factory=Counter)
    """The rows that fail each of the gates."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows that the format cannot hold as they are, by the reason."""
    tools: Counter[str] = field(default_factory=Counter)
    """Calls by the tool's name."""
    nudged: int = 0
    """Rows with a reply that was asked again, in a format whose trainers go by messages."""
    sample: dict[str, Any] = field(default_factory=dict)
    distinct: set[int] = field(default_factory=set)
    """Hashes of what rows hold."""
    questions: set[int] = field(default_factory=set)
    """By their hashes …"""
    asked: dict[int, str] = field(default_factory=dict)
    """… and by those of what they are about, with their split: fewer, where some ask the same in other words."""

    def nudges_said(self) -> str:
        """What a trainer that goes by messages does with replies that were asked again."""
        what = "`train_spans` leaves it out, a trainer that reads no spans trains on it"
        return f"rows with a reply that was asked again: {self.nudged:,}; {what} (without them: --where nudges=0)"

    def said(self, *, split: bool) -> Iterator[str]:
        """What one should know of it, beside what was left out."""
        if self.nudged:
            yield self.nudges_said()
        if split:
            yield self._split_said()
        if again := len(self.tokens) - len(self.distinct):
            yield f"rows that hold what another one holds, letter for letter: {again:,} of {len(self.tokens):,}"
        if alike := len(self.questions) - len(self.asked):
            together = "; they are on one side of the split" if split else ""
            yield f"{alike:,} questions ask what another one asks in almost the same words{together}"

    def _split_said(self) -> str:
        """How many questions are kept for testing."""
        kept = sum(split == "test" for split in self.asked.values())
        why = "" if kept else "; its own words put a question on its side, in every export: take a larger --test-share"
        return f"kept for testing: {kept:,} of {len(self.asked):,} questions ({kept / len(self.asked):.1%}){why}"


def exported(
    rows: Iterable[Row],
    folder: Path,
    spec: ExportSpec,
    template: ChatTemplate | None = None,
    packing: Packing | None = None,
    *,
    described: Callable[[ExportResult], Mapping[str, str]],
) -> ExportResult:
    """Write `train` and `test` into a folder, with the texts that describe them. With a template or a trainer to verify
    for, nothing is left behind unless every row round-trips through it. Raises UsageError.
    """
    if template and spec.format_name == "text":
        raise UsageError("--verify-template: --format text is trained on as it is, no template is applied to it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {folder}: cannot be written ({error.strerror or error})") from error
    done, lost, rows_lost = ExportResult(), list[str](), 0
    fixes: dict[str, None] = {}
    with RowFiles(folder, parquet=spec.format_name == "parquet", packing=packing) as files:
        made_of = pairs if spec.format_name == "dpo" else singles
        for one in made_of(rows, spec, done.left_out):
            trained = [spec.trained(chat) for chat in one.conversations]
            tokens = max(map(spec.measured, one.conversations, trained))
            if spec.max_length is not None and tokens > spec.max_length:
                done.left_out[f"longer than {spec.max_length:,} tokens"] += len(one.rows)
                continue
            found = one.template_problems(template) if template else []
            found += one.trained_otherwise(spec.verifier, trained) if spec.verifier else []
            rows_lost += bool(found)
            for loss in found:
                lost.append(f"{one.row.sample_id}: {loss.what}")
                fixes[loss.fix] = None
            split, whole = split_of(one.row.question, spec.test_share), one.whole(spec, tokens)
            done.rows[split] += 1
            done.questions.add(hash(one.row.question))
            done.distinct.add(hash((one.row.question, *(row.text for row in one.rows))))
            done.asked[hash(content_words(one.row.question))] = split
            done.tokens.append(tokens)
            done.gates.update(failed_gate_names(one.row.parsed, spec.thresholds))
            done.sample = done.sample or whole
            done.tools.update(tool for row in one.rows for tool in row.tools)
            done.nudged += bool(one.row.nudges) and spec.format_name in _READ_BY_MESSAGE
            files.write(split, whole)
        if lost:
            chat = f"{'; '.join(lost[:3])}{'; …' if len(lost) > 3 else ''} ({rows_lost:,} of {len(done.tokens):,} rows)"
            lead = "" if spec.verifier else "the chat template would lose "
            raise UsageError(f"{lead}{chat}. Fix: {'; '.join(fixes)}. Nothing was exported")
        if not done.tokens:
            why = "; ".join(f"{count} {reason}" for reason, count in done.left_out.items()) or "no trajectory is left"
            raise UsageError(f"nothing to export: {why}{_NO_PAIR if spec.format_name == 'dpo' else ''}")
        done.files = {split: folder / name for split, name in files.named(done.rows).items()}
        try:
            files.place(done.rows, described(done))
        except OSError as error:
            raise UsageError(f"--output {folder}: cannot be written ({error.strerror or error})") from error
    return done
