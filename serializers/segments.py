"""An interleaved text, parsed: thoughts, calls, tool outputs and the answer, each with its place in the text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from serializers.escaping import attribute_value
from serializers.tags import TAG

Kind = Literal["think", "call_tool", "tool_output", "answer", "text"]
_SNIPPET = re.compile(r'<snippet id="?([^">]{0,200})"?>')


@dataclass(frozen=True)
class Segment:
    """One piece: `text[start:end]` with its tags, `body` without. `call` numbers the calls from 1, and each output as
    the call that it answers: the first that waits, or 0 where none does.
    """

    kind: Kind
    start: int
    end: int
    body: str
    closed: bool = True
    call: int = 0
    attributes: str = ""


@dataclass(frozen=True)
class Snippet:
    """A search result as it was shown: by which call, in which place (both from 1), and where in the text."""

    paper_id: str
    text: str
    call: int
    place: int
    start: int


def split_segments(text: str) -> tuple[list[Segment], list[str]]:
    """The segments in order, and the names of stray closing tags. Never raises; what is left open ends where the next
    piece begins. Within a tool output only its own end counts: what stands in it is foreign. Within a thought that ends
    before the next thought or output begins, tags are only talked about.
    """
    found: list[Segment] = []
    unmatched_closing_tags: list[str] = []
    opened: re.Match[str] | None = None
    talk = False
    at = calls = answered = 0

    def close(end: int, after: int, closed: bool) -> None:
        nonlocal at, calls, answered
        assert opened
        kind: Kind = opened["name"]  # type: ignore[assignment]
        number = 0
        if kind == "call_tool":
            number = calls = calls + 1
        elif kind != "tool_output":
            answered = calls  # the model went on: no output belongs to an earlier call any more
        elif answered < calls:
            number = answered = answered + 1
        body, attributes = text[opened.end() : end], opened["attributes"] or ""
        found.append(Segment(kind, opened.start(), after, body, closed, number, attributes))
        at = after

    tags = list(TAG.finditer(text))
    for number, tag in enumerate(tags):
        if opened and opened["name"] == "tool_output" and not (tag["close"] and tag["name"] == "tool_output"):
            continue
        if talk and tag["name"] != "think":
            continue
        if opened and tag["close"] and tag["name"] == opened["name"]:
            close(tag.start(), tag.end(), True)
            opened, talk = None, False
        elif tag["close"]:
            unmatched_closing_tags.append(tag["name"])
        else:
            if opened:
                close(tag.start(), tag.start(), False)
            elif text[at : tag.start()].strip():
                found.append(Segment("text", at, tag.start(), text[at : tag.start()]))
            opened, talk = tag, tag["name"] == "think" and _closes(tags, number)
    if opened:
        close(len(text), len(text), False)
    elif text[at:].strip():
        found.append(Segment("text", at, len(text), text[at:]))
    return found, unmatched_closing_tags


def _closes(tags: list[re.Match[str]], number: int) -> bool:
    """Whether the thought that a tag opens ends before anything else can have begun."""
    following = (tag for tag in tags[number + 1 : number + 50] if tag["name"] in ("think", "tool_output"))
    next_one = next(following, None)
    return next_one is not None and next_one["name"] == "think" and bool(next_one["close"])


def snippets(segments: list[Segment], shown: Sequence[Sequence[str] | None] | None = None) -> list[Snippet]:
    """Every snippet that a tool showed, in order. `shown` are the ids that each call's results had, as written, where
    the record tells: then nothing else in an output is a snippet, whatever it looks like.
    """
    found = []
    for piece in segments:
        if piece.kind != "tool_output" or piece.body.startswith("<webpage>"):  # a page's own words are no snippets
            continue
        offset = piece.start + len("<tool_output>")
        begun = list(_SNIPPET.finditer(piece.body))
        if shown is not None:
            begun = _in_order(begun, shown[piece.call - 1] if 0 < piece.call <= len(shown) else ())
        for place, match in enumerate(begun, start=1):
            following = begun[place].start() if place < len(begun) else len(piece.body)
            end = piece.body.find("</snippet>", match.end(), following)
            text = piece.body[match.end() : following if end < 0 else end]
            found.append(Snippet(attribute_value(match[1]), text, piece.call, place, offset + match.start()))
    return found


def _in_order(begun: list[re.Match[str]], shown: Sequence[str] | None) -> list[re.Match[str]]:
    """Those that are the results' own: the ids that were shown, in their order; the last may have been cut away. All of
    them where nobody has said which were.
    """
    if shown is None:
        return begun
    kept, left = [], list(shown)
    for match in begun:
        if match[1] in left:
            del left[: left.index(match[1]) + 1]
            kept.append(match)
    return kept


def body_start(piece: Segment) -> int:
    """Where a piece's body begins in the text."""
    closing = len(f"</{piece.kind}>") if piece.closed and piece.kind != "text" else 0
    return piece.end - closing - len(piece.body)
