"""Citations, claim by claim: each is resolved to the very snippet that it rests on, or to none. No model is asked."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from quality.numbers import held_in, missing_from, said_in
from serializers.cites import Cite, bare_id, cited_ids, cites
from serializers.segments import Segment, Snippet, snippets

Verdict = Literal["grounded", "never_retrieved", "retrieved_later"]
_DIGITS = re.compile(r"\d{5,9}")


@dataclass(frozen=True)
class Citation:
    """One cited id: the snippet that shows it (`call`, `place`, from 1; 0 where there is none), the numbers of the
    cited sentence and of the claim, and those of them that do not stand there. `start` is where its `<cite>` begins.

    What is cited together is looked through together: a number may stand in any of the snippets behind its sentence.
    """

    paper_id: str
    verdict: Verdict
    start: int
    call: int = 0
    place: int = 0
    numbers: tuple[str, ...] = ()
    numbers_missing: tuple[str, ...] = ()


def citations(segments: list[Segment], shown_ids: Sequence[Sequence[str] | None] | None = None) -> list[Citation]:
    """Every citation of a trajectory, in order; `123, 456` are two, and one that names nothing is one too. `shown_ids`
    are the results' own ids, call by call (see `snippets`).
    """
    shown: dict[str, list[Snippet]] = {}
    for snippet in snippets(segments, shown_ids):
        shown.setdefault(bare_id(snippet.paper_id), []).append(snippet)
    pages = _pages(segments)
    resolved = [
        (cite, [(paper_id, *_resolved(paper_id, cite.start, shown)) for paper_id in cited_ids(cite, shown)])
        for cite in cites(segments)
    ]
    numbers: dict[str, frozenset[str]] = {}
    behind: dict[int, dict[int, frozenset[str]]] = {}
    found = []
    for cite, targets in resolved:
        texts = [
            text
            for paper_id, verdict, _ in targets
            if verdict != "never_retrieved"
            for text in (*shown.get(paper_id, ()), *pages.get(paper_id, ()))
            if text.start < cite.start or verdict == "retrieved_later"
        ]
        for text in texts:
            if text.text not in numbers:  # the same paper is often found twice
                numbers[text.text] = held_in(text.text)
        held = {id(text): numbers[text.text] for text in texts}
        behind.setdefault(cite.group, {}).update(held)
        found.append((cite, targets, list(held.values())))
    return [
        Citation(paper_id, verdict, cite.start, snippet.call, snippet.place, *said)
        if snippet
        else Citation(paper_id, verdict, cite.start)
        for cite, targets, held in found
        for said in (_numbers_of(cite, held, list(behind[cite.group].values()), shown),)
        for paper_id, verdict, snippet in targets
    ]


def _pages(segments: list[Segment]) -> dict[str, list[Snippet]]:
    """The pages that were opened, by the numbers in their addresses: a paper's own page is its source too."""
    found: dict[str, list[Snippet]] = {}
    asked = {piece.call: piece.body for piece in segments if piece.kind == "call_tool"}
    for piece in segments:
        if piece.kind == "tool_output" and piece.body.startswith("<webpage>"):
            for paper_id in _DIGITS.findall(asked.get(piece.call, "")):
                found.setdefault(paper_id, []).append(Snippet(paper_id, piece.body, piece.call, 0, piece.start))
    return found


def _resolved(paper_id: str, start: int, shown: dict[str, list[Snippet]]) -> tuple[Verdict, Snippet | None]:
    """The last snippet of this id before the citation, else the first after it."""
    where = shown.get(paper_id, []) if paper_id else []
    before = [snippet for snippet in where if snippet.start < start]
    if before:
        return "grounded", before[-1]
    return ("retrieved_later", where[0]) if where else ("never_retrieved", None)


def _numbers_of(
    cite: Cite, held: list[frozenset[str]], behind: list[frozenset[str]], shown: Collection[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The numbers of a citation's sentence and claim, and those of them that are not in what is cited."""
    said = {
        **{number: behind for number in said_in(cite.sentence) if number not in shown},
        **{number: held for number in said_in(cite.claim) if number not in shown},
    }
    return tuple(said), tuple(number for number, among in said.items() if missing_from(among, number))
