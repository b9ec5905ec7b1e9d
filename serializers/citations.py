"""Citations, claim by claim: each is resolved to the very snippet that it rests on, or to none. No model is asked."""

import re
from dataclasses import dataclass
from typing import Literal

from serializers.segments import Cite, Segment, Snippet, cites, snippets

Verdict = Literal["grounded", "never_retrieved", "retrieved_later"]
_SPLIT = re.compile(r"[,;]\s*")
_BARE = re.compile(r"(?:PMID)?[:\s]*", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,·]\d+)*%?")


@dataclass(frozen=True)
class Citation:
    """One cited id: the snippet that shows it (`call`, `place`, from 1; 0 where there is none) and the numbers of the
    claim that do not stand in that snippet.
    """

    identity: str
    verdict: Verdict
    start: int
    call: int = 0
    place: int = 0
    numbers: tuple[str, ...] = ()
    numbers_missing: tuple[str, ...] = ()


def citations(pieces: list[Segment]) -> list[Citation]:
    """Every citation of a trajectory, in order; `123, 456` are two."""
    shown: dict[str, list[Snippet]] = {}
    for snippet in snippets(pieces):
        shown.setdefault(_bare(snippet.identity), []).append(snippet)
    return [_judged(cite, identity, shown) for cite in cites(pieces) for identity in _identities(cite)]


def _identities(cite: Cite) -> list[str]:
    return [_bare(part) for part in _SPLIT.split(cite.identity) if part.strip()]


def _bare(identity: str) -> str:
    stripped = identity.strip()
    return _BARE.sub("", stripped, count=1) if stripped.upper().startswith("PMID") else stripped


def _judged(cite: Cite, identity: str, shown: dict[str, list[Snippet]]) -> Citation:
    where = shown.get(identity, [])
    if not where:
        return Citation(identity, "never_retrieved", cite.start)
    before = [snippet for snippet in where if snippet.start < cite.start]
    snippet = (before or where)[-1 if before else 0]
    numbers = tuple(dict.fromkeys(_NUMBER.findall(cite.claim)))
    held = {_plain(number) for number in _NUMBER.findall(snippet.text)}
    missing = tuple(number for number in numbers if _plain(number) not in held)
    verdict: Verdict = "grounded" if before else "retrieved_later"
    return Citation(identity, verdict, cite.start, snippet.call, snippet.place, numbers, missing)


def _plain(number: str) -> str:
    """`4,744`, `0·74` and `12%` as the numbers that they are."""
    return number.rstrip("%").replace("·", ".").replace(",", "")
