"""The names of people, in papers and in queries: `Smith JA`, `Smith, Jane A.`, `J.A. Smith`, `Jane Smith`."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from servers.tool_server.corpus_match import fact
from servers.tool_server.corpus_words import folded, whole, words

_SUFFIXES = frozenset(("jr", "sr", "2nd", "3rd", "4th", "ii", "iii", "iv"))
_WORD = re.compile(r"[^\W_]+")
_INITIALS = re.compile(r"[^\W\d_]{1,3}")
_DOTTED = re.compile(r"(?:[^\W\d_][.‐‑–-]){1,4}[^\W\d_]?")
_APART = re.compile(r"(?:^|(?<=\s))(?:[A-Z]\s){1,3}[A-Z](?=\s|$)")
_APOSTROPHE = re.compile(r"(?<=\w)['’ʼ`´](?=\w)")


def people(names: Sequence[str]) -> Iterator[str]:
    """Tokens of the authors of a paper, in their order: by surname (`s`), surname and initials (`i`), all of the
    name (`n`), and given names first, all or one of them (`g`); the first (`s1` …) and the last (`sl` …) also as such.
    """
    for place, name in enumerate(names):
        places = ["", *(["1"] if place == 0 else []), *(["l"] if place == len(names) - 1 else [])]
        for kind, parts in _tokens_of(name):
            for where in places:
                yield whole(kind + where, parts)


@lru_cache(4096)
def _tokens_of(name: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    last, comma, first = name.partition(",")
    if not comma:
        *before, end = _without_suffix(_tidied(name).split()) or [""]
        is_last = bool(before) and is_initials(end) and end.isupper()
        last, first = (" ".join(before), end) if is_last else (end, " ".join(before))
    given, initials = tuple(words(" ".join(_without_suffix(first.split())))), _initials(first)
    found: dict[tuple[str, tuple[str, ...]], None] = {}
    for spelling in (last, _APOSTROPHE.sub("", last)):
        surname = tuple(words(spelling))
        found |= {("s", surname): None, ("n", surname + given): None}
        found |= {("g", given + surname): None, ("g", given[:1] + surname): None}
        found |= {("i", (*surname, "", initials)): None} if initials else {}
    return tuple(found)


def _initials(first: str) -> str:
    parts = _WORD.findall(" ".join(_without_suffix(first.split())))
    return "".join(folded(part if part.isupper() and len(part) < 4 else part[0]) for part in parts)


def _without_suffix(name: Sequence[str]) -> list[str]:
    """The words of a name without `Jr`, `3rd` and the like behind it; `JR` are initials, unless others stand before."""
    return [
        part
        for place, part in enumerate(name)
        if folded(part).strip(".,") not in _SUFFIXES or not place or (part.isupper() and len(name) < 3)
    ]


def _tidied(text: str) -> str:
    """A name without commas, its initials as PubMed writes them: `J.`, `J. A.`, `S-W` are `J`, `JA`, `SW`."""
    parts = (part.strip(",;") for part in text.split())
    each = ["".join(filter(str.isalpha, part)) if _DOTTED.fullmatch(part) else part for part in parts]
    return _APART.sub(lambda match: match[0].replace(" ", ""), " ".join(filter(None, each)))


def is_initials(text: str) -> bool:
    """Whether a word may be the initials of a name."""
    return bool(_INITIALS.fullmatch(text))


def people_terms(text: str, where: str, *, quoted: bool = False) -> list[str]:
    """Terms for a name as people write it. Initials are the first of more, as on PubMed, but for quoted ones. `where`
    is empty, or says that it is the first author (`1`) or the last (`l`).
    """
    star = "*" if text.endswith(("*", '*"')) else ""
    parts = _tidied(text).split()
    short = _without_suffix(parts)
    if len(short) > 1 and short != parts and is_initials(short[-1]):  # `King ML 3rd`; `Smith JR` is no such
        parts = short
    found, (surname, initials, name, given_first) = words(" ".join(parts)), [kind + where for kind in "sing"]
    if not found:
        return []
    if star:
        return [fact(whole(kind, found), "*") for kind in (surname, name, given_first)] + _initialled(
            initials, found, star
        )
    terms = [fact(whole(surname, found), end) for end in ("", "_*")]
    if len(found) > 1:
        terms += [fact(whole(name, found), end) for end in ("", "_*")] + [fact(whole(given_first, found))]
        if is_initials(parts[-1].rstrip('"')):
            terms += _initialled(initials, found, "" if quoted else "*")
        if is_initials(parts[0]) and parts[0].isupper():
            terms += _initialled(initials, [*found[1:], found[0]], "" if quoted else "*")
    return terms


def _initialled(kind: str, found: Sequence[str], end: str) -> list[str]:
    return [fact(whole(kind, [*found[:-1], "", found[-1]]), end)] if len(found) > 1 else []
