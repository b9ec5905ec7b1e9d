"""One term of a PubMed query, with its field tag, as SQLite FTS5 understands it.

Words under a tag or in quotes are searched as they stand, plain words by their stems; names, headings, journals, dates
and identifiers as the whole tokens that they are in `facts` (see `corpus_words`).
"""

import calendar
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from servers.tool_server.corpus_match import YEARS, all_of, any_of, days, fact, near, phrase_in
from servers.tool_server.corpus_people import is_initials, people_terms
from servers.tool_server.corpus_words import doi_token, stems, whole, without_article, words

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
    "a about again all almost also although always among an and another any are as at be because been before "
    "being between both but by can could did do does done due during each either enough especially etc for found "
    "from further had has have having here how however i if in into is it its itself just kg km made mainly make "
    "may mg might ml mm most mostly must nearly neither no nor not obtained of often on or our overall perhaps "
    "pmid quite rather really regarding seem seen several should show showed shown shows significantly since so "
    "some such than that the their theirs them then there therefore these they this those through thus to upon "
    "use used using various versus very vs was we were what when which while with within without would".split()
)
"""Words that PubMed does not search for (its stop words), and those of a question."""
_ODD = re.compile(
    r"\*(?!$)|\||&&|\w\?\w|\w\$\w|^exp$|^~\d|^#\d|^-\w|\.\w\w(?:,\w\w)*\.$|^(?:near|adj)/?\d+$|^[nw]/\d+$|^(?:pmid|doi|pmcid):$"
    r"|^(?:title|abstract|abs|author|journal|mesh|year|ti|tiab|ab|au|ta|pmid|uid)[:=]\S",
    re.IGNORECASE,
)
"""Signs of the syntax of other databases, or of none."""
_RANGE = re.compile(r"(\d{4}(?:[/-]\d{1,2}){0,2})(?::|-|\.\.)(\d{4}(?:[/-]\d{1,2}){0,2})")
_DOI = re.compile(r"(?:(?:https?://)?(?:dx\.)?doi\.org/|doi:\s?)?10\.\d{4,9}/\S+", re.IGNORECASE)
_DATE = re.compile(r"\d{4}(?:[/-]\d{1,2}){0,2}")
_LONGEST_PERSON, _LONGEST_JOURNAL = 8, 12
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
        names: list[list[str]] = [[] for _ in run]
        initials = [False] * len(run)
        for first in range(len(run)):
            for end in range(first + 2, min(first + _LONGEST_JOURNAL, len(run)) + 1):
                if name := self._name(run[first:end]):
                    for at in range(first, end):
                        names[at].append(name)
                        initials[at] |= is_initials(run[at].strip(".,"))
        for operator in ("or", "not"):
            if operator in run:
                self.say(f"{operator} was read as a word: operators are upper case")
        found, kept = [], ""
        for at, word in enumerate(run):
            is_searched = word.lower() not in IGNORED or (word == "A" and at > 0)
            notices = len(self.notices)
            term = self._letter(kept, word) if kept and re.fullmatch(r"[A-Za-z]", word) else self.plain(word)
            if names[at]:
                del self.notices[notices:]  # it is part of a name: nothing odd about it
            if initials[at]:
                term = ""  # only with its surname: such letters stand in many texts
            whole_name = [name for name in names[at] if len(run) == 2 and word == "a"]  # `smith a`
            found.append(any_of([term, *names[at]]) if is_searched and words(word) else any_of(whole_name))
            kept = word if len(words(word)) == 1 and len(word) > 1 else kept
        return found

    def _letter(self, before: str, letter: str) -> str:
        """A letter behind a word, `vitamin D`: a letter alone stands in many texts."""
        return phrase_in(tuple(f"{name}_stems" for name in _TEXT), stems([*words(before), *words(letter)]))

    def _name(self, run: Sequence[str]) -> str:
        """The term for words that are an author or a journal together; empty when there is none."""
        text = " ".join(run)
        if (
            not words(run[0])
            or not words(run[-1])
            or text.endswith("*")
            or all(word.lower() in IGNORED for word in run)
        ):
            return ""
        names = [fact(whole("j", without_article(words(text))))]
        if len(run) <= _LONGEST_PERSON and run[-1].lower() not in IGNORED - {"a"}:
            names += people_terms(text, "")
        term = any_of(names)
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
            return fact("_abstract")
        years = _RANGE.fullmatch(word)
        if years and all(int(year[:4]) in YEARS for year in years.groups()):
            self.say(f"{word} was read as {years[1]}:{years[2]}[dp]")
            return self.dates(years[1], years[2], "dp")
        if word.endswith("*"):
            return any_of([phrase_in(_TEXT, words(word), "*"), *people_terms(word, "")])
        parts = words(word)
        if not parts:
            return ""
        named = (fact(whole(kind, parts)) for kind in "sj")
        found = [phrase_in(tuple(f"{name}_stems" for name in _TEXT), stems(parts)), *filter(self.finds, named)]
        return any_of([*found, *self._identifiers(word)])

    def phrase(self, quoted: str) -> str:
        """A quoted phrase without a tag: in the text as it stands, or the whole of a name."""
        if _DOI.fullmatch(quoted.strip()):
            return doi(quoted.strip())
        return any_of([phrase_in(_TEXT, words(quoted), _star(quoted)), *self._named(quoted, quoted=True)])

    def tagged(self, found: Sequence[str], tag: str, *, quoted: bool = False) -> str:
        """Words, or one quoted phrase, under a field tag. Names are taken whole, text word by word."""
        text = " ".join(found)
        name, _, about = (part.strip() for part in tag.lower().partition(":"))
        name = {"all text": "text", "mesh heading": "mesh"}.get(name, name)
        if self._is_odd(text):
            return ""
        if name in ("text", "all", "all fields") and text.lower() == "hasabstract":
            return fact("_abstract")
        if not quoted and len(found) > 1 and (own := self._own(found, name)) < len(found):
            return all_of([*self.beside(found[:-own]), self.tagged(found[-own:], tag)])
        if name in _NOT_HELD:
            return self._left_out(f"{text}[{tag}]", "this corpus does not hold that field")
        if name in _DATES or name in _OTHER_DATES:
            between = _RANGE.fullmatch(text)
            return self.dates(between[1], between[2], tag) if between else self.dates(text, text, tag)
        if name in _PMIDS:
            found = re.findall(r"\d{1,9}", text)
            return any_of(fact(f"_p{int(number)}") for number in found) or self._left_out(text, "it is no PMID")
        if name in _DOIS:
            return fact(doi_token(text.lower().partition("doi.org/")[2] or text))
        if name in _PMCS:
            found = re.findall(r"\d{1,12}", text)
            return any_of(fact(f"_pmc{int(number)}") for number in found) or self._left_out(text, "it is no PMC number")
        if name in _PEOPLE or name in _HEADINGS or name in _JOURNALS:
            return self._whole(found, name, tag, about, quoted=quoted)
        columns = _COLUMNS.get(name, _TEXT)
        if name not in _COLUMNS and name not in _ANYWHERE:
            self.say(f"[{tag}] is no field that is known: {text} was searched in title, abstract and headings")
        if about.startswith("~") and about[1:].isdigit():
            return near(columns, words(text), int(about[1:4]))
        if about and not (about == "noexp" and name in _HEADINGS):
            self.say(f"[{tag}] was read as [{name}]")
        if quoted:
            return any_of(
                [phrase_in(columns, words(text), _star(text)), *(self._named(text) if name in _ANYWHERE else [])]
            )
        kept = [word for word in found if word.lower() not in IGNORED] or found
        each = [phrase_in(columns, words(word), _star(word)) for word in kept]
        if name in _ANYWHERE:
            each = [any_of([term, *self._named(word)]) for term, word in zip(each, kept, strict=True)]
        return all_of(each)

    def _own(self, found: Sequence[str], name: str) -> int:
        """How many of the words before a tag are its own, where it can be known: `aspirin stroke 2021[dp]`."""
        if name in _DATES or name in _OTHER_DATES:
            return 1 if _DATE.fullmatch(found[-1]) or _RANGE.fullmatch(found[-1]) else len(found)
        if name in _PMIDS:
            return len(list(itertools.takewhile(str.isdigit, reversed(found)))) or len(found)
        return 1 if name in _DOIS or name in _PMCS else len(found)

    def _whole(self, found: Sequence[str], name: str, tag: str, about: str, *, quoted: bool) -> str:
        """A name under a tag: all of the words, else as few behind others as there is such a name."""
        what = "author" if name in _PEOPLE else "heading" if name in _HEADINGS else "journal"
        if name in ("majr", "mesh major topic"):
            self.say(f"[{tag}] was read as [mesh]: this corpus does not hold which headings are major")
        if what == "heading" and about != "noexp":
            self.say(f"[{tag}] was read as [mesh:noexp]: this corpus does not hold which headings are narrower")
        for first in range(len(found)):
            text = " ".join(found[first:])
            if what == "author":
                term = any_of(people_terms(text, _PEOPLE[name], quoted=quoted))
            else:
                token = whole("h", text) if what == "heading" else whole("j", without_article(words(text)))
                term = fact(token, _star(text))
            if term and self.finds(term):
                if first:
                    self.say(f"[{tag}] was read as of {text} only")
                return all_of([*self.beside(found[:first]), term])
        self.say(f"{' '.join(found)}[{tag}]: this corpus has no {what} of that name")
        return fact("_none")

    def dates(self, first: str, last: str, tag: str) -> str:
        """Every day between two dates, which may be the same."""
        low, high = _DATE.findall(first), _DATE.findall(last)
        if not low or not high or ":" in first or not all(map(_is_date, (low[0], high[-1]))):
            return self._left_out(f"{first}[{tag}]", "it is no date like 2019, 2019/11 or 2019/11/21")
        if tag.lower() in _OTHER_DATES:
            self.say(f"[{tag}] was read as [dp]: this corpus holds the date of publication only")
        elif tag.lower() not in _DATES:
            self.say(f"[{tag}] was read as [dp]: a range is one of dates")
        return any_of(map(fact, days(low[0], high[-1]))) or fact("_none")

    def _named(self, text: str, *, quoted: bool = False) -> list[str]:
        if text.endswith(("*", '*"')) or not words(text):
            return []
        names = [whole("j", without_article(words(text))), whole("h", text)]
        return [*map(fact, names), *people_terms(text, "", quoted=quoted), *self._identifiers(text)]

    def _identifiers(self, word: str) -> list[str]:
        if word.isascii() and word.isdigit():
            year = f"_y{word}" if len(word) == 4 and int(word) in YEARS else ""
            return [fact(year or f"_p{int(word)}")] if year or 3 < len(word) < 10 else []
        return [fact(f"_{word.lower()}")] if re.fullmatch(r"(?i)pmc\d{1,12}", word) else []

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
    return fact(doi_token(text[text.index("10.") :]))


def _star(text: str) -> str:
    return "*" if text.endswith(("*", '*"')) else ""
