"""The words of papers and of queries, read alike: what the index holds is what a query looks for.

A name that is searched as a whole (an author, a journal, a heading, a DOI) is one token, which begins with `_` and its
kind: `_j_lancet_oncology`. No word of a text holds a `_`.
"""

import re
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import Stemmer

_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho"
_GREEK_REST = "sigma sigma tau upsilon phi chi psi omega"
_SPELLED = {chr(ord("α") + place): name for place, name in enumerate(f"{_GREEK} {_GREEK_REST}".split())}
_LETTERS = str.maketrans(
    {**_SPELLED, "ø": "o", "ł": "l", "ß": "ss", "æ": "ae", "œ": "oe", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
)
_WORD = re.compile(r"[^\W_]+")
_LONGEST = 200
_BESIDE = re.compile(r"\s*(?:\(.*|[:=].*)$")
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
