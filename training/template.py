"""Does a row survive a chat template? It is rendered, and every message looked for in it: whole, under a header that is
its role's alone, and with nothing beside it that the model never wrote.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from backends.errors import UserError
from training.messages import Message
from training.rows import Row

_NAMES = {"think": "thought", "call_tool": "call", "tool_output": "result"}
_TAG = re.compile(r"</?(?:think|call_tool|tool_output|answer)\b[^>]*>")
_BEGIN, _END = "\ufdd0", "\ufdd1"
"""Around what a template marks as `{% generation %}`: no text has these."""
_ONE_MESSAGE = (
    "the template keeps only the end of an assistant message: --format messages survives, with each tool result in a "
    "message of its own"
)
_USER_ROLE = (
    "the template drops the thoughts before the last user message: this run's tool results are user messages, generate "
    "with --tool-role tool"
)
_REWRITTEN = "train with a template that writes every message whole"
_HEADERS = "train with a template that heads each role by its own name, or mask by train_spans"
_ADDED = "train with a template that adds nothing to a reply, or leave these rows out with --where"


class Loss(NamedTuple):
    """What does not survive, and which format or setting avoids it."""

    what: str
    mend: str


@dataclass(frozen=True)
class _Rendered:
    """What a template made of a conversation, without white space, and the ranges that it marks for training."""

    text: str
    marked: list[tuple[int, int]] | None


class Template:
    """A Jinja chat template. Raises UserError when it cannot be read."""

    def __init__(self, path: Path) -> None:
        try:
            from jinja2 import TemplateError
        except ImportError as error:
            raise UserError("--verify-template needs an extra: pip install -e '.[training]'") from error
        self._failure = TemplateError
        self.path = path
        try:
            source = path.read_text(encoding="utf-8")
            self._template = _environment().from_string(source)
        except (OSError, UnicodeDecodeError, TemplateError) as error:
            raise UserError(f"--verify-template {path}: {error}") from error
        self._marks = re.search(r"\{%-?\s*generation\b", source) is not None

    def rendered(self, told: Sequence[Message]) -> _Rendered:
        """What would be trained on. Raises UserError when the template refuses the messages."""
        try:
            text = self._template.render(
                messages=list(told), add_generation_prompt=False, tools=None, bos_token="", eos_token=""
            )
        except (self._failure, TypeError, ValueError) as error:
            raise UserError(f"--verify-template {self.path} refuses the messages: {error}") from error
        pieces, marked, at = [], [], 0
        for part in re.split(f"({_BEGIN}|{_END})", text):
            if part == _BEGIN:
                marked.append((at, at))
            elif part == _END:
                marked[-1] = (marked[-1][0], at)
            else:
                pieces.append(_squeezed(part))
                at += len(pieces[-1])
        return _Rendered("".join(pieces), marked if self._marks else None)


def losses(row: Row, told: Sequence[Message], template: Template, *, whole: bool = False) -> list[Loss]:
    """What a template loses of a conversation, or adds. `whole` says that the trajectory is one message in it."""
    rendered = template.rendered(told)
    found: list[Loss] = []
    gaps: list[tuple[str, str]] = []
    at = 0
    for said in told:
        content = _squeezed(str(said["content"]))
        place = rendered.text.find(content, at)
        if place < 0:
            return [Loss(_lost(row, rendered.text), _mend(told, whole))]
        gaps.append((said["role"], rendered.text[at:place]))
        at = place + len(content)
        if rendered.marked is not None and not whole:
            found += _marked_wrongly(said, place, at, rendered.marked)
    for role, gap in gaps:
        if role == "assistant" and (tag := _TAG.search(gap)):
            found.append(Loss(f"nothing, and adds {tag[0]}, which the model never wrote", _ADDED))
    headers = {role: _common_end([gap for to, gap in gaps if to == role]) for role, _ in gaps}
    return found + _headers_alike(headers)


def wrongly_masked(row: Row, trained: Sequence[str]) -> list[str]:
    """What the spans leave out of what the model wrote, or take in of what it did not; by place, not by letters."""
    text, found, at = row.text, [], 0
    marked = bytearray(len(text))
    for part in trained:
        place = text.find(part, at)
        if place < 0:
            found.append(f"trained on although it is not the trajectory's: {_shortened(part)}")
            continue
        at = place + len(part)
        marked[place:at] = b"\1" * len(part)
    for piece in row.apart.pieces:
        covered = marked[piece.start : piece.end]
        if piece.kind == "tool_output" and any(covered):
            found.append(f"trained on although a tool gave it: {_shortened(piece.body.strip())}")
        elif piece.kind != "tool_output" and not all(covered[: len(text[piece.start : piece.end].rstrip())]):
            found.append(f"masked although the model wrote it: {_shortened(piece.body.strip())}")
    return found


def _lost(row: Row, rendered: str) -> str:
    """The first piece that is not in the rendered text, with its tags."""
    at = 0
    for piece in row.apart.pieces:
        text = _squeezed(row.text[piece.start : piece.end])
        place = rendered.find(text, at)
        if place < 0:
            bare = rendered.find(_squeezed(piece.body), at) >= 0 and piece.kind != "text"
            return (
                f"{'the tags of ' if bare else ''}{_NAMES.get(piece.kind, piece.kind)} {_shortened(piece.body.strip())}"
            )
        at = place + len(text)
    return "the order or the wording of a message"


def _mend(told: Sequence[Message], whole: bool) -> str:
    if whole:
        return _ONE_MESSAGE
    return _USER_ROLE if sum(said["role"] == "user" for said in told) > 1 else _REWRITTEN


def _marked_wrongly(said: Message, start: int, end: int, marked: Sequence[tuple[int, int]]) -> list[Loss]:
    content = _shortened(str(said["content"]).strip())
    if said["role"] == "assistant":
        inside = any(begin <= start and end <= close for begin, close in marked)
        return [] if inside else [Loss(f"the mark that trains on {content}", _HEADERS)]
    overlaps = any(begin < end and start < close for begin, close in marked)
    return [Loss(f"the mask of {content}, which the model did not write", _HEADERS)] if overlaps else []


def _headers_alike(headers: Mapping[str, str]) -> list[Loss]:
    """Where what the model wrote cannot be told by its header from what it did not write."""
    ours = headers.get("assistant")
    if ours is None:
        return []
    for role in ("user", "tool"):
        theirs = headers.get(role)
        if theirs is None:
            continue
        alike = ours.endswith(theirs) or theirs.endswith(ours)
        swapped = "assistant" not in ours.lower() and ("assistant" in theirs.lower() or role in ours.lower())
        if alike or swapped:
            return [Loss(f"the roles: {role} messages are headed {theirs!r}, the model's {ours!r}", _HEADERS)]
    return []


def _environment() -> Any:
    """Jinja as the trainers set it up: `raise_exception`, `strftime_now`, `{% generation %}`."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 (Jinja's own declaration)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

        def _marked(self, caller: Callable[[], str]) -> str:
            return f"{_BEGIN}{caller()}{_END}"

    def refuse(message: Any) -> None:
        raise TemplateError(str(message))

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _common_end(texts: Sequence[str]) -> str:
    shortest = min(texts, key=len)
    return next(shortest[at:] for at in range(len(shortest) + 1) if all(text.endswith(shortest[at:]) for text in texts))


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}…")
