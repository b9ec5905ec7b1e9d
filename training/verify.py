"""Whether a trainer trains on what the model wrote, token by token: all of it, and nothing beside it."""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from backends.errors import UsageError
from training.chat_template import ChatTemplate
from training.messages import Message
from training.template import Problem, alike, shortened
from training.tokens import Tokenizer
from training.trainers import TRAINERS, Trained, trainer_template

_SHOWN = 40


@dataclass
class Verifier:
    """Rows, as one trainer takes them. Raises UsageError where what it does with a model's template is not known."""

    name: str
    tokenizer: Tokenizer
    template: ChatTemplate | None
    counts: Counter[str] = field(default_factory=Counter)
    """rows, tokens, tokens trained on, rows whose white space is changed, rows with a control token from outside."""

    def __post_init__(self) -> None:
        self.trainer = TRAINERS[self.name]
        self._rendered_by = trainer_template(self.name, self.template)

    def trained(self, chat: Sequence[Message]) -> Trained:
        """A conversation as the trainer takes it."""
        return self.trainer.trains(chat, self.tokenizer, self._rendered_by)

    def problem(self, chat: Sequence[Message], written: Sequence[str], trained: Trained) -> Problem | None:
        """The first thing in which what is trained on is not what the model wrote; white space is only counted."""
        parts = list(trained.parts(self.tokenizer.special))
        if not written:
            return Problem(f"{self.name} finds nothing to train on", _GATES)
        self.counts.update(rows=1, tokens=len(trained.places), trained=sum(trained.counts))
        given = list(_given(chat, written))
        self.counts["control"] += any(token in text for text in given for token in self.tokenizer.control)
        seen, want = _bare("".join(parts)), _bare("".join(written))
        if seen != want and any(token in text for text in written for token in self.tokenizer.special):
            return Problem(f"{self.name} reads a control token in what the model wrote as text", _CONTROL)
        if seen != want:
            return self._difference(seen, want)
        told = [text for part in parts if (text := part.strip())]
        if len(told) == len(written) and any(alike(a) != alike(b) for a, b in zip(told, written, strict=True)):
            return Problem(f"{self.name} trains on what the model wrote with other white space between words", _WHOLE)
        self.counts["white_space"] += told != [text.strip() for text in written]
        if lost := _lost(chat, trained.text):
            return Problem(f"{self.name} leaves out of what the model saw: {shortened(lost)}", _WHOLE)
        return self._ends(trained, len(written))

    def _ends(self, trained: Trained, replies: int) -> Problem | None:
        """The end of each reply is trained on, by one token; no other special one is."""
        each = [
            trained.text[a:b].strip() for (a, b), counts in zip(trained.places, trained.counts, strict=True) if counts
        ]
        special = Counter(text for text in each if text in self.tokenizer.special)
        if not special:
            return Problem(
                f"{self.name} does not train on the end of a reply: the model would not learn to stop", _WHOLE
            )
        if len(special) > 1 or special.total() > replies:
            return Problem(f"{self.name} trains on tokens beside the replies: {', '.join(special)}", _WHOLE)
        return None

    def how(self) -> str:
        """As what a row is counted."""
        return f"as {self.name} takes a row"

    def said(self) -> str:
        """What was found of all rows."""
        counts = self.counts
        changed, control = counts["white_space"], counts["control"]
        spaced = f"; in {changed:,} the template has other white space than the model" if changed else ""
        read = f"; in {control:,} the model was given one of its control tokens as text" if control else ""
        return (
            f"{self.name} trains on what the model wrote, and on nothing else, in all {counts['rows']:,} rows "
            f"({counts['trained']:,} of {counts['tokens']:,} tokens){spaced}{read}"
        )

    def _difference(self, seen: str, want: str) -> Problem:
        at = next((at for at, (one, other) in enumerate(zip(seen, want, strict=False)) if one != other), None)
        at = min(len(seen), len(want)) if at is None else at
        goes_on = want[at : at + _SHOWN]
        more = seen.find(goes_on, at) if goes_on else len(seen)
        if more > at:
            while seen[at] != "<" and at and seen[at - 1] == seen[more - 1]:
                at, more = at - 1, more - 1  # the same addition, from where it reads best
            fix = _THOUGHTS if "<think></think>" in seen[at:more] else _WHOLE
            return Problem(f"{self.name} trains on what the model did not write: {shortened(seen[at:more])}", fix)
        goes_on = want[at - (want[at - 1 : at] == "<") :][:_SHOWN]
        return Problem(f"{self.name} does not train on what the model wrote: {shortened(goes_on)}", _WHOLE)


def reader_of(format_name: str, tokenizer: Tokenizer, template: ChatTemplate | None) -> Verifier | None:
    """The first trainer that reads a format, and of which it is known what it does with the model's template."""
    for name, trainer in TRAINERS.items():
        if trainer.format_name == format_name:
            with suppress(UsageError):
                return Verifier(name, tokenizer, template)
    return None


_WHOLE = "train with a template that writes every message whole, and marks what the model wrote"
_GATES = "leave such rows out: the default --hard-gates do"
_CONTROL = "leave the row out: its tokenizer reads that text as the token"
_THOUGHTS = "leave replies without a thought out with --where thoughtless=0"


def _given(chat: Sequence[Message], written: Sequence[str]) -> Iterator[str]:
    """What the model did not write: the messages to it, and what stands between its own words in one of its own."""
    left = list(written)
    for said in chat:
        text, at = str(said["content"]), 0
        if said["role"] != "assistant":
            yield text
            continue
        while left and (place := text.find(left[0], at)) >= 0:
            yield text[at:place]
            at = place + len(left.pop(0))


def _lost(chat: Sequence[Message], text: str) -> str:
    """The first message that is not whole in a text, in its place."""
    bare, at = _bare(text), 0
    for said in chat:
        content = _bare(str(said["content"]))
        if (found := bare.find(content, at)) < 0:
            return str(said["content"]).strip()
        at = found + len(content)
    return ""


def _bare(text: str) -> str:
    return "".join(unicodedata.normalize("NFC", text).split())
