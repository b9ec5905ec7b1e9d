"""Where the steps of a run are kept: a file beside it, or a PostgreSQL of one's own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from backends.errors import UsageError
from graph.checkpoints import open_checkpoints
from graph.queued_writes import QueuedWrites


@asynccontextmanager
async def open_saver(database: str | None, path: Path) -> AsyncIterator[QueuedWrites]:
    """A saver, closed on leaving. Raises UsageError for a database that cannot be used."""
    if database is None:
        async with open_checkpoints(path) as saver:
            yield saver
        return
    try:
        from graph.postgres import open_postgres
    except ImportError as error:
        raise UsageError(
            f"--checkpoints: PostgreSQL is an extra: pip install 'trajgraph[postgres]' ({error})"
        ) from error
    async with open_postgres(database) as stored:
        yield stored


@asynccontextmanager
async def copied_schema(database: str) -> AsyncIterator[str]:
    """A passing copy of all steps in a database, in a schema of its own; its name. Raises UsageError."""
    async with open_saver(database, Path()):  # says what is wrong with it
        from graph.postgres import copied

        async with copied(database) as schema:
            yield schema
