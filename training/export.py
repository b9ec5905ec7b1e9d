"""Exports: rows for the trainers of the field, each with what is to be trained on, split by question, and a card."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.errors import UserError
from serializers.gates import GATES, Thresholds, estimated_tokens, violated
from training.messages import Message, messages, one_message, sharegpt, text_spans
from training.rows import Row
from training.template import Template, advice, missing, wrongly_masked

_CONDITION = re.compile(r"\s*(\w+)\s*(!=|>=|<=|=|>|<)\s*(.*?)\s*")
_FIELDS: dict[str, Callable[[Row], Any]] = {
    "sample_id": lambda row: row.sample_id,
    "topic": lambda row: str(row.record.get("topic", "")),
    "question_type": lambda row: str(row.record.get("question_type", "")),
    "calls": lambda row: len(row.apart.of("call_tool")),
    "tokens": lambda row: row.apart.tokens or estimated_tokens(row.text),
    "cites": lambda row: len(row.apart.cited),
    "stop_reason": lambda row: str(row.metadata.get("stop_reason", "")),
    "model": lambda row: str(row.metadata.get("model", "")),
}
_COUNTED = ("calls", "tokens", "cites")


@dataclass
class Exported:
    """What an export wrote."""

    files: dict[str, Path] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)
    """By split."""
    tokens: list[int] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    """What the chat template would drop."""
    sample: str = ""


def conditions(stated: Sequence[str], thresholds: Thresholds) -> Callable[[Row], bool]:
    """`calls>=2`, `topic=Lipids`, `gate!=duplicate_call`: all must hold. Raises UserError for what is none."""
    checks = []
    fields: dict[str, Callable[[Row], Any]] = {**_FIELDS, "gate": lambda row: violated(row.apart, thresholds)}
    for text in stated:
        match = _CONDITION.fullmatch(text)
        if not match or match[1] not in fields:
            raise UserError(f"--where {text}: write FIELD=VALUE (also != > < >= <=) with one of {', '.join(fields)}")
        if match[1] == "gate" and match[3] not in GATES:
            raise UserError(f"--where {text}: the gates are {', '.join(GATES)}")
        if match[1] not in _COUNTED and match[2] not in ("=", "!="):
            raise UserError(f"--where {text}: {match[1]} is a text; write = or !=")
        checks.append((fields[match[1]], match[2], match[3]))
    return lambda row: all(_holds(read(row), operator, value) for read, operator, value in checks)


def split_of(question: str, test_share: float) -> str:
    """`train` or `test`, by the question alone: all its trajectories go the same way, in every export."""
    place = int.from_bytes(hashlib.sha256(question.encode("utf-8", "replace")).digest()[:8]) / 2**64
    return "test" if place < test_share else "train"


def exported(
    rows: Iterable[Row],
    folder: Path,
    format_name: str,
    *,
    system: str | None,
    test_share: float,
    token_limit: int,
    count: Callable[[str], int] | None,
    template: Template | None,
    hard: Sequence[str],
) -> Exported:
    """Write `train` and `test` into a folder. With a template, nothing is left behind unless every row survives it."""
    folder.mkdir(parents=True, exist_ok=True)
    done = Exported()
    made: dict[str, list[Mapping[str, Any]]] = {"train": [], "test": []}
    source = _pairs(rows, system, hard) if format_name == "dpo" else _singles(rows, format_name, system)
    with ExitStack() as stack:
        writers = {} if format_name == "parquet" else {name: folder / f".{name}.jsonl.new" for name in made}
        for path in writers.values():
            stack.callback(path.unlink, missing_ok=True)  # what was not put in place is not left behind
        handles = {
            name: stack.enter_context(path.open("w", encoding="utf-8", errors="replace"))
            for name, path in writers.items()
        }
        for made_row in source:
            row = made_row.row
            done.losses += [f"{row.sample_id}: {loss}" for loss in made_row.losses(template)[:3]] if template else []
            tokens = sum(map(count or estimated_tokens, made_row.read))
            about = {
                "sample_id": row.sample_id, "topic": str(row.record.get("topic", "")),
                "question_type": str(row.record.get("question_type", "")), "tokens": tokens,
                f"fits_{token_limit}": tokens <= token_limit,
            }  # fmt: skip
            split = split_of(row.question, test_share)
            done.rows[split] += 1
            done.tokens.append(tokens)
            whole = {**made_row.content, **about}
            done.sample = done.sample or json.dumps(whole, ensure_ascii=False, indent=1)[:3000]
            if handles:
                handles[split].write(json.dumps(whole, ensure_ascii=False) + "\n")
            else:
                made[split].append(whole)
        if done.losses:
            examples = "; ".join(done.losses[:3])
            raise UserError(f"the chat template would lose {examples}. {advice(format_name)}. Nothing was exported")
        if not done.tokens:
            pairs = "no question has an accepted and a rejected trajectory: generate with --samples-per-question"
            raise UserError(f"nothing to export: {pairs if format_name == 'dpo' else 'no trajectory is left'}")
        for handle in handles.values():
            handle.close()
        for name in made:
            target = folder / f"{name}.{'parquet' if format_name == 'parquet' else 'jsonl'}"
            if not done.rows[name]:
                target.unlink(missing_ok=True)
                continue
            if handles:
                writers[name].replace(target)
            else:
                _write_parquet(target, made[name])
            done.files[name] = target
    return done


@dataclass(frozen=True)
class _Made:
    """A row as it is exported: its content, the conversations in it, and what of the trajectory is trained on."""

    row: Row
    content: dict[str, Any]
    conversations: list[list[Message]]
    trained: list[str]
    other: Row | None = None

    @property
    def read(self) -> list[str]:
        """All that a training run reads of it."""
        return [str(said["content"]) for said in self.conversations[0]]

    def losses(self, template: Template) -> list[str]:
        """What the template drops, and what is masked wrongly."""
        rows = [self.row, *([self.other] if self.other else [])]
        found = [
            loss
            for row, told in zip(rows, self.conversations, strict=False)
            for loss in missing(row, template.rendered(told))
        ]
        return found + (wrongly_masked(self.row, self.trained) if self.trained else [])


def _singles(rows: Iterable[Row], format_name: str, system: str | None) -> Iterator[_Made]:
    for row in rows:
        told = one_message(row, system) if format_name == "drtulu" else messages(row, system)
        if format_name in ("messages", "sharegpt"):
            content: dict[str, Any] = {"messages": told} if format_name == "messages" else sharegpt(told)
            turns = told if format_name == "messages" else content["conversations"]
            texts = [str(turn.get("content", turn.get("value"))) for turn in turns]
            ours = [turn.get("role", turn.get("from")) in ("assistant", "gpt") for turn in turns]
            spans = [[at, 0, len(text)] for at, text in enumerate(texts) if ours[at]]
            trained = [texts[at][start:end] for at, start, end in spans]
        else:
            spans = text_spans(row.apart.pieces)
            trained = [row.text[start:end] for start, end in spans]
            content = (
                {"question": row.question, "text": row.text} if format_name != "drtulu" else {"conversations": told}
            )
            if format_name == "parquet":
                content["messages"] = [{"role": said["role"], "content": said["content"]} for said in told]
        yield _Made(row, {**content, "train_spans": spans}, [told], trained)


def _pairs(rows: Iterable[Row], system: str | None, hard: Sequence[str]) -> Iterator[_Made]:
    """Accepted beside rejected trajectories of the same question."""
    by_question: dict[str, tuple[list[Row], list[Row]]] = {}
    for row in rows:
        fit = not row.metadata.get("reject_reasons") and not set(violated(row.apart)) & set(hard)
        by_question.setdefault(row.question, ([], []))[0 if fit else 1].append(row)
    head = 2 if system else 1
    for chosen, rejected in by_question.values():
        for good, bad in zip(chosen, rejected, strict=False):
            told, other = messages(good, system), messages(bad, system)
            content = {"prompt": told[:head], "chosen": told[head:], "rejected": other[head:]}
            yield _Made(good, content, [told, other], [], bad)


def _holds(value: Any, operator: str, wanted: str) -> bool:
    if isinstance(value, list):
        return (wanted in value) == (operator == "=")
    if isinstance(value, int):
        try:
            number = float(wanted)
        except ValueError as error:
            raise UserError(f"--where: {wanted!r} is no number") from error
        holds: dict[str, bool] = {
            "=": value == number, "!=": value != number, ">": value > number, "<": value < number,
            ">=": value >= number, "<=": value <= number,
        }  # fmt: skip
        return holds[operator]
    return bool(value == wanted if operator == "=" else operator == "!=" and value != wanted)


def _write_parquet(path: Path, rows: list[Mapping[str, Any]]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("--format parquet needs an extra: pip install -e '.[training]'") from error
    new = path.with_name(f".{path.name}.new")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), new)
    new.replace(path)


def card(done: Exported, run: Mapping[str, Any], funnel: Mapping[str, Any], format_name: str, token_limit: int) -> str:
    """A dataset card: what is in it, how it was made, what was left out."""
    configs = "\n".join(f"  - split: {name}\n    path: {path.name}" for name, path in done.files.items())
    settings = "\n".join(f"| {name} | {_cell(value)} |" for name, value in run.items())
    counts = "\n".join(f"| {name} | {_cell(value)} |" for name, value in funnel.items())
    sizes = Counter(min(tokens // 2048, 15) for tokens in done.tokens)
    histogram = "\n".join(
        f"| {at * 2048:,}{'+' if at == 15 else f' to {(at + 1) * 2048:,}'} | {sizes[at]} |" for at in sorted(sizes)
    )
    rows = sum(done.rows[name] for name in ("train", "test"))
    fit = sum(tokens <= token_limit for tokens in done.tokens)
    return f"""---
language: en
license: other
task_categories: [question-answering, text-generation]
tags: [deep-research, tool-use, biomedical, trajectories]
size_categories: [{_size(rows)}]
configs:
- config_name: default
  data_files:
{configs}
---
# Deep-research trajectories

{rows:,} trajectories in the format `{format_name}`: a model thinks, calls tools, reads what comes back, and answers
with citations. {fit:,} of them fit into {token_limit:,} tokens. `train_spans` are the characters that the model wrote;
tool outputs are not to be trained on.

| generated with | |
| --- | --- |
{settings}

| from questions to rows | |
| --- | --- |
{counts}

| tokens | rows |
| --- | --- |
{histogram}

Sources: titles and abstracts are PubMed's (National Library of Medicine; abstracts may be under copyright of their
publishers), pages and search results are their owners'. Check their terms before you pass this on.

```json
{done.sample}
```
"""


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _size(rows: int) -> str:
    for limit, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")):
        if rows < limit:
            return name
    return "n>1M"
