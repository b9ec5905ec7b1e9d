"""One term of a PubMed query, with its field tag, as SQLite FTS5 understands it.

Words under a tag or in quotes are searched as they stand, plain words by their stems; names, headings, journals, dates
and identifiers as the whole tokens that they are in `facts` (see `corpus_words`).
"""

import calendar
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from servers.tool_server.corpus_words import (
    doi_token,
    is_initials,
    stems,
    whole,
    without_article,
    without_suffix,
    words,
)

_TEXT = ("title", "abstract", "mesh")
_COLUMNS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("ti", "title"), ("title",)),
    **dict.fromkeys(("tiab", "title/abstract"), ("title", "abstract")),
    **dict.fromkeys(("ab", "abstract"), ("abstract",)),
    **dict.fromkeys(("", "tw", "text", "text word", "text words"), _TEXT),
}
_ANYWHERE = frozenset(("all", "all fields"))
_PEOPLE = {
    **dict.fromkeys(("au", "author", "fau", "full author name", "cn", "corporate author", "author - corporate"), ""),
    **dict.fromkeys(("1au", "author - first", "first author", "first author name"), "1"),
    **dict.fromkeys(("lastau", "author - last", "last author", "last author name"), "l"),
}
_HEADINGS = frozenset(("mesh", "mh", "mesh terms", "majr", "mesh major topic"))
_JOURNALS = frozenset(("ta", "journal", "jour", "so"))
_DATES = frozenset(("dp", "pdat", "ppdat", "date - publication", "publication date"))
_OTHER_DATES = frozenset(("edat", "crdt", "epdat", "mhda", "lr", "date - entry", "date - create", "entry date"))
_PMIDS, _DOIS, _PMCS = frozenset(("pmid", "uid")), frozenset(("doi", "aid", "lid")), frozenset(("pmc", "pmcid"))
_NOT_HELD = frozenset((
    "la", "lang", "language", "pt", "ptyp", "publication type", "sb", "subset", "filter", "ad", "affiliation", "ot",
    "other term", "nm", "substance name", "supplementary concept", "rn", "ec/rn number", "vi", "volume", "ip", "issue",
    "pg", "pagination", "sh", "subheading", "mesh subheading", "si", "gr", "grants and funding", "is", "issn", "ir",
    "investigator", "ed", "editor", "pl", "tt", "transliterated title", "auid", "pa", "isbn", "jid", "cois", "book",
))  # fmt: skip
"""Fields that the corpus does not hold: such a term narrows nothing, rather than everything, and is named."""
IGNORED = frozenset(
    "a an and are as at by do does for from how in is it of on or than that the to vs versus what which with".split()
)
_ODD = re.compile(
    r"\*(?!$)|\||&&|\w\?\w|\w\$\w|^exp$|^~\d|^#\d|^-\w|\.\w\w(?:,\w\w)*\.$|^(?:near|adj)/?\d+$|^[nw]/\d+$|^(?:pmid|doi|pmcid):$"
    r"|^(?:title|abstract|abs|author|journal|mesh|year|ti|tiab|ab|au|ta|pmid|uid)[:=]\S",
    re.IGNORECASE,
)
"""Signs of the syntax of other databases, or of none."""
_APART_INITIALS = re.compile(r"(?<=\s)(?:[A-Z]\.?\s?){2,}$")
_RANGE = re.compile(r"(\d{4}(?:[/-]\d{1,2}){0,2})(?::|-|\.\.)(\d{4}(?:[/-]\d{1,2}){0,2})")
_DOI = re.compile(r"(?:(?:https?://)?(?:dx\.)?doi\.org/|doi:\s?)?10\.\d{4,9}/\S+", re.IGNORECASE)
_DATE = re.compile(r"\d{4}(?:[/-]\d{1,2}){0,2}")
_YEARS = range(1500, 2100)
_LONGEST_PERSON, _LONGEST_JOURNAL = 4, 7
"""Words of a name that is found among others without a tag."""


@dataclass(frozen=True)
class Terms:
    """Makes terms; what it cannot read as PubMed does is named in `notices`. `finds` tells whether the index holds
    anything for a term: words side by side are a name only where there is such a name.
    """

    finds: Callable[[str], bool]
    notices: list[str] = field(default_factory=list)

    def beside(self, run: Sequence[str]) -> list[str]:
        """Words side by side without a tag, a term for each: in the text, or within a name of an author or a journal
        (`Smith JA`, `jane smith`, `N Engl J Med`). Empty for a word that is not searched.
        """
        for operator in {"or", "not"} & set(run):
            self.say(f"{operator} was read as a word: operators are upper case")
        is_searched = [word.lower() not in IGNORED or (word == "A" and place > 0) for place, word in enumerate(run)]
        found = [[self.plain(word)] if searched else [] for word, searched in zip(run, is_searched, strict=True)]
        for first in range(len(run)):
            for end in range(first + 2, min(first + _LONGEST_JOURNAL, len(run)) + 1):
                if any(is_searched[first:end]) and (name := self._name(run[first:end])):
                    for at in range(first, end):
                        found[at] += [name] if is_searched[at] or run[at] == "a" else []
        return [_any(terms) for terms in found]

    def _name(self, run: Sequence[str]) -> str:
        """The term for words that are an author or a journal together; empty when there is none."""
        text = " ".join(run)
        if not all(map(words, run)) or text.endswith("*"):
            return ""
        names = [_fact(whole("j", without_article(words(text))))]
        if len(run) <= _LONGEST_PERSON and run[-1].lower() not in IGNORED - {"a"}:
            names += _people(text, "", quoted=False)
        term = _any(names)
        return term if self.finds(term) else ""

    def plain(self, word: str) -> str:
        """A word without a tag: in the text by its stem, or as a surname, a journal, a year or an identifier."""
        if self._is_odd(word):
            return ""
        if re.fullmatch(r"\w+[$/]", word):
            read = word[:-1] + ("*" if word.endswith("$") else "")
            self.say(f"{word} was read as {read}")
            word = read
        if word.lower() == "hasabstract":
            return _fact("_abstract")
        years = _RANGE.fullmatch(word)
        if years and all(int(year[:4]) in _YEARS for year in years.groups()):
            self.say(f"{word} was read as {years[1]}:{years[2]}[dp]")
            return self.dates(years[1], years[2], "dp")
        if word.endswith("*"):
            return _phrase(_TEXT, words(word), "*")
        parts = words(word)
        if not parts:
            return ""
        found = [_phrase(tuple(f"{name}_stems" for name in _TEXT), stems(parts)), _fact(whole("s", parts))]
        found += [_fact(whole("j", parts)), *self._identifiers(word)]
        return _any(found)

    def phrase(self, quoted: str) -> str:
        """A quoted phrase without a tag: in the text as it stands, or the whole of a name."""
        if _DOI.fullmatch(quoted.strip()):
            return doi(quoted.strip())
        return _any([_phrase(_TEXT, words(quoted), _star(quoted)), *self._named(quoted, quoted=True)])

    def tagged(self, found: Sequence[str], tag: str, *, quoted: bool = False) -> str:
        """Words, or one quoted phrase, under a field tag. Names are taken whole, text word by word."""
        text = " ".join(found)
        name, _, about = (part.strip() for part in tag.lower().partition(":"))
        name = {"all text": "text", "mesh heading": "mesh"}.get(name, name)
        if self._is_odd(text):
            return ""
        if name in ("text", "all", "all fields") and text.lower() == "hasabstract":
            return _fact("_abstract")
        if name in _NOT_HELD:
            return self._left_out(f"{text}[{tag}]", "this corpus does not hold that field")
        if name in _DATES or name in _OTHER_DATES:
            return self.dates(text, text, tag)
        if name in _PMIDS:
            found = re.findall(r"\d{1,9}", text)
            return _any(_fact(f"_p{int(number)}") for number in found) or self._left_out(text, "it is no PMID")
        if name in _DOIS:
            return _fact(doi_token(text.lower().partition("doi.org/")[2] or text))
        if name in _PMCS:
            found = re.findall(r"\d{1,12}", text)
            return _any(_fact(f"_pmc{int(number)}") for number in found) or self._left_out(text, "it is no PMC number")
        if name in _PEOPLE:
            return _any(_people(text, _PEOPLE[name], quoted=quoted))
        if name in _HEADINGS:
            if name in ("majr", "mesh major topic"):
                self.say(f"[{tag}] was read as [mesh]: this corpus does not hold which headings are major")
            return _fact(whole("h", text), _star(text))
        if name in _JOURNALS:
            return _fact(whole("j", without_article(words(text))), _star(text))
        columns = _COLUMNS.get(name, _TEXT)
        if name not in _COLUMNS and name not in _ANYWHERE:
            self.say(f"[{tag}] is no field that is known: {text} was searched in title, abstract and headings")
        if about.startswith("~") and about[1:].isdigit():
            return _near(columns, words(text), int(about[1:4]))
        if about and not (about == "noexp" and name in _HEADINGS):
            self.say(f"[{tag}] was read as [{name}]")
        if quoted:
            return _any([_phrase(columns, words(text), _star(text)), *(self._named(text) if name in _ANYWHERE else [])])
        kept = [word for word in found if word.lower() not in IGNORED] or found
        each = [_phrase(columns, words(word), _star(word)) for word in kept]
        if name in _ANYWHERE:
            each = [_any([term, *self._named(word)]) for term, word in zip(each, kept, strict=True)]
        return _all(each)

    def dates(self, first: str, last: str, tag: str) -> str:
        """Every day between two dates, which may be the same."""
        low, high = _DATE.findall(first), _DATE.findall(last)
        if not low or not high or ":" in first or not all(map(_is_date, (low[0], high[-1]))):
            return self._left_out(f"{first}[{tag}]", "it is no date like 2019, 2019/11 or 2019/11/21")
        if tag.lower() in _OTHER_DATES:
            self.say(f"[{tag}] was read as [dp]: this corpus holds the date of publication only")
        elif tag.lower() not in _DATES:
            self.say(f"[{tag}] was read as [dp]: a range is one of dates")
        return _any(map(_fact, _days(low[0], high[-1]))) or _fact("_none")

    def _named(self, text: str, *, quoted: bool = False) -> list[str]:
        if text.endswith(("*", '*"')) or not words(text):
            return []
        names = [whole("j", without_article(words(text))), whole("h", text)]
        return [*map(_fact, names), *_people(text, "", quoted=quoted), *self._identifiers(text)]

    def _identifiers(self, word: str) -> list[str]:
        if word.isascii() and word.isdigit():
            year = f"_y{word}" if len(word) == 4 and int(word) in _YEARS else ""
            return [_fact(year or f"_p{int(word)}")] if year or 3 < len(word) < 10 else []
        return [_fact(f"_{word.lower()}")] if re.fullmatch(r"(?i)pmc\d{1,12}", word) else []

    def _is_odd(self, text: str) -> bool:
        if not _ODD.search(text.rstrip('"')):
            return False
        known = "* is known at the end of a word, fields as word[ti], and the operators AND, OR, NOT"
        self._left_out(text, known)
        return True

    def _left_out(self, what: str, why: str) -> str:
        self.say(f"{what} was left out: {why}")
        return ""

    def say(self, notice: str) -> None:
        """Names something that was read otherwise than it is written."""
        if notice not in self.notices:
            self.notices.append(notice)


def _is_date(text: str) -> bool:
    """Whether there is such a day, month or year."""
    year, month, day = (*map(int, re.split("[/-]", text)), 1, 1)[:3]
    return 0 < month < 13 and 0 < day <= calendar.monthrange(year, month)[1] if year else False


def doi(text: str) -> str:
    """A DOI that stands for itself."""
    return _fact(doi_token(text[text.index("10.") :]))


def _people(text: str, where: str, *, quoted: bool) -> list[str]:
    """`Smith`, `Smith JA`, `Smith Jane`, `Smith, Jane`, `Jane Smith`: by surname, initials, or all of the name.
    Initials are the first of more, as on PubMed, but for quoted ones.
    """
    text = " ".join(without_suffix(text.split()))
    text = _APART_INITIALS.sub(lambda match: match[0].replace(" ", "").replace(".", ""), text)
    found, (surname, initials, name, given_first) = words(text), [kind + where for kind in "sing"]
    if not found:
        return []
    if _star(text):
        return [_fact(whole(kind, found), "*") for kind in (surname, name, given_first)] + _initialled(
            initials, found, "*"
        )
    terms = [_fact(whole(surname, found), end) for end in ("", "_*")]
    if len(found) > 1:
        terms += [_fact(whole(name, found), end) for end in ("", "_*")] + [_fact(whole(given_first, found))]
        if is_initials(text.rstrip('" ').split()[-1]):
            terms += _initialled(initials, found, "" if quoted else "*")
    return terms


def _initialled(kind: str, found: Sequence[str], end: str) -> list[str]:
    return [_fact(whole(kind, [*found[:-1], "", found[-1]]), end)] if len(found) > 1 else []


def _star(text: str) -> str:
    return "*" if text.endswith(("*", '*"')) else ""


def _phrase(columns: Sequence[str], found: Sequence[str], star: str = "") -> str:
    return f'{{{" ".join(columns)}}} : "{" ".join(found)}"{star}' if found else ""


def _near(columns: Sequence[str], found: Sequence[str], most: int) -> str:
    """Words in any order with `most` others between two of them."""
    each = " ".join(f'"{word}"' for word in found)
    return f"{{{' '.join(columns)}}} : NEAR({each}, {most + max(len(found) - 2, 0)})" if found else ""


def _fact(token: str, end: str = "") -> str:
    """A token, or with `*` all that begin with it, with `_*` with it as a whole word."""
    return f'facts : "{token}{end.rstrip("*")}"{"*" if end else ""}'


def _any(terms: Iterable[str]) -> str:
    found = list(filter(None, terms))
    return found[0] if len(found) == 1 else f"({' OR '.join(found)})" if found else ""


def _all(terms: Iterable[str]) -> str:
    found = list(filter(None, terms))
    return f"({' AND '.join(found)})" if found else ""


def _days(first: str, last: str) -> list[str]:
    """Tokens for every day between two dates (`2019`, `2019/11`, `2019/11/21`), whole years and months in one."""
    low, high = _bound(first, end=False), _bound(last, end=True)
    tokens: list[str] = []
    for year in range(max(low[0], _YEARS.start), min(high[0] + 1, _YEARS.stop)):
        if low <= (year, 1, 1) and (year, 12, 31) <= high:
            tokens.append(f"_y{year}")
            continue
        for month in range(1, 13):
            length = calendar.monthrange(year, month)[1]
            if low <= (year, month, 1) and (year, month, length) <= high:
                tokens.append(f"_m{year}{month:02d}")
                continue
            days = (day for day in range(1, length + 1) if low <= (year, month, day) <= high)
            tokens += [f"_d{year}{month:02d}{day:02d}" for day in days]
    return tokens


def _bound(date: str, *, end: bool) -> tuple[int, int, int]:
    """The first day of a date, or its last."""
    parts = [int(part) for part in re.split("[/-]", date)]
    return (*parts, *((12, 31) if end else (1, 1))[len(parts) - 1 :])  # type: ignore[return-value]
