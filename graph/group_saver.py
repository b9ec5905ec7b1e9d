"""LangGraph's SQLite saver, with one transaction for the writes of all graphs in flight."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import nullcontext
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
    DeltaChannelHistory,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from backends.json_codec import dump_json
from backends.model_first import Waiting
from graph.write_queue import WriteQueue

_PUT = (
    "INSERT OR REPLACE INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, "
    "checkpoint, metadata) {rows}"
)
_WRITE = (
    "INSERT OR {} INTO writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, value) "
    "{{rows}}"
)
_REPLACE, _KEEP = _WRITE.format("REPLACE"), _WRITE.format("IGNORE")
_FORGET = (
    "DELETE FROM checkpoints WHERE thread_id IN ({rows})",
    "DELETE FROM writes WHERE thread_id IN ({rows})",
)
_STATEMENTS = (*_FORGET, _PUT, _REPLACE, _KEEP)
"""In the order in which a transaction has them: what is queued for a thread that was let go belongs to a new start."""
_REPLY = "reply"
"""The channel whose writes are paid for."""


class GroupSaver(AsyncSqliteSaver):
    """Writes are queued; a graph waits, before it pays for a reply, until its last one is `stored`; readers wait too.

    A thread must be this saver's alone while it is open (other processes may have theirs in the same file): one that it
    has neither found nor written is known to have no checkpoint, without a look. LangGraph may copy a saver: all that
    changes here lies in objects that the copies share.
    """

    def __init__(
        self, path: Path, connection: aiosqlite.Connection, serde: SerializerProtocol, waiting: Waiting = nullcontext
    ) -> None:
        super().__init__(connection, serde=serde)
        self.threads: set[str] = set()
        """The threads that have a checkpoint."""
        self._waiting = waiting
        self._queue = WriteQueue(path, _STATEMENTS)
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
        await self._queue.close()

    async def stored(self, thread: str | None = None) -> None:
        """Wait, within `waiting`, until a thread's last reply is on disk; without a thread, until everything is."""
        if thread is None:
            await self._queue.stored()
        elif reply := self._replies.pop(thread, None):
            async with nullcontext() if reply.done() else self._waiting():
                await self._queue.stored(reply)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, else the thread's last."""
        await self.setup()
        if get_checkpoint_id(config) is None and str(config["configurable"]["thread_id"]) not in self.threads:
            return None
        await self.stored()
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
        await self.stored()
        async for found in super().alist(config, filter=filter, before=before, limit=limit):
            yield found

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What the channels are made of again: the last snapshot of each, and the writes since."""
        await self.stored()
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
        self._queue.put(_PUT, [row])
        self.threads.add(thread)
        named = {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint["id"]}
        return {"configurable": named}

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Queue what a node wrote."""
        place = config["configurable"]
        key = (str(place["thread_id"]), str(place["checkpoint_ns"]), str(place["checkpoint_id"]), task_id, task_path)
        rows = [
            (*key, WRITES_IDX_MAP.get(channel, at), channel, *self.serde.dumps_typed(value))
            for at, (channel, value) in enumerate(writes)
        ]
        if not rows:
            return
        special = all(channel in WRITES_IDX_MAP for channel, _ in writes)
        group = self._queue.put(_REPLACE if special else _KEEP, rows)
        if any(channel == _REPLY and value for channel, value in writes):
            self._replies[key[0]] = group

    async def adelete_thread(self, thread_id: str) -> None:
        """Let a thread go: what waits of it is never written, its pages are used again."""
        self._queue.drop(thread_id)
        for statement in _FORGET:
            self._queue.put(statement, [(thread_id,)])
        self.threads.discard(thread_id)
        self._replies.pop(thread_id, None)
