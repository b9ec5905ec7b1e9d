"""LangGraph's SQLite saver, with one transaction for the writes of all graphs in flight."""

import asyncio
import contextlib
import json
from collections.abc import Iterable, Sequence
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
    "checkpoint, metadata) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_WRITE = (
    "INSERT OR {} INTO writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, value) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_REPLACE, _KEEP = _WRITE.format("REPLACE"), _WRITE.format("IGNORE")
_FORGET = ("DELETE FROM checkpoints WHERE thread_id = ?", "DELETE FROM writes WHERE thread_id = ?")
_STATEMENTS = (_PUT, _REPLACE, _KEEP, *_FORGET)
Rows = Iterable[tuple[Any, ...]]


class GroupSaver(AsyncSqliteSaver):
    """Each write still returns only when it is committed; what comes in meanwhile goes into the next transaction.

    One commit and a few thread hops for many steps, instead of both for each. The file must be this saver's alone:
    a thread that it has neither found nor written is known to have no checkpoint, without a look.
    """

    def __init__(self, connection: aiosqlite.Connection, serde: SerializerProtocol) -> None:
        super().__init__(connection, serde=serde)
        self.threads: set[str] = set()
        """The threads that have a checkpoint."""
        self._waiting: list[tuple[str, Rows, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def setup(self) -> None:
        """Make the tables where there are none, and look which threads there are."""
        if self.is_setup:
            return
        await super().setup()
        async with self.lock, self.conn.execute("SELECT DISTINCT thread_id FROM checkpoints") as rows:
            self.threads.update([row[0] async for row in rows])

    async def drained(self) -> None:
        """Wait for the last transaction."""
        while self._writer and not self._writer.done():
            await asyncio.wait({self._writer})

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
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        await done

    async def _write(self) -> None:
        while self._waiting:
            async with self.lock:  # readers share the connection
                group, self._waiting = self._waiting, []
                try:
                    for statement in _STATEMENTS:
                        rows = [row for wanted, some, _ in group if wanted == statement for row in some]
                        if rows:
                            await self.conn.executemany(statement, rows)
                    await self.conn.commit()
                    error = None
                except Exception as failure:
                    error = failure
                    with contextlib.suppress(aiosqlite.Error, ValueError):
                        await self.conn.rollback()
            for _, _, done in group:
                if not done.done():
                    done.set_exception(error) if error else done.set_result(None)
