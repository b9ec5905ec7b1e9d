"""A corpus of papers in one SQLite file: searched with BM25, answering in the shape of the real pubmed_search."""

import re
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backends.errors import UsageError
from servers.tool_server.corpus_format import FORMAT, SHOWN_PAPERS, deserialize
from servers.tool_server.corpus_query import read_query
from servers.tool_server.pubmed_xml import Paper

_RANK = "bm25(papers_fts, 4.0, 1.0, 2.0, 4.0, 1.0, 2.0, 0.0)"
_MAX_PAGE = 100
_NCBI = r"(?i)^https?://(?:www\.)?"
_ADDRESS = re.compile(_NCBI + r"(?:pubmed\.ncbi\.nlm\.nih\.gov|ncbi\.nlm\.nih\.gov/pubmed)/(\d+)/?(?:[?#].*)?$")
_PMC_ADDRESS = re.compile(_NCBI + r"(?:pmc\.ncbi\.nlm\.nih\.gov|ncbi\.nlm\.nih\.gov/pmc)/articles/(PMC\d+)\b")
_SHOWN = "SELECT data FROM papers WHERE pmid = ? AND data IS NOT NULL ORDER BY version DESC LIMIT 1"


class Corpus:
    """An index made by `trajgraph corpus build`. Each search has a connection to itself while it lasts: threads that
    share one share its statements, and read each other's rows. Close it, or leave it as a context.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._idle: deque[sqlite3.Connection] = deque()

    @classmethod
    def open(cls, path: Path) -> "Corpus":
        """An index on disk, read only. Raises UsageError when there is none."""
        address = f"{path.resolve().as_uri()}?mode=ro"
        corpus = cls(lambda: sqlite3.connect(address, uri=True, check_same_thread=False))
        try:
            with corpus._connection() as index:
                found = index.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.Error as error:
            raise UsageError(f"{path} is no corpus index ({error}): make one with trajgraph corpus build") from error
        if found != FORMAT:
            corpus.close()
            raise UsageError(
                f"{path} is not a corpus index of this version: build it again with trajgraph corpus build"
            )
        return corpus

    @classmethod
    def bundled(cls) -> "Corpus":
        """The landmark papers that ship with the project, indexed in memory."""
        from servers.tool_server.corpus_build import bundled_index

        content = bundled_index()

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(":memory:", check_same_thread=False)
            connection.deserialize(content)
            return connection

        return cls(connect)

    def close(self) -> None:
        """Close the connections; those of searches that have not ended are closed by them."""
        self._connect = _closed
        while self._idle:
            self._idle.pop().close()

    def __enter__(self) -> "Corpus":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection that nobody else has meanwhile."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        try:
            yield connection
        except BaseException:
            connection.close()  # whatever is wrong with it is no other search's
            raise
        if self._connect is _closed:
            connection.close()
        else:
            self._idle.append(connection)

    def unfinished(self) -> list[str]:
        """Files of which a part is missing: their build was not ended."""
        with self._connection() as index:
            return [row[0] for row in index.execute("SELECT name FROM files WHERE NOT done ORDER BY name")]

    def size(self) -> int:
        """How many papers it holds. Raises sqlite3.Error when the file is gone or broken."""
        with self._connection() as index:
            return int(index.execute(SHOWN_PAPERS).fetchone()[0])

    def answers(self) -> bool:
        """Whether the index can be read now."""
        try:
            with self._connection() as index:
                return _holds(index, 'facts : "_every"')
        except sqlite3.Error:
            return False

    def search(self, query: str, limit: int = 10, offset: int = 0) -> dict[str, Any]:
        """Papers that the query matches, best first, then by PMID: `{total, offset, next, data: [Paper…]}`, and
        `notices` of what was not searched as it was written.

        Plain words that no paper holds all of are matched by any two of them.
        """
        limit, offset = max(0, min(limit, _MAX_PAGE)), max(0, offset)
        with self._connection() as index:
            asked = read_query(query, lambda term: _holds(index, term))
            notices = list(asked.notices)
            total, pmids = _matching(index, asked.match, limit, offset)
            if not total and asked.relaxed:
                total, pmids = _matching(index, asked.relaxed, limit, offset)
                these = "these have two of them" if total else "nor two of them"
                notices.append(f"no paper has all of these words or names: {these}")
            data = [paper for pmid in pmids if (paper := _paper(index, pmid))]
        found = {"total": total, "offset": offset, "next": offset + len(data), "data": data}
        return {**found, "notices": notices} if notices else found

    def paper(self, pmid: int) -> Paper | None:
        """One paper."""
        with self._connection() as index:
            return _paper(index, pmid)

    def paper_at(self, url: str) -> Paper | None:
        """The paper that a PubMed or PMC address shows."""
        if pmid := pmid_of(url):
            return self.paper(int(pmid))
        if not (pmc := pmc_of(url)):
            return None
        with self._connection() as index:
            _, found = _matching(index, f'facts : "_{pmc.lower()}"', 1, 0)
            return _paper(index, found[0]) if found else None


def _closed() -> sqlite3.Connection:
    raise sqlite3.ProgrammingError("the corpus is closed")


def _paper(index: sqlite3.Connection, pmid: int) -> Paper | None:
    row = index.execute(_SHOWN, (pmid,)).fetchone()
    return deserialize(row[0]).paper if row else None


def _holds(index: sqlite3.Connection, match: str) -> bool:
    return index.execute("SELECT 1 FROM papers_fts WHERE papers_fts MATCH ? LIMIT 1", (match,)).fetchone() is not None


def _matching(index: sqlite3.Connection, match: str, limit: int, offset: int) -> tuple[int, list[int]]:
    if not match:
        return 0, []
    (total,) = index.execute("SELECT count(*) FROM papers_fts WHERE papers_fts MATCH ?", (match,)).fetchone()
    rows = index.execute(
        f"SELECT rowid FROM papers_fts WHERE papers_fts MATCH ? ORDER BY {_RANK}, rowid LIMIT ? OFFSET ?",  # noqa: S608
        (match, limit, offset),
    )
    return total, [row[0] for row in rows]


def pmid_of(url: str) -> str | None:
    """The PMID in a PubMed address."""
    match = _ADDRESS.match(url.strip())
    return match[1] if match and len(match[1]) < 10 else None


def pmc_of(url: str) -> str | None:
    """The `PMC…` number in a PubMed Central address."""
    match = _PMC_ADDRESS.match(url.strip())
    return match[1].upper() if match and len(match[1]) < 15 else None


def paper_page(paper: Paper) -> str:
    """A paper as the Markdown of a page."""
    ids = paper["externalIds"]
    known = [f"PMID: {paper['paperId']}", *(f"{name}: {ids[name]}" for name in ("PMC", "DOI") if name in ids)]
    published = ", ".join(filter(None, [f"*{paper['venue']}*" if paper["venue"] else "", paper["year"]]))
    authors = ", ".join(author["name"] for author in paper["authors"])
    head = "\n\n".join(filter(None, [f"# {paper['title']}", authors, ". ".join(filter(None, [published, *known]))]))
    return f"{head}\n\n## Abstract\n\n{paper['abstract'] or 'No abstract'}\n"
