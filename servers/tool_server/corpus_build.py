"""Building a corpus: PubMed's files, or JSONL, as a stream into one SQLite index; killed, it goes on from there."""

import contextlib
import gzip
import json
import re
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from backends.errors import UsageError
from servers.tool_server.corpus_format import BUNDLED, COLUMNS, FORMAT, SCHEMA, deserialize, indexed_text, serialize
from servers.tool_server.pubmed_xml import Article, Deleted, Paper, paper_address, read_articles

BATCH = 4000
"""Entries of a file that are written in one transaction; what a kill can cost."""
_OFFICIAL = re.compile(r"pubmed(\d\d)n(\d{4,5})\.xml(\.gz)?$")
_PLACES = ", ".join("?" * (COLUMNS.count(",") + 2))
Entry = Article | Deleted


@dataclass(frozen=True)
class Progress:
    """Entries of one file that are in the index, after each batch; `skipped` were there from an earlier build."""

    file: Path
    entries: int
    skipped: int
    done: bool


def build_corpus(index: Path, files: Iterable[Path], on_progress: Callable[[Progress], None]) -> int:
    """Add files to an index, which is made if it is not there; returns how many papers it holds.

    PubMed's files are applied in the order of their numbers, whatever the order given: a later one revises and deletes.
    A file that is in the index is skipped, one that was begun goes on where it stopped. Raises UsageError for a file
    that cannot be read; the batches before it stay.
    """
    ordered = sorted(files, key=lambda path: (origin_of(path), path.name))
    missing = [path for path in ordered if not path.is_file()]
    if missing:
        raise UsageError(f"{missing[0]}: no such file")
    if not index.parent.is_dir():
        raise UsageError(f"{index.parent}: no such folder")
    with contextlib.closing(_opened(index)) as connection:
        try:
            for path in ordered:
                _add_file(connection, path, on_progress)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            with contextlib.suppress(sqlite3.OperationalError):  # somebody is reading it
                connection.execute("PRAGMA journal_mode = DELETE")  # one file, to be read from read-only storage too
        except sqlite3.OperationalError as error:
            raise UsageError(
                f"{index} cannot be written ({error}); fix it and run the same command to resume"
            ) from error
        return int(connection.execute("SELECT count(*) FROM papers WHERE data IS NOT NULL").fetchone()[0])


def bundled_index() -> bytes:
    """The bundled papers, indexed: what a connection in memory is made of."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(SCHEMA)
        with BUNDLED.open("rb") as lines:
            for entry in _from_jsonl(lines):
                _apply(connection, entry, origin=0)
        return connection.serialize()


def origin_of(path: Path) -> int:
    """The place of one of PubMed's files in their order (`pubmed26n0123.xml.gz` is 2600123); 0 for any other file."""
    match = _OFFICIAL.search(path.name)
    return int(match[1]) * 100_000 + int(match[2]) if match else 0


def _opened(index: Path) -> sqlite3.Connection:
    with contextlib.ExitStack() as on_error:
        try:
            connection = sqlite3.connect(index, isolation_level=None, timeout=10)
            on_error.callback(connection.close)
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if not version and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
            elif version != FORMAT:
                raise UsageError(f"{index} is not a corpus index of this version: delete it, or give another name")
        except sqlite3.DatabaseError as error:
            raise UsageError(f"{index} cannot be used as an index ({error})") from error
        connection.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -65536; "
            "INSERT INTO papers_fts (papers_fts, rank) VALUES ('hashsize', 67108864);"
        )
        on_error.pop_all()
    return connection


def _add_file(connection: sqlite3.Connection, path: Path, on_progress: Callable[[Progress], None]) -> None:
    size, origin = path.stat().st_size, origin_of(path)
    name = path.name if origin else str(path.resolve())  # PubMed's names say which file it is, others do not
    known = connection.execute("SELECT size, articles, done FROM files WHERE name = ?", (name,)).fetchone()
    if known and known[0] != size:
        raise UsageError(f"{path} is not the {path.name} that was indexed before ({known[0]:,} bytes, now {size:,})")
    skipped, done = (known[1], bool(known[2])) if known else (0, False)
    entries = skipped
    on_progress(Progress(path, entries, skipped, done))
    if done:
        return
    with contextlib.closing(_entries(path)) as stream:
        for _ in islice(stream, skipped):
            pass
        while not done:
            batch = list(islice(stream, BATCH))
            connection.execute("BEGIN IMMEDIATE")
            try:
                now = connection.execute("SELECT articles FROM files WHERE name = ?", (name,)).fetchone()
                if (now[0] if now else 0) != entries:
                    raise UsageError("another build is writing the same index: let it finish")
                for entry in batch:
                    _apply(connection, entry, origin)
                entries += len(batch)
                done = len(batch) < BATCH
                connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", (name, size, entries, int(done)))
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            on_progress(Progress(path, entries, skipped, done))


def _apply(connection: sqlite3.Connection, entry: Entry, origin: int) -> None:
    """Put an article in, or take deleted ones out, unless what the index holds is newer."""
    if isinstance(entry, Deleted):
        for pmid in entry.pmids:
            _replace(connection, int(pmid), origin, 0, None)
        return
    _replace(connection, int(entry.paper["paperId"]), origin, entry.version, entry)


def _replace(connection: sqlite3.Connection, pmid: int, origin: int, version: int, article: Article | None) -> None:
    old = connection.execute("SELECT origin, version, data FROM papers WHERE pmid = ?", (pmid,)).fetchone()
    if old and _is_older(origin, version if article and old[2] else None, old):
        return
    if old and old[2]:  # an index without text of its own is told what to forget
        connection.execute(
            f"INSERT INTO papers_fts (papers_fts, rowid, {COLUMNS}) VALUES ('delete', {_PLACES})",  # noqa: S608
            (pmid, *indexed_text(deserialize(old[2]))),
        )
    data = serialize(article) if article else None
    connection.execute("INSERT OR REPLACE INTO papers VALUES (?, ?, ?, ?)", (pmid, origin, version, data))
    if article:
        connection.execute(
            f"INSERT INTO papers_fts (rowid, {COLUMNS}) VALUES ({_PLACES})",  # noqa: S608
            (pmid, *indexed_text(article)),
        )


def _is_older(origin: int, version: int | None, old: tuple[int, int, Any]) -> bool:
    """A higher version is newer, whatever file it stands in; a deletion has none, and goes by the file alone."""
    return origin < old[0] if version is None else (version, origin) < (old[1], old[0])


def _entries(path: Path) -> Generator[Entry]:
    jsonl = path.name.removesuffix(".gz").endswith((".jsonl", ".json"))
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as stream:
            yield from _from_jsonl(stream) if jsonl else read_articles(stream)  # type: ignore[arg-type]
    except (ValueError, EOFError, OSError) as error:
        raise UsageError(f"{path}: {error or 'it ends too early'}") from error


def _from_jsonl(lines: IO[bytes] | Iterable[bytes]) -> Iterator[Article]:
    """Papers in the result's shape, one a line, `mesh` and `doi` beside; only `paperId` and `title` must be there."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row: dict[str, Any] = json.loads(line)
            identity, title = str(row["paperId"]), str(row["title"])
        except (ValueError, TypeError, KeyError) as error:
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
        yield Article(paper, tuple(row.get("mesh") or ()))


_TEXT = (str, type(None))
_SHAPES: dict[str, tuple[type, ...]] = {
    "authors": (list, type(None)), "mesh": (list, type(None)), "externalIds": (dict, type(None)), "abstract": _TEXT,
    "venue": _TEXT, "publicationDate": _TEXT, "doi": _TEXT, "year": (str, int, type(None)),
    "citationCount": (int, type(None)),
}  # fmt: skip
_DATE = re.compile(r"\d{4}(-\d{2}){0,2}")


def _misshapen(row: dict[str, Any]) -> str | None:
    """What is not in the result's shape."""
    for name, kinds in _SHAPES.items():
        if not isinstance(row.get(name), kinds):
            return f"{name} is not {kinds[0].__name__}"
    if not all(isinstance(author, dict) and isinstance(author.get("name"), str) for author in row.get("authors") or []):
        return 'authors are not [{"name": …}]'
    if not all(isinstance(text, str) for text in [*(row.get("mesh") or []), *(row.get("externalIds") or {}).values()]):
        return "mesh and externalIds hold other things than texts"
    if row.get("publicationDate") and not _DATE.fullmatch(row["publicationDate"]):
        return "publicationDate is not YYYY-MM-DD"
    return None
