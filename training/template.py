"""Does a row survive a chat template? It is rendered, and every message looked for in it: whole, under a header that is
its role's alone, and with nothing beside it that the model never wrote.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from serializers.segments import Segment
from training.chat_template import BEGIN, END, NO_MARKS, ChatTemplate, without_marks
from training.messages import Message, nudged_ranges
from training.rows import Row

_NAMES = {"think": "thought", "call_tool": "call", "tool_output": "result"}
_TAG = re.compile(r"</?(?:think|call_tool|tool_output|answer)\b[^>]*>")
_TOKEN = re.compile(r"<[^<>]*>")
_BESIDE_TAG = re.compile(rf"([ {BEGIN}{END}]*)({_TAG.pattern})([ {BEGIN}{END}]*)")
_BEFORE_TAG, _BEHIND_TAG = re.compile(rf" ({_TAG.pattern})"), re.compile(rf"({_TAG.pattern}) ")
_BESIDE_MARK = re.compile(rf" ([{BEGIN}{END}]+) ")
_A_HEADER = 6
"""Characters that a header has at least, to be looked for."""
_ONE_MESSAGE = (
    "the template keeps only the end of an assistant message: --format messages round-trips, with each tool result "
    "in a message of its own"
)
_USER_ROLE = (
    "the template drops the thoughts before the last user message: this run's tool results are user messages, generate "
    "with --tool-role tool"
)
_REWRITTEN = "train with a template that writes every message whole"
_HEADERS = "train with a template that heads each role by its own name, or mask by train_spans"
_ADDED = "train with a template that adds nothing to a reply, or leave such rows out with --where thoughtless=0"
_MARKED_IN_ONE = (
    "--format messages has the tool results in messages of their own; or mask by train_spans, with a template that has "
    "no {% generation %}"
)


class Problem(NamedTuple):
    """What does not survive, and which format or setting avoids it."""

    what: str
    fix: str


@dataclass(frozen=True)
class _Rendered:
    """What a template made of a conversation, its white space made alike, and the ranges that it marks for training."""

    text: str
    marked: list[tuple[int, int]] | None


def _rendered(template: ChatTemplate, chat: Sequence[Message]) -> _Rendered:
    text, ranges = without_marks(alike(template.with_marks(chat)))
    joined = list[tuple[int, int]]()
    for start, end in ranges:
        beside = joined and not text[joined[-1][1] : start].strip()
        joined.append((joined.pop()[0], end) if beside else (start, end))
    return _Rendered(text, joined if template.marks else None)


def template_problems(
    row: Row, chat: Sequence[Message], template: ChatTemplate, *, whole: bool = False
) -> list[Problem]:
    """What a template loses of a conversation, or adds. `whole` says that the trajectory is one message in it."""
    rendered = _rendered(template, chat)
    gaps: list[tuple[str, str]] = []
    written: list[tuple[int, int]] = []
    at, quiet = 0, False
    for said in chat:
        content = _plain(str(said["content"]))
        place = rendered.text.find(content, at)
        if place < 0:
            return [Problem(_lost(row, rendered.text), _fix(chat, whole))]
        if content and not quiet:
            gaps.append((said["role"], rendered.text[at:place]))
        quiet = not content  # where an empty message is, nothing can be said of the text around it
        at = place + len(content)
        if content and said["role"] == "assistant":
            written.append((place, at))
    gaps.append(("", rendered.text[at:]))
    found = _added(gaps)
    if rendered.marked is None:
        return found + _headersalike(gaps[:-1])
    if whole:
        written = [(start, end) for piece, start, end in _places(row, rendered.text) if piece.kind != "tool_output"]
    return found + _marked_wrongly(rendered.text, written, rendered.marked, _MARKED_IN_ONE if whole else _HEADERS)


def wrongly_masked(row: Row, trained: Sequence[str]) -> list[str]:
    """What the spans leave out of what the model wrote, or take in of what it did not; by place, not by letters."""
    text, found, at = row.text, [], 0
    marked = bytearray(len(text))
    for part in trained:
        place = text.find(part, at)
        if place < 0:
            found.append(f"trained on although it is not the trajectory's: {shortened(part)}")
            continue
        at = place + len(part)
        marked[place:at] = b"\1" * len(part)
    asked_again = bytearray(len(text))
    for start, end in nudged_ranges(row):
        asked_again[start:end] = b"\1" * (end - start)
    for piece in row.parsed.segments:
        span = slice(piece.start, piece.start + len(text[piece.start : piece.end].rstrip()))
        if piece.kind == "tool_output" and any(marked[piece.start : piece.end]):
            found.append(f"trained on although a tool gave it: {shortened(piece.body.strip())}")
        elif piece.kind != "tool_output" and any(a and b for a, b in zip(marked[span], asked_again[span], strict=True)):
            found.append(f"trained on although the model was asked again: {shortened(piece.body.strip())}")
        elif piece.kind != "tool_output" and any(
            not (ours or again) and not letter.isspace()
            for ours, again, letter in zip(marked[span], asked_again[span], text[span], strict=True)
        ):
            found.append(f"masked although the model wrote it: {shortened(piece.body.strip())}")
    return found


def _places(row: Row, rendered: str) -> Iterator[tuple[Segment, int, int]]:
    """Each piece of the trajectory with where it begins and ends in a rendered text; a lost one begins at -1."""
    at = 0
    for piece in row.parsed.segments:
        text = _plain(row.text[piece.start : piece.end])
        place = rendered.find(text, at)
        at = at if place < 0 else place + len(text)
        yield piece, place, at


def _lost(row: Row, rendered: str) -> str:
    """The first piece that is not in the rendered text, with its tags."""
    for piece, place, at in _places(row, rendered):
        if place < 0:
            bare = piece.kind != "text" and rendered.find(_plain(piece.body), at) >= 0
            name = _NAMES.get(piece.kind, piece.kind)
            return f"{'the tags of ' if bare else ''}{name} {shortened(piece.body.strip())}"
    return "the order or the wording of a message"


def _fix(chat: Sequence[Message], whole: bool) -> str:
    if whole:
        return _ONE_MESSAGE
    return _USER_ROLE if sum(said["role"] == "user" for said in chat) > 1 else _REWRITTEN


def _marked_wrongly(
    text: str, written: Sequence[tuple[int, int]], marked: Sequence[tuple[int, int]], fix: str
) -> list[Problem]:
    """What the template's own marks leave out of what the model wrote, or take in beside it; bare tokens may be."""
    for start, end in written:
        if not any(begin <= start and end <= close for begin, close in marked):
            return [Problem(f"the mark that trains on {shortened(text[start:end])}", fix)]
    beside, at = [], 0
    for start, end in [*written, (len(text), len(text))]:
        beside += [text[max(begin, at) : min(close, start)] for begin, close in marked if begin < start and at < close]
        at = end
    foreign = next((part for part in beside if _TAG.search(part) or any(map(str.isalnum, _TOKEN.sub("", part)))), None)
    return [Problem(f"the mask of {shortened(foreign.strip())}, which the model did not write", fix)] if foreign else []


def _added(gaps: Sequence[tuple[str, str]]) -> list[Problem]:
    """What the template says for the model: tags of the protocol beside a reply, or a whole reply."""
    for before, (role, gap) in zip(("", *(role for role, _ in gaps)), gaps, strict=False):
        if "assistant" in (before, role) and (tag := _TAG.search(gap)):
            return [Problem(f"nothing, and adds {tag[0]}, which the model never wrote", _ADDED)]
    header = _header(gaps)
    for role, gap in gaps:
        if len(header) >= _A_HEADER and gap.count(header) > (role == "assistant") and role in ("", "assistant"):
            return [Problem("nothing, and adds a reply that the model never wrote", _REWRITTEN)]
    return []


def _headersalike(gaps: Sequence[tuple[str, str]]) -> list[Problem]:
    """Where what the model wrote cannot be known from what it did not write by what stands before it."""
    before = {role: {_TAG.sub("", gap).strip() for to, gap in gaps if to == role} for role, _ in gaps}
    ours, header = before.get("assistant", set()), _header(gaps)
    for role in ("user", "tool"):
        for theirs in before.get(role, ()):
            own = next((one for one in ours if one == theirs or (one and theirs and _endsalike(one, theirs))), None)
            named = "assistant" in theirs.lower() and not any("assistant" in one.lower() for one in ours)
            under = role == "tool" and ((len(header) >= _A_HEADER and header in theirs) or named)
            if own is not None or (ours and under):
                shown = own if own is not None else header
                return [Problem(f"the roles: {role} messages are headed {theirs!r}, the model's {shown!r}", _HEADERS)]
    return []


def _endsalike(one: str, other: str) -> bool:
    return one.endswith(other) or other.endswith(one)


def _header(gaps: Sequence[tuple[str, str]]) -> str:
    """What stands before every reply of the model."""
    ours = [_TAG.sub("", gap).strip() for role, gap in gaps if role == "assistant"]
    shortest = min(ours, key=len, default="")
    ends = (shortest[at:] for at in range(len(shortest) + 1))
    return next(end for end in ends if all(gap.endswith(end) for gap in ours)).strip()


def _plain(text: str) -> str:
    """A text of ours as it is looked for in a rendered one."""
    return alike(text.translate(NO_MARKS))


def alike(text: str) -> str:
    """A text with its white space made alike, none beside a tag or at its ends; marks stay where they are."""

    def bare(match: re.Match[str]) -> str:
        return match[1].replace(" ", "") + match[2] + match[3].replace(" ", "")

    text = " ".join(text.split())
    if BEGIN not in text:
        return _BEHIND_TAG.sub(r"\1", _BEFORE_TAG.sub(r"\1", text))
    return _BESIDE_MARK.sub(r" \1", _BESIDE_TAG.sub(bare, text))


def shortened(text: str) -> str:
    """A text as it is shown in one line."""
    return repr(text if len(text) <= 60 else f"{text[:57]}…")
