"""Checkpoints in one SQLite file per run: LangGraph's own tables, a thread per question."""

import uuid
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
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


def thread_id(run_id: str, sample_id: str) -> str:
    """The thread of a question: the same UUID whenever the run is continued (LangGraph Studio takes only UUIDs)."""
    return str(uuid.uuid5(uuid.UUID(run_id), sample_id))


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
