"""Checkpoints in PostgreSQL: LangGraph's own tables and reader, one transaction for what all graphs in flight wrote."""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from backends.errors import DiskRefused, UsageError
from graph.group_writer import GroupWriter, Queued
from graph.queued_writes import QueuedWrites
from graph.serializer import CompressingSerializer

log = logging.getLogger("trajgraph")
_DELETE = (
    "DELETE FROM checkpoints WHERE thread_id = %s",
    "DELETE FROM checkpoint_blobs WHERE thread_id = %s",
    "DELETE FROM checkpoint_writes WHERE thread_id = %s",
)
_CONNECT = 10.0
_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds between tries while the database does not answer."""
_AWAY = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout)
Pool = AsyncConnectionPool[Any]


class GroupPostgresSaver(QueuedWrites, AsyncPostgresSaver):
    """LangGraph's PostgreSQL saver with queued writes, in pipeline mode: one round trip and one commit for many."""

    def __init__(self, pool: Pool, serde: SerializerProtocol) -> None:
        super().__init__(pool, serde=serde)
        self.threads = set()
        self._writer = GroupWriter(self._transact)
        self._replies = {}
        self._known: list[bool] = []

    async def setup(self) -> None:
        """Make the tables where there are none, and look which threads there are."""
        if self._known:
            return
        with _as_refusal():
            await AsyncPostgresSaver.setup(self)
            async with self._cursor() as cursor:
                await cursor.execute("SELECT DISTINCT thread_id FROM checkpoints")
                self.threads.update([row["thread_id"] for row in await cursor.fetchall()])
        self._known.append(True)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, else the thread's last. Raises DiskRefused."""
        with _as_refusal():
            return await super().aget_tuple(config)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What the channels are made of again. Raises DiskRefused."""
        with _as_refusal():
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
        inline, apart = dict[str, Any](), dict[str, Any]()
        for name, value in checkpoint["channel_values"].items():
            if isinstance(value, _DeltaSnapshot):
                apart[name], inline[name] = value, True
            else:
                (inline if _fits_json(value) else apart)[name] = value
        if versions := {name: version for name, version in new_versions.items() if name in apart}:
            blobs = self._dump_blobs(thread, namespace, apart, versions)
            self._writer.put(thread, self.UPSERT_CHECKPOINT_BLOBS_SQL, blobs)
        row = (
            thread, namespace, checkpoint["id"], place.get("checkpoint_id"),
            Jsonb({**checkpoint, "channel_values": inline}),
            Jsonb(get_serializable_checkpoint_metadata(config, metadata)),
        )  # fmt: skip
        self._writer.put(thread, self.UPSERT_CHECKPOINTS_SQL, [row])
        self.threads.add(thread)
        return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint["id"]}}

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Queue what a node wrote."""
        if not writes:
            return
        place = config["configurable"]
        thread = str(place["thread_id"])
        rows = self._dump_writes(
            thread, place["checkpoint_ns"], str(place["checkpoint_id"]), task_id, task_path, writes
        )
        special = all(channel in WRITES_IDX_MAP for channel, _ in writes)
        statement = self.UPSERT_CHECKPOINT_WRITES_SQL if special else self.INSERT_CHECKPOINT_WRITES_SQL
        self._queue_writes(thread, statement, rows, [channel for channel, value in writes if value])

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread: what waits of it is never written."""
        self._forget(thread_id)
        for statement in _DELETE:
            self._writer.put(thread_id, statement, [(thread_id,)])

    async def _transact(self, queued: Queued) -> Mapping[str, Exception]:
        """All in one transaction; where something in it cannot be stored, a transaction for each thread."""
        try:
            await self._send(queued)
            return {}
        except psycopg.DataError:
            pass
        refused = dict[str, Exception]()
        for thread in dict.fromkeys(thread for thread, _, _ in queued):
            try:
                await self._send([one for one in queued if one[0] == thread])
            except psycopg.DataError as error:
                refused[thread] = error
        return refused

    async def _send(self, queued: Queued) -> None:
        """In one transaction, again while the database does not answer. Raises DiskRefused."""
        by_statement: dict[str, list[Sequence[Any]]] = {}
        order = (*_DELETE, self.UPSERT_CHECKPOINT_BLOBS_SQL, self.UPSERT_CHECKPOINTS_SQL,
                 self.UPSERT_CHECKPOINT_WRITES_SQL, self.INSERT_CHECKPOINT_WRITES_SQL)  # fmt: skip
        for _, statement, row in queued:
            by_statement.setdefault(statement, []).append(row)
        for wait in (*_WAITS, None):
            try:
                async with self._cursor(pipeline=True) as cursor, cursor.connection.transaction():
                    for statement in order:
                        if rows := by_statement.get(statement):
                            await cursor.executemany(statement, rows)
                return
            except psycopg.DataError:
                raise
            except _AWAY as error:
                if wait is None:
                    raise _refusal(error) from error
                if wait == _WAITS[0]:
                    log.info("the checkpoints' database does not answer (%s): asked again", _one_line(error))
                await asyncio.sleep(wait)
            except psycopg.Error as error:  # it refuses: read-only, say, or without its tables
                raise _refusal(error) from error


@asynccontextmanager
async def open_postgres(address: str, schema: str | None = None) -> AsyncIterator[GroupPostgresSaver]:
    """A saver on a database, closed on leaving; its tables are in `schema`, else where the database puts them. Raises
    UsageError when nothing answers there.
    """
    kwargs: dict[str, Any] = {
        "autocommit": True,
        "prepare_threshold": 0,
        "row_factory": dict_row,
        "connect_timeout": 10,
    }
    if schema:
        kwargs["options"] = f"-c search_path={schema}"
    try:
        async with await psycopg.AsyncConnection.connect(address, **kwargs):  # says why, where the pool only waits
            pass
    except psycopg.Error as error:
        raise UsageError(
            f"--checkpoints: no PostgreSQL to be used there ({_one_line(error)}); a password comes from PGPASSWORD or "
            "PGPASSFILE"
        ) from error
    pool: Pool = AsyncConnectionPool(address, kwargs=kwargs, min_size=1, max_size=2, timeout=_CONNECT, open=False)
    async with pool:
        saver = GroupPostgresSaver(pool, CompressingSerializer(allowed_msgpack_modules=None))
        try:
            await saver.setup()
        except DiskRefused as error:
            raise UsageError(f"--checkpoints: {error}") from error
        try:
            yield saver
        finally:
            await saver.flush()


@asynccontextmanager
async def copied(address: str) -> AsyncIterator[str]:
    """The name of a schema with a copy of all steps, as they are now; dropped on leaving."""
    schema = f"trajgraph_{uuid.uuid4().hex[:12]}"
    tables = ("checkpoint_migrations", "checkpoints", "checkpoint_blobs", "checkpoint_writes")
    async with await psycopg.AsyncConnection.connect(address) as connection:
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")  # all of one moment
        await connection.execute(SQL("CREATE SCHEMA {}").format(Identifier(schema)))
        for table in tables:
            new, old = Identifier(schema, table), Identifier(table)
            await connection.execute(SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(new, old))
            await connection.execute(SQL("INSERT INTO {} SELECT * FROM {}").format(new, old))
    try:
        yield schema
    finally:
        async with await psycopg.AsyncConnection.connect(address, autocommit=True) as connection:
            await connection.execute(SQL("DROP SCHEMA {} CASCADE").format(Identifier(schema)))


def _fits_json(value: Any) -> bool:
    """Whether a value stands in the checkpoint's own JSON: PostgreSQL takes no NUL there, and no half of a letter."""
    if isinstance(value, str):
        return "\0" not in value and value.encode("utf-8", "replace").decode() == value
    return value is None or isinstance(value, int | float)


@contextlib.contextmanager
def _as_refusal() -> Iterator[None]:
    try:
        yield
    except (psycopg.Error, PoolTimeout) as error:
        raise _refusal(error) from error


def _refusal(error: Exception) -> DiskRefused:
    return DiskRefused(f"the checkpoints' database refuses: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
