"""A process on some node of a cluster: it opens what a run needs there, and rolls questions out, many at a time."""

import asyncio
import contextlib
import fcntl
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from backends.chat_pool import ChatPool
from backends.errors import DiskRefused, UsageError
from backends.model_client import Replies
from batch.config import RunConfig
from batch.flags import changed, from_dict
from batch.logs import calls, log
from batch.outage import Outages
from batch.rollout import RETRY_WAITS, Outcome, Rollout
from batch.run_files import Ids, RunFiles
from batch.saver import open_saver
from batch.start import STARTING, graph_of, open_when_up, safe_prompt, try_first_request
from batch.stop import Stopped, StopSignal
from batch.worker_checkpoints import gather
from serializers.record import QuestionRow

_OURS = ("backends", "batch", "graph", "nodes", "quality", "serializers")


@dataclass(frozen=True)
class Secrets:
    """What is in no file: it travels as an argument, and is kept in the environment of the actor alone."""

    api_key: str | None = field(repr=False)
    token: str | None = field(repr=False)
    environment: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, config: RunConfig) -> "Secrets":
        """Those that a run needs."""
        headers = (*config.model.extra_header, *config.tools.mcp_header)
        names = [header.partition("=")[2].strip() for header in headers] + ["PGPASSWORD"]
        return cls(
            config.model.api_key, config.tools.token, {name: os.environ[name] for name in names if name in os.environ}
        )


@dataclass(frozen=True)
class Looked:
    """What the services are, seen from a node."""

    prompt: str
    tools_sha256: str
    found: str


def own_version() -> str:
    """The version of this code: of the package, and of its very text."""
    digest, root = hashlib.sha256(), Path(__file__).resolve().parents[1]
    for path in sorted(path for room in _OURS for path in (root / room).glob("*.py")):
        digest.update(path.read_bytes())
    return f"{version('trajgraph')} ({digest.hexdigest()[:12]})"


class NotBegun(Exception):
    """Ray has started this process again, and nobody has told it of the run."""


class Actor:
    """Its methods are called from the run's own process; Ray bounds how many at a time."""

    def __init__(self) -> None:
        self._stack, self._stop = AsyncExitStack(), StopSignal()
        self._rollout: Rollout | None = None
        self._beginning: asyncio.Task[tuple[str, ...]] | None = None
        self._said: list[tuple[str, int, str]] = []
        self._heard = 0
        log.handlers, log.propagate = [_Kept(self._said)], False
        log.setLevel(logging.INFO)
        logging.getLogger("mcp").setLevel(logging.CRITICAL)
        os.environ["LANGSMITH_TRACING"] = os.environ["LANGCHAIN_TRACING_V2"] = "false"

    async def version(self) -> str:
        """Of the code on this node."""
        return await asyncio.to_thread(own_version)

    async def node(self) -> str:
        """The id of the node that it is on."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    async def look(
        self, options: dict[str, Any], secrets: Secrets, prompt: str | None, own_prompt: str | None, question: str
    ) -> Looked:
        """Try the services, as a run does at its start. `prompt` is that of a run that is resumed."""
        config = _restored(options, secrets)
        async with AsyncExitStack() as stack:
            services = await open_when_up(stack, config, self._stop, starting=STARTING)
            prompt = prompt or safe_prompt(config, services.tools.descriptions, own_prompt)
            found = await try_first_request(services, prompt, question)
            return Looked(prompt, services.tools_sha256, found)

    async def begin(
        self, files: RunFiles, content: dict[str, Any], secrets: Secrets, concurrency: int, actors: int
    ) -> tuple[str, ...]:
        """Connect, once; returns the threads that have steps on this node."""
        self._beginning = self._beginning or asyncio.create_task(
            self._begin(files, content, secrets, concurrency, actors)
        )
        return await self._beginning

    async def rollout(self, sample_id: str, row: QuestionRow, again: bool) -> tuple[Outcome, Replies] | None:
        """What becomes of a sample; None when the run ends first. One that was asked before, by another actor, may have
        steps in a database. Raises NotBegun.
        """
        if self._beginning is None:
            raise NotBegun
        await self._beginning
        assert self._rollout
        if again and self._rollout.config.checkpoints:
            await self._rollout.look_for(sample_id, row["question"])
        try:
            outcome = await self._rollout(sample_id, row)
        except Stopped:
            return None
        return outcome, self._rollout.chat.replies

    async def delete(self, threads: list[str], now: bool = False) -> None:
        """Delete the steps of threads, and have that on disk `now`."""
        if self._rollout:
            for thread in threads:
                await self._rollout.saver.adelete_thread(thread)
            if now:
                await self._rollout.saver.flush()

    async def said(self, heard: int) -> tuple[int, list[tuple[str, int, str]]]:
        """How many lines were logged, and those behind the first `heard`: they are kept until it is known that they
        have come.
        """
        if self._heard <= heard <= self._heard + len(self._said):  # else this is another actor than before
            del self._said[: heard - self._heard]
            self._heard = heard
        return self._heard + len(self._said), self._said[:]

    async def stop(self) -> None:
        """End the steps in flight, and start nothing more."""
        self._stop.request("interrupted")

    async def end(self) -> None:
        """Close everything."""
        await self._stack.aclose()

    async def _begin(
        self, files: RunFiles, content: dict[str, Any], secrets: Secrets, concurrency: int, actors: int
    ) -> tuple[str, ...]:
        config = changed(_restored(content["options"], secrets), concurrency=concurrency, shared_by=actors)
        if config.verbose:
            calls.setLevel(logging.DEBUG)
        own = self._stack.enter_context(own_checkpoints(scratch() / files.run_id, actors))
        services = await open_when_up(self._stack, config, self._stop, starting=None)
        saver = await self._stack.enter_async_context(open_saver(config.checkpoints, own))
        chat: ChatPool = services.chat
        self._stop.on_request.append(chat.close)
        outages = Outages({"model": chat.probe, "tool": services.tools.probe}, self._stop, config.max_downtime)
        self._rollout = Rollout(
            graph_of(config, services, str(content["prompt"]), saver), saver, config, content["settings"],
            Ids.of_run(files, content), self._stop, outages.wait_for_recovery, chat, RETRY_WAITS,
        )  # fmt: skip
        return tuple(saver.threads)


class _Kept(logging.Handler):
    """Keeps lines until they are asked for."""

    def __init__(self, lines: list[tuple[str, int, str]]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._lines) < 10_000:
            self._lines.append((record.name, record.levelno, record.getMessage()))


def _restored(options: dict[str, Any], secrets: Secrets) -> RunConfig:
    os.environ.update(secrets.environment)
    return changed(from_dict(RunConfig, options), api_key=secrets.api_key, token=secrets.token)


def as_raised(error: Any) -> Exception:
    """What an actor raised, where it is of a kind that is known."""
    cause = error.cause
    return cause if isinstance(cause, UsageError | DiskRefused | OSError) else error


def scratch() -> Path:
    """Where a node keeps steps between commands: TRAJGRAPH_SCRATCH, else the system's folder for passing files."""
    return Path(os.environ.get("TRAJGRAPH_SCRATCH") or Path(tempfile.gettempdir()) / f"trajgraph-{os.getuid()}")


@contextlib.contextmanager
def own_checkpoints(folder: Path, actors: int) -> Iterator[Path]:
    """A file of steps that is this process's alone: one that an earlier process of the run left, where there is one,
    with those of actors that are no more.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.ExitStack() as held:
        number = 0
        while not _held(held, own := folder / f"{number}.lock"):
            number += 1
        left = [path for path in sorted(folder.glob("*.lock")) if int(path.stem) >= actors and path != own]
        others = [path.with_suffix(".sqlite") for path in left if _held(held, path)]
        gather(own.with_suffix(".sqlite"), [path for path in others if path.exists()])
        yield own.with_suffix(".sqlite")


def _held(held: contextlib.ExitStack, path: Path) -> bool:
    lock = path.open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return False
    held.enter_context(lock)
    return True
