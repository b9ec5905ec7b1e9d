"""Papers from JSONL: a user's own, and the bundled ones."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any

from servers.tool_server.pubmed_xml import Article, Paper, paper_address

_TEXT = (str, type(None))
_SHAPES: dict[str, tuple[type, ...]] = {
    "title": (str,),
    "authors": (list, type(None)), "mesh": (list, type(None)), "journals": (list, type(None)),
    "externalIds": (dict, type(None)), "abstract": _TEXT,
    "venue": _TEXT, "publicationDate": _TEXT, "doi": _TEXT, "year": (str, int, type(None)),
    "citationCount": (int, type(None)), "version": (int, type(None)), "revised": _TEXT,
}  # fmt: skip
_DATE = re.compile(r"\d{4}(-\d{2}){0,2}")


def read_rows(lines: IO[bytes] | Iterable[bytes]) -> Iterator[Article]:
    """Papers in the result's shape, one a line; only `paperId` and `title` must be there. Beside them may stand `doi`,
    `mesh`, `journals` (abbreviations of the venue), and `version` and `revised` (a date), which tell a later record.
    Raises ValueError for a line that is none.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row: dict[str, Any] = json.loads(line)
            identity, title = str(row["paperId"]), row["title"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"line {number}: not a paper with paperId and title") from error
        if wrong := _misshapen(row):
            raise ValueError(f"line {number}: {wrong}")
        if not (identity.isascii() and identity.isdigit() and len(identity) < 10):
            raise ValueError(f"line {number}: paperId {identity[:40]!r} is not a PMID")
        ids = {**(row.get("externalIds") or {}), **({"DOI": row["doi"]} if row.get("doi") else {}), "PubMed": identity}
        year = str(row["year"]) if row.get("year") else None
        paper = Paper(
            paperId=identity, url=paper_address(identity), externalIds=ids, title=title,
            authors=row.get("authors") or [], abstract=row.get("abstract") or "", year=year, venue=row.get("venue"),
            publicationDate=row.get("publicationDate"), citationCount=row.get("citationCount"),
        )  # fmt: skip
        yield Article(
            paper, tuple(row.get("mesh") or ()), row.get("version") or 0, row.get("revised") or "",
            tuple(row.get("journals") or ()),
        )  # fmt: skip


def _misshapen(row: dict[str, Any]) -> str | None:
    """What is not in the result's shape."""
    for name, kinds in _SHAPES.items():
        if not isinstance(row.get(name), kinds) or isinstance(row.get(name), bool):
            return f"{name} is not {kinds[0].__name__}"
    if not 0 <= (row.get("version") or 0) < 1000:
        return "version is not from 1 to 999"
    if not all(isinstance(author, dict) and isinstance(author.get("name"), str) for author in row.get("authors") or []):
        return 'authors are not [{"name": …}]'
    texts = [*(row.get("mesh") or []), *(row.get("journals") or []), *(row.get("externalIds") or {}).values()]
    if not all(isinstance(text, str) for text in texts):
        return "mesh, journals and externalIds hold other things than texts"
    for name in ("publicationDate", "revised"):
        if row.get(name) and not _DATE.fullmatch(row[name]):
            return f"{name} is not YYYY-MM-DD"
    return None
