"""A run on a Ray cluster: actors roll the questions out, this process asks and writes.

What Ray does: start processes on every node, start one again that dies, notice a node that is gone, carry questions and
records, end all when this process goes. What is ours: which question goes where, and that one whose actor died is asked
again. Steps are kept on the actor's own node, or in PostgreSQL.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from backends.errors import UsageError
from backends.model_client import Replies
from batch.actor import Actor, Looked, NotBegun, Secrets, as_raised, own_version
from batch.config import RunConfig
from batch.flags import to_dict
from batch.prepare import Prepared
from batch.rollout import Outcome
from batch.run_files import Ids, RunFiles, read_run
from batch.stop import StopSignal
from serializers.record import QuestionRow

log = logging.getLogger("trajgraph")
_START, _SILENT, _OTHERS = 300.0, 30.0, 5.0
"""Seconds for a first actor to start (a cluster may add a node first), of them in silence, and for the others."""
_LOOK, _FORGOTTEN = 1.0, 16


@dataclass(eq=False)
class _Slot:
    """One actor, as this process knows it."""

    number: int
    actor: Any
    node: str = ""
    pending: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    forgotten: list[str] = field(default_factory=list)
    replies: Replies = field(default_factory=Replies)
    heard: int = 0
    """Lines of its log that are passed on."""


class Cluster:
    """The actors of one run. Made by `ray_cluster.open_cluster`."""

    def __init__(self, ray: Any, config: RunConfig, stop: StopSignal, count: int) -> None:
        self._ray, self._config, self._stop = ray, config, stop
        self._secrets = Secrets.of(config)
        self._lost: tuple[type[Exception], ...] = (ray.exceptions.RayActorError, ray.exceptions.ActorUnavailableError)
        how = {"num_cpus": 1, "max_restarts": -1, "max_task_retries": 0, "scheduling_strategy": "SPREAD"}
        made = ray.remote(Actor).options(max_concurrency=config.concurrency + 16, **how)
        self.slots = [_Slot(number, made.remote()) for number in range(count)]
        self.homes: dict[str, _Slot] = {}
        """Where threads of an earlier command have their steps."""
        self._deleted: set[str] = set()
        self._begun: tuple[RunFiles, dict[str, Any], int] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._said: Counter[str] = Counter()
        self._changed = asyncio.Event()

    async def check_versions(self) -> None:
        """Wait for a first actor. Raises UsageError for a node that has other code than this one."""
        ours = own_version()
        asked = [asyncio.ensure_future(slot.actor.version.remote()) for slot in self.slots]
        begun, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED, timeout=_SILENT)
        if not begun:
            log.info("no actor has started yet: is a CPU free in the cluster? Waiting for up to %g s", _START)
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED, timeout=_START - _SILENT)
        if not any(one.done() for one in asked):
            said = f"no actor started in {_START:g} s: is a CPU free in the cluster?"
            raise UsageError(f"--ray {self._config.ray}: {said}")
        await asyncio.wait(asked, timeout=_OTHERS)
        for slot, one in zip(self.slots, asked, strict=True):
            if one.done() and (theirs := self._result(one)) != ours:
                raise UsageError(f"--ray {self._config.ray}: a node has trajgraph {theirs}, this one has {ours}")
            if one.done():
                slot.ready.set()
            else:
                one.cancel()
        if (there := sum(slot.ready.is_set() for slot in self.slots)) < len(self.slots):
            log.info("%d of %d actors have a CPU; the others begin when one is free", there, len(self.slots))

    async def look(self, prepared: Prepared) -> Looked:
        """The services as a node sees them, with the prompt to work under. Raises UsageError."""
        stored = read_run(prepared.run.run)[1].get("prompt") if prepared.run else None
        question = next((row["question"] for _, row in prepared.questions.stream()), "")
        slot = next(slot for slot in self.slots if slot.ready.is_set())
        asked = slot.actor.look.remote(to_dict(self._config), self._secrets, stored, prepared.prompt_file, question)
        try:
            looked: Looked = await asked
        except self._ray.exceptions.RayTaskError as error:
            raise as_raised(error) from None
        except self._lost as error:
            raise UsageError(f"--ray {self._config.ray}: the first actor was lost ({type(error).__name__})") from error
        finally:
            await self._hear(slot)
        return looked

    async def begin(self, files: RunFiles, content: dict[str, Any]) -> None:
        """Have the actors connect, until the first has."""
        self._begun = files, content, -(-self._config.concurrency // len(self.slots))
        for slot in self.slots:
            slot.ready.clear()
            self._start(self._connect(slot))
        self._stop.on_request.append(lambda: self._start(self._pass_on_the_stop()))
        self._start(self._listen())
        await self._some_ready()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(slot.ready.wait() for slot in self.slots)), _OTHERS)
        nodes = Counter(slot.node for slot in self.slots if slot.ready.is_set())
        log.info("%d actors on %d nodes", nodes.total(), len(nodes))

    async def rollout(self, sample_id: str, row: QuestionRow, thread: str) -> Outcome:
        """What becomes of a sample, from whichever actor has the fewest; from another when that one is lost. Raises
        Stopped.
        """
        again = False
        while True:
            self._stop.check()
            home = self.homes.pop(thread, None)
            slot = home if home and home.ready.is_set() else await self._some_ready()
            slot.pending += 1
            try:
                answer = await slot.actor.rollout.remote(sample_id, row, again)
            except self._ray.exceptions.RayTaskError as error:
                if not isinstance(error.cause, NotBegun):
                    raise as_raised(error) from None
                self._revive(slot, "was started again")
            except self._lost as error:
                self._revive(slot, f"is lost ({type(error).__name__})")
            else:
                if answer is not None:
                    outcome: Outcome
                    outcome, slot.replies = answer
                    return outcome
                self._given_up(slot)
            finally:
                slot.pending -= 1
            again = True

    def _given_up(self, slot: _Slot) -> None:
        """An actor has ended its part, of itself where nobody asked it to. Raises Stopped when none is left."""
        self._stop.check()
        if slot.ready.is_set():
            slot.ready.clear()
            log.warning("the actor on node %s has given up: its services stayed down", slot.node[:8])
        if not any(one.ready.is_set() for one in self.slots):
            self._stop.request("outage")
            self._stop.check()

    async def delete(self, threads: list[str], *, now: bool = False) -> None:
        """The steps of threads go, wherever they are, `now` or some time soon; on nodes that come later, too."""
        self._deleted.update(threads if now else ())
        for slot in self.slots:
            slot.forgotten += threads
            if slot.ready.is_set() and (now or len(slot.forgotten) >= _FORGOTTEN):
                taken, slot.forgotten = slot.forgotten, []
                sent = slot.actor.delete.remote(taken, now)
                if now:
                    with contextlib.suppress(*self._lost):
                        await sent

    async def close(self) -> None:
        """Have the actors close what they opened."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        ready = [slot for slot in self.slots if slot.ready.is_set() and self._begun]
        with contextlib.suppress(Exception):
            async with asyncio.timeout(20):
                await asyncio.gather(*(self._ended(slot) for slot in ready), return_exceptions=True)

    async def _ended(self, slot: _Slot) -> None:
        await self._hear(slot)
        await slot.actor.delete.remote(slot.forgotten)
        await slot.actor.end.remote()

    async def _connect(self, slot: _Slot) -> None:
        """Again as long as Ray moves the actor about."""
        assert self._begun
        while not self._stop.reason:
            try:
                slot.node, theirs = await slot.actor.node.remote(), await slot.actor.version.remote()
                if theirs != own_version():
                    log.error("node %s has trajgraph %s: it is left out", slot.node[:8], theirs)
                    return
                files, content, concurrency = self._begun
                threads = await slot.actor.begin.remote(files, content, self._secrets, concurrency, len(self.slots))
                if old := self._deleted.intersection(threads):
                    await slot.actor.delete.remote(list(old), True)
            except self._ray.exceptions.RayTaskError as error:
                log.error("an actor cannot begin: %s", error.cause)
                self._stop.request("worker")
                return
            except self._lost:
                await asyncio.sleep(0.5)
                continue
            self.homes |= dict.fromkeys(set(threads) - self._deleted, slot)
            slot.ready.set()
            self._changed.set()
            return

    def _revive(self, slot: _Slot, why: str) -> None:
        if slot.ready.is_set():
            slot.ready.clear()
            log.warning("an actor on node %s %s: its questions are asked again", slot.node[:8], why)
            self.homes = {thread: home for thread, home in self.homes.items() if home is not slot}
            self._start(self._connect(slot))

    async def _some_ready(self) -> _Slot:
        while not (ready := [slot for slot in self.slots if slot.ready.is_set()]):
            self._changed.clear()
            waiting = asyncio.ensure_future(self._changed.wait()), asyncio.ensure_future(self._stop.event.wait())
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for one in waiting:
                one.cancel()
            self._stop.check()
        return min(ready, key=lambda slot: slot.pending)

    async def _listen(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            await asyncio.gather(*(self._hear(slot) for slot in self.slots if slot.ready.is_set()))

    async def _hear(self, slot: _Slot) -> None:
        """Pass on what an actor logs, once for all that log the same."""
        try:
            slot.heard, lines = await slot.actor.said.remote(slot.heard)
        except self._lost:
            return
        for name, level, text in lines:
            if name != log.name:
                logging.getLogger(name).log(level, "%s", text)
                continue
            self._said[f"{slot.number} {text}"] += 1
            if self._said[f"{slot.number} {text}"] > self._said[text]:
                self._said[text] += 1
                log.log(level, "%s", text)

    async def _pass_on_the_stop(self) -> None:
        await asyncio.gather(*(slot.actor.stop.remote() for slot in self.slots), return_exceptions=True)

    def _start(self, work: Any) -> None:
        self._tasks.add(task := asyncio.ensure_future(work))
        task.add_done_callback(self._tasks.discard)

    def _result(self, done: "asyncio.Future[Any]") -> Any:
        try:
            return done.result()
        except self._ray.exceptions.RayError as error:
            raise UsageError(
                f"--ray {self._config.ray}: trajgraph cannot be run on a node ({str(error).strip().splitlines()[-1]}): "
                "install it there"
            ) from error


class ClusterRollouts:
    """The rollouts of a run, on a cluster."""

    def __init__(self, cluster: Cluster, ids: Ids) -> None:
        self._cluster, self._ids = cluster, ids

    async def __call__(self, sample_id: str, row: QuestionRow) -> Outcome:
        """What becomes of a sample. Raises Stopped."""
        return await self._cluster.rollout(sample_id, row, self._ids.thread(sample_id, row["question"]))

    def replies(self) -> Replies:
        """What the model has answered so far, on all nodes."""
        all_ = [slot.replies for slot in self._cluster.slots]
        return Replies(sum(one.count for one in all_), max(one.last_turn for one in all_))

    async def forget(self, sample_id: str, question: str) -> None:
        """Delete the steps of a sample, whose record is on disk."""
        await self._cluster.delete([self._ids.thread(sample_id, question)])


class ClusterSteps:
    """The steps of a run on all nodes, as far as what is finished must go."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._going = cluster, list[str]()

    @property
    def threads(self) -> set[str]:
        """Those that have steps on a node that is there."""
        return set(self._cluster.homes)

    async def adelete_thread(self, thread: str) -> None:
        """It goes with the next `flush`."""
        self._going.append(thread)
        self._cluster.homes.pop(thread, None)

    async def flush(self) -> None:
        """Have it deleted on every node."""
        taken, self._going = self._going, []
        await self._cluster.delete(taken, now=True)
