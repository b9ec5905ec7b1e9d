"""Which of a run's model servers answer: connected, left out when one fails, asked again, added and taken away."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from itertools import chain, repeat

from backends.adaptive_limit import AdaptiveLimit
from backends.config import ModelConfig
from backends.endpoint import Endpoint, Model, check_same
from backends.endpoint_list import EndpointSpec
from backends.errors import ModelError, ModelTimeout, ModelUnreachable, NothingAnswers, UsageError

log = logging.getLogger("trajgraph")
_PROBE_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
_FAILURES = 3
"""In a row, after which a server is put aside where there are others, though it answers a word."""
_PUT_ASIDE, _LONGEST_ASIDE = 2.0, 120.0
"""Seconds for the first time, and at most."""
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
        self._like: Model | None = None
        """The model that the run began with."""
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
        served = sorted((one for one in self.all if one.served), key=lambda one: not (one.served and one.served.root))
        self._like = served[0].spec, served[0].served
        for endpoint, error in zip(self.all, opened, strict=True):
            if error:
                self._leave_out(endpoint, str(error))
            else:
                check_same(*self._like, endpoint.spec, endpoint.served)

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
            spec = wanted.get(endpoint.spec.key)
            if spec and spec.model == endpoint.spec.model:
                del wanted[spec.key]
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

    def _leave_out(self, endpoint: Endpoint, fault: str, first_wait: float = 0.0) -> None:
        """A server does not answer: what waits for it goes elsewhere, and it is asked from time to time."""
        endpoint.fault, endpoint.failures, endpoint.replies = fault, 0, 0
        log.warning("%s is left out: %s", endpoint.spec.url, fault)
        self._gone(endpoint)
        self._probe_until_up(endpoint, first_wait)

    def judge(self, endpoint: Endpoint, failure: ModelError) -> "asyncio.Future[str | None]":
        """Why a server whose request failed is left out: it does not answer another, asked once for all that failed, or
        it fails again and again where others are. None where it stays.
        """
        endpoint.failures += not isinstance(failure, ModelTimeout)
        if endpoint.fault or endpoint.removed:
            known: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
            known.set_result(endpoint.fault or "it is no longer asked")
            return known
        if endpoint.judged is None:
            endpoint.judged = asyncio.create_task(self._judged(endpoint, failure))
        return endpoint.judged

    async def _judged(self, endpoint: Endpoint, failure: ModelError) -> str | None:
        try:
            fault, wait = await self._fault_of(endpoint), 0.0
        finally:
            endpoint.judged = None
        if not fault and endpoint.failures >= _FAILURES and self.up != [endpoint]:
            fault = f"{endpoint.failures} requests in a row failed there: {failure}"
            wait = min(_PUT_ASIDE * 4**endpoint.left_out, _LONGEST_ASIDE)
            endpoint.left_out += 1
        if fault and not endpoint.removed:
            self._leave_out(endpoint, fault, wait)
        self.changed()
        return fault

    async def wait_for_one(self) -> None:
        """Where none is up, all are tried until one is."""
        while self.up and all(one.judged for one in self.up):
            await asyncio.wait([one.judged for one in self.up if one.judged], return_when=asyncio.FIRST_COMPLETED)
        trying = {asyncio.create_task(self.try_again(one)) for one in self.all if not self.up and not one.removed}
        while trying and not self.up:
            _, trying = await asyncio.wait(trying, return_when=asyncio.FIRST_COMPLETED)
        self._tasks |= trying

    def _probe_until_up(self, endpoint: Endpoint, first_wait: float = 0.0, *, now: bool = False) -> None:
        async def probe() -> None:
            since = time.monotonic()
            for wait in chain([first_wait] if now or first_wait else [], _PROBE_WAITS, repeat(_PROBE_WAITS[-1])):
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
        """Ask one that is down, one at a time: what an earlier try found does not undo a later one."""
        async with endpoint.trying:
            if endpoint.removed or not endpoint.fault:
                return
            before, fault = endpoint.fault, await self._fault_of(endpoint)
            if not fault:
                endpoint.limit.begin_again()
            elif fault != before and " serves " in fault:
                log.warning("%s stays left out: %s", endpoint.spec.url, fault)
            endpoint.fault = fault
        self.changed()

    async def check_models(self) -> None:
        """Whether each that is up still serves what it did: it may have been started anew without a request failing."""
        for endpoint in [one for one in self.up if not one.judged]:
            try:
                await self._connected(endpoint)
            except NothingAnswers:
                pass  # the next request will say
            except UsageError as error:
                if endpoint.is_up:
                    self._leave_out(endpoint, str(error))

    async def _fault_of(self, endpoint: Endpoint) -> str | None:
        """Why a server is not asked: it does not answer, or as another model than the run's."""
        try:
            await self._connected(endpoint)
            assert endpoint.chat
            return await endpoint.chat.check()
        except UsageError as error:
            return str(error)

    async def _connected(self, endpoint: Endpoint) -> None:
        await endpoint.connect(self._config, self._stop, self._concurrency, self._like)

    def _endpoint(self, spec: EndpointSpec) -> Endpoint:
        return Endpoint(spec, AdaptiveLimit(self._most(spec), None if self.is_single else _LOW))

    def _most(self, spec: EndpointSpec) -> int:
        if spec.max_in_flight is None:
            return self._concurrency
        return min(max(spec.max_in_flight // self._config.shared_by, 1), self._concurrency)

    def none_answers(self) -> ModelUnreachable:
        """What a request comes to that could be sent nowhere."""
        asked = [one for one in self.all if not one.removed]
        said = "; ".join(f"{one.spec.url}: {one.fault}" for one in asked[:5]) + (" …" if len(asked) > 5 else "")
        error = ModelUnreachable(said)
        error.was_asked = False
        return error
