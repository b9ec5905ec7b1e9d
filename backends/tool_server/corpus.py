"""A corpus of papers in SQLite FTS5, searched with BM25, answering in the shape of the real pubmed_search."""

import json
import re
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

BUNDLED = Path(__file__).with_name("papers.jsonl")
_WORD = re.compile(r"\w+", re.UNICODE)
_ADDRESS = re.compile(
    r"^https?://(?:www\.)?(?:pubmed\.ncbi\.nlm\.nih\.gov/|ncbi\.nlm\.nih\.gov/pubmed/)(\d+)/?(?:[?#].*)?$"
)
_IGNORED = frozenset(
    "a an and are as at by do does for from how in is it of on or than that the to vs versus what which with".split()
)


class Corpus:
    """Papers as rows of `papers.jsonl`: paperId, title, authors (the first three), year, venue, doi, abstract."""

    def __init__(self, papers: Iterable[dict[str, Any]]) -> None:
        self._papers = {str(paper["paperId"]): paper for paper in papers}
        self._index = sqlite3.connect(":memory:", check_same_thread=False)
        self._index.execute("CREATE VIRTUAL TABLE papers USING fts5(id, title, abstract, tokenize='porter unicode61')")
        self._index.executemany(
            "INSERT INTO papers VALUES (?, ?, ?)",
            [(identity, paper["title"], paper["abstract"]) for identity, paper in self._papers.items()],
        )

    @classmethod
    def bundled(cls) -> "Corpus":
        """The landmark papers that ship with the project."""
        with BUNDLED.open(encoding="utf-8") as lines:
            return cls(map(json.loads, lines))

    def search(self, query: str, limit: int = 10, offset: int = 0) -> dict[str, Any]:
        """Papers that hold every word of the query, best first: `{total, offset, next, data: [paper…]}`.

        A PMID among the words finds that paper; a query that no paper matches whole is matched by any two words.
        """
        words = list(dict.fromkeys(w for w in _WORD.findall(query.lower()) if w not in _IGNORED))[:16]
        found = [word for word in words if word in self._papers]
        found += [i for i in self._matching([f'"{word}"' for word in words], " AND ") if i not in found]
        if not found and len(words) > 2:
            pairs = [f'("{a}" AND "{b}")' for n, a in enumerate(words) for b in words[n + 1 :]]
            found = self._matching(pairs, " OR ")
        limit, offset = max(0, min(limit, 100)), max(0, offset)
        page = found[offset : offset + limit]
        return {
            "total": len(found),
            "offset": offset,
            "next": offset + len(page),
            "data": [self._shaped(self._papers[identity]) for identity in page],
        }

    def page(self, url: str) -> dict[str, Any]:
        """A PubMed address as `{url, success, markdown}`; any other address as `{url, success: false, error}`."""
        match = _ADDRESS.match(url.strip())
        paper = self._papers.get(match[1]) if match else None
        if paper is None:
            where = "this paper is not in the offline corpus" if match else "only PubMed pages can be opened offline"
            return {"url": url, "success": False, "error": f"cannot open {url}: {where}"}
        authors = ", ".join(author["name"] for author in paper["authors"])
        markdown = (
            f"# {paper['title']}\n\n{authors}\n\n*{paper['venue']}*, {paper['year']}. PMID: {paper['paperId']}"
            f"{'. DOI: ' + paper['doi'] if paper.get('doi') else ''}\n\n## Summary\n\n{paper['abstract']}\n"
        )
        return {"url": url, "success": True, "markdown": markdown}

    def links(self, query: str, limit: int = 10) -> dict[str, Any]:
        """Web search over the corpus: `{organic: [{title, link, snippet, position}…]}`."""
        found = self.search(query, limit)["data"]
        return {
            "searchParameters": {"q": query, "num": limit},
            "organic": [
                {"title": paper["title"], "link": paper["url"], "snippet": paper["abstract"][:200], "position": place}
                for place, paper in enumerate(found, start=1)
            ],
        }

    def _matching(self, terms: list[str], operator: str) -> list[str]:
        if not terms:
            return []
        rows = self._index.execute(
            "SELECT id FROM papers WHERE papers MATCH ? ORDER BY bm25(papers, 0, 4, 1), id",
            (f"{{title abstract}}: ({operator.join(terms)})",),
        )
        return [row[0] for row in rows]

    @staticmethod
    def _shaped(paper: dict[str, Any]) -> dict[str, Any]:
        identity = paper["paperId"]
        return {
            "paperId": identity,
            "url": f"https://pubmed.ncbi.nlm.nih.gov/{identity}/",
            "externalIds": {"PubMed": identity, **({"DOI": paper["doi"]} if paper.get("doi") else {})},
            "title": paper["title"],
            "authors": paper["authors"],
            "abstract": paper["abstract"],
            "year": paper["year"],
            "venue": paper["venue"],
            "publicationDate": None,
            "citationCount": None,
        }
