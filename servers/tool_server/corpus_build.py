"""Building a corpus: PubMed's files, or JSONL, as a stream into one SQLite index; killed, it goes on from there."""

import contextlib
import gzip
import hashlib
import re
import sqlite3
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from backends.errors import UsageError
from servers.tool_server.corpus_format import (
    BUNDLED,
    COLUMNS,
    FORMAT,
    SCHEMA,
    SHOWN_PAPERS,
    deserialize,
    indexed_text,
    serialize,
)  # fmt: skip
from servers.tool_server.corpus_rows import read_rows
from servers.tool_server.pubmed_xml import Article, Deleted, read_articles

BATCH = 4000
"""Entries of a file that are written in one transaction; what a kill can cost."""
_OFFICIAL = re.compile(r"pubmed(\d\d)n(\d{4,5})\.xml(\.gz)?")
_PLACES = ", ".join("?" * (COLUMNS.count(",") + 2))
Entry = Article | Deleted
_FORGET = f"INSERT INTO papers_fts (papers_fts, rowid, {COLUMNS}) VALUES ('delete', {_PLACES})"  # noqa: S608
_INDEX = f"INSERT INTO papers_fts (rowid, {COLUMNS}) VALUES ({_PLACES})"  # noqa: S608


@dataclass(frozen=True)
class Record:
    """What a file says of one version of a paper: 0, "" and 0 stand for what it does not say."""

    version: int
    revised: str
    origin: int
    """The number of PubMed's file."""
    data: bytes | None
    """The article as it is stored; None when it is deleted."""


@dataclass
class Built:
    """What a build did: papers in the index now, and records of papers that it held or had deleted."""

    papers: int = 0
    replaced: int = 0
    deleted: int = 0
    older: int = 0
    """Records and deletions that were not applied: what the index holds is later."""


@dataclass(frozen=True)
class Progress:
    """Entries of one file that are in the index, after each batch; `skipped` were there from an earlier build."""

    file: Path
    entries: int
    skipped: int
    done: bool


def build_corpus(index: Path, files: Sequence[Path], on_progress: Callable[[Progress], None]) -> Built:
    """Add files to an index, which is made if it is not there.

    A paper that is given again is replaced by the later record: by version, then by the date of revision, then by the
    order given, in which PubMed's files take their places by their numbers. A file that is in the index is skipped, one
    that was begun goes on where it stopped. Raises UsageError for a file that cannot be read; what was read stays.
    """
    numbered = iter(sorted(filter(origin_of, files), key=lambda path: (origin_of(path), path.name)))
    ordered = [next(numbered) if origin_of(path) else path for path in files]
    built = Built()
    missing = [path for path in ordered if not path.is_file()]
    if missing:
        raise UsageError(f"{missing[0]}: no such file")
    if not index.parent.is_dir():
        raise UsageError(f"{index.parent}: no such folder")
    with contextlib.closing(_opened(index)) as connection:
        try:
            for path in ordered:
                _add_file(connection, path, built, on_progress)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            with contextlib.suppress(sqlite3.OperationalError):  # somebody is reading it
                connection.execute("PRAGMA journal_mode = DELETE")  # one file, to be read from read-only storage too
        except sqlite3.OperationalError as error:
            raise UsageError(
                f"{index} cannot be written ({error}); fix it and run the same command to resume"
            ) from error
        (built.papers,) = connection.execute(SHOWN_PAPERS).fetchone()
        return built


def bundled_index() -> bytes:
    """The bundled papers, indexed: what a connection in memory is made of."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(SCHEMA)
        with BUNDLED.open("rb") as lines:
            for entry in read_rows(lines):
                _apply(connection, entry, 0, Built())
        return connection.serialize()


def origin_of(path: Path) -> int:
    """The place of one of PubMed's files in their order (`pubmed26n0123.xml.gz` is 2600123); 0 for any other file."""
    match = _OFFICIAL.fullmatch(path.name)
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


def _add_file(
    connection: sqlite3.Connection, path: Path, built: Built, on_progress: Callable[[Progress], None]
) -> None:
    origin = origin_of(path)
    name = path.name if origin else str(path.resolve())  # PubMed's names say which file it is, others do not
    content = _content(path)
    known = connection.execute("SELECT content, articles, done FROM files WHERE name = ?", (name,)).fetchone()
    if known and known[0] != content:
        raise UsageError(f"{path} has changed since it was indexed: give what is new in a file of another name")
    skipped, done = (known[1], bool(known[2])) if known else (0, False)
    entries = skipped
    on_progress(Progress(path, entries, skipped, done))
    if done:
        return
    with contextlib.closing(_entries(path)) as stream:
        for _ in islice(stream, skipped):
            pass
        while not done:
            batch, counted = list(islice(stream, BATCH)), replace(built)
            connection.execute("BEGIN IMMEDIATE")
            try:
                now = connection.execute("SELECT articles FROM files WHERE name = ?", (name,)).fetchone()
                if (now[0] if now else 0) != entries:
                    raise UsageError("another build is writing the same index: let it finish")
                for number, entry in enumerate(batch, start=entries + 1):
                    try:
                        _apply(connection, entry, origin, counted)
                    except (ValueError, OverflowError) as error:
                        raise UsageError(f"{path}, entry {number}: {error}") from error
                entries += len(batch)
                done = len(batch) < BATCH
                connection.execute(
                    "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", (name, content, entries, int(done))
                )
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            built.replaced, built.deleted, built.older = counted.replaced, counted.deleted, counted.older
            on_progress(Progress(path, entries, skipped, done))


def _content(path: Path) -> str:
    """What tells a file's content from another's: its size where NLM vouches for it, else a digest too."""
    size = str(path.stat().st_size)
    if origin_of(path):
        return size
    with path.open("rb") as file:
        return f"{size}:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _apply(connection: sqlite3.Connection, entry: Entry, origin: int, built: Built) -> None:
    """Put an article in, or take deleted ones out, unless what the index holds is later."""
    if isinstance(entry, Article):
        record = Record(entry.version, entry.revised, origin, serialize(entry))
        change = _put(connection, int(entry.paper["paperId"]), record)
        is_shown = change.after == record.data
        built.replaced += change.known and is_shown
        built.older += not is_shown
        return
    for pmid, version in entry.citations:
        change = _put(connection, pmid, Record(version, "", origin, None))
        built.deleted += change.before != change.after
        built.older += not change.applied


@dataclass(frozen=True)
class _Change:
    """What became of a record: whether the paper was known and the record the later one, and what was shown and is."""

    known: bool
    applied: bool
    before: bytes | None
    after: bytes | None


def _put(connection: sqlite3.Connection, pmid: int, new: Record) -> _Change:
    """Keep a record of one version of a paper, if it is the later; what is shown is the highest version that is not
    deleted.
    """
    held = [Record(*row) for row in connection.execute(
        "SELECT version, revised, origin, data FROM papers WHERE pmid = ? ORDER BY version DESC", (pmid,)
    )]  # fmt: skip
    latest = [each for each in held if each.data][:1] or held[:1]
    meant = latest if new.data else held  # by what does not say its version
    versions = [new.version] if new.version or not held else [each.version for each in meant]
    kept = {each.version or new.version: each for each in held}
    applied = False
    for version in versions:
        its = kept.get(version)
        if its is None or _is_later(new, its):
            applied = True
            kept[version] = replace(new, version=version, revised=new.revised or (its.revised if its else ""))
    if held:
        connection.execute("DELETE FROM papers WHERE pmid = ?", (pmid,))
    rows = [(pmid, version, each.revised, each.origin, each.data) for version, each in kept.items()]
    connection.executemany("INSERT INTO papers VALUES (?, ?, ?, ?, ?)", rows)
    before, after = _shown(held), _shown([kept[version] for version in sorted(kept, reverse=True)])
    if before != after:
        if before:  # an index without text of its own is told what to forget
            words = indexed_text(deserialize(before))
            connection.execute(_FORGET, (pmid, *words))
        if after:
            connection.execute(_INDEX, (pmid, *indexed_text(deserialize(after))))
    return _Change(bool(held), applied, before, after)


def _shown(records: list[Record]) -> bytes | None:
    return next((each.data for each in records if each.data is not None), None)


def _is_later(new: Record, held: Record) -> bool:
    """What one of the two does not say decides nothing; of two that are alike, the one given now is the later."""
    precise = min(len(new.revised), len(held.revised))  # 2024 is not before 2024-05
    pairs: list[tuple[Any, Any]] = [(new.revised[:precise], held.revised[:precise]), (new.origin, held.origin)]
    if new.data is None or held.data is None:
        pairs.reverse()  # a deletion has no date of its own: its file says when it was
    return next((bool(mine > its) for mine, its in pairs if mine and its and mine != its), True)


def _entries(path: Path) -> Generator[Entry]:
    jsonl = path.name.removesuffix(".gz").endswith((".jsonl", ".json"))
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as stream:
            yield from read_rows(stream) if jsonl else read_articles(stream)  # type: ignore[arg-type]
    except (ValueError, EOFError, OSError, RecursionError) as error:
        raise UsageError(f"{path}: {error or 'it ends too early'}") from error
