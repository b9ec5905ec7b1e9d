"""What a process of ours is set up with: its event loop and its garbage collector."""

import asyncio
import gc
import os
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

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
