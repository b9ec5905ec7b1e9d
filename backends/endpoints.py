"""Which of a run's model servers answer: connected, left out when one fails, asked again, added and taken away."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from itertools import chain, repeat

from backends.adaptive_limit import AdaptiveLimit
from backends.config import ModelConfig
from backends.endpoint import Endpoint, check_same
from backends.endpoint_list import EndpointSpec
from backends.errors import ModelUnreachable, NothingAnswers, UsageError

log = logging.getLogger("trajgraph")
_PROBE_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
_LOW = 8
"""Requests that one of several servers gets at first."""


class Endpoints:
    """All servers of a run. `changed` is called when one may be asked again, `gone` when one is no longer asked."""

    def __init__(
        self,
        config: ModelConfig,
        stop: Sequence[str],
        concurrency: int,
        *,
        changed: Callable[[], None],
        gone: Callable[[Endpoint], None],
    ) -> None:
        self._config, self._stop, self._concurrency = config, stop, concurrency
        self.changed, self._gone = changed, gone
        specs = config.servers()
        self.is_single = len(specs) == 1 and config.endpoints is None
        self.all = [self._endpoint(spec) for spec in specs]
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def up(self) -> list[Endpoint]:
        """Those that answer."""
        return [one for one in self.all if one.is_up]

    async def connect(self) -> None:
        """Connect to all; those where nothing answers are left out for now. Raises NothingAnswers when none does, and
        UsageError for one that cannot be meant, or that serves another model.
        """
        opened = await asyncio.gather(*map(self._connected, self.all), return_exceptions=True)
        silent = [error for error in opened if isinstance(error, NothingAnswers)]
        for error in opened:
            if error and error not in silent:
                raise error
        if len(silent) == len(opened):
            there = any(error.there for error in silent)
            raise NothingAnswers("; ".join(dict.fromkeys(map(str, silent))), there=there)
        first = self._first()
        for endpoint, error in zip(self.all, opened, strict=True):
            if error:
                self._leave_out(endpoint, str(error))
            elif first:
                check_same(first.spec, first.served, endpoint.spec, endpoint.served)

    async def aclose(self) -> None:
        """Close all connections."""
        tasks = [*self._tasks, *(one.judged for one in self.all if one.judged)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for endpoint in self.all:
            await endpoint.opened.aclose()

    async def change(self, specs: Sequence[EndpointSpec]) -> None:
        """Ask these servers from now on. A removed one gets nothing new; a new one is asked once it answers."""
        wanted, kept = {spec.key: spec for spec in specs}, list[Endpoint]()
        for endpoint in [one for one in self.all if not one.removed]:
            if spec := wanted.pop(endpoint.spec.key, None):
                kept.append(endpoint)
                endpoint.spec = spec
                endpoint.limit.most = self._most(spec)
                endpoint.limit.limit = min(endpoint.limit.limit, endpoint.limit.most)
        gone = [one for one in self.all if one not in kept and not one.removed]
        new = [self._endpoint(spec) for spec in wanted.values()]
        for endpoint in new:
            endpoint.fault = "it was not asked yet"
        self.all += new
        if not any(one.is_up for one in kept):  # else nobody could be asked meanwhile
            await asyncio.gather(*map(self.try_again, new))
        for endpoint in gone:
            endpoint.removed = True
            log.info("%s is no longer asked: the file names it no more", endpoint.spec.url)
            self._gone(endpoint)
        for endpoint in new:
            self._probe_until_up(endpoint, now=True)
        self.changed()

    def _leave_out(self, endpoint: Endpoint, fault: str) -> None:
        """A server does not answer: what waits for it goes elsewhere, and it is asked from time to time."""
        endpoint.fault = fault
        log.warning("%s is left out: %s", endpoint.spec.url, fault)
        self._gone(endpoint)
        self._probe_until_up(endpoint)

    async def judge(self, endpoint: Endpoint) -> str | None:
        """Whether a server whose request failed answers another, asked once for all that failed."""
        if endpoint.fault or endpoint.removed:
            return endpoint.fault or "removed"
        if endpoint.judged is None:
            assert endpoint.chat
            endpoint.judged = asyncio.create_task(endpoint.chat.check())
            endpoint.judged.add_done_callback(lambda task: self._judged(endpoint, task))
        return await asyncio.shield(endpoint.judged)

    def _judged(self, endpoint: Endpoint, task: "asyncio.Task[str | None]") -> None:
        endpoint.judged = None
        if not task.cancelled():
            if (fault := task.result()) and not endpoint.removed:
                self._leave_out(endpoint, fault)
            self.changed()

    def _probe_until_up(self, endpoint: Endpoint, *, now: bool = False) -> None:
        async def probe() -> None:
            since = time.monotonic()
            for wait in chain([0.0] if now else [], _PROBE_WAITS, repeat(_PROBE_WAITS[-1])):
                await asyncio.sleep(wait)
                if endpoint.fault and not endpoint.removed:
                    await self.try_again(endpoint)
                if not endpoint.fault or endpoint.removed:
                    break
            if endpoint.is_up:
                said = "is asked from now on" if now else f"answers again after {time.monotonic() - since:.0f} s"
                log.info("%s %s", endpoint.spec.url, said)

        self._tasks.add(task := asyncio.create_task(probe()))
        task.add_done_callback(self._tasks.discard)

    async def try_again(self, endpoint: Endpoint) -> None:
        if endpoint.removed:
            return
        try:
            await self._connected(endpoint, self._first())
            assert endpoint.chat
            fault = await endpoint.chat.check()
        except UsageError as error:
            fault = str(error)
            if not isinstance(error, NothingAnswers) and fault != endpoint.fault:
                log.warning("%s stays left out: %s", endpoint.spec.url, fault)
        if endpoint.fault and not fault:
            endpoint.limit.begin_again()
        endpoint.fault = fault
        self.changed()

    async def _connected(self, endpoint: Endpoint, like: Endpoint | None = None) -> None:
        await endpoint.connect(self._config, self._stop, self._concurrency, like)

    def _first(self) -> Endpoint | None:
        return next((one for one in self.all if one.served), None)

    def _endpoint(self, spec: EndpointSpec) -> Endpoint:
        return Endpoint(spec, AdaptiveLimit(self._most(spec), None if self.is_single else _LOW))

    def _most(self, spec: EndpointSpec) -> int:
        return min(spec.max_in_flight or self._concurrency, self._concurrency)

    def none_answers(self) -> ModelUnreachable:
        asked = [one for one in self.all if not one.removed]
        said = "; ".join(f"{one.spec.url}: {one.fault}" for one in asked[:5]) + (" …" if len(asked) > 5 else "")
        error = ModelUnreachable(said)
        error.was_asked = False
        return error
