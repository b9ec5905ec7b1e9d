"""An interleaved text taken apart: thoughts, calls, tool outputs and the answer, each with its place in the text."""

import re
from dataclasses import dataclass
from typing import Literal

from serializers.tags import TAG

Kind = Literal["think", "call_tool", "tool_output", "answer", "text"]
_SNIPPET = re.compile(r'<snippet id="?([^">]{1,100})"?>')
_CITE = re.compile(r"""<cite\s{1,8}id\s{0,4}=\s{0,4}["']?([^"'<>]{1,200})["']?\s{0,4}>(.*?)(?:</cite>|\Z)""", re.DOTALL)


@dataclass(frozen=True)
class Segment:
    """One piece: `text[start:end]` with its tags, `body` without. `call` numbers the calls and their outputs from 1."""

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

    identity: str
    text: str
    call: int
    place: int
    start: int


@dataclass(frozen=True)
class Cite:
    """A citation: the id, what is claimed, and where in the text."""

    identity: str
    claim: str
    start: int


def segments(text: str) -> tuple[list[Segment], list[str]]:
    """The pieces in order, and the names of stray closing tags. Never raises; what is left open ends where the next
    piece begins. Within a tool output only its own end counts: what stands in it is foreign.
    """
    found: list[Segment] = []
    strays: list[str] = []
    opened: re.Match[str] | None = None
    at = calls = 0

    def close(end: int, after: int, closed: bool) -> None:
        nonlocal at, calls
        assert opened
        kind: Kind = opened["name"]  # type: ignore[assignment]
        calls += kind == "call_tool"
        number = calls if kind in ("call_tool", "tool_output") else 0
        body, attributes = text[opened.end() : end], opened["attributes"] or ""
        found.append(Segment(kind, opened.start(), after, body, closed, number, attributes))
        at = after

    for tag in TAG.finditer(text):
        if opened and opened["name"] == "tool_output" and not (tag["close"] and tag["name"] == "tool_output"):
            continue
        if opened and tag["close"] and tag["name"] == opened["name"]:
            close(tag.start(), tag.end(), True)
            opened = None
        elif tag["close"]:
            strays.append(tag["name"])
        else:
            if opened:
                close(tag.start(), tag.start(), False)
            elif text[at : tag.start()].strip():
                found.append(Segment("text", at, tag.start(), text[at : tag.start()]))
            opened = tag
    if opened:
        close(len(text), len(text), False)
    elif text[at:].strip():
        found.append(Segment("text", at, len(text), text[at:]))
    return found, strays


def snippets(pieces: list[Segment]) -> list[Snippet]:
    """Every snippet that a tool showed, in order."""
    shown = []
    for piece in pieces:
        if piece.kind != "tool_output" or piece.body.startswith("<webpage>"):  # a page's own words are no snippets
            continue
        offset = piece.start + len("<tool_output>")
        begun = list(_SNIPPET.finditer(piece.body))
        for place, match in enumerate(begun, start=1):
            following = begun[place].start() if place < len(begun) else len(piece.body)
            end = piece.body.find("</snippet>", match.end(), following)
            text = piece.body[match.end() : following if end < 0 else end]
            shown.append(Snippet(match[1], text, piece.call, place, offset + match.start()))
    return shown


def cites(pieces: list[Segment]) -> list[Cite]:
    """Every citation of the model's own, in thoughts and answer."""
    found = []
    for piece in pieces:
        if piece.kind in ("tool_output", "call_tool"):
            continue
        offset = piece.end - len(piece.body) - (len(f"</{piece.kind}>") if piece.closed and piece.kind != "text" else 0)
        found += [Cite(match[1].strip(), match[2], offset + match.start()) for match in _CITE.finditer(piece.body)]
    return found
