"""PubMed's query syntax, by an evaluator that looks into every paper: the index finds the same ones."""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.tool_server.corpus import Corpus
from servers.tool_server.corpus_build import build_corpus
from tests.servers.test_corpus import official
from tests.support.papers import xml

FAMILIES = [
    ["mortality"], ["adolescent", "adolescents", "adolescence"], ["vaccine", "vaccines", "vaccinated"], ["aid", "aids"],
    ["hearing"], ["organ", "organs"], ["organization", "organizations"], ["randomized"], ["trial", "trials"], ["stroke"],
    ["heart"], ["failure", "failures"], ["sar", "sars"], ["tnf"], ["alpha"], ["beta"], ["blocker", "blockers"],
]  # fmt: skip
"""Words with one stem each."""
STEM = {word: family[0] for family in FAMILIES for word in family}
WORDS = sorted(STEM)
SPELLINGS = {"alpha": ["α", "Α"], "beta": ["β"], "stroke": ["Strøke", "STROKE"], "organ": ["órgan"], "trial": ["Trial"]}
SURNAMES = ["Smith", "Ørsted", "García Márquez", "Müller", "Lee", "O'Brien", "van der Berg"]
GIVEN = ["Jane Ann", "John", "J A", "Ann", "J R", "Ian Victor"]
PLAIN_NAMES = {"Ørsted": "orsted", "García Márquez": "garcia-marquez", "Müller": "MULLER", "O'Brien": "obrien"}
JOURNALS = [
    ("Lancet (London, England)", "Lancet"), ("The Lancet. Oncology", "Lancet Oncol"),
    ("The New England journal of medicine", "N Engl J Med"), ("Heart", "Heart"),
]  # fmt: skip
HEADINGS = ["Heart Failure", "Heart Failure, Systolic", "Stroke", "Aged"]


@dataclass(frozen=True)
class Made:
    pmid: int
    title: list[str]
    abstract: list[str]
    authors: list[tuple[str, str]]
    journal: tuple[str, str]
    headings: list[str]
    date: tuple[int, int, int]

    def words(self, tag: str) -> list[list[str]]:
        heads = [re.findall(r"\w+", heading.lower()) for heading in self.headings]
        return {"ti": [self.title], "tiab": [self.title, self.abstract]}.get(tag, [self.title, self.abstract, *heads])


def made(pmid: int, rng: random.Random) -> Made:
    def text(most: int) -> list[str]:
        return rng.choices(WORDS, k=rng.randint(2, most))

    people = [(rng.choice(SURNAMES), rng.choice(GIVEN)) for _ in range(rng.randint(1, 3))]
    day = (rng.randint(2017, 2021), rng.randint(1, 12), rng.randint(1, 28))
    return Made(pmid, text(6), text(20), people, rng.choice(JOURNALS), rng.sample(HEADINGS, rng.randint(0, 2)), day)


def spelled(found: list[str], rng: random.Random) -> str:
    """Words as people write them: in Greek, with accents and capitals, with hyphens between."""
    each = [rng.choice([word, *SPELLINGS.get(word, [])]) for word in found]
    return "".join(word + rng.choice([" ", " ", "-", ", "]) for word in each[:-1]) + each[-1]


def written(paper: Made) -> str:
    rng = random.Random(paper.pmid)
    people = "".join(
        f"<Author ValidYN='Y'><LastName>{last}</LastName><ForeName>{first}</ForeName></Author>"
        for last, first in paper.authors
    )
    heads = "".join(
        f"<MeshHeading><DescriptorName>{heading}</DescriptorName></MeshHeading>" for heading in paper.headings
    )
    year, month, day = paper.date
    text = xml(
        title=f"<ArticleTitle>{spelled(paper.title, rng)}.</ArticleTitle>", pmid=f"<PMID>{paper.pmid}</PMID>", ids="",
        abstract=f"<Abstract><AbstractText>{spelled(paper.abstract, rng)}</AbstractText></Abstract>",
        authors=f"<AuthorList>{people}</AuthorList>", journal=f"<Title>{paper.journal[0]}</Title>",
        date=f"<Year>{year}</Year><Month>{month}</Month><Day>{day}</Day>",
        in_citation=f"<MeshHeadingList>{heads}</MeshHeadingList>" if heads else "",
    )  # fmt: skip
    return text.replace("N Engl J Med", paper.journal[1])


PAPERS = [made(50_000 + number, random.Random(number)) for number in range(300)]
Judge = Callable[[Made], bool]
Asked = tuple[str, Judge]


def _holds(texts: list[list[str]], phrase: list[str], last_begins: bool = False) -> bool:
    for text in texts:
        for at in range(len(text) - len(phrase) + 1):
            part = text[at : at + len(phrase)]
            if part == phrase or (last_begins and part[:-1] == phrase[:-1] and part[-1].startswith(phrase[-1])):
                return True
    return False


def _initials(given: str) -> str:
    return "".join(part[0] for part in given.split())


tags = st.sampled_from(["ti", "tiab", "tw"])
words = st.sampled_from(WORDS)


def plain(word: str) -> Judge:
    family = {other for other in WORDS if STEM[other] == STEM[word]}
    whole = {"heart": "Heart"}.get(word)
    return lambda p: any(family & set(text) for text in p.words("tw")) or p.journal[0] == whole


@st.composite
def names(draw: st.DrawFn) -> Asked:
    """An author or a journal without a tag, in the forms in which people write one."""
    if draw(st.booleans()):
        journal = draw(st.sampled_from(JOURNALS[1:3]))
        return draw(st.sampled_from([journal[0].replace(".", ""), journal[1]])), lambda p: p.journal == journal
    last, first = draw(st.sampled_from(SURNAMES)), draw(st.sampled_from(GIVEN))
    shown = draw(st.sampled_from([last, PLAIN_NAMES.get(last, last), last.lower()]))
    asked = _initials(first)
    forms = [
        f"{shown} {asked}",
        f"{shown} {asked.lower() if asked != 'A' else asked}",
        f"{first} {shown}",
        f"{shown} {first}".lower() if first not in ("J A", "J R") else f"{shown} {first}",
    ]
    form = draw(st.integers(0, 3))
    return forms[form], lambda p: any(
        name == last
        and (_initials(given).startswith(asked) if form < 2 or first in ("J A", "J R") else _is_named(first, given))
        for name, given in p.authors
    )


def _is_named(asked: str, given: str) -> bool:
    """Whether someone of these given names is called so: by all, or by the first."""
    return (given + " ").startswith(asked + " ") or (len(asked) == 1 and _initials(given).startswith(asked))


@st.composite
def runs(draw: st.DrawFn) -> Asked:
    """Words side by side, which belong together before any operator, and perhaps a name among them."""
    before, after = draw(st.lists(words, max_size=2)), draw(st.lists(words, max_size=2))
    name, is_by = draw(names()) if draw(st.booleans()) or not before + after else ("", lambda _: True)
    rng = random.Random(draw(st.integers(0, 99)))
    shown = " ".join([*(rng.choice([word, *SPELLINGS.get(word, [])]) for word in before), name, *after])
    judges = [is_by, *map(plain, before + after)]
    return shown, lambda p: all(judge(p) for judge in judges)


@st.composite
def terms(draw: st.DrawFn) -> Asked:
    kind = draw(st.sampled_from(["run", "prefix", "tag", "phrase", "near", "author", "journal", "heading", "date"]))
    word, tag, pair = draw(words), draw(tags), [draw(words), draw(words)]
    if kind == "run":
        return draw(runs())
    if kind == "prefix":
        begin = word[: draw(st.integers(3, len(word)))] if len(word) > 3 else word
        shown = draw(st.sampled_from(["", f"[{tag}]"]))
        return f"{begin}*{shown}", lambda p: _holds(p.words(tag if shown else "tw"), [begin], last_begins=True)
    if kind == "tag":
        return f"{word}[{tag}]", lambda p: _holds(p.words(tag), [word])
    if kind == "phrase" or (kind == "near" and pair[0] == pair[1]):
        star = draw(st.sampled_from(["", "*"]))
        rng = random.Random(draw(st.integers(0, 99)))
        shown = "-".join(rng.choice([word, *SPELLINGS.get(word, [])]) for word in pair)
        return draw(st.sampled_from([f'"{" ".join(pair)}{star}"[{tag}]', f"{shown}{star}[{tag}]"])), lambda p: _holds(
            p.words(tag), pair, bool(star)
        )
    if kind == "near" and pair[0] != pair[1]:
        most = draw(st.integers(0, 6))
        return f'"{" ".join(pair)}"[tiab:~{most}]', lambda p: any(
            abs(a - b) - 1 <= most
            for text in p.words("tiab")
            for a, one in enumerate(text) if one == pair[0]
            for b, other in enumerate(text) if other == pair[1]
        )  # fmt: skip
    if kind == "author":
        last, first = draw(st.sampled_from(SURNAMES)), draw(st.sampled_from(GIVEN))
        shown, where = (
            draw(st.sampled_from([last, PLAIN_NAMES.get(last, last)])),
            draw(st.sampled_from(["au", "1au", "lastau"])),
        )
        among = {"au": slice(None), "1au": slice(0, 1), "lastau": slice(-1, None)}[where]
        if draw(st.booleans()):
            return f"{shown}[{where}]", lambda p: any(name == last for name, _ in p.authors[among])
        asked = _initials(first)[: draw(st.integers(1, 2))]
        return f"{shown} {asked}[{where}]", lambda p: any(
            name == last and _initials(given).startswith(asked) for name, given in p.authors[among]
        )
    if kind == "journal":
        title, short = draw(st.sampled_from(JOURNALS))
        return f'"{draw(st.sampled_from([title, short]))}"[ta]', lambda p: p.journal == (title, short)
    if kind == "heading":
        heading = draw(st.sampled_from(HEADINGS))
        return f'"{heading}"[{draw(st.sampled_from(["mesh", "mesh:noexp", "mh"]))}]', lambda p: heading in p.headings
    low, high = sorted(
        [(draw(st.integers(2016, 2022)), draw(st.integers(1, 12)), draw(st.integers(1, 28))) for _ in "ab"]
    )
    shown = ":".join("/".join(map(str, date)) for date in (low, high))
    return f"{shown}[dp]", lambda p: low <= p.date <= high


def _joined(parts: list[tuple[str, Asked]]) -> Asked:
    """Left to right, in brackets."""
    text, judge = parts[0][1]
    for operator, (more, also) in parts[1:]:
        text = f"{text} {operator} {more}"
        judge = {
            "AND": lambda p, a=judge, b=also: a(p) and b(p), "OR": lambda p, a=judge, b=also: a(p) or b(p),
            "NOT": lambda p, a=judge, b=also: a(p) and not b(p),
        }[operator]  # fmt: skip
    return f"({text})", judge


queries = st.recursive(
    terms(), lambda inner: st.lists(st.tuples(st.sampled_from(["AND", "OR", "NOT"]), inner), min_size=2, max_size=4).map(_joined),
    max_leaves=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    folder: Path = tmp_path_factory.mktemp("truth")
    build_corpus(folder / "index", [official(folder, 1, list(map(written, PAPERS)))], lambda _: None)
    with Corpus.open(folder / "index") as corpus:
        yield corpus


@settings(max_examples=300)
@given(asked=queries)
def test_a_query_finds_the_papers_that_it_describes_and_no_others(shelf: Corpus, asked: Asked) -> None:
    query, judge = asked
    pages = [shelf.search(query, 100, offset) for offset in (0, 100, 200)]
    found = sorted(int(paper["paperId"]) for page in pages for paper in page["data"])
    described = [paper.pmid for paper in PAPERS if judge(paper)]
    relaxed, known = "no paper has all of these words", ("narrower", "of that name")
    said = pages[0].get("notices", [])
    assert not [one for one in said if not one.startswith(relaxed) and not any(words in one for words in known)]
    if any(one.startswith(relaxed) for one in said):
        assert described == [], query  # papers that hold two of the words are shown instead
    else:
        assert found == described, query
