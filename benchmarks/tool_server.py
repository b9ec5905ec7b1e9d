"""What a tool call costs the bundled server: its CPU and what a caller waits, 32 calls at a time over one session.

python -m benchmarks.tool_server [--corpus INDEX] [--calls 3000]
"""

import argparse
import asyncio
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from backends.mcp_servers import mcp_servers
from backends.tool_routes import map_tools
from backends.tools import open_tool_client
from batch.questions import check_questions
from servers.demo_model.policy import keywords
from servers.serving import DEMO_QUESTIONS

CONCURRENCY = 32


async def ask(url: str, queries: list[str]) -> list[float]:
    """Milliseconds that each search took, as its caller saw it."""
    async with open_tool_client(mcp_servers([url], {}), concurrency=CONCURRENCY) as client:
        client.routes = map_tools(client.served, ["pubmed_search"])
        gate, times = asyncio.Semaphore(CONCURRENCY), []

        async def one(query: str) -> None:
            async with gate:
                began = time.perf_counter()
                await client.call("pubmed_search", query, {"limit": 5})
                times.append((time.perf_counter() - began) * 1000)

        await asyncio.gather(*(one(query) for query in queries))
    return times


def measured(flags: list[str], queries: list[str]) -> tuple[float, float, list[float]]:
    """CPU seconds of a server that answered these queries and ended, wall seconds, the callers' waits."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "serve-tools", "--port", "0", *flags], stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    url, started = process.stdout.readline().split()[-1], time.monotonic()
    times = asyncio.run(ask(url, queries)) if queries else []
    wall = time.monotonic() - started
    process.terminate()
    process.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall, times


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus", type=Path, help="an index; else the bundled papers")
    parser.add_argument("--calls", type=int, default=3000)
    asked = parser.parse_args()
    flags = ["--corpus", str(asked.corpus)] if asked.corpus else ["--offline"]
    questions = [" ".join(keywords(row["question"])[:3]) for _, row in check_questions(DEMO_QUESTIONS).stream()]
    idle, _, _ = measured(flags, [])
    cpu, wall, times = measured(flags, [questions[n % len(questions)] for n in range(asked.calls)])
    cuts = statistics.quantiles(times, n=100)
    print(
        f"{asked.calls:,} calls, {CONCURRENCY} at a time: {(cpu - idle) / asked.calls * 1000:.1f} ms of CPU a call, "
        f"{asked.calls / wall:,.0f} calls/s, waits p50 {cuts[49]:.0f} ms, p95 {cuts[94]:.0f} ms"
    )


if __name__ == "__main__":
    main()
