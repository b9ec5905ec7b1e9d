"""A run's model servers as one: a trajectory stays where it is cached, a new one goes where it is answered soonest.

The limit of each follows what it bears. One whose request fails is asked for a single token: where that fails too it is
left out, what it had is asked elsewhere at once and costs no attempt, and it is taken back when it answers. With one
server, what fails is the run's to judge.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar

from langchain_core.messages import AIMessage

from backends.chat_model import asking_thread
from backends.config import ModelConfig
from backends.endpoint import Endpoint, Waiting
from backends.endpoints import Endpoints
from backends.errors import ContextOverflow, ModelError, ModelTimeout, ModelUnreachable
from backends.model_client import ChatClient, Replies

Answer = TypeVar("Answer", bound=AIMessage | None)
Messages = list[dict[str, str]]
_WORTH_MOVING = 3.0
"""A trajectory whose own server is full moves to one that answers so many times sooner: more than reading it costs."""
_MOST_BROKEN = 3
"""Servers that may fail with a request before it is to blame; then one at each attempt."""
_MOST_HOMES = 200_000


class Closed(ModelError):
    """The run ends: nothing more is asked."""


class ChatPool:
    """Asks for one reply at a time, at the server where that is best."""

    def __init__(self, config: ModelConfig, stop: Sequence[str], concurrency: int) -> None:
        self.endpoints = Endpoints(config, stop, concurrency, changed=self.let_in, gone=self._move_line)
        self.replies = Replies()
        self._homes: OrderedDict[str, Endpoint] = OrderedDict()
        """Where the last request of each trajectory went."""
        self._suspects: set[str | None] = set()
        """Trajectories with which servers went down."""
        self._line: deque[Waiting] = deque()
        """Those that wait for room at any server."""
        self._closed = False

    @property
    def max_model_len(self) -> int | None:
        """The shortest context among them: a trajectory may move."""
        asked = [one.chat for one in self.endpoints.all if one.chat and not one.removed]
        return min((chat.max_model_len for chat in asked if chat.max_model_len), default=None)

    @max_model_len.setter
    def max_model_len(self, tokens: int | None) -> None:
        refused_at = self._homes.get(asking_thread() or "", self.endpoints.all[0])
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
        chosen = home if home and home.is_up else next(iter(self.endpoints.up), None)
        return await chosen.chat.count_tokens(messages) if chosen and chosen.chat else None

    async def probe(self) -> str | None:
        """Why the model is down: none of its servers answers. None when one does."""
        if self.endpoints.is_single:
            assert self.endpoints.all[0].chat
            return await self.endpoints.all[0].chat.probe()
        await self.endpoints.wait_for_one()
        return None if self.endpoints.up else str(self.endpoints.none_answers())

    def forget(self, thread: str) -> None:
        """A trajectory has ended."""
        self._move_from_home(thread)
        self._suspects.discard(thread)

    def close(self) -> None:
        """Let nobody in any more; those that wait and come raise Closed."""
        self._closed = True
        self._refuse_all(Closed("the run ends"))

    def let_in(self) -> None:
        """Those that wait, as far as there is room: who is at home before who is new; last those whose own server is
        full while another is half idle.
        """
        for endpoint in self.endpoints.all:
            while endpoint.line and endpoint.room:
                _admit(endpoint, endpoint.line)
        while self._line and (best := self._best()) and best.room:
            _admit(best, self._line)
        for endpoint in self.endpoints.all:
            while endpoint.line and (best := self._better_than(endpoint)):
                _admit(best, endpoint.line)

    async def _asked(self, ask: Callable[[ChatClient], Awaitable[Answer]]) -> Answer:
        """A failure is the trajectory's when another server says the same, or there is no other."""
        thread, failed, counted = asking_thread(), set[Endpoint](), 0
        while True:
            endpoint = await self._seat(thread, failed)
            chat = endpoint.chat
            assert chat
            try:
                reply = await ask(chat)
            except ModelError as error:
                failure = error
            else:
                if reply is not None:
                    endpoint.answered(reply.response_metadata["seconds"])
                return reply
            finally:
                endpoint.limit.in_flight -= 1
                self.let_in()
            if failure.busy or isinstance(failure, ModelTimeout):  # perhaps it waited in the server's line
                endpoint.limit.overloaded()
            if self.endpoints.is_single or isinstance(failure, ContextOverflow):
                raise failure
            self._move_from_home(thread)
            failed.add(endpoint)
            if failure.busy:
                self._rest(endpoint, failure.retry_after)
            else:
                counted += not (isinstance(failure, ModelUnreachable) and not failure.was_sent)
                verdict = self.endpoints.judge(endpoint, failure)
                last = failed.issuperset(self.endpoints.up)
                fault = await asyncio.shield(verdict) if last or isinstance(failure, ModelTimeout) else None
                if fault is None and isinstance(failure, ModelTimeout):
                    raise failure  # the server is at work: it is the reply that takes so long
            most = 1 if thread in self._suspects else _MOST_BROKEN
            if counted >= most or failed.issuperset(self.endpoints.up):
                if counted > 1:
                    self._suspects.add(thread)
                raise failure

    async def _seat(self, thread: str | None, failed: Collection[Endpoint]) -> Endpoint:
        """A server to ask, which has room: it counts as asked from now on."""
        if self._closed:
            raise Closed("the run ends")
        home = self._homes.get(thread or "")
        if chosen := self._choose(home, failed):
            chosen.limit.in_flight += 1
        elif not self.endpoints.up:
            raise self.endpoints.none_answers()
        else:
            other = self._best(failed) if failed else home
            line = other.line if other and other.is_up else self._line
            line.append(waiting := asyncio.get_running_loop().create_future())
            try:
                chosen = await waiting
            except asyncio.CancelledError:
                if not waiting.cancelled() and not waiting.exception():
                    waiting.result().limit.in_flight -= 1
                    self.let_in()
                raise
        if thread and chosen is not home and not self.endpoints.is_single:
            self._move_from_home(thread)
            self._homes[thread] = chosen
            chosen.at_home += 1
            if len(self._homes) > _MOST_HOMES:  # only where nobody says when one has ended
                self._homes.popitem(last=False)[1].at_home -= 1
        return chosen

    def _choose(self, home: Endpoint | None, failed: Collection[Endpoint]) -> Endpoint | None:
        if home and home.is_up and home not in failed:
            return home if home.room and not home.line else self._better_than(home)
        best = self._best(failed)
        return best if best and best.room and (failed or not self._line) else None

    def _best(self, failed: Collection[Endpoint] = ()) -> Endpoint | None:
        """Where one more is answered soonest, be it by waiting there."""
        up = [one for one in self.endpoints.up if one not in failed]
        asked = [one for one in up if not one.rests] or up
        known = [one for one in asked if one.limit.reply_time or one.room]
        return min(known or asked, key=Endpoint.expected, default=None)

    def _rest(self, endpoint: Endpoint, seconds: float | None) -> None:
        """A server that says when it wants to be asked again is not asked before."""
        if seconds:
            endpoint.rests_until = max(endpoint.rests_until, time.monotonic() + seconds)
            asyncio.get_running_loop().call_later(seconds + 0.01, self.let_in)

    def _better_than(self, home: Endpoint) -> Endpoint | None:
        """Where it is worth to read a prompt again: a server that is half idle while `home` is full."""
        best = self._best() if not self._line else None
        if best is None or best is home or not best.room or best.limit.in_flight > best.limit.limit / 2:
            return None
        return best if home.expected(0) > _WORTH_MOVING * best.expected() else None

    def _move_from_home(self, thread: str | None) -> None:
        if home := self._homes.pop(thread or "", None):
            home.at_home -= 1

    def _move_line(self, endpoint: Endpoint) -> None:
        """Who waits for a server that is gone waits for any, before those that are new."""
        while endpoint.line:
            self._line.appendleft(endpoint.line.pop())
        if not self.endpoints.up:
            self._refuse_all(self.endpoints.none_answers())
        self.let_in()

    def _refuse_all(self, error: ModelError) -> None:
        for line in (self._line, *(one.line for one in self.endpoints.all)):
            while line:
                if not (waiting := line.popleft()).done():
                    waiting.set_exception(error)


def _admit(endpoint: Endpoint, line: deque[Waiting]) -> None:
    if not (waiting := line.popleft()).done():  # else it was cancelled
        endpoint.limit.in_flight += 1
        waiting.set_result(endpoint)
