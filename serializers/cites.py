"""The one reader of `<cite>`: what is cited, for which claim, and under which ids."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from serializers.escaping import attribute_value
from serializers.segments import Segment, body_start

_CITE = re.compile(r"<cite\b([^<>]*)>(.*?)(?=(</cite\s{0,8}>)|<cite\b|\Z)", re.DOTALL | re.IGNORECASE)
_ID = re.compile(r"""(?<![\w-])id\s{0,4}=\s{0,4}(?:"([^"]*)"|'([^']*)'|([^\s"']+))""", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")
_SPLIT = re.compile(r"[,;|]|\s(?:and|&)\s|(?<=\d)\s{0,4}/\s{0,4}(?=\d)|(?<=\d)\s{1,8}(?=\d|PMID)", re.IGNORECASE)
_NAMED = re.compile(r"(?:PMIDs?|PubMed(?:\s?ID)?)(?:[\s:#]{1,8}|(?=\d))|#", re.IGNORECASE)
_ADDRESS = re.compile(
    r"https?://(?:www\.)?(?:pubmed\.ncbi\.nlm\.nih\.gov|ncbi\.nlm\.nih\.gov/pubmed)/(\d{1,9})/?(?=[\s,;|]|\Z)",
    re.IGNORECASE,
)
_AROUND = " \t\n[](){}\"'`“”‘’."


@dataclass(frozen=True)
class Cite:
    """A citation, `text[start:end]` with its tags: the id (empty where it names none), what is claimed in it, and the
    sentence that it stands behind. Citations that follow each other share their sentence, and its number in the piece.
    """

    paper_id: str
    claim: str
    start: int
    end: int
    sentence: str
    group: int


def cites(segments: list[Segment]) -> list[Cite]:
    """Every citation of the model's own, in thoughts and answer, however it is spelled."""
    found: list[Cite] = []
    group = 0
    for piece in segments:
        if piece.kind in ("tool_output", "call_tool"):
            continue
        offset, at, sentence = body_start(piece), 0, ""
        for match in _CITE.finditer(piece.body):
            before = piece.body[at : match.start()]
            if any(map(str.isalnum, before)) or at == 0:
                group += 1
                sentence = next(filter(str.strip, reversed(_SENTENCE_END.split(before))), "").strip()
            at = match.end(3) if match[3] else match.end()
            named = _ID.search(match[1])
            paper_id = attribute_value(next(filter(None, named.groups()), "")).strip() if named else ""
            found.append(Cite(paper_id, match[2], offset + match.start(), offset + at, sentence, group))
    return found


def cited_pmids(answer: str) -> list[str]:
    """PMIDs cited in an answer, in order of first appearance; `PMID: 123` and `123|456` are read, `G1` is none."""
    named = (
        one for cite in cites([Segment("answer", 0, len(answer), answer, closed=False)]) for one in cited_ids(cite)
    )
    return [one for one in dict.fromkeys(named) if one.isascii() and one.isdigit() and len(one) < 10]


def cited_ids(cite: Cite, shown: Collection[str] = ()) -> list[str]:
    """The ids that a citation names, one empty id where it names none; `shown` are ids that are never split."""
    whole = bare_id(cite.paper_id)
    if whole in shown:
        return [whole]
    named = dict.fromkeys(map(bare_id, _SPLIT.split(_ADDRESS.sub(r"\1", cite.paper_id))))
    return list(filter(None, named)) or [""]


def bare_id(paper_id: str) -> str:
    """An id without what is written around it: brackets, quotes, `PMID:`."""
    stripped = paper_id.strip(_AROUND)
    named = _NAMED.match(stripped)
    return stripped[named.end() :].strip(_AROUND) if named else stripped
