"""Several processes for one run: workers settle the questions, each in an event loop of its own; the first one writes.

A question goes to the worker that has the fewest, so none is idle while questions are left. Both ends speak lines over
a socket, the worker's standard input; fields are parted by tabs, which JSON does not hold:

    to a worker     ask SAMPLE ROW · forget SAMPLE · waited N 0|1 · stop
    from a worker   settled SAMPLE KIND LINE · drained SAMPLE · broken SAMPLE ERROR TEXT · away N SERVICE · say TEXT

A worker whose socket closes ends at once: its questions stand in the checkpoints.
"""

import asyncio
import contextlib
import itertools
import json
import os
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from langgraph.errors import GraphDrained

from backends.errors import BackendError, UserError
from batch.attempts import Stop
from batch.outage import Downtimes, service_of
from batch.outcomes import Kind, LetGo, Outcome, Settle, Settled
from serializers.record import QuestionRow

_LONGEST_LINE = 1 << 30
_BREAKING: dict[str, type[Exception]] = {kind.__name__: kind for kind in (UserError, OSError, sqlite3.DatabaseError)}
"""What ends a run, wherever it happens."""


async def _whole_lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """What the other end says, line by line, until it is gone; a line that it could not finish is none."""
    with contextlib.suppress(ConnectionError):  # it went with words of ours unread
        while (line := await reader.readline()).endswith(b"\n"):
            yield line[:-1]


@dataclass
class _Worker:
    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    pending: dict[str, "asyncio.Future[Outcome]"] = field(default_factory=dict)

    def tell(self, *fields: str) -> None:
        if not self.writer.is_closing():  # else it has died, which its reader tells
            self.writer.write("\t".join(fields).encode() + b"\n")


class WorkerPool:
    """Settles questions in other processes. Make it with `open_workers`."""

    def __init__(self, workers: list[_Worker], downtimes: Downtimes, stop: Stop, say: Callable[[str], None]) -> None:
        self._workers = workers
        self._downtimes = downtimes
        self._stop = stop
        self._say = say
        self.lost = 0
        """Workers that ended before the run did."""

    async def __call__(self, identity: str, row: QuestionRow) -> Settled:
        """The outcome, known when it has ended, from whichever worker has the fewest questions."""
        if self._stop.event.is_set():
            raise GraphDrained
        worker = min(self._workers, key=lambda one: len(one.pending))
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        worker.pending[identity] = answer
        worker.tell("ask", identity, json.dumps(row))
        try:
            outcome = await answer
        finally:
            worker.pending.pop(identity, None)

        async def known(now: bool) -> Outcome:
            return outcome

        async def forget() -> None:
            worker.tell("forget", identity)

        async def stored() -> None:
            pass  # before the worker tells that it has ended

        return Settled(known, forget, stored)

    async def listen(self, worker: _Worker) -> None:
        """Take in what a worker says, until it is gone."""
        waiting: set[asyncio.Task[None]] = set()
        try:
            async for line in _whole_lines(worker.reader):
                self._take_in(worker, line, waiting)
        except Exception:
            await self._let_go(worker)
            raise
        await self._let_go(worker)

    def _take_in(self, worker: _Worker, line: bytes, waiting: "set[asyncio.Task[None]]") -> None:
        told, *fields = line.split(b"\t", 3)
        words = [word.decode() for word in fields[:2]]
        if told == b"say":
            self._say(words[0])
        elif told == b"away":
            waiting.add(task := asyncio.create_task(self._wait(worker, *words)))
            task.add_done_callback(waiting.discard)
        elif (answer := worker.pending.get(words[0])) and not answer.done():
            if told == b"settled":
                answer.set_result(Outcome(cast(Kind, words[1]), fields[2]))
            elif told == b"drained":
                answer.set_exception(GraphDrained())
            else:
                answer.set_exception(_BREAKING.get(words[1], RuntimeError)(fields[2].decode()))

    async def _let_go(self, worker: _Worker) -> None:
        """A worker is gone: the run ends, unless it was ending."""
        if not self._stop.event.is_set() or worker.pending:
            self.lost += 1
            self._stop.request()
            worker.writer.close()  # one that is still there ends
            code, pid = await worker.process.wait(), worker.process.pid
            self._say(f"worker process {pid} ended ({code}); what it had begun goes on with the next run")
        for answer in worker.pending.values():
            if not answer.done():
                answer.set_exception(GraphDrained())

    async def pass_on_the_stop(self) -> None:
        """Tell every worker when the run is to end."""
        await self._stop.event.wait()
        for worker in self._workers:
            worker.tell("stop")

    async def _wait(self, worker: _Worker, number: str, service: str) -> None:
        try:
            away = await self._downtimes.wait(service)
        except GraphDrained:
            return  # the worker is told that the run ends
        worker.tell("waited", number, str(int(away)))


@asynccontextmanager
async def open_workers(
    run: Path, count: int, downtimes: Downtimes, stop: Stop, say: Callable[[str], None], api_key: str | None
) -> AsyncIterator[WorkerPool]:
    """So many worker processes for the run that `run.json` describes; ended on leaving."""
    environment = {**os.environ, **({"OPENAI_API_KEY": api_key} if api_key else {})}
    workers: list[_Worker] = []
    listening: list[asyncio.Task[None]] = []
    pool = WorkerPool(workers, downtimes, stop, say)
    try:
        for _ in range(count):
            ours, theirs = socket.socketpair()
            with (
                theirs
            ):  # inherited with the run's lock, so that no other process takes the run while one of them lives
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "cli", "worker", str(run), stdin=theirs.fileno(),
                    stdout=asyncio.subprocess.DEVNULL, env=environment, close_fds=False, start_new_session=True,
                )  # fmt: skip
            reader, writer = await asyncio.open_connection(sock=ours, limit=_LONGEST_LINE)
            workers.append(_Worker(process, reader, writer))
            listening.append(asyncio.create_task(pool.listen(workers[-1])))
        listening.append(asyncio.create_task(pool.pass_on_the_stop()))
        yield pool
    finally:
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)
        for worker in workers:
            worker.writer.close()
            await worker.process.wait()


class Foreman:
    """The first process, as a worker knows it. Make it with `meet_foreman`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count()
        self._waiting: dict[str, asyncio.Future[bool]] = {}
        self._forget: dict[str, LetGo] = {}
        self.stop = Stop()

    async def away(self, error: BackendError) -> bool:
        """Have the first process wait until the service that failed answers."""
        if self.stop.event.is_set():
            raise GraphDrained
        number = str(next(self._numbers))
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._tell("away", number, service_of(error))
        try:
            return await answer
        finally:
            del self._waiting[number]

    def say(self, line: str) -> None:
        """A line for the user."""
        self._tell("say", line.replace("\t", " ").replace("\n", " "))

    async def serve(self, settle: Settle) -> None:
        """Settle what is asked, and forget the checkpoints of a sample whose line is safe.

        When the first process goes before all is answered, this one ends at once.
        """
        tasks: set[asyncio.Task[None]] = set()
        async for line in _whole_lines(self._reader):
            told, *fields = line.decode().split("\t", 2)
            if told == "ask":
                tasks.add(task := asyncio.create_task(self._settle(settle, fields[0], json.loads(fields[1]))))
                task.add_done_callback(tasks.discard)
            elif told == "forget":
                with contextlib.suppress(sqlite3.Error):  # the questions in flight tell it
                    await self._forget.pop(fields[0])()
            elif told == "waited":
                self._answer(fields[0], fields[1] == "1")
            else:
                self.stop.request()
                for number in list(self._waiting):
                    self._answer(number, None)
        if tasks:
            os._exit(1)

    async def _settle(self, settle: Settle, identity: str, row: QuestionRow) -> None:
        try:
            settled = await settle(identity, row)
            self._forget[identity] = settled.let_go
            await settled.stored()
            outcome = await settled.outcome(True)
        except GraphDrained:
            self._tell("drained", identity)
        except tuple(_BREAKING.values()) as error:
            kind = next(name for name, known in _BREAKING.items() if isinstance(error, known))
            self._tell("broken", identity, kind, str(error).replace("\n", " "))
        except Exception as error:  # a fault of ours: it ends the run here as it does in one process
            self._tell("broken", identity, type(error).__name__, f"{type(error).__name__}: {error}".replace("\n", " "))
        else:
            self._writer.write(f"settled\t{identity}\t{outcome.kind}\t".encode() + outcome.line + b"\n")
            await self._writer.drain()

    def _answer(self, number: str, away: bool | None) -> None:
        answer = self._waiting.get(number)
        if answer and not answer.done():
            answer.set_exception(GraphDrained()) if away is None else answer.set_result(away)

    def _tell(self, *fields: str) -> None:
        self._writer.write("\t".join(fields).encode("utf-8", "replace") + b"\n")


async def meet_foreman() -> Foreman:
    """The other end of a worker's standard input."""
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=os.dup(0)), limit=_LONGEST_LINE)
    return Foreman(reader, writer)
