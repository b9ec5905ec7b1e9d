"""How an index is laid out: its tables, how an article is stored, and the words under which it is found."""

import json
import re
import zlib
from pathlib import Path

from servers.tool_server.corpus_query import fact_tokens
from servers.tool_server.pubmed_xml import Article

FORMAT = 2
BETWEEN = " xqx "
"""Stands between names, and between headings, so that no phrase reaches from one into the next."""
BUNDLED = Path(__file__).with_name("papers.jsonl")
SCHEMA = f"""
CREATE TABLE papers (pmid INTEGER PRIMARY KEY, origin INTEGER NOT NULL, version INTEGER NOT NULL, data BLOB);
CREATE TABLE files (name TEXT PRIMARY KEY, size INTEGER NOT NULL, articles INTEGER NOT NULL, done INTEGER NOT NULL);
CREATE VIRTUAL TABLE papers_fts USING
    fts5(title, abstract, mesh, authors, journal, facts, content='', tokenize='porter unicode61 remove_diacritics 2');
PRAGMA user_version = {FORMAT};
"""
"""`data` is NULL for a deleted paper, which an older file must not bring back. The text index keeps no text itself."""


def serialize(article: Article) -> bytes:
    """An article as it is stored."""
    return zlib.compress(json.dumps([article.paper, article.mesh], ensure_ascii=False).encode(), 1)


def deserialize(data: bytes) -> Article:
    """A stored article."""
    paper, mesh = json.loads(zlib.decompress(data))
    return Article(paper, tuple(mesh))


def indexed_text(article: Article) -> tuple[str, ...]:
    """What the text index holds of an article, column by column; authors also with initials: `McMurray JJV`."""
    paper = article.paper
    names = [name for author in paper["authors"] for name in _spellings(str(author.get("name", "")))]
    facts = fact_tokens(
        paper["paperId"], paper["publicationDate"] or paper["year"], paper["externalIds"].get("PMC", "")
    )
    return (
        paper["title"], paper["abstract"], BETWEEN.join(article.mesh), BETWEEN.join(names), paper["venue"] or "", facts
    )  # fmt: skip


def _spellings(name: str) -> tuple[str, ...]:
    last, comma, first = name.partition(", ")
    initials = "".join(part[0] for part in re.findall(r"\w+", first))
    return (name, f"{last} {initials}") if comma and len(first) > len(initials) else (name,)
