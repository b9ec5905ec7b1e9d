"""Checkpoints in SQLite: LangGraph's own tables and reader, one transaction for the writes of all graphs in flight."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiosqlite
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from backends.json_codec import dump_json
from graph.group_writer import GroupWriter, Queued
from graph.queued_writes import QueuedWrites
from graph.serializer import CompressingSerializer

_DELETE = ("DELETE FROM checkpoints WHERE thread_id = ?", "DELETE FROM writes WHERE thread_id = ?")
_PUT = (
    "INSERT OR REPLACE INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, "
    "checkpoint, metadata) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_WRITE = (
    "INSERT OR {} INTO writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, value) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_REPLACE, _KEEP = _WRITE.format("REPLACE"), _WRITE.format("IGNORE")
_STATEMENTS = (*_DELETE, _PUT, _REPLACE, _KEEP)
"""In the order in which a transaction has them: what is queued for a thread that was deleted belongs to a new start."""
_WAL_PAGES = 500
"""Pages of 4 kB after which SQLite's log is brought into the file, and to which it is cut back."""


class SqliteRows:
    """The connection that writes, in a thread of its own."""

    def __init__(self, path: Path, statements: Sequence[str] = _STATEMENTS) -> None:
        self._path = path
        self._statements = statements
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")

    async def transact(self, queued: Queued) -> Mapping[str, Exception]:
        """Commit rows."""
        await self._in_thread(self._transact, queued)
        return {}

    async def tidy(self) -> None:
        """Bring all into the one file, and give back what is free of it."""
        await self._in_thread(self._tidy)

    def close(self) -> None:
        """Close the connection."""
        self._thread.submit(self._disconnect)
        self._thread.shutdown()

    async def _in_thread(self, act: Any, *given: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, act, *given)

    def _transact(self, queued: Queued) -> None:
        with self._connection as connection:  # commits, or rolls back
            for statement in self._statements:
                if rows := [row for _, wanted, row in queued if wanted == statement]:
                    connection.executemany(statement, rows)

    @cached_property
    def _connection(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=60)
        log = (f"wal_autocheckpoint={_WAL_PAGES}", f"journal_size_limit={_WAL_PAGES * 4096}")
        for pragma in ("synchronous=NORMAL", "secure_delete=OFF", *log):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def _tidy(self) -> None:
        of = self._connection.execute
        (pages,), (free,) = (of(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count"))
        if 2 * free > pages:
            with contextlib.suppress(sqlite3.Error):  # a full disk, say: nothing depends on it
                of("VACUUM")
        of("PRAGMA wal_checkpoint(TRUNCATE)")

    def _disconnect(self) -> None:
        if "_connection" in self.__dict__:  # else nothing was ever written
            self._connection.close()


class GroupSaver(QueuedWrites, AsyncSqliteSaver):
    """LangGraph's SQLite saver with queued writes."""

    def __init__(self, path: Path, connection: aiosqlite.Connection, serde: SerializerProtocol) -> None:
        super().__init__(connection, serde=serde)
        self.threads = set()
        self._rows = SqliteRows(path)
        self._writer = GroupWriter(self._rows.transact)
        self._replies = {}

    async def setup(self) -> None:
        """Make the tables where there are none, and look which threads there are."""
        if self.is_setup:
            return
        await AsyncSqliteSaver.setup(self)
        async with self.lock, self.conn.execute("SELECT DISTINCT thread_id FROM checkpoints") as rows:
            self.threads.update([row[0] async for row in rows])

    async def close(self) -> None:
        """Commit what waits, bring it all into the one file, and give back what is free of it."""
        try:
            await self._writer.flush()
            await self._rows.tidy()
        finally:
            self._rows.close()

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Queue a checkpoint; returns the config that names it."""
        place = config["configurable"]
        thread, namespace = str(place["thread_id"]), place["checkpoint_ns"]
        about = dump_json(get_checkpoint_metadata(config, metadata))
        kind, content = self.serde.dumps_typed(checkpoint)
        row = (thread, namespace, checkpoint["id"], place.get("checkpoint_id"), kind, content, about)
        self._writer.put(thread, _PUT, [row])
        self.threads.add(thread)
        return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint["id"]}}

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Queue what a node wrote."""
        place = config["configurable"]
        thread = str(place["thread_id"])
        key = (thread, str(place["checkpoint_ns"]), str(place["checkpoint_id"]), task_id, task_path)
        rows = [
            (*key, WRITES_IDX_MAP.get(channel, at), channel, *self.serde.dumps_typed(value))
            for at, (channel, value) in enumerate(writes)
        ]
        if not rows:
            return
        special = all(channel in WRITES_IDX_MAP for channel, _ in writes)
        statement = _REPLACE if special else _KEEP
        self._queue_writes(thread, statement, rows, [channel for channel, value in writes if value])

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread: what waits of it is never written, its pages are used again."""
        self._forget(thread_id)
        for statement in _DELETE:
            self._writer.put(thread_id, statement, [(thread_id,)])


@asynccontextmanager
async def open_checkpoints(path: Path) -> AsyncIterator[GroupSaver]:
    """A saver on `path` in WAL mode, closed on leaving. Only plain JSON and LangChain messages are read back.

    `synchronous=NORMAL` survives a killed process; after a power cut the last steps may be asked again.
    """
    async with aiosqlite.connect(path, timeout=60) as connection:
        saver = GroupSaver(path, connection, CompressingSerializer(allowed_msgpack_modules=None))
        try:
            await saver.setup()
            yield saver
        finally:
            await saver.close()


async def copy_checkpoints(source: Path, target: Path) -> None:
    """A consistent copy of a run's checkpoints, even while the run goes on writing."""
    address = f"file:{quote(str(source))}?mode=ro"
    async with aiosqlite.connect(address, uri=True) as origin, aiosqlite.connect(target) as copy:
        await origin.backup(copy)
