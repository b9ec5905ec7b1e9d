"""Checkpoints of several processes: each has a file of its own while they are at work, all lie in one between runs."""

import contextlib
import logging
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

log = logging.getLogger("trajgraph")
_COLUMNS = {
    "checkpoints": "thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata",
    "writes": "thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, value",
}


def gather(target: Path, sources: list[Path]) -> None:
    """Move every thread of `sources` into `target` and remove them. Killed half-way, the same again moves the rest. A
    damaged one is set aside: its questions start again.
    """
    for source in sources:
        try:
            with _both(target, source) as connection:
                known = {row[0] for row in connection.execute("SELECT name FROM other.sqlite_master")}
                if known >= _COLUMNS.keys():
                    _copy(connection, "other", "main", "SELECT DISTINCT thread_id FROM other.checkpoints")
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # a full disk, say: the file itself is sound
                raise
            aside = source.rename(source.with_suffix(".damaged"))
            log.warning("%s cannot be read (%s): set aside as %s, its questions start again", source, error, aside.name)
            continue
        for path in (source, *source.parent.glob(f"{source.name}-*")):
            path.unlink()


def distribute(source: Path, targets: Mapping[Path, set[str]]) -> None:
    """Move the threads that each of `targets` is to have out of `source`."""
    for target, threads in targets.items():
        with _both(source, target) as connection:
            connection.execute("CREATE TEMP TABLE wanted (thread_id TEXT)")
            connection.executemany("INSERT INTO wanted VALUES (?)", [(thread,) for thread in threads])
            _copy(connection, "main", "other", "SELECT thread_id FROM wanted")
            with connection:
                for table in _COLUMNS:
                    connection.execute(f"DELETE FROM main.{table} WHERE thread_id IN (SELECT thread_id FROM wanted)")  # noqa: S608


def threads_in(path: Path) -> set[str]:
    """The threads that have a checkpoint in a file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute("SELECT DISTINCT thread_id FROM checkpoints")}


@contextlib.contextmanager
def _both(main: Path, other: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(main, timeout=60)) as connection:
        connection.execute("ATTACH ? AS other", (str(other),))
        yield connection


def _copy(connection: sqlite3.Connection, source: str, target: str, threads: str) -> None:
    """In one transaction: what the target has of these threads is replaced."""
    tables = connection.execute(f"SELECT sql FROM {source}.sqlite_master WHERE type = 'table'").fetchall()  # noqa: S608
    with connection:
        for (statement,) in tables:
            connection.execute(statement.replace("CREATE TABLE ", f"CREATE TABLE IF NOT EXISTS {target}.", 1))
        for table, columns in _COLUMNS.items():
            connection.execute(f"DELETE FROM {target}.{table} WHERE thread_id IN ({threads})")  # noqa: S608
            connection.execute(
                f"INSERT INTO {target}.{table} ({columns}) "  # noqa: S608
                f"SELECT {columns} FROM {source}.{table} WHERE thread_id IN ({threads})"
            )
