"""The words of papers and of queries, read alike: what the index holds is what a query looks for.

A name that is searched as a whole (an author, a journal, a heading, a DOI) is one token, which begins with `_` and its
kind: `_j_lancet_oncology`. No word of a text holds a `_`.
"""

import re
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import Stemmer

_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho"
_GREEK_REST = "sigma sigma tau upsilon phi chi psi omega"
_SPELLED = {chr(ord("α") + place): name for place, name in enumerate(f"{_GREEK} {_GREEK_REST}".split())}
_LETTERS = str.maketrans(
    {**_SPELLED, "ø": "o", "ł": "l", "ß": "ss", "æ": "ae", "œ": "oe", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
)
_WORD = re.compile(r"[^\W_]+")
_LONGEST = 200
_SUFFIXES = frozenset(("jr", "sr", "2nd", "3rd", "4th", "ii", "iii", "iv"))
_BESIDE = re.compile(r"\s*(?:\(.*|[:=].*)$")
_INITIALS = re.compile(r"[^\W\d_]{1,3}")
_APOSTROPHE = re.compile(r"(?<=\w)['’ʼ`´](?=\w)")
_thread = threading.local()


def folded(text: str) -> str:
    """Lower case, without accents, ligatures and superscripts; `ø` as `o`, `ß` as `ss`, `α` as `alpha`."""
    text = text.lower()
    if text.isascii():
        return text
    plain = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in plain if not unicodedata.combining(letter)).translate(_LETTERS)


def words(text: str) -> list[str]:
    """The words of a text: `TNF-α` is `tnf alpha`."""
    return _WORD.findall(folded(text))


def stems(found: Sequence[str]) -> list[str]:
    """Each word by its stem (Porter2)."""
    try:
        stemmer = _thread.stemmer
    except AttributeError:
        stemmer = _thread.stemmer = Stemmer.Stemmer("english")
    return list(stemmer.stemWords(found))


def whole(kind: str, text: str | Sequence[str]) -> str:
    """The token of a name of this kind; the kind alone where nothing is left of the name."""
    parts = words(text) if isinstance(text, str) else text
    return f"_{kind}_{'_'.join(parts)}"[:_LONGEST]


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
        begin, _, end = name.strip().rpartition(" ")
        last, first = (begin, end) if is_initials(end) and end.isupper() and begin else (end, begin)
    given, initials = tuple(words(" ".join(without_suffix(first.split())))), _initials(first)
    found: dict[tuple[str, tuple[str, ...]], None] = {}
    for spelling in (last, _APOSTROPHE.sub("", last)):
        surname = tuple(words(spelling))
        found |= {("s", surname): None, ("n", surname + given): None}
        found |= {("g", given + surname): None, ("g", given[:1] + surname): None}
        found |= {("i", (*surname, "", initials)): None} if initials else {}
    return tuple(found)


def _initials(first: str) -> str:
    parts = _WORD.findall(" ".join(without_suffix(first.split())))
    return "".join(folded(part if part.isupper() and len(part) < 4 else part[0]) for part in parts)


def without_suffix(name: Sequence[str]) -> list[str]:
    """The words of a name without `Jr`, `3rd` and the like behind it."""
    return [part for place, part in enumerate(name) if not place or folded(part).strip(".,") not in _SUFFIXES]


def is_initials(text: str) -> bool:
    """Whether a word may be the initials of a name."""
    return bool(_INITIALS.fullmatch(text))


def journal_names(titles: Iterable[str]) -> Iterator[str]:
    """Tokens of a journal's titles and abbreviations, each also without `The`, and what stands in brackets."""
    spellings = (words(spelling) for title in titles for spelling in (title, _BESIDE.sub("", title)))
    for name in dict.fromkeys(whole("j", without_article(spelling)) for spelling in spellings):
        if name != "_j_":
            yield name


def without_article(found: list[str]) -> list[str]:
    """A title's words without a `The` in front."""
    return found[1:] if found[:1] == ["the"] and len(found) > 1 else found


def doi_token(doi: str) -> str:
    """The token of a DOI, however it is written."""
    return whole("doi", re.findall(r"[^\W_]+", doi.lower()))


def date_tokens(date: str) -> list[str]:
    """Year, month and day of a publication date. Without month or day it counts as the first, as on PubMed."""
    year, month, day = (*date.split("-"), "01", "01")[:3]
    return [f"_y{year}", f"_m{year}{month}", f"_d{year}{month}{day}"]
