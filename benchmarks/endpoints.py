"""Four model servers in one run: our pool beside a static split, round robin and a router that keeps sessions.

python -m benchmarks.endpoints [--router smg] [--only pool,router]     `smg` is a router on PyPI; without one those two
                                                                         ways are left out, and it is said

300 questions of five calls, 64 in flight, over servers of 16 slots x 0.5 s, 16 x 0.8 (dies after 7 s, for 10 s),
16 x 1.6 and 8 x 3.2, the last of which refuses (429) when more than two requests wait in it. Each way gets servers of
its own, one after the other in one command.
"""

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from benchmarks.generate import questions

SPEC = {
    "calls": 5, "tool_seconds": 0.2,
    "endpoints": [
        {"slots": 16, "seconds": 0.5, "prefill": 0.05},
        {"slots": 16, "seconds": 0.8, "prefill": 0.05, "dies_at": 7, "down": 10},
        {"slots": 16, "seconds": 1.6, "prefill": 0.05},
        {"slots": 8, "seconds": 3.2, "prefill": 0.05, "longest_line": 2},
    ],
}  # fmt: skip
_QUESTIONS, _IN_FLIGHT = 300, 64


@contextmanager
def servers() -> Iterator[list[str]]:
    """Addresses: of the tools, of the statistics, of each model server."""
    command = [sys.executable, "-m", "benchmarks.sim_endpoints", json.dumps(SPEC)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()
    finally:
        process.kill()
        process.wait()


@contextmanager
def router(binary: str, models: list[str], *policy: str) -> Iterator[str]:
    """A router in front of the servers."""
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ports.append(listener.getsockname()[1])
    command = [
        binary, "launch", "--host", "127.0.0.1", "--port", str(ports[0]), "--worker-urls", *models, *policy,
        "--prometheus-host", "127.0.0.1", "--prometheus-port", str(ports[1]), "--health-check-interval-secs", "2",
        "--health-failure-threshold", "2", "--cb-failure-threshold", "3", "--cb-timeout-duration-secs", "5",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(10)  # it looks at its servers first
        yield f"http://127.0.0.1:{ports[0]}"
    finally:
        process.kill()
        process.wait()


def begun(folder: Path, asked: Path, tools: str, models: list[str], in_flight: int) -> "subprocess.Popen[bytes]":
    """A run in a folder of its own."""
    command = [sys.executable, "-m", "cli", "generate", "--questions-file", str(asked), "--tools", "pubmed_search"]
    command += [word for model in models for word in ("--local-model-url", f"{model}/v1")]
    command += ["--mcp-url", f"{tools}/mcp", "--concurrency", str(in_flight), "--output", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=(folder.parent / "log").open("ab"))


def split(folder: Path, tools: str, models: list[str]) -> list[Path]:
    """A run a server, each with its share of the questions and of what is in flight."""
    rows, runs = questions(folder, _QUESTIONS).read_text().splitlines(keepends=True), list[Path]()
    processes = []
    for number, model in enumerate(models):
        (asked := folder / f"part{number}.jsonl").write_text("".join(rows[number :: len(models)]))
        runs.append(folder / f"out{number}")
        processes.append(begun(runs[-1], asked, tools, [model], _IN_FLIGHT // len(models)))
    for process in processes:
        process.wait()
    return runs


def whole(folder: Path, tools: str, models: list[str]) -> list[Path]:
    """One run for all."""
    begun(folder / "out", questions(folder, _QUESTIONS), tools, models, _IN_FLIGHT).wait()
    return [folder / "out"]


def told(name: str, runs: list[Path], statistics: str, seconds: float) -> float:
    """Print what became of a way; returns its seconds."""
    stats = [json.loads(path.read_text()) for run in runs for path in run.glob("trajectory_stats_*.json")]
    lines = [json.loads(line) for run in runs for path in run.glob("*_incremental.jsonl") for line in path.open("rb")]
    seen = json.load(urlopen(f"{statistics}/stats"))
    counts = {name: sum(one[name] for one in stats) for name in ("accepted", "rejected", "failed", "pending")}
    kept, failed = len({line["question"] for line in lines}), counts["failed"] + counts["rejected"] + counts["pending"]
    retried = sum(line["metadata"]["attempts"] > 1 for line in lines)
    each = seen["endpoints"]
    summed = {about: sum(one.get(about, 0) for one in each) for about in ("dropped", "refused")}
    anew = sum(one.get("read anew", 0) for one in each) / sum(one.get("messages", 0) for one in each)
    longest = max(one["wall_seconds"] for one in stats)
    print(
        f"{name:14} {longest:6.1f} s ({seconds:.1f} with starting); {counts['accepted']} accepted, {counts['failed']} "
        f"failed, {_QUESTIONS - kept - failed} lost, {len(lines) - kept} twice, {retried} took attempts; "
        f"{seen['at_the_same']:.3f} of later turns at the same server, {anew:.2f} of messages read anew; answered "
        f"{'/'.join(str(one.get('answered', 0)) for one in each)}, "
        f"dropped {summed['dropped']}, refused {summed['refused']}",
        flush=True,
    )  # fmt: skip
    return float(longest)


def main() -> None:
    """Measure each way in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--router", default=shutil.which("smg"))
    parser.add_argument("--only", default="pool,static split,round robin,router")
    asked, took = parser.parse_args(), dict[str, float]()
    sticky = ("--policy", "power_of_two", "--sticky-sessions", "--routing-key-headers", "x-session-id",
              "--assignment-mode", "min_load")  # fmt: skip
    policies = {"round robin": ("--policy", "round_robin"), "router": sticky}
    for name in asked.only.split(","):
        if name in policies and not asked.router:
            print(f"{name:14} left out: no router (pip install smg)")
            continue
        with tempfile.TemporaryDirectory() as place, servers() as (tools, statistics, *models):
            folder = Path(place)
            if name in policies:
                with router(asked.router, models, *policies[name]) as address:
                    began = time.monotonic()
                    runs = whole(folder, tools, [address])
                    took[name] = told(name, runs, statistics, time.monotonic() - began)
            else:
                began = time.monotonic()
                runs = (split if name == "static split" else whole)(folder, tools, models)
                took[name] = told(name, runs, statistics, time.monotonic() - began)
    for name, seconds in took.items():
        if "pool" in took and name != "pool":
            print(f"pool to {name}: {took['pool'] / seconds:.2f}")


if __name__ == "__main__":
    main()
