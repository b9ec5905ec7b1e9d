"""What PubMed's syntax finds in a corpus, and what is said of that which it does not know."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers.tool_server.corpus import Corpus
from tests.servers.test_corpus import article, built, found, official
from tests.support.papers import author, xml


def paper(pmid: int, title: str, abstract: str = "", **parts: Any) -> str:
    text = f"<Abstract><AbstractText>{abstract}</AbstractText></Abstract>" if abstract else ""
    return article(pmid, title, abstract=text, **parts)


def by(last: str, first: str) -> str:
    return author(f"<LastName>{last}</LastName><ForeName>{first}</ForeName>")


def headings(*names: str) -> str:
    each = (f"<MeshHeading><DescriptorName>{name}</DescriptorName></MeshHeading>" for name in names)
    return f"<MeshHeadingList>{''.join(each)}</MeshHeadingList>"


DOI = "<ArticleId IdType='doi'>10.1016/S0140-6736(20)30183-5</ArticleId><ArticleId IdType='pmc'>PMC42</ArticleId>"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    folder = tmp_path_factory.mktemp("shelf")
    entries = [
        paper(20001, "Mortality of adolescents.", "A randomised trial.", date="<Year>2018</Year>", authors=by("Smith", "Jane Ann")),
        paper(20002, "Hearing aid use.", date="<Year>2019</Year>", authors=by("Smith", "Jane")),
        paper(20003, "AIDS in adolescence.", date="<Year>2020</Year>", authors=by("Ørsted", "Søren")),
        paper(20004, "SAR of kinase inhibitors.", "TNF-α was high.", authors=by("Weiß", "J")),
        paper(20005, "SARS vaccines.", "TNF-alpha was low.", in_citation=headings("Heart Failure, Systolic")),
        paper(20006, "The organ.", in_citation=headings("Heart Failure"), journal="<Title>The Lancet. Oncology</Title>"),
        paper(20007, "An organization.", "β-blockers.", journal="<Title>Lancet (London, England)</Title>"),
        xml(title="<ArticleTitle>Feet of runners, knees of walkers.</ArticleTitle>", pmid="<PMID>20008</PMID>", ids=DOI, abstract=""),
    ]  # fmt: skip
    entries += [
        paper(20009, "Walking.", authors=author("<LastName>King</LastName><ForeName>Mary L</ForeName><Suffix>3rd</Suffix>")),
        paper(20010, "Running.", authors=by("O’Brien", "Pat")),
    ]  # fmt: skip
    entries[5] = entries[5].replace("N Engl J Med", "Lancet Oncol")
    entries[6] = entries[6].replace("N Engl J Med", "Lancet")
    with built(folder, official(folder, 1, entries)) as corpus:
        yield corpus


FINDS = {
    "mortalit*": [20001], "adolescen*": [20001, 20003], "adolescen*[tiab]": [20001, 20003], "randomi*": [20001],
    "vaccine*": [20005], "organization*": [20007], '"organ"': [20006], "AIDS[ti]": [20003], "SARS[ti]": [20005],
    '"hearing aids"': [], "hearing aids": [20002],
    "Smith JA[au]": [20001], "Smith J[au]": [20001, 20002], '"Smith J"[au]': [20002], "Smith Jane[au]": [20001, 20002],
    "Smith JR[au]": [], "Smith J.": [20001, 20002], "Smith, J.": [20001, 20002], "J. A. Smith": [20001],
    "JA Smith[au]": [20001], "J.A. Smith, adolescents": [20001], "smi*": [20001, 20002], "Smith H": [], "hearing 2019[dp]": [20002],
    "mortality 2019[dp]": [], "hearing use 20002[pmid]": [20002], "vaccines 20002[pmid]": [], "PMID 20002": [20002], "hearing was used by those": [20002],
    "hearing 2018–2020[dp]": [20002], "King ML 3rd[au]": [20009], "obrien[au]": [20010], "O'Brien P[au]": [20010], "o brien p": [20010],
    "organ lancet oncol": [20006], "jane smith aids": [20002], "smith jane ann": [20001],
    "Smith JA": [20001], "smith ja": [20001], "Smith 2019": [20002], "smith[1au]": [20001, 20002], "smi*[au]": [20001, 20002],
    "orsted[au]": [20003], "Ørsted S[lastau]": [20003], "weiss j[au]": [20004],
    "Lancet[ta]": [20007], "Lancet Oncol[ta]": [20006], "the lancet oncology[ta]": [20006], "lancet*[ta]": [20006, 20007],
    "N Engl J Med[ta] AND aids[ti]": [20003], '"New England journal of medicine"[ta] AND aids[ti]': [20003],
    "heart failure[mesh]": [20006], "heart failure[mesh:noexp]": [20006], "heart failure*[mesh]": [20005, 20006],
    "TNF-alpha": [20004, 20005], "TNF-α": [20004, 20005], '"TNF α"[tiab]': [20004, 20005], "beta-blocker": [20007],
    "β-blockers[tiab]": [20007], "2019 hearing": [20002], "aids 2020": [20003], "hasabstract AND sars[ti]": [20005],
    "smith NOT hasabstract[text]": [20002],
    "10.1016/S0140-6736(20)30183-5": [20008], "(10.1016/s0140-6736(20)30183-5)": [20008],
    "https://doi.org/10.1016/S0140-6736(20)30183-5": [20008], "10.1016/S0140-6736(20)30183-5[doi]": [20008],
    "PMC42": [20008], "PMC42[pmcid]": [20008], '"feet walkers"[ti:~4]': [20008], '"walkers feet"[ti:~4]': [20008],
    '"feet walkers"[ti:~3]': [], "hearing AND 2019-01-01:2019-12-31[dp]": [20002], "vitamin A": [],
}  # fmt: skip


@pytest.mark.parametrize(("query", "pmids"), FINDS.items())
def test_a_query_is_read_as_pubmed_reads_it(shelf: Corpus, query: str, pmids: list[int]) -> None:
    assert found(shelf, query) == [str(pmid) for pmid in pmids]
    said = shelf.search(query).get("notices", ())
    assert not [notice for notice in said if "narrower" not in notice and "of that name" not in notice]


NAMED = {
    "aids AND trial[pt]": "trial[pt] was left out: this corpus does not hold that field",
    "hearing Smith J[au]": "[au] was read as of Smith J only",
    "organ Lancet Oncol[ta]": "[ta] was read as of Lancet Oncol only",
    "Nobody J[au]": "this corpus has no author of that name",
    "cancer[mesh]": "this corpus has no heading of that name",
    "heart failure[mesh]": "[mesh] was read as [mesh:noexp]",
    "aids[ti] AND x[foo]": "[foo] is no field that is known",
    "heart failure[majr]": "[majr] was read as [mesh]",
    "2019[edat]": "[edat] was read as [dp]",
    "last year[dp]": "last year[dp] was left out: it is no date",
    "colo*r": "colo*r was left out: * is known at the end of a word",
    "title:aids": "title:aids was left out",
    "aids | sars": "| was left out",
    "abc[pmcid]": "abc was left out: it is no PMC number",
    " OR ".join(f"word{n}" for n in range(70)): "only of a query 64 terms are read",
    "x" * 5000: "only the first 4000 characters",
    "of the": "nothing was searched for",
    "hearing vaccine kinase": "no paper has all of these words",
}


@pytest.mark.parametrize(("query", "notice"), NAMED.items(), ids=[query[:20] for query in NAMED])
def test_what_cannot_be_searched_as_it_is_written_is_named(shelf: Corpus, query: str, notice: str) -> None:
    assert notice in "; ".join(shelf.search(query)["notices"])


PIECES = ['"', "(", ")", "[ti]", "[1au]", "[ta]", "[mesh]", "[dp]", "[tiab:~3]", "[doi]", "[x", "AND", "OR", "NOT", "*", "a*",
          "10.1056/(a", "PMC12", "2019:2020[dp]", "2020/13/45[dp]", "9999:1[dp]", "Smith", "JA", "_s_x", "α", "\x00", "\ud800",
          "title:x", "NEAR(a b)", "facts : x", "{title} : x", "^a", "-", "٣٤", "½", "ﬁ", " ", ""]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join) | st.text(max_size=40))
def test_any_text_is_a_query(shelf: Corpus, query: str) -> None:
    assert shelf.search(query, 3)["total"] >= 0


def test_a_bundled_paper_is_found_by_its_journals_abbreviation_and_not_by_a_part_of_it() -> None:
    with Corpus.bundled() as corpus:
        totals = {
            name: corpus.search(f"{name}[ta]")["total"]
            for name in ("N Engl J Med", "Lancet", "Lancet Neurol", "Engl J")
        }
    assert totals == {"N Engl J Med": 36, "Lancet": 9, "Lancet Neurol": 1, "Engl J": 0}


@pytest.mark.parametrize("query", [
    "(heart)[ti]", "[tiab] heart", ":2020[dp]", "2019/13[dp]", "2021/02/30[dp]", "wom?n", "wom$", '"heart failure"~5', "ti=heart",
    "exp heart failure/", "pmid:1001", "PMID: 1001", "heart[ti", "heart -women", "heart NEAR/3 failure", "adj3 heart", "women.ti,ab.", "#1 AND #2",
    "heart or lung", "heart not lung", "2019:2020",
])  # fmt: skip
def test_the_syntax_of_others_is_named(query: str) -> None:
    with Corpus.bundled() as corpus:
        assert corpus.search(query).get("notices"), query


@pytest.mark.parametrize(
    "query",
    ["does it help?", "Smith J A", "TNF-α", "95% CI", "COVID-19", "N95 masks", "p<0.05", "what is the dose of 5 mg?"],
)
def test_what_people_write_is_not_taken_for_syntax(query: str) -> None:
    with Corpus.bundled() as corpus:
        assert not [notice for notice in corpus.search(query).get("notices", []) if "left out" in notice], query


def test_a_doi_in_quotes_and_initials_apart_are_found(shelf: Corpus) -> None:
    assert found(shelf, '"10.1016/S0140-6736(20)30183-5"') == found(shelf, "10.1016/S0140-6736(20)30183-5") != []
    assert found(shelf, "Smith J A[au]") == found(shelf, "Smith J.A.[au]") == found(shelf, "Smith JA[au]") == ["20001"]


def test_names_among_words_are_taken_as_they_are(tmp_path: Path) -> None:
    journals = {
        1: "The Journal of experimental medicine", 2: "Head &amp; neck",
        3: "American journal of respiratory and critical care medicine", 4: "Heart",
    }  # fmt: skip
    entries = [
        paper(pmid, f"Asthma {pmid}.", journal=f"<Title>{name}</Title>", authors=by("Young", "Anna")).replace(
            "N Engl J Med", "J Exp Med" if pmid == 1 else name
        )
        for pmid, name in journals.items()
    ]
    with built(tmp_path, official(tmp_path, 1, entries)) as corpus:
        assert found(corpus, "J Exp Med asthma") == ["1"]
        assert "notices" not in corpus.search("J Exp Med asthma")
        assert found(corpus, "head & neck asthma") == ["2"]
        assert found(corpus, "American journal of respiratory and critical care medicine asthma") == ["3"]
        assert found(corpus, "asthma in the young a") == ["1", "2", "3", "4"], "`a` is a word there"
        assert found(corpus, "young a") == ["1", "2", "3", "4"]
