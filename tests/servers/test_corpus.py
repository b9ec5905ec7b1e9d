"""An index of one's own papers: how it is built, what a query finds in it."""

import gzip
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mcp.types import CallToolResult, TextContent

from backends.errors import ToolFailed, UsageError
from serializers.tool_output import render
from servers.tool_server.corpus import Corpus, paper_page
from servers.tool_server.corpus_build import BATCH, Progress, build_corpus
from servers.tool_server.server import tool_server
from servers.tool_server.sources import CorpusPubMed, Sources
from tests.support.papers import author, xml
from tests.support.runs import ROOT, trajgraph

HEADINGS = (
    "<MeshHeadingList><MeshHeading><DescriptorName>Heart Failure</DescriptorName></MeshHeading></MeshHeadingList>"
)


def article(pmid: int, title: str = "A trial.", version: int = 1, **parts: str) -> str:
    return xml(
        title=f"<ArticleTitle>{title}</ArticleTitle>", pmid=f'<PMID Version="{version}">{pmid}</PMID>', ids="", **parts
    )


def official(folder: Path, number: int, entries: Sequence[str]) -> Path:
    """A file as NLM publishes it."""
    path = folder / f"pubmed26n{number:04d}.xml.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(f"<PubmedArticleSet>{''.join(entries)}</PubmedArticleSet>")
    return path


def built(folder: Path, *files: Path) -> Corpus:
    build_corpus(folder / "index", files, lambda _: None)
    return Corpus.open(folder / "index")


def found(corpus: Corpus, query: str) -> list[str]:
    return sorted(str(paper["paperId"]) for paper in corpus.search(query)["data"])


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    folder = tmp_path_factory.mktemp("corpus")
    with built(
        folder,
        official(folder, 1, [
            article(10001, "Aspirin for stroke.", date="<Year>2018</Year><Month>Jun</Month><Day>15</Day>"),
            article(10002, "Statins for stroke.", date="<Year>2019</Year>", in_citation=HEADINGS),
            article(10003, "Aspirin and heart failure.", date="<Year>2020</Year><Month>12</Month><Day>31</Day>",
                    authors=author("<LastName>Smith</LastName><ForeName>Jane Ann</ForeName><Initials>JA</Initials>")),
            article(10004, "Failure of the heart in IL-6 blockade.", date="<Year>2021</Year><Month>1</Month><Day>1</Day>",
                    journal="<Title>Lancet (London, England)</Title>", abstract=""),
        ]),
    ) as corpus:  # fmt: skip
        yield corpus


QUERIES = [
    ("aspirin", ["10001", "10003"]),
    ("aspirin stroke", ["10001"]),
    ("aspirin AND stroke", ["10001"]),
    ("aspirin OR statins", ["10001", "10002", "10003"]),
    ("stroke NOT aspirin", ["10002"]),
    ("aspirin OR statins NOT heart", ["10001"]),
    ("heart AND (aspirin OR blockade)", ["10003", "10004"]),
    ('"heart failure"', ["10002", "10003"]),
    ("heart failure[mesh]", ["10002"]),
    ("heart failure[ti]", ["10003", "10004"]),
    ('"heart failure"[ti]', ["10003"]),
    ("heart failure[tiab] AND 2021[dp]", ["10004"]),
    ("2019[dp]", ["10002"]),
    ("2018:2020[dp]", ["10001", "10002", "10003"]),
    ("2018/06:2018/07[dp]", ["10001"]),
    ("2018/06/16:2020/12/30[dp]", ["10002"]),
    ('"2020/12/31"[dp] : "2021/01/01"[dp]', ["10003", "10004"]),
    ("2020/12/31[Date - Publication]", ["10003"]),
    ("smith ja[au]", ["10003"]),
    ("Smith J[au]", ["10003"]),
    ("Smith, Jane Ann[au]", ["10003"]),
    ("jones[au]", []),
    ("10002[pmid]", ["10002"]),
    ("10002[uid] OR 10003[pmid]", ["10002", "10003"]),
    ("10004", ["10004"]),
    ("aspir*", ["10001", "10003"]),
    ("il-6", ["10004"]),
    ("lancet[journal]", ["10004"]),
    ("aspirin and heart failure", ["10003"]),
    ("trial stroke statins", ["10002"]),
    ("NOT aspirin", ["10002", "10004"]),
    ("", []),
    ("[mesh]", []),
    ("AND OR NOT", []),
    ("(((aspirin", ["10001", "10003"]),
    ("aspirin))) stroke", ["10001"]),
    ("(" * 500 + "aspirin", ["10001", "10003"]),
]


@pytest.mark.parametrize(("query", "pmids"), QUERIES, ids=[query[:30] or "nothing" for query, _ in QUERIES])
def test_a_query_finds_what_pubmed_users_mean_by_it(library: Corpus, query: str, pmids: list[str]) -> None:
    assert found(library, query) == pmids


def test_the_order_is_the_same_every_time_and_pages_join_without_gap(library: Corpus) -> None:
    whole = [paper["paperId"] for paper in library.search("aspirin OR statins OR heart")["data"]]
    pages = [library.search("aspirin OR statins OR heart", 1, place)["data"][0]["paperId"] for place in range(4)]
    assert pages == whole
    assert library.search("heart", 10, 99)["data"] == []


def test_a_paper_is_found_at_its_pubmed_and_pmc_addresses(tmp_path: Path) -> None:
    paper = xml(ids="<ArticleId IdType='pmc'>PMC42</ArticleId>", pmid="<PMID>10009</PMID>")
    with built(tmp_path, official(tmp_path, 1, [paper])) as corpus:
        for url in ("https://pubmed.ncbi.nlm.nih.gov/10009/", "https://www.ncbi.nlm.nih.gov/pmc/articles/PMC42/",
                    "https://pmc.ncbi.nlm.nih.gov/articles/PMC42"):  # fmt: skip
            at = corpus.paper_at(url)
            assert at is not None
            assert paper_page(at).startswith("# A trial.\n\nMcMurray, John J V\n\n*The New England")
        assert corpus.paper_at("https://pubmed.ncbi.nlm.nih.gov/1/") is None


def test_later_files_revise_and_delete_whatever_the_order_they_are_given_in(tmp_path: Path) -> None:
    first = official(
        tmp_path, 1, [article(1, "Old"), article(2, "Gone"), article(3, "Kept", version=2), article(3, "Older")]
    )
    second = official(tmp_path, 2, [article(1, "New"), "<DeleteCitation><PMID>2</PMID></DeleteCitation>"])
    with built(tmp_path, second, first) as corpus:
        assert found(corpus, "new") == ["1"]
        assert found(corpus, "old") == found(corpus, "gone") == found(corpus, "older") == []
        assert found(corpus, "kept") == ["3"]
        assert corpus.size() == 2


def test_an_older_file_that_comes_later_brings_nothing_back(tmp_path: Path) -> None:
    built(
        tmp_path, official(tmp_path, 2, [article(1, "New"), "<DeleteCitation><PMID>2</PMID></DeleteCitation>"])
    ).close()
    with built(tmp_path, official(tmp_path, 1, [article(1, "Old"), article(2, "Gone")])) as corpus:
        assert found(corpus, "new") == ["1"]
        assert corpus.size() == 1


def test_papers_as_json_lines_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(
        json.dumps({"paperId": 5, "title": "Mine", "year": 2020, "mesh": ["Humans"], "doi": "10.1/x"}) + "\n"
    )
    with built(tmp_path, path) as corpus:
        paper = corpus.search("humans[mesh] 2020[dp]")["data"][0]
        assert (paper["title"], paper["year"], paper["externalIds"]) == (
            "Mine",
            "2020",
            {"DOI": "10.1/x", "PubMed": "5"},
        )


async def test_a_year_and_a_journal_that_nobody_knows_are_shown_as_not_known(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"paperId": 5, "title": "Mine"}) + "\n")
    with built(tmp_path, path) as corpus:
        said = await tool_server(Sources.offline(corpus)).call_tool("pubmed_search", {"query": "mine"})
    assert isinstance(said, CallToolResult) and isinstance(said.content[0], TextContent)
    assert "| Year: N/A | Journal: N/A" in render("pubmed_search", json.loads(said.content[0].text)).text


@pytest.mark.long
def test_a_build_killed_in_the_middle_goes_on_and_the_index_is_as_if_it_had_not_been(tmp_path: Path) -> None:
    files = [
        official(tmp_path, number, [article(number * 100_000 + n, f"Paper {n % 7}") for n in range(3 * BATCH)])
        for number in (1, 2)
    ]
    command = [sys.executable, "-m", "cli", "corpus", "build", str(tmp_path / "index"), *map(str, files)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if f"{2 * BATCH:,} entries" in line:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.stderr.close()
    assert process.wait() == -signal.SIGKILL
    seen: list[Progress] = []
    assert build_corpus(tmp_path / "index", files, seen.append).papers == 6 * BATCH
    assert seen[0].skipped >= 2 * BATCH
    with Corpus.open(tmp_path / "index") as corpus:
        assert corpus.search("paper 3[ti]")["total"] == 2 * len(range(3, 3 * BATCH, 7))
    seen.clear()
    build_corpus(tmp_path / "index", files, seen.append)
    assert [progress.skipped for progress in seen] == [3 * BATCH] * 2


def test_a_file_that_breaks_off_keeps_what_was_read_of_it_and_is_named(tmp_path: Path) -> None:
    path = official(tmp_path, 1, [article(n, os.urandom(30).hex()) for n in range(BATCH + 100)])
    path.write_bytes(path.read_bytes()[:-200])
    result = trajgraph("corpus", "build", tmp_path / "index", path)
    assert result.returncode == 2
    assert "pubmed26n0001.xml.gz" in result.stderr.splitlines()[-1]
    with Corpus.open(tmp_path / "index") as corpus:
        assert corpus.size() == BATCH


@pytest.mark.parametrize("line", ["{}", "[]", "x", '{"paperId": "W123", "title": "x"}'])
def test_a_line_that_is_no_paper_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(line)
    with pytest.raises(UsageError, match=r"mine\.jsonl: line 1: "):
        built(tmp_path, path)


def test_what_is_no_index_is_said(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not SQLite at all, whatever its length may be")
    with closing(sqlite3.connect(tmp_path / "other")) as other:
        other.executescript("CREATE TABLE t (x); PRAGMA user_version = 99;")
    for name in ("text", "other", "missing"):
        result = trajgraph("serve-tools", "--corpus", tmp_path / name)
        assert result.returncode == 2
        assert str(tmp_path / name) in result.stderr
    with pytest.raises(UsageError, match="not a corpus index of this version"):
        build_corpus(tmp_path / "other", [official(tmp_path, 1, [article(1)])], lambda _: None)


def test_two_files_of_one_name_in_two_folders_are_two_files(tmp_path: Path) -> None:
    files = []
    for number, folder in ((1, "a"), (2, "b")):
        (tmp_path / folder).mkdir()
        files.append(tmp_path / folder / "papers.jsonl")
        files[-1].write_text(json.dumps({"paperId": str(number), "title": f"Paper {number}"}) + "\n")
    with built(tmp_path, *files) as corpus:
        assert found(corpus, "paper") == ["1", "2"]
        assert corpus.unfinished() == []


def test_a_higher_version_stays_whatever_file_the_lower_one_comes_in(tmp_path: Path) -> None:
    newer = official(tmp_path, 1, [article(7, "The second version.", version=2)])
    older = official(tmp_path, 2, [article(7, "The first version.", version=1)])
    with built(tmp_path, newer, older) as corpus:
        paper = corpus.paper(7)
    assert paper
    assert paper["title"] == "The second version."


@pytest.mark.parametrize(
    "row",
    [
        {"authors": ["A B"]}, {"authors": "A B"}, {"publicationDate": 2019}, {"publicationDate": "May 2019"},
        {"externalIds": {"PMC": 123}}, {"mesh": [1]}, {"mesh": "Heart"}, {"abstract": 5},
    ],
)  # fmt: skip
def test_a_row_of_another_shape_is_named_by_its_line(tmp_path: Path, row: dict[str, Any]) -> None:
    path = tmp_path / "papers.jsonl"
    path.write_text(json.dumps({"paperId": "1", "title": "One", **row}) + "\n")
    with pytest.raises(UsageError, match=r"papers\.jsonl: line 1: "):
        built(tmp_path, path)


def test_no_name_and_no_heading_is_found_across_two_of_them(tmp_path: Path) -> None:
    row = {"paperId": "1", "title": "One", "mesh": ["Female", "Heart Failure"]}
    (tmp_path / "papers.jsonl").write_text(json.dumps({**row, "authors": [{"name": "Liu, Li"}, {"name": "Wang, Bo"}]}))
    with built(tmp_path, tmp_path / "papers.jsonl") as corpus:
        for query in ("Li Wang[au]", "female heart[mesh]", "Lin[au]"):
            assert found(corpus, query) == [], query
        for query in ("Liu[au]", "Wang B[au]", "heart failure[mesh]", "“heart failure”[mesh]", "one AND English[la]"):
            assert found(corpus, query) == ["1"], query


async def test_an_index_that_breaks_is_told_to_the_model_and_by_health(tmp_path: Path) -> None:
    built(tmp_path, official(tmp_path, 1, [article(n, f"Trial {n} of statins.") for n in range(1, 400)])).close()
    index = tmp_path / "index"
    content = bytearray(index.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    index.write_bytes(content)
    pubmed = CorpusPubMed(Corpus.open(index))
    with pytest.raises(ToolFailed, match="the corpus index cannot be read"):
        await pubmed.search("statins", 5, 0)
    assert "cannot be read" in str(await pubmed.problem())
    await pubmed.aclose()
