"""A PubMed query as SQLite FTS5 understands it: quoted phrases, AND/OR/NOT, brackets, `word*` and field tags.

Operators are upper case and work from left to right, words side by side are combined with AND, as on PubMed. Every term
becomes a search in the index, dates and PMIDs too: they are tokens of its `facts` column (see `fact_tokens`).
"""

import calendar
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

TEXT = ("title", "abstract", "mesh")
_FIELDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("ti", "title"), ("title",)),
    **dict.fromkeys(("tiab", "title/abstract"), ("title", "abstract")),
    **dict.fromkeys(("ab", "abstract"), ("abstract",)),
    **dict.fromkeys(("mesh", "mh", "mesh terms", "majr", "mesh major topic"), ("mesh",)),
    **dict.fromkeys(("au", "author", "1au", "fau"), ("authors",)),
    **dict.fromkeys(("ta", "journal", "jour"), ("journal",)),
}
_DATES = frozenset(("dp", "pdat", "date - publication", "publication date", "edat", "crdt"))
_NOT_HELD = frozenset(
    ("la", "lang", "language", "pt", "publication type", "sb", "subset", "filter", "ad", "affiliation")
)
"""Fields that the corpus does not hold: such a term narrows nothing, rather than everything."""
_IDS = frozenset(("pmid", "uid"))
_IGNORED = frozenset(
    "a an and are as at by do does for from how in is it of on or than that the to vs versus what which with".split()
)
_MAX_TERMS = 64
_MAX_DEPTH = 30
_DATE = r'"?\s{0,4}(\d{4}(?:/\d{1,2}){0,2})\s{0,4}"?\s{0,4}'
_TOKEN = re.compile(
    rf"""(?P<range>{_DATE}(?:\[[^\[\]]{{1,40}}\])?\s{{0,4}}:\s{{0,4}}{_DATE}\[[^\[\]]{{1,40}}\])
    |(?P<phrase>"[^"]{{0,400}}"\*?)|(?P<tag>\[[^\[\]]{{1,40}}\])|(?P<bracket>[()])|(?P<word>[^\s"()\[\]]+)|.""",
    re.VERBOSE | re.DOTALL,
)
_PLAIN_QUOTES = str.maketrans("“”„«»", '"' * 5)
_PART = re.compile(r"\w+", re.UNICODE)
_YEARS = range(1500, 2100)


@dataclass(frozen=True)
class Query:
    """`match` is the whole query, `relaxed` any two of its words (for plain words only); either may be empty."""

    match: str
    relaxed: str = ""


@dataclass
class _Reader:
    tokens: list[re.Match[str]]
    at: int = 0
    terms: int = 0
    plain: list[str] = field(default_factory=list)
    refined: bool = False

    def expression(self, depth: int = 0) -> str:
        """Up to the closing bracket or the end; empty when nothing in it can be searched for."""
        found, operator = "", "AND"
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            text = token[0]
            if text == ")":
                break
            if token.lastgroup == "word" and text in ("AND", "OR", "NOT"):
                operator, self.refined = text, True
                self.at += 1
                continue
            found, operator = _combined(found, operator, self._term(depth)), "AND"
        return found

    def _term(self, depth: int) -> str:
        token = self.tokens[self.at]
        self.at += 1
        self.terms += 1
        if token.lastgroup == "bracket":
            inner = self.expression(depth + 1) if depth < _MAX_DEPTH else ""
            self.at += 1
            return inner
        if token.lastgroup == "range":
            self.refined = True
            first, last = re.findall(r"\d{4}(?:/\d{1,2}){0,2}", token[0])[:2]
            return _any("facts", _days(first, last))
        if token.lastgroup == "phrase":
            self.refined = True
            return _tagged([token[0]], self._tag())
        if token.lastgroup != "word" or self.terms > _MAX_TERMS:
            return ""
        words = [token[0]]
        tagged = next((n for n in range(self.at, len(self.tokens)) if not self._continues(n)), len(self.tokens))
        if tagged < len(self.tokens) and self.tokens[tagged].lastgroup == "tag":
            words += [follower[0] for follower in self.tokens[self.at : tagged]]
            self.at, self.refined = tagged, True
            return _tagged(words, self._tag())
        self.plain += [text for text in words if text.lower() not in _IGNORED]
        return "" if token[0].lower() in _IGNORED else _untagged(token[0])

    def _continues(self, place: int) -> bool:
        token = self.tokens[place]
        return token.lastgroup == "word" and token[0] not in ("AND", "OR", "NOT")

    def _tag(self) -> str:
        if self.at < len(self.tokens) and self.tokens[self.at].lastgroup == "tag":
            self.at += 1
            return self.tokens[self.at - 1][0].strip("[] ").lower().partition(":")[0]
        return ""


def read_query(text: str) -> Query:
    """What to search the index for. Never raises; what it cannot search for (a lone tag, say) it leaves out."""
    tokens = [token for token in _TOKEN.finditer(text[:4000].translate(_PLAIN_QUOTES)) if token.lastgroup]
    reader = _Reader(tokens)
    found = ""
    while reader.at < len(tokens):
        found = _combined(found, "AND", reader.expression())
        reader.at += 1  # a closing bracket that nothing opened
    words = list(dict.fromkeys(reader.plain))[:12]
    if reader.refined or len(words) < 3:
        return Query(found)
    terms = [_untagged(word) for word in words]
    pairs = [f"({a} AND {b})" for n, a in enumerate(terms) for b in terms[n + 1 :] if a and b]
    return Query(found, " OR ".join(pairs))


def fact_tokens(pmid: str, date: str | None, pmc: str = "") -> str:
    """What the `facts` column holds of a paper. A date without month or day counts as its first day, as on PubMed."""
    tokens = ["every", f"p{pmid}", pmc.lower()]
    if date:
        year, month, day = (*date.split("-"), "01", "01")[:3]
        tokens += [f"y{year}", f"m{year}{month}", f"d{year}{month}{day}"]
    return " ".join(filter(None, tokens))


def _combined(found: str, operator: str, term: str) -> str:
    if not term:
        return found
    if not found:
        return term if operator != "NOT" else f"(facts : every NOT {term})"
    return f"({found} {operator} {term})"


def _untagged(word: str) -> str:
    text = _phrase(word)
    if not text:
        return ""
    if word.isascii() and word.isdigit() and 5 <= len(word) <= 8:
        return f'({_columns(TEXT)} {text} OR facts : "p{word}")'
    return f"{_columns(TEXT)} {text}"


def _tagged(words: list[str], tag: str) -> str:
    """Words, or one quoted phrase, under a field tag: names and headings are taken whole, text word by word."""
    whole = " ".join(words)
    if tag in _DATES:
        dates = re.findall(r"\d{4}(?:/\d{1,2}){0,2}", whole)
        return _any("facts", _days(dates[0], dates[-1])) if dates else ""
    if tag in _IDS:
        return _any("facts", [f"p{number}" for number in re.findall(r"\d{1,9}", whole)])
    columns = _FIELDS.get(tag, TEXT)
    if tag in _NOT_HELD:
        return ""
    if columns == ("authors",):
        initials = len(_PART.findall(whole)) > 1 and len(whole.split()[-1]) <= 2  # `Smith J` is `Smith JA` too
        return f"authors : {_phrase(whole + '*' * initials)}" if _phrase(whole) else ""
    parts = [whole] if columns in (("mesh",), ("journal",)) else words
    phrases = [f"{_columns(columns)} {phrase}" for phrase in map(_phrase, parts) if phrase]
    return f"({' AND '.join(phrases)})" if phrases else ""


def _phrase(text: str) -> str:
    """`IL-6` as the phrase it is in the index; a `*` at its end stands for any ending."""
    parts = _PART.findall(text.lower())
    ending = " *" if text.endswith(("*", '*"')) else ""
    return f'"{" ".join(parts)}"{ending}' if parts else ""


def _columns(names: tuple[str, ...]) -> str:
    return f"{{{' '.join(names)}}} :"


def _any(column: str, tokens: Iterable[str]) -> str:
    found = [f'"{token}"' for token in tokens]
    return f"{column} : ({' OR '.join(found)})" if found else "facts : none"


def _days(first: str, last: str) -> list[str]:
    """Tokens for every day between two dates (`2019`, `2019/11`, `2019/11/21`), whole years and months in one."""
    low, high = _bound(first, end=False), _bound(last, end=True)
    tokens: list[str] = []
    for year in range(max(low[0], _YEARS.start), min(high[0] + 1, _YEARS.stop)):
        if low <= (year, 1, 1) and (year, 12, 31) <= high:
            tokens.append(f"y{year}")
            continue
        for month in range(1, 13):
            length = calendar.monthrange(year, month)[1]
            if low <= (year, month, 1) and (year, month, length) <= high:
                tokens.append(f"m{year}{month:02d}")
                continue
            days = (day for day in range(1, length + 1) if low <= (year, month, day) <= high)
            tokens += [f"d{year}{month:02d}{day:02d}" for day in days]
    return tokens


def _bound(date: str, *, end: bool) -> tuple[int, int, int]:
    """The first day of a date, or its last."""
    parts = [int(part) for part in date.split("/")]
    return (*parts, *((12, 31) if end else (1, 1))[len(parts) - 1 :])  # type: ignore[return-value]
