"""A cassette: tool results in one SQLite file: no call is asked twice, and a run can be repeated without a network.

Results are keyed by the server's tool and its arguments, with white space and the order of names made one. A tool's own
failures are no results: `auto` asks them again; only `replay` gives them back, since the model had read them.
"""

import asyncio
import contextlib
import json
import re
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mcp.types import Tool

from backends.config import ToolsMode
from backends.errors import CassetteMiss, DiskRefused, ToolFailed, UsageError
from backends.json_codec import sound

_SPACE = re.compile(r"\s+")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS results (
    tool TEXT, arguments TEXT, result TEXT NOT NULL, failed INTEGER NOT NULL, PRIMARY KEY (tool, arguments));
CREATE TABLE IF NOT EXISTS tools (name TEXT PRIMARY KEY, tool TEXT NOT NULL);
"""
Ask = Callable[[], Awaitable[Any]]
Failed = Callable[[Any], bool]
"""Whether a result says that the call failed."""
_OF_THE_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
_RAISED, _SAID = 1, 2
"""How a kept call failed: the server flagged it, or the result says so."""


class Cassette:
    """Kept results. Make it with `open_cassette`."""

    def __init__(self, path: Path, tape: sqlite3.Connection, mode: ToolsMode, failed: Failed) -> None:
        self._path = path
        self._tape = tape
        self._failed = failed
        self.mode = mode
        self._alone = threading.Lock()
        self._in_flight: dict[tuple[str, str], asyncio.Task[Any]] = {}
        self._recorded: set[tuple[str, str]] = set()
        """What this process has recorded: asked again, it is answered alike, as it will be in a replay."""

    async def result(self, tool: str, arguments: Mapping[str, Any], ask: Ask) -> tuple[Any, bool]:
        """The result, and whether it was kept from before. Else `ask` gives it, once for all who wait.

        Raises CassetteMiss in replay when there is none, and what `ask` raises.
        """
        if self.mode == "live":
            return await ask(), False
        key = (tool, normalised(arguments))
        if key not in self._in_flight:
            self._in_flight[key] = asyncio.create_task(self._found(key, ask))
            self._in_flight[key].add_done_callback(lambda task: self._landed(key, task))
        return await asyncio.shield(self._in_flight[key])

    async def keep_tools(self, served: list[Tool]) -> None:
        """Keep the server's own list of tools: a replay has no server to ask."""
        rows = [(tool.name, tool.model_dump_json(by_alias=True, exclude_none=True)) for tool in served]
        await asyncio.to_thread(
            self._execute, self._tape.executemany, "INSERT OR REPLACE INTO tools VALUES (?, ?)", rows
        )

    async def tools(self) -> list[Tool]:
        """The tools of the server that was recorded. Raises UsageError when nothing was."""
        rows = await asyncio.to_thread(self._execute, self._tape.execute, "SELECT tool FROM tools ORDER BY name")
        if not rows:
            raise UsageError(f"--cassette {self._path}: nothing was recorded in it; --tools-mode record does that")
        return [Tool.model_validate_json(row[0]) for row in rows]

    async def _found(self, key: tuple[str, str], ask: Ask) -> tuple[Any, bool]:
        if (self.mode != "record" or key in self._recorded) and (kept := await asyncio.to_thread(self._kept, key)):
            result, how = kept
            if how == _RAISED and isinstance(result, str):
                raise ToolFailed(result)
            return result, True
        if self.mode == "replay":
            raise CassetteMiss(f"{self._path} holds no result of {key[0]} {key[1][:200]}: record it first")
        try:
            result = await ask()
        except ToolFailed as error:
            await asyncio.to_thread(self._keep, key, str(error), _RAISED)
            raise
        await asyncio.to_thread(self._keep, key, result, _SAID if self._failed(result) else 0)
        self._recorded.add(key)
        return result, False

    def _landed(self, key: tuple[str, str], task: "asyncio.Task[Any]") -> None:
        del self._in_flight[key]
        if not task.cancelled():
            task.exception()  # whoever waits for it hears of it; nobody waits for one whose caller was cancelled

    def _kept(self, key: tuple[str, str]) -> tuple[Any, int] | None:
        """A result and how it failed; a failure is none but in replay, also one that was not taken for one when it was
        kept.
        """
        asked = "SELECT result, failed FROM results WHERE tool = ? AND arguments = ?"
        rows = self._execute(self._tape.execute, asked, key)
        result, how = (json.loads(rows[0][0]), int(rows[0][1])) if rows else (None, 0)
        return (result, how) if rows and (self.mode == "replay" or not (how or self._failed(result))) else None

    def _keep(self, key: tuple[str, str], result: Any, how: int) -> None:
        new = "INSERT INTO results VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE "
        better = "SET result = excluded.result, failed = excluded.failed WHERE failed OR NOT excluded.failed"
        self._execute(self._tape.execute, new + better, (*key, sound(json.dumps(result, ensure_ascii=False)), how))

    def _execute(self, execute: Callable[..., sqlite3.Cursor], *asked: Any) -> list[Any]:
        """Never in the event loop's thread, which LangGraph's server watches; one at a time."""
        try:
            with self._alone:
                return execute(*asked).fetchall()
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _OF_THE_DISK:
                raise DiskRefused(f"--cassette {self._path}: {error}") from error
            raise UsageError(f"--cassette {self._path} cannot be used ({error})") from error


@asynccontextmanager
async def open_cassette(path: Path, mode: ToolsMode, failed: Failed) -> AsyncIterator[Cassette]:
    """A cassette, made if it is not there (not in replay); `failed` judges results. Raises UsageError if it cannot."""
    tape = await asyncio.to_thread(_opened, path, mode)
    try:
        yield Cassette(path, tape, mode, failed)
    finally:
        await asyncio.to_thread(_close, tape, mode)


def _opened(path: Path, mode: ToolsMode) -> sqlite3.Connection:
    replay = mode == "replay"
    if replay and not path.is_file():
        raise UsageError(f"--cassette {path}: no such file to replay")
    address = f"{path.resolve().as_uri()}?mode={'ro' if replay else 'rwc'}"
    try:
        tape = sqlite3.connect(address, uri=True, isolation_level=None, timeout=10, check_same_thread=False)
        if not replay:
            try:
                tape.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; {_SCHEMA}")
            except sqlite3.Error:
                tape.close()
                raise
    except sqlite3.Error as error:
        raise UsageError(f"--cassette {path} cannot be used ({error})") from error
    return tape


def _close(tape: sqlite3.Connection, mode: ToolsMode) -> None:
    if mode != "replay":
        with contextlib.suppress(sqlite3.Error):  # another run is using it
            tape.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            tape.execute("PRAGMA journal_mode = DELETE")  # one file, to be replayed from read-only storage too
    tape.close()


def normalised(arguments: Mapping[str, Any]) -> str:
    """Arguments as a key: names sorted, white space in texts collapsed."""
    tidy = {
        name: _SPACE.sub(" ", value).strip() if isinstance(value, str) else value for name, value in arguments.items()
    }
    return sound(json.dumps(tidy, sort_keys=True, ensure_ascii=False))
