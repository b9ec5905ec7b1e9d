"""What LangGraph's savers get here: writes are queued, who needs one stored flushes, and readers wait for all."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple, DeltaChannelHistory, get_checkpoint_id

from graph.group_writer import GroupWriter

_REPLY = "reply"
"""The channel whose writes cost a request to the model."""


class QueuedWrites(BaseCheckpointSaver[Any]):
    """Put before one of LangGraph's savers.

    A thread must be this saver's alone while it is open: one that it has neither found nor written is known to have no
    checkpoint, without a look. LangGraph may copy a saver: all that changes here lies in objects that the copies share.
    """

    threads: set[str]
    """The threads that have a checkpoint."""
    _writer: GroupWriter
    _replies: "dict[str, asyncio.Future[None]]"
    """When the last reply of each thread is stored."""

    async def setup(self) -> None:
        """Make the tables where there are none, and look which threads there are."""
        raise NotImplementedError

    async def flush(self, thread: str | None = None) -> None:
        """Wait until a thread's last reply is stored; without a thread, until everything is."""
        if thread is None:
            await self._writer.flush()
        elif reply := self._replies.pop(thread, None):
            await self._writer.flush(reply, thread)

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

    def _queue_writes(
        self, thread: str, statement: str, rows: Sequence[Sequence[Any]], channels: Sequence[str]
    ) -> None:
        """Queue what a node wrote to these channels."""
        group = self._writer.put(thread, statement, rows)
        if _REPLY in channels:
            self._replies[thread] = group

    def _forget(self, thread: str) -> None:
        """What waits of a thread is never written."""
        self._writer.drop(thread)
        self.threads.discard(thread)
        self._replies.pop(thread, None)
