"""Checkpoints in one SQLite file per run: LangGraph's own tables, a thread per question."""

import hashlib
import uuid
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiosqlite
import zstandard
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from backends.model_first import Waiting
from graph.group_saver import GroupSaver

_PACKED = "+zstd"
_PACKED_EARLIER = "+zlib"
_LEVEL = 1
"""What is packed is read only by a run that is taken up again: above all, packing must not take long."""
_WORTH_IT = 4096
"""Bytes from which a value is packed: what tools return, which is stored as text and as a result."""


@dataclass(frozen=True)
class ThreadIds:
    """The threads of a run: the same UUIDs whenever it is continued (LangGraph Studio takes only UUIDs).

    `made_under` is a hash of what decides the content of a trajectory beside its question: a checkpoint of another
    question, prompt, tool or limit is another thread's, and is never taken up. A run that was started before that was
    so has none, and keeps its threads.
    """

    run_id: str
    made_under: str | None = None

    def of(self, sample_id: str, question: str) -> str:
        """The thread of a sample of a question."""
        own = sample_id
        if self.made_under is not None:
            own += hashlib.sha256(f"{self.made_under}\0{question}".encode("utf-8", "replace")).hexdigest()
        return str(uuid.uuid5(uuid.UUID(self.run_id), own))


class PackingSerializer(JsonPlusSerializer):
    """LangGraph's own, with large values packed by zstd; what earlier versions wrote is read too."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """The type of a value, `msgpack+zstd` when it is packed, and its bytes."""
        kind, content = super().dumps_typed(obj)
        if len(content) < _WORTH_IT:
            return kind, content
        return kind + _PACKED, zstandard.compress(content, _LEVEL)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """The value again."""
        kind, content = data
        if kind.endswith(_PACKED):
            data = kind.removesuffix(_PACKED), zstandard.decompress(content)
        elif kind.endswith(_PACKED_EARLIER):
            data = kind.removesuffix(_PACKED_EARLIER), zlib.decompress(content)
        return super().loads_typed(data)


@asynccontextmanager
async def open_checkpoints(path: Path, waiting: Waiting = nullcontext) -> AsyncIterator[GroupSaver]:
    """A saver on `path` in WAL mode, closed on leaving. Only plain JSON and LangChain messages are read back.

    `synchronous=NORMAL` survives a killed process; after a power cut the last steps may be asked again.
    """
    async with aiosqlite.connect(path, timeout=60) as connection:
        saver = GroupSaver(path, connection, PackingSerializer(allowed_msgpack_modules=None), waiting)
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
