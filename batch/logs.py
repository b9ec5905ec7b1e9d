"""What is said of a run, and where: on stderr above the progress lines, in the run's own log, as JSON lines on stdout.

Loggers: `trajgraph` for people, `trajgraph.run` for each sample's end, `trajgraph.calls` for each request (`-v`). The
last two go to the log and to JSON only. A record's `facts` are what its JSON line says beside its words.
"""

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backends.printable import one_line

log = logging.getLogger("trajgraph")
ends = logging.getLogger("trajgraph.run")
calls = logging.getLogger("trajgraph.calls")


class _OnStderr(logging.Handler):
    """A line for each record; a run does not end because nobody can read it."""

    write: Callable[[str], object] | None = None
    """In place of the stream while progress is drawn on it."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != "trajgraph" or not sys.stderr:  # there is none when it was closed
            return
        line = f"trajgraph: {one_line(record.getMessage())}"
        with contextlib.suppress(OSError):
            if self.write:
                self.write(line)
            else:
                sys.stderr.write(f"{line}\n")
                sys.stderr.flush()


class _RunLog(logging.Handler):
    """Plain lines with the time in UTC, appended to the run's log; kept back until it is known which run it is."""

    def __init__(self) -> None:
        super().__init__()
        self._path: Path | None = None
        self._waiting: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        at = datetime.fromtimestamp(record.created, UTC)
        self._waiting.append(f"{at:%Y-%m-%dT%H:%M:%SZ} {record.levelname:<7} {one_line(record.getMessage())}\n")
        self.write()

    def write(self) -> None:
        if self._path and self._waiting:
            with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8", errors="replace") as target:
                target.write("".join(self._waiting))
            self._waiting.clear()

    def open(self, path: Path) -> None:
        self._path = path
        self.write()


class _JsonLines(logging.Handler):
    """An object a line on what was stdout then: libraries that print may have been sent elsewhere since."""

    def __init__(self) -> None:
        super().__init__()
        self._stdout = sys.stdout

    def emit(self, record: logging.LogRecord) -> None:
        facts = getattr(record, "facts", {"event": "log", "level": record.levelname.lower()})
        with contextlib.redirect_stdout(self._stdout):
            tell(**facts, message=one_line(record.getMessage()))


_stderr = _OnStderr()


def log_to_stderr() -> None:
    """What the command logs goes to stderr; what the MCP library logs of a broken connection does not: we report it."""
    log.handlers = [_stderr]
    log.setLevel(logging.INFO)
    logging.getLogger("mcp").setLevel(logging.CRITICAL)
    logging.getLogger().addFilter(lambda _: False)  # it logs on the root, too; other loggers' records pass


def is_json() -> bool:
    """Whether what the command logs goes to stdout as JSON lines."""
    return any(isinstance(handler, _JsonLines) for handler in log.handlers)


def log_as_json() -> None:
    """What the command logs goes to stdout as JSON lines."""
    log.handlers = [_JsonLines()]


@contextlib.contextmanager
def run_log(*, verbose: bool = False) -> Iterator[Callable[[Path], None]]:
    """Have everything written to a run's log, too: what is given says where it is. With `verbose`, each call."""
    handler = _RunLog()
    log.addHandler(handler)
    calls.setLevel(logging.DEBUG if verbose else logging.INFO)
    try:
        yield handler.open
    finally:
        log.removeHandler(handler)


def calls_to(path: Path) -> None:
    """Have each call written to a run's log: in one of its worker processes, whose other words the first one writes."""
    handler = _RunLog()
    handler.open(path)
    calls.addHandler(handler)
    calls.setLevel(logging.DEBUG)


def draw_over(write: Callable[[str], object] | None) -> None:
    """Have lines on stderr written by what draws there."""
    _stderr.write = write


def tell(**facts: Any) -> None:
    """A JSON line on stdout."""
    with contextlib.suppress(OSError):
        sys.stdout.write(json.dumps(facts, ensure_ascii=False) + "\n")
        sys.stdout.flush()
