"""A PubMed query as SQLite FTS5 understands it: phrases, AND/OR/NOT, brackets, `word*`, field tags and date ranges.

Operators are upper case and work from left to right, words side by side are combined with AND, as on PubMed. Each term
becomes a search in the index (see `corpus_terms`). What is not known is named, never left out in silence.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from servers.tool_server.corpus_terms import Terms, doi

_MAX_TERMS = 64
_MAX_DEPTH = 30
_MAX_QUERY = 4000
_DATE = r'"?\s{0,4}(\d{4}(?:[/-]\d{1,2}){0,2})\s{0,4}"?\s{0,4}'
_TAG = r"\[[^\[\]]{1,60}\]"
_TOKEN = re.compile(
    rf"""(?P<range>{_DATE}(?:{_TAG})?\s{{0,4}}:\s{{0,4}}{_DATE}{_TAG})
    |(?P<phrase>"[^"]{{0,400}}"\*?)|(?P<tag>{_TAG})
    |(?P<doi>(?:(?:https?://)?(?:dx\.)?doi\.org/|doi:\s?)?10\.\d{{4,9}}/(?:[^\s"\[\]()]|\([^\s"\[\]()]*\))+)
    |(?P<bracket>[()])|(?P<word>[^\s"()\[\]]+)|.""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_PLAIN_QUOTES = str.maketrans("“”„«»–‐‑", '"' * 5 + "-" * 3)
_OPERATORS = ("AND", "OR", "NOT")


@dataclass(frozen=True)
class Query:
    """`match` is the whole query, `relaxed` any two of its words (for plain words only); either may be empty.
    `notices` name what could not be searched as it was written.
    """

    match: str
    relaxed: str = ""
    notices: tuple[str, ...] = ()


@dataclass
class _Reader:
    tokens: list[re.Match[str]]
    terms: Terms
    at: int = 0
    count: int = 0
    plain: dict[str, str] = field(default_factory=dict)
    refined: bool = False

    def expression(self, depth: int = 0) -> str:
        """Up to the closing bracket or the end; empty when nothing in it can be searched for."""
        found, operator = "", "AND"
        while self.at < len(self.tokens):
            text = self.tokens[self.at][0]
            if text == ")":
                break
            if self._is("word", self.at) and text in _OPERATORS:
                operator, self.refined = text, True
                self.at += 1
                continue
            found, operator = _combined(found, operator, self._term(depth)), "AND"
        return found

    def _term(self, depth: int) -> str:
        token = self.tokens[self.at]
        kind, text = token.lastgroup, token[0]
        self.at += 1
        if kind == "bracket":
            inner = self.expression(depth + 1) if depth < _MAX_DEPTH else self._nothing(f"brackets {_MAX_DEPTH} deep")
            self.at += 1
            if tag := self._tag():
                self.terms.say(f"[{tag}] behind a bracket was left out: put it behind each term")
            return inner
        self.count += 1
        if self.count > _MAX_TERMS:
            return self._nothing(f"of a query {_MAX_TERMS} terms")
        if kind != "word":
            self.refined = True
        if kind == "range":
            first, last = re.findall(r"\d{4}(?:[/-]\d{1,2}){0,2}", text)[:2]
            return self.terms.dates(first, last, text.rpartition("[")[2].strip("] "))
        if kind == "phrase":
            tag = self._tag()
            quoted = text.replace('"', "")
            return self.terms.tagged([quoted], tag, quoted=True) if tag else self.terms.phrase(quoted)
        if kind == "doi":
            self._tag()
            return doi(text)
        if kind == "tag":
            self.terms.say(f"{text} was left out: it stands behind no term")
        return self._words(text) if kind == "word" else ""

    def _words(self, text: str) -> str:
        """A word, with those that follow it up to a tag that they share."""
        end = self.at
        while end < len(self.tokens) and self._is("word", end) and self.tokens[end][0] not in _OPERATORS:
            end += 1
        if end < len(self.tokens) and self._is("tag", end):
            found = [text, *(follower[0] for follower in self.tokens[self.at : end])]
            self.at, self.refined = end, True
            self.count += len(found) - 1
            if self.count > _MAX_TERMS:
                self.at += 1
                return self._nothing(f"of a query {_MAX_TERMS} terms")
            return self.terms.tagged(found, self._tag())
        run = [text, *(follower[0] for follower in self.tokens[self.at : end])][: _MAX_TERMS - self.count + 1]
        self.at += len(run) - 1
        self.count += len(run) - 1
        combined = ""
        for word, term in zip(run, self.terms.beside(run), strict=True):
            combined = _combined(combined, "AND", term)
            self.plain |= {word: term} if term else {}
        return combined

    def _is(self, kind: str, place: int) -> bool:
        return self.tokens[place].lastgroup == kind

    def _tag(self) -> str:
        if self.at < len(self.tokens) and self._is("tag", self.at):
            self.at += 1
            return self.tokens[self.at - 1][0].strip("[] ")
        return ""

    def _nothing(self, searched: str) -> str:
        notice = f"only {searched} are read: the rest was left out"
        if notice not in self.terms.notices:
            self.terms.notices.append(notice)
        return ""


def read_query(text: str, finds: Callable[[str], bool]) -> Query:
    """What to search the index for; `finds` tells whether it holds anything for a term. Never raises of itself; what
    is left out is named.
    """
    terms = Terms(finds)
    if len(text) > _MAX_QUERY:
        terms.notices.append(f"only the first {_MAX_QUERY} characters of the query were read")
    if any(token[0] in "[]" for token in _TOKEN.finditer(text[:_MAX_QUERY]) if not token.lastgroup):
        terms.say("a square bracket that has no other was left out")
    tokens = [token for token in _TOKEN.finditer(text[:_MAX_QUERY].translate(_PLAIN_QUOTES)) if token.lastgroup]
    reader = _Reader(tokens, terms)
    found = ""
    while reader.at < len(tokens):
        found = _combined(found, "AND", reader.expression())
        reader.at += 1  # a closing bracket that nothing opened
    if text.strip() and not found and not terms.notices:
        terms.say("nothing was searched for: the query has only words that are in every text")
    each = list(reader.plain.values())[:12]
    if reader.refined or len(each) < 3:
        return Query(found, "", tuple(terms.notices))
    pairs = [f"({a} AND {b})" for n, a in enumerate(each) for b in each[n + 1 :]]
    return Query(found, " OR ".join(pairs), tuple(terms.notices))


def _combined(found: str, operator: str, term: str) -> str:
    if not term:
        return found
    if not found:
        return term if operator != "NOT" else f'(facts : "_every" NOT {term})'
    return f"({found} {operator} {term})"
