"""A run's model servers as one: a trajectory stays where it is cached, a new one goes where it is answered soonest.

The limit of each follows what it bears. One whose request fails is asked for a single token: where that fails too it is
left out, what it had is asked elsewhere at once and costs no attempt, and it is taken back when it answers. With one
server, what fails is the run's to judge.
"""

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from itertools import chain, repeat
from typing import TypeVar

from langchain_core.messages import AIMessage

from backends.adaptive_limit import AdaptiveLimit
from backends.chat_model import asking_thread
from backends.config import ModelConfig
from backends.endpoint import Endpoint, Waiting, check_same
from backends.endpoint_list import EndpointSpec
from backends.errors import ContextOverflow, ModelError, ModelTimeout, ModelUnreachable, NothingAnswers, UsageError
from backends.model_client import ChatClient, Replies

Answer = TypeVar("Answer", bound=AIMessage | None)
Messages = list[dict[str, str]]
log = logging.getLogger("trajgraph")
_PROBE_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
_LOW = 8
"""Requests that one of several servers gets at first."""
_WORTH_MOVING = 3.0
"""A trajectory whose own server is full moves to one that answers so many times sooner: more than reading it costs."""
_MOST_BROKEN = 2
"""Servers that may go down with a request before it is to blame; then one at each attempt."""
_MOST_HOMES = 200_000


class Closed(ModelError):
    """The run ends: nothing more is asked."""


class ChatPool:
    """Asks for one reply at a time, at the server where that is best."""

    def __init__(self, config: ModelConfig, stop: Sequence[str], concurrency: int) -> None:
        self._config, self._stop, self._concurrency = config, stop, concurrency
        specs = config.servers()
        self.is_single = len(specs) == 1 and config.endpoints is None
        self.endpoints = [self._endpoint(spec) for spec in specs]
        self.replies = Replies()
        self._homes: OrderedDict[str, Endpoint] = OrderedDict()
        """Where the last request of each trajectory went."""
        self._suspects: set[str | None] = set()
        """Trajectories with which servers went down."""
        self._line: deque[Waiting] = deque()
        """Those that wait for room at any server."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def up(self) -> list[Endpoint]:
        """Those that answer."""
        return [one for one in self.endpoints if one.is_up]

    @property
    def max_model_len(self) -> int | None:
        """The shortest context among them: a trajectory may move."""
        return min(
            (one.chat.max_model_len for one in self.endpoints if one.chat and one.chat.max_model_len), default=None
        )

    @max_model_len.setter
    def max_model_len(self, tokens: int | None) -> None:
        refused_at = self._homes.get(asking_thread() or "", self.endpoints[0])
        if refused_at.chat:
            refused_at.chat.max_model_len = tokens

    async def ask(
        self, messages: Messages, max_tokens: int, seed: int | None = None, *, stops: bool = True
    ) -> AIMessage:
        """One reply; see `ChatClient`."""
        reply = await self._asked(lambda chat: chat.ask(messages, max_tokens, seed, stops=stops))
        turn = sum(message["role"] == "assistant" for message in messages)
        self.replies = Replies(self.replies.count + 1, max(self.replies.last_turn, turn))
        return reply

    async def continue_reply(
        self, messages: Messages, begun: str, max_tokens: int, seed: int | None = None
    ) -> AIMessage | None:
        """What follows `begun`; see `ChatClient`."""
        return await self._asked(lambda chat: chat.continue_reply(messages, begun, max_tokens, seed))

    async def count_tokens(self, messages: Messages) -> int | None:
        """Tokens of a prompt, by the server where the trajectory is."""
        home = self._homes.get(asking_thread() or "")
        chosen = home if home and home.is_up else next(iter(self.up), None)
        return await chosen.chat.count_tokens(messages) if chosen and chosen.chat else None

    async def probe(self) -> str | None:
        """Why the model is down: none of its servers answers. None when one does."""
        if self.is_single:
            assert self.endpoints[0].chat
            return await self.endpoints[0].chat.probe()
        if not self.up:
            await asyncio.gather(*(self._try_again(one) for one in self.endpoints))
        return None if self.up else str(self._none_answers())

    def forget(self, thread: str) -> None:
        """A trajectory has ended."""
        self._move_from_home(thread)
        self._suspects.discard(thread)

    def close(self) -> None:
        """Let nobody in any more; those that wait and come raise Closed."""
        self._closed = True
        self._refuse_all(Closed("the run ends"))

    async def connect(self) -> None:
        """Connect to all; those where nothing answers are left out for now. Raises NothingAnswers when none does, and
        UsageError for one that cannot be meant, or that serves another model.
        """
        opened = await asyncio.gather(*map(self._connected, self.endpoints), return_exceptions=True)
        silent = [error for error in opened if isinstance(error, NothingAnswers)]
        for error in opened:
            if error and error not in silent:
                raise error
        if len(silent) == len(opened):
            there = any(error.there for error in silent)
            raise NothingAnswers("; ".join(dict.fromkeys(map(str, silent))), there=there)
        first = self._first()
        for endpoint, error in zip(self.endpoints, opened, strict=True):
            if error:
                self.leave_out(endpoint, str(error))
            elif first:
                check_same(first.spec, first.served, endpoint.spec, endpoint.served)

    async def aclose(self) -> None:
        """Close all connections."""
        tasks = [*self._tasks, *(one.judged for one in self.endpoints if one.judged)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for endpoint in self.endpoints:
            await endpoint.opened.aclose()

    async def change(self, specs: Sequence[EndpointSpec]) -> None:
        """Ask these servers from now on. A removed one gets nothing new; a new one is asked once it answers."""
        wanted, kept = {spec.key: spec for spec in specs}, list[Endpoint]()
        for endpoint in [one for one in self.endpoints if not one.removed]:
            if spec := wanted.pop(endpoint.spec.key, None):
                kept.append(endpoint)
                endpoint.spec = spec
                endpoint.limit.most = self._most(spec)
                endpoint.limit.limit = min(endpoint.limit.limit, endpoint.limit.most)
        gone = [one for one in self.endpoints if one not in kept and not one.removed]
        new = [self._endpoint(spec) for spec in wanted.values()]
        for endpoint in new:
            endpoint.fault = "it was not asked yet"
        self.endpoints += new
        if not any(one.is_up for one in kept):  # else nobody could be asked meanwhile
            await asyncio.gather(*map(self._try_again, new))
        for endpoint in gone:
            endpoint.removed = True
            log.info("%s is no longer asked: the file names it no more", endpoint.spec.url)
            self._move_line(endpoint)
        for endpoint in new:
            self._probe_until_up(endpoint, now=True)
        self.let_in()

    def let_in(self) -> None:
        """Those that wait, as far as there is room: who is at home before who is new; last those whose own server is
        full while another is half idle.
        """
        for endpoint in self.endpoints:
            while endpoint.line and endpoint.room:
                _admit(endpoint, endpoint.line)
        while self._line and (best := self._best()) and best.room:
            _admit(best, self._line)
        for endpoint in self.endpoints:
            while endpoint.line and (best := self._better_than(endpoint)):
                _admit(best, endpoint.line)

    def leave_out(self, endpoint: Endpoint, fault: str) -> None:
        """A server does not answer: what waits for it goes elsewhere, and it is asked from time to time."""
        endpoint.fault = fault
        log.warning("%s is left out: %s", endpoint.spec.url, fault)
        self._move_line(endpoint)
        self._probe_until_up(endpoint)

    async def _asked(self, ask: Callable[[ChatClient], Awaitable[Answer]]) -> Answer:
        thread, broken, refused = asking_thread(), 0, set[Endpoint]()
        while True:
            endpoint = await self._seat(thread, refused)
            began = time.monotonic()
            chat = endpoint.chat
            assert chat
            try:
                reply = await ask(chat)
            except ModelError as error:
                failure = error
            else:
                if reply is not None:
                    endpoint.limit.answered(reply.response_metadata["seconds"])
                return reply
            finally:
                endpoint.limit.in_flight -= 1
                self.let_in()
            if failure.busy or isinstance(failure, ModelTimeout):  # perhaps it waited in the server's line
                endpoint.limit.overloaded()
            if self.is_single or isinstance(failure, ContextOverflow):
                raise failure
            if failure.busy:
                refused.add(endpoint)
                if not (best := self._best(refused)) or not best.room:
                    raise failure
                self._move_from_home(thread)
                continue
            if isinstance(failure, ModelTimeout) and chat.answered > began:
                self._move_from_home(thread)
                raise failure
            fault = await self._judge(endpoint)
            self._move_from_home(thread)
            if fault is None:
                endpoint.limit.failed()
                raise failure
            broken += not (isinstance(failure, ModelUnreachable) and not failure.was_sent)
            if broken >= (1 if thread in self._suspects else _MOST_BROKEN):
                self._suspects.add(thread)
                raise failure

    async def _seat(self, thread: str | None, refused: Collection[Endpoint]) -> Endpoint:
        """A server to ask, which has room: it counts as asked from now on."""
        if self._closed:
            raise Closed("the run ends")
        home = self._homes.get(thread or "")
        if chosen := self._choose(home, refused):
            chosen.limit.in_flight += 1
        elif not self.up:
            raise self._none_answers()
        else:
            line = home.line if home and home.is_up else self._line
            line.append(waiting := asyncio.get_running_loop().create_future())
            try:
                chosen = await waiting
            except asyncio.CancelledError:
                if not waiting.cancelled() and not waiting.exception():
                    waiting.result().limit.in_flight -= 1
                    self.let_in()
                raise
        if thread and chosen is not home and not self.is_single:
            self._move_from_home(thread)
            self._homes[thread] = chosen
            chosen.at_home += 1
            if len(self._homes) > _MOST_HOMES:  # only where nobody says when one has ended
                self._homes.popitem(last=False)[1].at_home -= 1
        return chosen

    def _choose(self, home: Endpoint | None, refused: Collection[Endpoint]) -> Endpoint | None:
        if home and home.is_up and home not in refused:
            return home if home.room and not home.line else self._better_than(home)
        best = self._best(refused)
        return best if best and best.room and (refused or not self._line) else None

    def _best(self, refused: Collection[Endpoint] = ()) -> Endpoint | None:
        """Where one more is answered soonest, be it by waiting there."""
        asked = [one for one in self.up if one.judged is None and one not in refused]
        known = [one for one in asked if one.limit.reply_time or one.room]
        return min(known or asked, key=Endpoint.expected, default=None)

    def _better_than(self, home: Endpoint) -> Endpoint | None:
        """Where it is worth to read a prompt again: a server that is half idle while `home` is full."""
        best = self._best() if not self._line else None
        if best is None or best is home or not best.room or best.limit.in_flight > best.limit.limit / 2:
            return None
        return best if home.expected(0) > _WORTH_MOVING * best.expected() else None

    def _move_from_home(self, thread: str | None) -> None:
        if home := self._homes.pop(thread or "", None):
            home.at_home -= 1

    async def _judge(self, endpoint: Endpoint) -> str | None:
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
                self.leave_out(endpoint, fault)
            self.let_in()

    def _probe_until_up(self, endpoint: Endpoint, *, now: bool = False) -> None:
        async def probe() -> None:
            since = time.monotonic()
            for wait in chain([0.0] if now else [], _PROBE_WAITS, repeat(_PROBE_WAITS[-1])):
                await asyncio.sleep(wait)
                if endpoint.fault and not endpoint.removed:
                    await self._try_again(endpoint)
                if not endpoint.fault or endpoint.removed:
                    break
            if endpoint.is_up:
                said = "is asked from now on" if now else f"answers again after {time.monotonic() - since:.0f} s"
                log.info("%s %s", endpoint.spec.url, said)

        self._tasks.add(task := asyncio.create_task(probe()))
        task.add_done_callback(self._tasks.discard)

    async def _try_again(self, endpoint: Endpoint) -> None:
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
        self.let_in()

    async def _connected(self, endpoint: Endpoint, like: Endpoint | None = None) -> None:
        await endpoint.connect(self._config, self._stop, self._concurrency, like)

    def _first(self) -> Endpoint | None:
        return next((one for one in self.endpoints if one.served), None)

    def _endpoint(self, spec: EndpointSpec) -> Endpoint:
        return Endpoint(spec, AdaptiveLimit(self._most(spec), None if self.is_single else _LOW))

    def _most(self, spec: EndpointSpec) -> int:
        return min(spec.max_in_flight or self._concurrency, self._concurrency)

    def _move_line(self, endpoint: Endpoint) -> None:
        """Who waits for a server that is gone waits for any, before those that are new."""
        while endpoint.line:
            self._line.appendleft(endpoint.line.pop())
        if not self.up:
            self._refuse_all(self._none_answers())
        self.let_in()

    def _refuse_all(self, error: ModelError) -> None:
        for line in (self._line, *(one.line for one in self.endpoints)):
            while line:
                if not (waiting := line.popleft()).done():
                    waiting.set_exception(error)

    def _none_answers(self) -> ModelUnreachable:
        asked = [one for one in self.endpoints if not one.removed]
        said = "; ".join(f"{one.spec.url}: {one.fault}" for one in asked[:5]) + (" …" if len(asked) > 5 else "")
        error = ModelUnreachable(said)
        error.was_asked = False
        return error


def _admit(endpoint: Endpoint, line: deque[Waiting]) -> None:
    if not (waiting := line.popleft()).done():  # else it was cancelled
        endpoint.limit.in_flight += 1
        waiting.set_result(endpoint)
