"""Several processes for one run: equal workers, each the same runner on its share of the questions.

They append to the same files under a lock; each has checkpoints of its own while it is at work. The first process
starts them, counts what appears on disk, passes a stop on, and writes the statistics. On a worker's standard input a
word means stop, and its end that the first process is gone.
"""

import asyncio
import os
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from backends.json_codec import load_json
from backends.own_process import own_command, own_environment
from batch.config import RunConfig
from batch.finished import Kind
from batch.jsonl import summary
from batch.logs import log
from batch.progress import Progress
from batch.records import Tail
from batch.run_files import RunFiles
from batch.stop import StopSignal
from batch.worker_checkpoints import distribute, gather, threads_in

_LOOK = 0.2
"""Seconds between two looks at the files."""
_OF_ONE = re.compile(r"\(.*\)|\d+ s\b")
"""What may differ between two workers that report the same."""
_PREFIX = "trajgraph: "
_LONGEST_LINE = 1 << 24


async def run_workers(config: RunConfig, progress: Progress, stop: StopSignal) -> int:
    """Have the pending questions worked through; returns 0, or the exit code of a worker that ended the run."""
    files, left = progress.files, sum(1 for _ in progress.pending_questions())
    if not (count := min(config.workers, config.concurrency, left)):
        return 0
    paths = [files.checkpoints_of(worker, count) for worker in range(count)]
    if config.checkpoints is None:
        await asyncio.to_thread(_hand_out, files, paths, progress)
    tails = {kind: Tail(path) for kind, path in files.outputs.items()}
    workers: list[asyncio.subprocess.Process] = []
    watching: list[asyncio.Task[int]] = []
    reported: Counter[str] = Counter()
    try:
        for worker in range(count):
            workers.append(await _started(files, config, progress.questions.limit, worker, count))
            watching.append(asyncio.create_task(_watch(workers[-1], stop, reported)))
        stop.on_request.append(lambda: _pass_on(workers))
        if stop.reason:
            _pass_on(workers)
        while not all(task.done() for task in watching):
            await asyncio.wait(watching, timeout=_LOOK)
            await _count(tails, progress)
        await _count(tails, progress)
        if config.samples.accept:
            progress.read_finished()  # to count the questions that want more
        return next((code for code in map(asyncio.Task.result, watching) if code), 0)
    finally:
        for process in workers:
            assert process.stdin
            process.stdin.close()
        await asyncio.gather(*(process.wait() for process in workers), *watching, return_exceptions=True)
        if config.checkpoints is None:
            await asyncio.to_thread(gather, files.checkpoints, files.worker_checkpoints)


def _hand_out(files: RunFiles, paths: list[Any], progress: Progress) -> None:
    """The checkpoints of what is pending, to the workers that will resume it."""
    stored = threads_in(files.checkpoints)
    wanted: dict[Any, set[str]] = {path: set() for path in paths}
    share = progress.questions.share
    for row_number, thread in progress.pending_threads() if stored else ():
        if thread in stored:
            wanted[paths[(row_number - 1 - share.index) // share.count % len(paths)]].add(thread)
    distribute(files.checkpoints, {path: threads for path, threads in wanted.items() if threads})


async def _started(
    files: RunFiles, config: RunConfig, limit: int | None, worker: int, count: int
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *own_command("worker", str(files.run), str(worker), str(count), str(limit or 0)),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        env=own_environment(OPENAI_API_KEY=config.model.api_key, MCP_TOKEN=config.tools.token),
        close_fds=False,  # it inherits the run's lock: no other process takes the run while one of them lives
        start_new_session=True, limit=_LONGEST_LINE,
    )  # fmt: skip


async def _watch(process: asyncio.subprocess.Process, stop: StopSignal, reported: Counter[str]) -> int:
    """Pass on what a worker logs, once for all that log the same, and end the run when it ends badly."""
    assert process.stderr
    said: Counter[str] = Counter()
    async for line in process.stderr:
        text = line.decode("utf-8", "replace").rstrip("\n")
        if not text.startswith(_PREFIX):
            log.warning("a worker process says: %s", text)
            continue
        said[key := _OF_ONE.sub("", text)] += 1
        if said[key] > reported[key]:
            reported[key] = said[key]
            log.info(text.removeprefix(_PREFIX))
    code = await process.wait()
    if code and not stop.reason:
        if code < 0:
            log.error(
                "worker process %d ended (%d); run the same command to resume what it had started", process.pid, code
            )
        stop.request("worker")
        return code if code > 0 else 1
    return 0


def _pass_on(workers: list[asyncio.subprocess.Process]) -> None:
    for process in workers:
        if process.stdin and not process.stdin.is_closing():  # else it has ended
            process.stdin.write(b"stop\n")


async def _count(tails: Mapping[Kind, Tail], progress: Progress) -> None:
    for kind, tail in tails.items():
        for line in await asyncio.to_thread(lambda tail: list(tail.read()), tail):
            progress.count(kind, summary(line) if kind != "failed" else load_json(line))


def watch_first_process(stop: StopSignal) -> None:
    """In a worker: hear on standard input when to stop; without a first process, end at once."""

    def heard() -> None:
        if os.read(0, 64):
            stop.request("interrupted")
        else:
            os._exit(1)

    asyncio.get_running_loop().add_reader(0, heard)
