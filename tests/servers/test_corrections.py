"""A record that is given again: the later one stays, whatever the order and however often the build is killed."""

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import UsageError
from servers.tool_server.corpus import Corpus
from servers.tool_server.corpus_build import BATCH, Built, build_corpus
from tests.servers.test_corpus import article, official

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("CRASH_KILLS", "1"))


def record(pmid: int, title: str, version: int = 1, revised: str = "2020-01-01") -> str:
    year, month, day = revised.split("-")
    date = f"<DateRevised><Year>{year}</Year><Month>{month}</Month><Day>{day}</Day></DateRevised>"
    return re.sub("<DateRevised>.*?</DateRevised>", date, article(pmid, title, version))


def deletion(pmid: int, version: int | None = None) -> str:
    given = f' Version="{version}"' if version else ""
    return f"<DeleteCitation><PMID{given}>{pmid}</PMID></DeleteCitation>"


def rows(folder: Path, name: str, *papers: dict[str, Any]) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(paper) + "\n" for paper in papers))
    return path


def build(folder: Path, *files: Path) -> Built:
    return build_corpus(folder / "index", files, lambda _: None)


def titles(folder: Path) -> dict[int, str]:
    with Corpus.open(folder / "index") as corpus:
        found = {pmid: corpus.paper(pmid) for pmid in range(1, 10)}
        return {pmid: paper["title"] for pmid, paper in found.items() if paper}


def test_a_record_from_another_file_replaces_and_the_build_says_how_many(tmp_path: Path) -> None:
    nlm = official(tmp_path, 1, [record(1, "Wrong."), record(2, "Right."), record(3, "Gone.")])
    mine = rows(tmp_path, "mine", {"paperId": "1", "title": "Corrected."})
    assert build(tmp_path, nlm, mine) == Built(papers=3, replaced=1)
    later = official(
        tmp_path, 2, [record(1, "NLM's own correction.", revised="2021-01-01"), deletion(3, 1), deletion(2, 7)]
    )
    assert build(tmp_path, nlm, mine, later) == Built(papers=2, replaced=1, deleted=1)
    assert titles(tmp_path) == {1: "NLM's own correction.", 2: "Right."}


@pytest.mark.parametrize(("first", "second", "stays"), [
    ({}, {}, "second"), ({"version": 2}, {"version": 1}, "first"), ({"version": 1}, {"version": 2}, "second"),
    ({"revised": "2021-05-01"}, {"revised": "2020-05-01"}, "first"), ({"revised": "2020-05-01"}, {"revised": "2021"}, "second"),
    ({"version": 2, "revised": "2020-01-01"}, {"version": 1, "revised": "2024-01-01"}, "first"), ({"version": 3}, {}, "second"),
    ({"revised": "2021-05-01"}, {}, "second"),
])  # fmt: skip
def test_the_later_is_told_by_version_then_date_then_order(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], stays: str
) -> None:
    files = [
        rows(tmp_path, name, {"paperId": "1", "title": name, **given})
        for name, given in (("first", first), ("second", second))
    ]
    built = build(tmp_path, *files)
    assert titles(tmp_path) == {1: stays}
    assert (built.replaced, built.older) == ((1, 0) if stays == "second" else (0, 1))


def test_a_record_that_is_older_than_its_deletion_is_counted(tmp_path: Path) -> None:
    given = [record(1, "First.", revised="2024-05-05")], [deletion(1)], [record(1, "Older.", revised="2024-05-04")]
    files = [official(tmp_path, number, entries) for number, entries in enumerate(given, 1)]
    assert build(tmp_path, files[0], files[1], files[2].rename(tmp_path / "mine.xml.gz")) == Built(deleted=1, older=1)
    assert build(tmp_path, rows(tmp_path, "mine", {"paperId": "1", "title": "Mine."})) == Built(papers=1, replaced=1)


def test_a_name_like_pubmeds_is_no_file_of_pubmeds(tmp_path: Path) -> None:
    nlm = official(tmp_path, 9, [record(1, "NLM's.")])
    mine = official(tmp_path, 1, [record(1, "Mine.")]).rename(tmp_path / "my-pubmed25n0001.xml.gz")
    build(tmp_path, nlm, mine)
    assert titles(tmp_path) == {1: "Mine."}


@pytest.mark.parametrize("wrong", [
    "<PubmedArticle><MedlineCitation><PMID>abc</PMID><Article><ArticleTitle>T</ArticleTitle></Article></MedlineCitation></PubmedArticle>",
    deletion(1).replace(">1<", f">{'9' * 25}<"), record(1, "x").replace('"1">', f'"{"9" * 25}">'),
    {"paperId": "1", "title": "x\ud800"}, {"paperId": "1", "title": None}, {"paperId": "1", "title": "x", "version": -1},
    {"paperId": "1", "title": "x", "version": True}, {"paperId": "1", "title": ["x"]},
])  # fmt: skip
def test_a_record_that_cannot_be_kept_is_named(tmp_path: Path, wrong: str | dict[str, Any]) -> None:
    file = official(tmp_path, 1, [wrong]) if isinstance(wrong, str) else rows(tmp_path, "mine", wrong)
    with pytest.raises(UsageError, match=file.name):
        build(tmp_path, file)


def test_a_file_that_has_changed_under_its_name_is_refused(tmp_path: Path) -> None:
    build(tmp_path, rows(tmp_path, "mine", {"paperId": "1", "title": "One"}))
    with pytest.raises(UsageError, match="has changed since it was indexed"):
        build(tmp_path, rows(tmp_path, "mine", {"paperId": "1", "title": "Two"}))
    assert titles(tmp_path) == {1: "One"}


Given = tuple[int, int, bool]
"""PMID, version, and whether it is a deletion."""


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 3), st.integers(1, 2), st.booleans()), max_size=4), min_size=2, max_size=4
    ),
    st.data(),
)
def test_pubmeds_files_give_the_same_index_in_any_order_and_in_any_number_of_builds(
    entries: list[list[Given]], data: st.DataObject
) -> None:
    """What is expected of each version is what the last file says of it; shown is the highest that is not deleted."""
    said: dict[int, dict[int, str | None]] = {1: {}, 2: {}, 3: {}}
    for number, file in enumerate(entries, 1):
        for pmid, version, deleted in file:
            said[pmid][version] = None if deleted else f"File {number}."
    shown = {
        pmid: [versions[v] for v in sorted(versions, reverse=True) if versions[v]] for pmid, versions in said.items()
    }
    expected = {pmid: found[0] for pmid, found in shown.items() if found}
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = [
            official(folder, n, [deletion(pmid, version) if gone else record(pmid, f"File {n}.", version, f"2020-01-0{n}")
                                 for pmid, version, gone in file])
            for n, file in enumerate(entries, 1)
        ]  # fmt: skip
        shuffled = data.draw(st.permutations(files))
        cut = data.draw(st.integers(0, len(files)))
        for part in filter(None, (shuffled[:cut], shuffled[cut:])):
            build(folder, *part)
        assert titles(folder) == expected


def content(index: Path) -> list[tuple[Any, ...]]:
    """Every row, and every word in its place."""
    with closing(sqlite3.connect(index)) as connection:
        connection.execute("CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab('main', 'papers_fts', 'instance')")
        papers = connection.execute("SELECT * FROM papers ORDER BY pmid, version").fetchall()
        return papers + connection.execute("SELECT * FROM vocabulary ORDER BY term, doc, col, offset").fetchall()


def spread(numbers: Iterable[int], title: str) -> list[str]:
    return [record(n, f"{title} {n} of {n % 97} arms") for n in numbers]


@pytest.mark.long
def test_a_build_killed_at_any_instant_ends_in_the_same_index(tmp_path: Path) -> None:
    most = BATCH + BATCH // 4
    files = [
        official(tmp_path, 1, spread(range(1, most), "Trial")),
        official(tmp_path, 2, [*spread(range(1, most, 3), "Revised"), *(deletion(n, 1) for n in range(2, most, 5))]),
        rows(tmp_path, "mine", *({"paperId": str(n), "title": f"Mine {n}"} for n in range(1, most, 7))),
    ]
    begun = time.monotonic()
    build(tmp_path, *files)
    seconds = time.monotonic() - begun
    whole = content(tmp_path / "index")
    chance = random.Random(5)
    for kill in range(KILLS):
        index = tmp_path / f"killed{kill}"
        command = [sys.executable, "-m", "cli", "corpus", "build", str(index), *map(str, files)]
        for _ in range(2):
            process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
            assert process.stderr is not None
            process.stderr.readline()  # it has begun
            time.sleep(chance.uniform(0, seconds))
            os.kill(process.pid, signal.SIGKILL)
            process.stderr.close()
            process.wait()
        assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
        assert content(index) == whole
