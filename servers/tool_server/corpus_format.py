"""How an index is laid out: its tables, how an article is stored, and the words under which it is found."""

import json
import zlib
from pathlib import Path

from servers.tool_server.corpus_people import people
from servers.tool_server.corpus_words import date_tokens, doi_token, journal_names, stems, whole, words
from servers.tool_server.pubmed_xml import Article

FORMAT = 5
BETWEEN = " xqx "
"""Stands between headings, so that no phrase reaches from one into the next."""
BUNDLED = Path(__file__).with_name("papers.jsonl")
COLUMNS = "title, abstract, mesh, title_stems, abstract_stems, mesh_stems, facts"
SCHEMA = f"""
CREATE TABLE papers (pmid INTEGER NOT NULL, version INTEGER NOT NULL, revised TEXT NOT NULL, origin INTEGER NOT NULL,
    data BLOB, PRIMARY KEY (pmid, version));
CREATE TABLE files (name TEXT PRIMARY KEY, content TEXT NOT NULL, articles INTEGER NOT NULL, done INTEGER NOT NULL);
CREATE VIRTUAL TABLE papers_fts USING fts5({COLUMNS}, content='', tokenize="ascii tokenchars '_'");
PRAGMA user_version = {FORMAT};
"""
"""`data` is NULL for a deleted version, which an older file must not bring back; shown is the highest that is not
deleted. The text index keeps no text itself: words as they stand serve prefixes, quotes and tags, stems plain words.
"""

SHOWN_PAPERS = "SELECT count(DISTINCT pmid) FROM papers WHERE data IS NOT NULL"


def serialize(article: Article) -> bytes:
    """An article as it is stored."""
    stored = [article.paper, article.mesh, article.journals]
    return zlib.compress(json.dumps(stored, ensure_ascii=False).encode(), 1)


def deserialize(data: bytes) -> Article:
    """A stored article."""
    paper, mesh, journals = json.loads(zlib.decompress(data))
    return Article(paper, tuple(mesh), journals=tuple(journals))


def indexed_text(article: Article) -> tuple[str, ...]:
    """What the text index holds of an article, column by column."""
    paper = article.paper
    title, abstract = words(paper["title"]), words(paper["abstract"])
    headings = [words(heading) for heading in article.mesh]
    texts = (title, abstract)
    plain = [" ".join(text) for text in texts] + [BETWEEN.join(map(" ".join, headings))]
    stemmed = [" ".join(stems(text)) for text in texts] + [BETWEEN.join(" ".join(stems(text)) for text in headings)]
    return (*plain, *stemmed, " ".join(_facts(article, headings)))


def _facts(article: Article, headings: list[list[str]]) -> list[str]:
    """One token for each thing that is searched as a whole."""
    paper, ids = article.paper, article.paper["externalIds"]
    date = paper["publicationDate"] or paper["year"]
    return list(dict.fromkeys([
        "_every", f"_p{paper['paperId']}", *(["_abstract"] if paper["abstract"] else []),
        *([f"_{ids['PMC'].lower()}"] if ids.get("PMC") else []), *([doi_token(ids["DOI"])] if ids.get("DOI") else []),
        *(date_tokens(date) if date else []), *(whole("h", heading) for heading in headings),
        *people([str(author.get("name", "")) for author in paper["authors"]]),
        *journal_names(filter(None, (paper["venue"], *article.journals))),
    ]))  # fmt: skip
