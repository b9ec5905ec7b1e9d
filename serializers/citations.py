"""Citations, claim by claim: each is resolved to the very snippet that it rests on, or to none. No model is asked."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from serializers.segments import Cite, Segment, Snippet, cites, snippets

Verdict = Literal["grounded", "never_retrieved", "retrieved_later"]
_SPLIT = re.compile(r"\s*[,;|]\s*|(?<=\d)\s+(?=\d|PMID)", re.IGNORECASE)
_BARE = re.compile(r"(?:PMID)?[:\s]*", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])(?<![A-Za-z]-)\d+(?:[.,·]\d+)*%?")


@dataclass(frozen=True)
class Citation:
    """One cited id: the snippet that shows it (`call`, `place`, from 1; 0 where there is none), the numbers of the
    cited sentence and of the claim, and those of them that do not stand there. `start` is where its `<cite>` begins.

    What is cited together is looked through together: a number may stand in any of the snippets behind its sentence.
    """

    identity: str
    verdict: Verdict
    start: int
    call: int = 0
    place: int = 0
    numbers: tuple[str, ...] = ()
    numbers_missing: tuple[str, ...] = ()


def citations(pieces: list[Segment], shown_ids: Sequence[Sequence[str] | None] | None = None) -> list[Citation]:
    """Every citation of a trajectory, in order; `123, 456` are two, and one that names nothing is one too. `shown_ids`
    are the results' own ids, call by call (see `snippets`).
    """
    shown: dict[str, list[Snippet]] = {}
    for snippet in snippets(pieces, shown_ids):
        shown.setdefault(_bare(snippet.identity), []).append(snippet)
    resolved = [
        (cite, [(identity, *_resolved(identity, cite.start, shown)) for identity in _identities(cite)])
        for cite in cites(pieces)
    ]
    numbers = {id(snippet): _numbers(snippet.text) for _, targets in resolved for _, _, snippet in targets if snippet}
    behind: dict[int, set[str]] = {}
    found = []
    for cite, targets in resolved:
        held = set[str]().union(*(numbers[id(snippet)] for _, _, snippet in targets if snippet))
        behind.setdefault(cite.group, set()).update(held)
        found.append((cite, targets, held))
    return [
        Citation(identity, verdict, cite.start, snippet.call, snippet.place, *said)
        if snippet
        else Citation(identity, verdict, cite.start)
        for cite, targets, held in found
        for said in (_numbers_of(cite, held, behind[cite.group]),)
        for identity, verdict, snippet in targets
    ]


def cited_pmids(answer: str) -> list[str]:
    """PMIDs cited in an answer, in order of first appearance; `PMID: 123` and `123|456` are read, `G1` is none."""
    named = (
        one for cite in cites([Segment("answer", 0, len(answer), answer, closed=False)]) for one in _identities(cite)
    )
    return [one for one in dict.fromkeys(named) if one.isascii() and one.isdigit() and len(one) < 10]


def _identities(cite: Cite) -> list[str]:
    named = dict.fromkeys(_bare(part) for part in _SPLIT.split(cite.identity) if part.strip())
    return list(named) or [""]


def _bare(identity: str) -> str:
    stripped = identity.strip(" []()")
    return _BARE.sub("", stripped, count=1) if stripped.upper().startswith("PMID") else stripped


def _resolved(identity: str, start: int, shown: dict[str, list[Snippet]]) -> tuple[Verdict, Snippet | None]:
    """The last snippet of this id before the citation, else the first after it."""
    where = shown.get(identity, []) if identity else []
    before = [snippet for snippet in where if snippet.start < start]
    if before:
        return "grounded", before[-1]
    return ("retrieved_later", where[0]) if where else ("never_retrieved", None)


def _numbers_of(cite: Cite, held: set[str], behind: set[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The numbers of a citation's sentence and claim, and those of them that are not in what is cited."""
    said = dict.fromkeys(_NUMBER.findall(cite.sentence), behind) | dict.fromkeys(_NUMBER.findall(cite.claim), held)
    return tuple(said), tuple(number for number, among in said.items() if _plain(number) not in among)


def _numbers(text: str) -> set[str]:
    return set(map(_plain, _NUMBER.findall(text)))


def _plain(number: str) -> str:
    """`4,744`, `0·74`, `0.740` and `12%` as the numbers that they are."""
    plain = number.rstrip("%").replace("·", ".").replace(",", "")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain
