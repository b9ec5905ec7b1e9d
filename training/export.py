"""Exports: rows for the trainers of the field, each with what is to be trained on, split by question, and a card."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.errors import UsageError
from batch.jsonl import encoded
from quality.gates import Thresholds, failed_gate_names
from training.chat_template import ChatTemplate
from training.messages import (
    Message,
    from_sharegpt,
    masked_by_tags,
    message_spans,
    messages,
    one_message,
    sharegpt,
    text_spans,
    trained_on,
    unmarked,
)
from training.rows import Row
from training.sources import Prompts
from training.template import Problem, template_problems, wrongly_masked
from training.tokens import Tokens
from training.trainers import Trained
from training.verify import Verifier


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
    sample: dict[str, Any] = field(default_factory=dict)


def split_of(question: str, test_share: float) -> str:
    """`train` or `test`, by the question alone: all its trajectories go the same way, in every export."""
    place = int.from_bytes(hashlib.sha256(question.encode("utf-8", "replace")).digest()[:8]) / 2**64
    return "test" if place < test_share else "train"


@dataclass(frozen=True)
class ExportSpec:
    """How rows are made, each under its own prompt; what fails a `hard` gate is the worse of two."""

    format_name: str
    prompts: Prompts = field(default_factory=Prompts)
    thresholds: Thresholds = field(default_factory=Thresholds)
    hard: Sequence[str] = ()
    test_share: float = 0.0
    tokens: Tokens = field(default_factory=Tokens)
    max_length: int | None = None
    """Longer rows are left out."""
    verifier: Verifier | None = None

    def tokens_of(self, row: Row) -> int:
        """The tokens of a row as it would be written."""
        chat = one_message(row, self.prompts.system(row)) if self.format_name == "drtulu" else self.messages(row)
        return self.measured(chat, self.trained(chat))

    def trained(self, chat: Sequence[Message]) -> Trained | None:
        """A conversation as the trainer takes it, where one is to be verified for."""
        return self.verifier.trained(chat) if self.verifier else None

    def measured(self, chat: Sequence[Message], trained: Trained | None) -> int:
        """The tokens of a conversation."""
        return self.tokens(chat) if trained is None else len(trained.places)

    def messages(self, row: Row) -> list[Message]:
        """The conversation as the model saw it."""
        return messages(row, self.prompts.system(row), self.prompts.tool_role(row))


def exported(rows: Iterable[Row], folder: Path, spec: ExportSpec, template: ChatTemplate | None = None) -> ExportResult:
    """Write `train` and `test` into a folder. With a template or a trainer to verify for, nothing is left behind unless
    every row round-trips through it.
    """
    if template and spec.format_name == "text":
        raise UsageError("--verify-template: --format text is trained on as it is, no template is applied to it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {folder}: cannot be written ({error.strerror or error})") from error
    done, lost, rows_lost = ExportResult(), list[str](), 0
    fixes: dict[str, None] = {}
    made: dict[str, list[Mapping[str, Any]]] = {"train": [], "test": []}
    with ExitStack() as stack:
        writers = {} if spec.format_name == "parquet" else {name: folder / f".{name}.jsonl.new" for name in made}
        for path in writers.values():
            stack.callback(path.unlink, missing_ok=True)  # what was not put in place is not left behind
        handles = {
            name: stack.enter_context(path.open("w", encoding="utf-8", errors="replace"))
            for name, path in writers.items()
        }
        for one in _pairs(rows, spec) if spec.format_name == "dpo" else _singles(rows, spec, done):
            trained = [spec.trained(chat) for chat in one.conversations]
            tokens = max(map(spec.measured, one.conversations, trained))
            if spec.max_length is not None and tokens > spec.max_length:
                done.left_out[f"longer than {spec.max_length:,} tokens"] += 1
                continue
            found = one.template_problems(template) if template else []
            found += one.trained_otherwise(spec.verifier, trained) if spec.verifier else []
            rows_lost += bool(found)
            for loss in found:
                lost.append(f"{one.row.sample_id}: {loss.what}")
                fixes[loss.fix] = None
            split, whole = split_of(one.row.question, spec.test_share), one.whole(spec, tokens)
            done.rows[split] += 1
            done.tokens.append(whole["tokens"])
            done.gates.update(failed_gate_names(one.row.parsed, spec.thresholds))
            done.sample = done.sample or whole
            if handles:
                handles[split].write(encoded(whole).decode() + "\n")
            else:
                made[split].append(whole)
        if lost:
            chat = f"{'; '.join(lost[:3])}{'; …' if len(lost) > 3 else ''} ({rows_lost:,} of {len(done.tokens):,} rows)"
            lead = "" if spec.verifier else "the chat template would lose "
            raise UsageError(f"{lead}{chat}. Fix: {'; '.join(fixes)}. Nothing was exported")
        if not done.tokens:
            pairs = "no question has an accepted and a rejected trajectory here: generate with --samples-per-question"
            why = "; ".join(f"{count} {reason}" for reason, count in done.left_out.items()) or "no trajectory is left"
            raise UsageError(f"nothing to export: {pairs if spec.format_name == 'dpo' else why}")
        for handle in handles.values():
            handle.close()
        for name in made:
            for stale in (folder / f"{name}.jsonl", folder / f"{name}.parquet"):
                stale.unlink(missing_ok=True)
            if done.rows[name]:
                done.files[name] = folder / f"{name}.{'jsonl' if handles else 'parquet'}"
                writers[name].replace(done.files[name]) if handles else _write_parquet(done.files[name], made[name])
    return done


@dataclass(frozen=True)
class _Made:
    """A row as it is exported: its content, the conversations in it (one of each of `rows`), what is trained on."""

    rows: Sequence[Row]
    content: dict[str, Any]
    conversations: Sequence[list[Message]]
    trained: Sequence[Sequence[str]]
    in_one: bool = False
    """Whether the whole trajectory is one message."""

    @property
    def row(self) -> Row:
        """The row itself; of a pair, the better one."""
        return self.rows[0]

    def whole(self, spec: ExportSpec, tokens: int) -> dict[str, Any]:
        """With what is said of it; of a pair, the tokens of its longer side."""
        limit = spec.thresholds.token_limit
        return {
            **self.content, "sample_id": self.row.sample_id, "topic": str(self.row.record.get("topic", "")),
            "question_type": str(self.row.record.get("question_type", "")), "tokens": tokens,
            f"fits_{limit}": tokens <= limit,
        }  # fmt: skip

    def trained_otherwise(self, verifier: Verifier, trained: Sequence[Trained | None]) -> list[Problem]:
        """In what a trainer trains on something else than the spans say."""
        each = zip(self.conversations, self.trained, trained, strict=True)
        found = [verifier.problem(chat, written, seen) for chat, written, seen in each if seen]
        return [problem for problem in found if problem]

    def template_problems(self, template: ChatTemplate) -> list[Problem]:
        """What the template drops or adds, and what is masked wrongly."""
        found: list[Problem] = []
        for row, chat, trained in zip(self.rows, self.conversations, self.trained, strict=True):
            found += template_problems(row, chat, template, whole=self.in_one)
            found += [
                Problem(f"the mask ({wrong})", "this is a fault of trajgraph's")
                for wrong in wrongly_masked(row, trained)
            ]
        return found


def _singles(rows: Iterable[Row], spec: ExportSpec, done: ExportResult) -> Iterator[_Made]:
    for row in rows:
        if spec.format_name == "drtulu":
            made = _by_text(row, spec)
            if wrong := _masked_otherwise(made):
                done.left_out[wrong] += 1
            else:
                yield made
        elif spec.format_name in ("messages", "sharegpt"):
            yield _by_message(row, spec)
        else:
            yield _by_text(row, spec)


def _masked_otherwise(made: _Made) -> str:
    """How the trainer that masks by tags would train on something else than the row's spans; empty when it does not."""
    (chat,), row = made.conversations, made.row
    head = "\n".join(said["content"] for said in chat[:-1]) + "\n"
    trained = bytearray(b"\1" * len(head + row.text))
    for start, end in masked_by_tags(head + row.text):
        trained[start:end] = bytes(end - start)
    spans = bytearray(len(row.text))
    for start, end in made.content["train_spans"]:
        spans[start:end] = b"\1" * (end - start)
    differs = [
        letter for letter, ours, theirs in zip(row.text, spans, trained[len(head) :], strict=True) if ours != theirs
    ]
    if not any(not letter.isspace() for letter in differs):
        return ""
    return "have a reply that was asked again, which this format cannot mask" if row.nudges else "are masked otherwise"


def _by_message(row: Row, spec: ExportSpec) -> _Made:
    """What is trained on is marked message by message."""
    chat = spec.messages(row)
    if spec.format_name == "messages":
        content: dict[str, Any] = {"messages": unmarked(chat), "train_spans": message_spans(chat)}
    else:
        content = sharegpt(chat)
        chat = from_sharegpt(content)
        content["train_spans"] = message_spans(chat[1:] if content["system"] else chat)
        content["conversations"] = unmarked(content["conversations"])
    return _Made([row], content, [unmarked(chat)], [trained_on(chat)])


def _by_text(row: Row, spec: ExportSpec) -> _Made:
    """What is trained on is marked by its place in the interleaved text."""
    in_one = spec.format_name == "drtulu"
    chat = one_message(row, spec.prompts.system(row)) if in_one else unmarked(spec.messages(row))
    content: dict[str, Any] = {"conversations": chat} if in_one else {"question": row.question, "text": row.text}
    if spec.format_name == "parquet":
        content["messages"] = [{"tool_call_id": None, **said} for said in chat]
    spans = text_spans(row)
    trained = [row.text[start:end] for start, end in spans]
    return _Made([row], {**content, "train_spans": spans}, [chat], [trained], in_one)


def _pairs(rows: Iterable[Row], spec: ExportSpec) -> Iterator[_Made]:
    """Accepted beside rejected trajectories of the same question, made under the same prompt."""
    by_question: dict[tuple[str, str | None], tuple[list[Row], list[Row]]] = {}
    for row in rows:
        fit = not row.reject_reasons and not set(failed_gate_names(row.parsed, spec.thresholds)) & set(spec.hard)
        by_question.setdefault((row.question, spec.prompts.system(row)), ([], []))[0 if fit else 1].append(row)
    for (_, system), sides in by_question.items():
        head = 2 if system else 1
        for pair in zip(*sides, strict=False):
            good, bad = chat = [spec.messages(row) for row in pair]
            content = {
                "prompt": good[:head], "chosen": unmarked(good[head:]), "rejected": unmarked(bad[head:]),
                "chosen_train_spans": message_spans(good[head:]), "rejected_train_spans": message_spans(bad[head:]),
            }  # fmt: skip
            yield _Made(pair, content, list(map(unmarked, chat)), [trained_on(side) for side in chat])


def _write_parquet(path: Path, rows: list[Mapping[str, Any]]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError("--format parquet needs an extra: pip install -e '.[training]'") from error
    new = path.with_name(f".{path.name}.new")
    try:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([_sound(dict(row)) for row in rows]), new)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _sound(value: Any) -> Any:
    """Without lone surrogates, which Parquet cannot hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_sound(name): _sound(one) for name, one in value.items()}
    return [_sound(one) for one in value] if isinstance(value, list | tuple) else value
