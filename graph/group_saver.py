"""LangGraph's SQLite saver, with one transaction for the writes of all graphs in flight."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import aiosqlite
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

_PUT = (
    "INSERT OR REPLACE INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, "
    "checkpoint, metadata) VALUES {rows}"
)
_WRITE = (
    "INSERT OR {} INTO writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, value) "
    "VALUES {{rows}}"
)
_REPLACE, _KEEP = _WRITE.format("REPLACE"), _WRITE.format("IGNORE")
_FORGET = (
    "DELETE FROM checkpoints WHERE thread_id IN (VALUES {rows})",
    "DELETE FROM writes WHERE thread_id IN (VALUES {rows})",
)
_STATEMENTS = (_PUT, _REPLACE, _KEEP, *_FORGET)
_TOGETHER = (64, 16, 4, 1)
"""Rows a statement: few sizes, so that each is prepared once. A statement gives way to the event loop only once."""
Rows = list[tuple[Any, ...]]


class GroupSaver(AsyncSqliteSaver):
    """Each write still returns only when it is committed; what comes in meanwhile goes into the next transaction.

    One commit and a few thread hops for many steps, instead of both for each. A thread must be this saver's alone while
    it is open (other processes may have theirs in the same file): one that it has neither found nor written is known to
    have no checkpoint, without a look.
    """

    def __init__(self, path: Path, connection: aiosqlite.Connection, serde: SerializerProtocol) -> None:
        super().__init__(connection, serde=serde)
        self.threads: set[str] = set()
        """The threads that have a checkpoint."""
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._waiting: list[tuple[str, Rows, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def setup(self) -> None:
        """Make the tables where there are none, and look which threads there are."""
        if self.is_setup:
            return
        await super().setup()
        async with self.lock, self.conn.execute("SELECT DISTINCT thread_id FROM checkpoints") as rows:
            self.threads.update([row[0] async for row in rows])

    async def close(self) -> None:
        """Wait for the last transaction and close the connection that writes."""
        while self._writing and not self._writing.done():
            await asyncio.wait({self._writing})
        try:
            await self._in_thread(self._disconnect)
        finally:
            self._thread.shutdown()

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, else the thread's last."""
        await self.setup()
        if get_checkpoint_id(config) is None and str(config["configurable"]["thread_id"]) not in self.threads:
            return None
        return await super().aget_tuple(config)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint; returns the config that names it."""
        place = config["configurable"]
        thread, namespace = str(place["thread_id"]), place["checkpoint_ns"]
        about = json.dumps(get_checkpoint_metadata(config, metadata), ensure_ascii=False).encode("utf-8", "ignore")
        kind, content = self.serde.dumps_typed(checkpoint)
        row = (thread, namespace, checkpoint["id"], place.get("checkpoint_id"), kind, content, about)
        await self._committed(_PUT, [row])
        self.threads.add(thread)
        named = {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint["id"]}
        return {"configurable": named}

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store what a node wrote, before the step that it belongs to ends."""
        place = config["configurable"]
        key = (str(place["thread_id"]), str(place["checkpoint_ns"]), str(place["checkpoint_id"]), task_id, task_path)
        rows = [
            (*key, WRITES_IDX_MAP.get(channel, at), channel, *self.serde.dumps_typed(value))
            for at, (channel, value) in enumerate(writes)
        ]
        special = all(channel in WRITES_IDX_MAP for channel, _ in writes)
        await self._committed(_REPLACE if special else _KEEP, rows)

    async def adelete_thread(self, thread_id: str) -> None:
        """Let a thread go; its pages are used again."""
        await asyncio.gather(*(self._committed(statement, [(thread_id,)]) for statement in _FORGET))
        self.threads.discard(thread_id)

    async def _committed(self, statement: str, rows: Rows) -> None:
        await self.setup()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((statement, rows, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        await done

    async def _write(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            error: Exception | None = None
            try:
                await self._in_thread(self._transact, [(statement, rows) for statement, rows, _ in group])
            except Exception as failure:
                error = failure
            for _, _, done in group:
                if not done.done():
                    done.set_exception(error) if error else done.set_result(None)

    async def _in_thread(self, act: Callable[..., None], *given: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, act, *given)

    def _transact(self, group: list[tuple[str, Rows]]) -> None:
        with self._writer as writer:  # commits, or rolls back
            for statement in _STATEMENTS:
                rows = [row for wanted, some in group if wanted == statement for row in some]
                for size in _TOGETHER:
                    while len(rows) >= size:
                        taken, rows = rows[:size], rows[size:]
                        places = ", ".join([f"({', '.join('?' * len(taken[0]))})"] * size)
                        writer.execute(statement.format(rows=places), [value for row in taken for value in row])

    @cached_property
    def _writer(self) -> sqlite3.Connection:
        writer = sqlite3.connect(self._path, timeout=60)
        writer.execute("PRAGMA synchronous=NORMAL")
        return writer

    def _disconnect(self) -> None:
        self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # all is in the one file again
        self._writer.close()
