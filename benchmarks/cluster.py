"""A run on Ray beside one process and `--workers 2`, and what a cluster of three nodes on loopback loses: nothing.

python -m benchmarks.cluster [rates|faults]

Rates: 2,000 short and 300 five-call questions against servers that cost nothing, each way in turn: questions a second
once the first are written, seconds until then, and MB resident in all processes of the command. Faults: the same
questions on three nodes of one CPU; an actor is killed, a node removed, the driver killed, the same command run again.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.generate import load_servers, questions
from tests.support.ray_cluster import RayCluster, actors, ray_cluster

KINDS = {"short": (2000, "0", 128), "five calls": (300, "5", 64)}
"""Questions, calls of each, in flight."""


def command(folder: Path, addresses: tuple[str, str], count: int, in_flight: int, *more: str) -> list[str]:
    """`trajgraph generate` over so many questions."""
    words = [sys.executable, "-m", "cli", "generate", "--questions-file", str(questions(folder, count))]
    words += ["--local-model-url", addresses[0], "--mcp-url", addresses[1], "--tools", "pubmed_search"]
    return [*words, "--output", str(folder / "out"), "--concurrency", str(in_flight), *more]


def written(folder: Path) -> int:
    """Records so far."""
    return sum(path.read_bytes().count(b"\n") for path in (folder / "out").glob("*_incremental.jsonl"))


def resident_mb(mark: str) -> float:
    """Private memory of all processes that were started with a mark in their environment."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                lines = (process / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
        except OSError:
            continue
    return total / 1000


def rates() -> None:
    """Each way in turn, for each kind of questions."""
    ways = {"one process": (), "--workers 2": ("--workers", "2"), "--ray local": ("--ray", "local", "--workers", "2")}
    for kind, (count, calls, in_flight) in KINDS.items():
        for name, more in ways.items():
            with load_servers("--calls", calls) as addresses, tempfile.TemporaryDirectory() as place:
                folder, mark, began = Path(place), f"BENCHMARK_{time.monotonic_ns()}", time.monotonic()
                process = subprocess.Popen(
                    command(folder, addresses, count, in_flight, *more), env={**os.environ, "MARK": mark},
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
                first, memory, at = 0.0, 0.0, 0
                while process.poll() is None:
                    time.sleep(0.2)
                    if not first and (at := written(folder)):
                        first = time.monotonic()
                    if int(time.monotonic() * 5) % 10 == 0:
                        memory = max(memory, resident_mb(mark))
                    if written(folder) == count:
                        ended = time.monotonic()
                        process.wait()
                        break
                rate = (count - at) / (ended - first)
                print(f"{kind}, {name}: {rate:.0f}/s, {first - began:.1f} s to the first, {memory:.0f} MB", flush=True)


def faults() -> None:
    """Lose an actor, a node and the driver."""
    for kind, (count, calls, in_flight) in KINDS.items():
        with (
            load_servers("--calls", calls, "--model-latency", "50") as addresses,
            tempfile.TemporaryDirectory() as place,
            ray_cluster(3) as cluster,
        ):
            folder = Path(place)
            os.environ["TRAJGRAPH_SCRATCH"] = str(folder / "scratch")
            words = command(folder, addresses, count, in_flight, "--ray", cluster.address)
            driver = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            happens = {0.15: kill_actor, 0.4: lambda one: one.tell("remove"), 0.6: None}
            for share, act in happens.items():
                while written(folder) < share * count and driver.poll() is None:
                    time.sleep(0.05)
                if act:
                    act(cluster)
            driver.kill()
            driver.wait()
            at = written(folder)
            again = subprocess.run(words, capture_output=True, text=True, check=False)
            rows = [
                json.loads(line) for path in (folder / "out").glob("*_incremental.jsonl") for line in path.open("rb")
            ]
            ids = {row["sample_id"] for row in rows}
            print(f"{kind}: driver killed at {at}; then {again.stdout.splitlines()[0]}", end="; ")
            print(f"{count - len(ids)} lost, {len(rows) - len(ids)} twice", flush=True)


def kill_actor(_: RayCluster) -> None:
    """One of them."""
    os.kill(actors()[0], signal.SIGKILL)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="?", choices=("rates", "faults"))
    asked = parser.parse_args()
    for name, measure in {"rates": rates, "faults": faults}.items():
        if asked.what in (None, name):
            measure()


if __name__ == "__main__":
    main()
