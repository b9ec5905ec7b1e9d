"""Rows as they are exported: their content, and what is to be trained on in them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from training.atif_export import to_atif
from training.chat_template import ChatTemplate
from training.export_spec import ExportSpec
from training.messages import (
    Message,
    from_sharegpt,
    masked_by_tags,
    message_spans,
    one_message,
    sharegpt,
    text_spans,
    trained_on,
    unmarked,
)
from training.own import CALLS, beside
from training.records import as_columns
from training.rows import Row
from training.template import Problem, template_problems, wrongly_masked
from training.trainers import Trained
from training.verify import Verifier

_NUDGES = "leave rows with a reply that had to be asked again out with --where nudges=0: this trainer reads no spans"


@dataclass(frozen=True)
class Made:
    """A row as it is exported: its content, the conversations in it (one of each of `rows`), what is trained on."""

    rows: Sequence[Row]
    content: dict[str, Any]
    conversations: Sequence[list[Message]]
    trained: Sequence[Sequence[str]]
    in_one: bool = False
    """Whether the whole trajectory is one message."""
    is_pair: bool = False
    """Whether only the last message of each is trained on."""

    @property
    def row(self) -> Row:
        """The row itself; of a pair, the better one."""
        return self.rows[0]

    def whole(self, spec: ExportSpec, tokens: int) -> dict[str, Any]:
        """With what is said of it; of a pair, the tokens of its longer side."""
        limit = spec.thresholds.token_limit
        if spec.format_name == "atif":  # which has no room for more beside it
            extra = {**self.content["extra"], "tokens": tokens, f"fits_{limit}": tokens <= limit}
            return {**self.content, "extra": extra}
        kept = {} if self.is_pair or spec.format_name == "records" else {"metadata": self._beside(spec)}
        return {
            **self.content, **kept, "sample_id": self.row.sample_id, "topic": str(self.row.record.get("topic", "")),
            "question_type": str(self.row.record.get("question_type", "")), "tokens": tokens,
            f"fits_{limit}": tokens <= limit,
        }  # fmt: skip

    def _beside(self, spec: ExportSpec) -> str:
        """What the format has no place for."""
        prompt = {"system_prompt": spec.prompts.system(self.row) or ""} if spec.format_name == "text" else {}
        role = {"tool_role": spec.prompts.tool_role(self.row)}
        calls = {CALLS: self.row.trajectory.get("tool_calls")} if self.row.is_of_others else {}
        return beside(self.row.question, {**self.row.metadata, **role}, **prompt, **calls)

    def trained_otherwise(self, verifier: Verifier, trained: Sequence[Trained | None]) -> list[Problem]:
        """In what a trainer trains on something else than the spans say."""
        each = zip(self.conversations, self.trained, trained, strict=True)
        found = [problem for chat, written, seen in each if seen and (problem := verifier.problem(chat, written, seen))]
        return [Problem(one.what, _NUDGES) for one in found] if any(row.nudges for row in self.rows) else found

    def template_problems(self, template: ChatTemplate) -> list[Problem]:
        """What the template drops or adds, and what is masked wrongly."""
        found: list[Problem] = []
        for row, chat, trained in zip(self.rows, self.conversations, self.trained, strict=True):
            found += template_problems(row, chat, template, whole=self.in_one)
            wrongly = () if self.is_pair else wrongly_masked(row, trained)
            found += [Problem(f"the mask ({wrong})", "this is a fault of trajgraph's") for wrong in wrongly]
        return found


def singles(rows: Iterable[Row], spec: ExportSpec, left_out: "Counter[str]") -> Iterator[Made]:
    """Each row by itself; those that the format cannot hold as they are, are counted by the reason."""
    types: dict[str, str] = {}
    for row in rows:
        if spec.format_name == "drtulu":
            made = _by_text(row, spec)
            if wrong := _masked_otherwise(made):
                left_out[wrong] += 1
            else:
                yield made
        elif spec.format_name in ("atif", "records"):
            chat = spec.messages(row)
            system = spec.prompts.system(row)
            content = to_atif(row, system, types) if spec.format_name == "atif" else as_columns(row, system)
            yield Made([row], content, [unmarked(chat)], [trained_on(chat)])
        elif spec.format_name in ("messages", "sharegpt"):
            yield _by_message(row, spec)
        else:
            yield _by_text(row, spec)


def _masked_otherwise(made: Made) -> str:
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


def _by_message(row: Row, spec: ExportSpec) -> Made:
    """What is trained on is marked message by message."""
    chat = spec.messages(row)
    if spec.format_name == "messages":
        content: dict[str, Any] = {"messages": unmarked(chat), "train_spans": message_spans(chat)}
    else:
        content = sharegpt(chat)
        chat = from_sharegpt(content)
        content["train_spans"] = message_spans(chat[1:] if content["system"] else chat)
        content["conversations"] = unmarked(content["conversations"])
    return Made([row], content, [unmarked(chat)], [trained_on(chat)])


def _by_text(row: Row, spec: ExportSpec) -> Made:
    """What is trained on is marked by its place in the interleaved text."""
    in_one = spec.format_name == "drtulu"
    chat = one_message(row, spec.prompts.system(row)) if in_one else unmarked(spec.messages(row))
    content: dict[str, Any] = {"conversations": chat} if in_one else {"question": row.question, "text": row.text}
    if spec.format_name == "parquet":
        content["messages"] = [{"tool_call_id": None, **said} for said in chat]
    spans = text_spans(row)
    trained = [row.text[start:end] for start, end in spans]
    return Made([row], {**content, "train_spans": spans}, [chat], [trained], in_one)
