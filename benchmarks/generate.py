"""What a trajectory costs: `generate` as a user runs it, against servers that cost nothing, beside a plain httpx loop.

python -m benchmarks.generate            all of these:
python -m benchmarks.generate cost       CPU a trajectory at 64 and 256 in flight, the loop's, checkpoints, the parts
python -m benchmarks.generate wall       1,024 questions, 256 in flight, a model that takes 1 s, tools that take 200 ms
python -m benchmarks.generate workers    trajectories a second with one process and two workers, then of short questions
python -m benchmarks.generate long       100,000 short questions: memory and rate from the start to the end

CPU is user and system time of the process and its children, as the kernel counts it; a trajectory's is the slope
between a short run and a long one, so that starting is not in it. What is compared is measured in turn, in one command;
what takes minutes, beside a piece of work that is always the same, since the machine itself is slower at times.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Sample:
    """One look at a running process: seconds since it began, resident MB with its workers', records written, MB of
    checkpoints; the CPU seconds of the whole machine, and the milliseconds of CPU that the same work takes now.
    """

    seconds: float
    resident: float
    records: int
    checkpoints: float
    machine: float
    pace: float


@dataclass
class Measured:
    """One process that ended: its CPU and wall seconds, MB of checkpoints that it left, and how it went."""

    cpu: float
    wall: float
    checkpoints_left: float
    samples: list[Sample] = field(default_factory=list)


@contextmanager
def load_servers(*flags: str) -> Iterator[tuple[str, str]]:
    """Addresses of a model and a tool server."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load_servers", *flags], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        model, tools = process.stdout.readline().split()
        yield model, tools
    finally:
        process.kill()
        process.wait()


def questions(folder: Path, count: int) -> Path:
    """A questions file."""
    path = folder / f"{count}.jsonl"
    with path.open("w", encoding="utf-8") as target:
        for n in range(count):
            row = {"question": f"Does treatment {n} help patients with condition {n}?", "topic": "t"}
            target.write(json.dumps({**row, "question_type": "review", "expected_search_terms": []}) + "\n")
    return path


def measured(command: list[str], output: Path | None = None, every: float = 0.1) -> Measured:
    """Run a command to its end, looking at it meanwhile."""
    began, samples = time.monotonic(), []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    ended = threading.Event()

    def look() -> None:
        records, read = 0, 0
        while not ended.wait(every):
            try:
                resident = resident_mb(process.pid)
            except OSError:  # it has ended, or one of its workers just did
                continue
            for path in output.glob("*_incremental.jsonl") if output else ():
                with path.open("rb") as lines:
                    lines.seek(read)
                    new = lines.read()
                read, records = read + len(new), records + new.count(b"\n")
            seconds = time.monotonic() - began
            samples.append(Sample(seconds, resident, records, stored_mb(output), cpu_seconds(), pace()))

    looking = threading.Thread(target=look)
    looking.start()
    _, status, used = os.wait4(process.pid, 0)
    ended.set()
    looking.join()
    if status:
        sys.exit(f"{' '.join(command)}: ended with {status}")
    return Measured(used.ru_utime + used.ru_stime, time.monotonic() - began, stored_mb(output), samples)


def resident_mb(process: int) -> float:
    """Of a process and its children. Raises OSError when one of them has ended."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in (process, *children))
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def stored_mb(output: Path | None) -> float:
    """Of the checkpoints and their log."""
    return sum(path.stat().st_size for path in output.glob("*.sqlite*")) / 1e6 if output else 0.0


def generate(folder: Path, addresses: tuple[str, str], count: int, in_flight: int, *more: str) -> Measured:
    """`trajgraph generate` over so many questions."""
    output = folder / "out"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "cli", "generate", "--questions-file", str(questions(folder, count))]
    command += ["--local-model-url", addresses[0], "--mcp-url", addresses[1], "--tools", "pubmed_search"]
    return measured([*command, "--output", str(output), "--concurrency", str(in_flight), *more], output)


def plain_loop(folder: Path, addresses: tuple[str, str], count: int, in_flight: int, client: str) -> Measured:
    """The same requests by asyncio and an HTTP client, `httpx` or `aiohttp`."""
    asked = [str(questions(folder, count)), *addresses, str(in_flight), client]
    return measured([sys.executable, "-m", "benchmarks.floor", *asked])


def cost(folder: Path, rounds: int, count: int) -> None:
    """Milliseconds of CPU a trajectory: ours, the loop's, and by parts."""
    ways: dict[str, tuple[Callable[..., Measured], int, list[str]]] = {
        "generate, 64": (generate, 64, []),
        "plain loop, 64": (plain_loop, 64, ["httpx"]),
        "plain loop on aiohttp, 64": (plain_loop, 64, ["aiohttp"]),
        "generate, 256": (generate, 256, []),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    at_64: list[Measured] = []
    speeds: list[float] = []
    with load_servers() as addresses:
        for _ in range(rounds):
            for name, (run, in_flight, more) in ways.items():
                short = run(folder, addresses, in_flight, in_flight, *more)
                whole = run(folder, addresses, in_flight + count, in_flight, *more)
                found[name].append((whole.cpu - short.cpu) / count * 1000)
                if name == "generate, 64":
                    at_64.append(whole)
                    speeds.append(count / (whole.wall - short.wall))
        parts = subprocess.run(
            [sys.executable, "-m", "benchmarks.parts", *addresses], capture_output=True, text=True, check=True
        )
    for name, values in found.items():
        spread = f"{min(values):.1f} to {max(values):.1f}"
        print(f"{name} in flight: {statistics.median(values):5.1f} ms of CPU a trajectory ({spread})")
    ours, floor, _, wide = found.values()
    print(f"ratio to the loop, by round: {', '.join(f'{a / b:.2f}' for a, b in zip(ours, floor, strict=True))}")
    print(f"256 to 64 in flight, by round: {', '.join(f'{a / b:.2f}' for a, b in zip(wide, ours, strict=True))}")
    resident = max(sample.resident for run in at_64 for sample in run.samples)
    during = max(sample.checkpoints for run in at_64 for sample in run.samples) * 1000 / 64
    after = max(run.checkpoints_left for run in at_64) * 1000
    print(f"{statistics.median(speeds):.0f} trajectories/s; at most {resident:.0f} MB resident")
    print(f"checkpoints: at most {during:.0f} kB for each in flight; {after:.0f} kB in all at the end")
    print("alone, at 64 in flight: " + ", ".join(f"{part} {ms} ms" for part, ms in json.loads(parts.stdout).items()))


def wall(folder: Path, count: int = 1024, in_flight: int = 256) -> None:
    """How near the run comes to the time that the servers need."""
    with load_servers("--model-latency", "1000", "--tool-latency", "200") as addresses:
        took = generate(folder, addresses, count, in_flight)
    stats = json.loads(next((folder / "out").glob("trajectory_stats_*.json")).read_text(encoding="utf-8"))
    ideal = count / in_flight * (6 * 1.0 + 5 * 0.2)
    seconds, whole = stats["wall_seconds"], took.wall
    print(f"{count} questions, {in_flight} in flight: {seconds:.1f} s, ideal {ideal:.1f} s, ratio", end=" ")
    print(
        f"{seconds / ideal:.3f}; with starting and ending {whole:.1f} s, {whole / ideal:.3f}; {took.cpu:.1f} s of CPU"
    )


def workers(folder: Path, rounds: int, count: int) -> None:
    """Trajectories a second, from when as many as are in flight are done, and how much of the machine it takes."""
    in_flight = 128
    for calls, total in ((5, count), (0, 8 * count)):
        with load_servers("--calls", str(calls)) as addresses:
            for _ in range(rounds):
                rates, busy = [], []
                for number in ("1", "2"):
                    samples = generate(folder, addresses, total, in_flight, "--workers", number).samples
                    first = next(sample for sample in samples if sample.records >= in_flight)
                    last = next(sample for sample in samples if sample.records == samples[-1].records)
                    rates.append(rate(first, last))
                    busy.append((last.machine - first.machine) / (last.seconds - first.seconds))
                print(f"{calls} calls: one process {rates[0]:.1f}/s, two workers {rates[1]:.1f}/s, ratio", end=" ")
                print(f"{rates[1] / rates[0]:.2f}; {busy[0]:.2f} and {busy[1]:.2f} of {os.cpu_count()} cores busy")


def rate(first: Sample, last: Sample) -> float:
    """Records a second between two looks."""
    return (last.records - first.records) / (last.seconds - first.seconds)


def pace() -> float:
    """The milliseconds of CPU that a piece of work takes which is always the same."""
    began = time.thread_time()
    sum(n * n for n in range(20_000))
    return (time.thread_time() - began) * 1000


def cpu_seconds() -> float:
    """Seconds for which the cores of this machine have computed, for anybody, since it started."""
    user, nice, system, _idle, _waiting, *irq = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
    return sum(map(int, (user, nice, system, *irq))) / os.sysconf("SC_CLK_TCK")


def long(folder: Path, count: int) -> None:
    """Memory and rate over a run of many short questions, beside the pace of the machine in each tenth; and how long it
    takes to see that all is done.
    """
    with load_servers("--calls", "0") as addresses:
        samples = generate(folder, addresses, count, 64).samples
        rates, at_pace = [], []
        for share in range(10):
            since, until = max(64, share * count / 10), (share + 1) * count / 10  # without the start
            part = [sample for sample in samples if since <= sample.records < until]
            now, paced = rate(part[0], part[-1]), statistics.mean(sample.pace for sample in part)
            rates.append(now)
            at_pace.append(now * paced)
            print(f"to {part[-1].records:>7,}: {now:6.1f}/s where the same work takes {paced:.2f} ms,", end=" ")
            print(f"{now * paced:.0f} in its time; {part[-1].resident:.0f} MB resident")
        print(f"the last tenth to the first: {rates[-1] / rates[0]:.2f};", end=" ")
        print(f"in the time of the same work, {at_pace[-1] / at_pace[0]:.2f}")
        early = next(sample for sample in samples if sample.records >= 1000)
        last = [sample.resident for sample in samples if sample.resident][-1]
        print(f"after 1,000: {early.resident:.0f} MB; at the end: {last:.0f} MB")
        began = time.monotonic()
        again = [sys.executable, "-m", "cli", "resume", str(folder / "out")]
        subprocess.run(again, check=True, stdout=subprocess.DEVNULL)
        print(f"the same run again, all done: {time.monotonic() - began:.1f} s")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="?", choices=("cost", "wall", "workers", "long"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measures = {
            "cost": lambda: cost(folder, asked.rounds, asked.questions or 600),
            "wall": lambda: wall(folder),
            "workers": lambda: workers(folder, asked.rounds, asked.questions or 1000),
            "long": lambda: long(folder, asked.questions or 100_000),
        }
        for what in [asked.what] if asked.what else measures:
            measures[what]()


if __name__ == "__main__":
    main()
