"""Checkpoints in SQLite: LangGraph's own tables and reader, one transaction for the writes of all graphs in flight."""

import asyncio
import contextlib
import sqlite3
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiosqlite
import zstandard
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from backends.json_codec import dump_json

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
_REPLY = "reply"
"""The channel whose writes cost a request to the model."""
_COMPRESSED, _COMPRESSED_EARLIER = "+zstd", "+zlib"
_WORTH_IT = 4096
"""Bytes from which a value is compressed: what tools return, which is stored as text and as a result."""
_WAL_PAGES = 500
"""Pages of 4 kB after which SQLite's log is brought into the file, and to which it is cut back."""


class CompressingSerializer(JsonPlusSerializer):
    """LangGraph's own, with large values compressed by zstd; what earlier versions wrote is read too."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """The type of a value, `msgpack+zstd` when it is compressed, and its bytes."""
        kind, content = super().dumps_typed(obj)
        if len(content) < _WORTH_IT:
            return kind, content
        return kind + _COMPRESSED, zstandard.compress(content, 1)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """The value again."""
        kind, content = data
        if kind.endswith(_COMPRESSED):
            data = kind.removesuffix(_COMPRESSED), zstandard.decompress(content)
        elif kind.endswith(_COMPRESSED_EARLIER):
            data = kind.removesuffix(_COMPRESSED_EARLIER), zlib.decompress(content)
        return super().loads_typed(data)


class Writer:
    """Rows on their way to the file: queued by many, one commit for all that wait. A failed one fails all after it."""

    def __init__(self, path: Path, statements: Sequence[str] = _STATEMENTS) -> None:
        self._path = path
        self._statements = statements
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._waiting: dict[str, list[tuple[str, Sequence[Any]]]] = {}
        """(statement, row) by thread."""
        self._group: asyncio.Future[None] | None = None
        """Done when what waits now is committed."""
        self._committing: asyncio.Future[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._error: Exception | None = None

    def put(self, thread: str, statement: str, rows: Iterable[Sequence[Any]]) -> "asyncio.Future[None]":
        """Queue rows of a thread. What comes back is done when their transaction has ended, well or not."""
        if self._error:
            raise self._error
        self._waiting.setdefault(thread, []).extend((statement, row) for row in rows)
        self._group = self._group or asyncio.get_running_loop().create_future()
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        return self._group

    def drop(self, thread: str) -> None:
        """Take back what waits of a thread."""
        self._waiting.pop(thread, None)

    async def flush(self, group: "asyncio.Future[None] | None" = None) -> None:
        """Wait until rows are on disk: those of `group`, else all. Raises the error of a transaction that failed."""
        group = group or self._group or self._committing
        if group and not group.done():
            await asyncio.wait({group})
        if self._error:
            raise self._error

    async def close(self) -> None:
        """Commit what waits, bring it all into the one file, and give back what is free of it."""
        try:
            await self.flush()
            await self._in_thread(self._tidy)
        finally:
            self._thread.submit(self._disconnect)
            self._thread.shutdown()

    async def _write(self) -> None:
        while self._group:
            queued = [one for of_thread in self._waiting.values() for one in of_thread]
            self._waiting, self._committing, self._group = {}, self._group, None
            try:
                if self._error is None:  # what came while a transaction failed would stand on rows that are not there
                    await self._in_thread(self._transact, queued)
            except Exception as failure:
                self._error = failure
            self._committing.set_result(None)

    async def _in_thread(self, act: Callable[..., None], *given: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, act, *given)

    def _transact(self, queued: list[tuple[str, Sequence[Any]]]) -> None:
        with self._connection as connection:  # commits, or rolls back
            for statement in self._statements:
                if rows := [row for wanted, row in queued if wanted == statement]:
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


class GroupSaver(AsyncSqliteSaver):
    """LangGraph's SQLite saver, whose writes are queued; who needs one on disk flushes, and readers wait for all.

    A thread must be this saver's alone while it is open: one that it has neither found nor written is known to have no
    checkpoint, without a look. LangGraph may copy a saver: all that changes here lies in objects that the copies share.
    """

    def __init__(self, path: Path, connection: aiosqlite.Connection, serde: SerializerProtocol) -> None:
        super().__init__(connection, serde=serde)
        self.threads: set[str] = set()
        """The threads that have a checkpoint."""
        self._writer = Writer(path)
        self._replies: dict[str, asyncio.Future[None]] = {}
        """When the last reply of each thread is committed."""

    async def setup(self) -> None:
        """Make the tables where there are none, and look which threads there are."""
        if self.is_setup:
            return
        await super().setup()
        async with self.lock, self.conn.execute("SELECT DISTINCT thread_id FROM checkpoints") as rows:
            self.threads.update([row[0] async for row in rows])

    async def close(self) -> None:
        """Commit what waits and close the connection that writes."""
        await self._writer.close()

    async def flush(self, thread: str | None = None) -> None:
        """Wait until a thread's last reply is on disk; without a thread, until everything is."""
        if thread is None:
            await self._writer.flush()
        elif reply := self._replies.pop(thread, None):
            await self._writer.flush(reply)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, else the thread's last."""
        await self.setup()
        if get_checkpoint_id(config) is None and str(config["configurable"]["thread_id"]) not in self.threads:
            return None
        await self.flush()
        return await super().aget_tuple(config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """The checkpoints that fit, newest first."""
        await self.flush()
        async for found in super().alist(config, filter=filter, before=before, limit=limit):
            yield found

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What the channels are made of again: the last snapshot of each, and the writes since."""
        await self.flush()
        return await super().aget_delta_channel_history(config=config, channels=channels)

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
        group = self._writer.put(thread, _REPLACE if special else _KEEP, rows)
        if any(channel == _REPLY and value for channel, value in writes):
            self._replies[thread] = group

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread: what waits of it is never written, its pages are used again."""
        self._writer.drop(thread_id)
        for statement in _DELETE:
            self._writer.put(thread_id, statement, [(thread_id,)])
        self.threads.discard(thread_id)
        self._replies.pop(thread_id, None)


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
