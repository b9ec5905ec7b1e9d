"""What a process of ours is set up with: its event loop, its garbage collector, and its log on stderr."""

import asyncio
import contextlib
import gc
import logging
import os
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

from backends.printable import one_line

Result = TypeVar("Result")


def run_to_end(work: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end, with tracing off: it would triple the cost and send the data out."""
    import uvloop

    os.environ["LANGSMITH_TRACING"] = os.environ["LANGCHAIN_TRACING_V2"] = "false"
    gc.freeze()  # what the imports left stays for good: the collector need not walk it again and again
    gc.set_threshold(100_000, 20, 20)
    sys.setswitchinterval(0.0005)  # seconds: else a thread that writes waits 5 ms for the loop's at each statement
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


class _OnStderr(logging.Handler):
    """A line for each record, above the progress line; a run does not end because nobody can read it."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        if sys.stderr:  # there is none when it was closed
            with contextlib.suppress(OSError):
                tqdm.write(f"trajgraph: {one_line(record.getMessage())}", file=sys.stderr)


def log_to_stderr() -> None:
    """What the command logs goes to stderr; what the MCP library logs of a broken connection does not: we report it."""
    log = logging.getLogger("trajgraph")
    log.handlers = [_OnStderr()]
    log.setLevel(logging.INFO)
    logging.getLogger("mcp").setLevel(logging.CRITICAL)
    logging.getLogger().addFilter(lambda _: False)  # it logs on the root, too; other loggers' records pass
