"""One of a run's model servers: its client, what it bears, and whether it answers."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from backends.adaptive_limit import AdaptiveLimit
from backends.chat_model import open_chat_model
from backends.config import ModelConfig
from backends.endpoint_list import EndpointSpec
from backends.errors import UsageError
from backends.model_client import ChatClient
from backends.model_info import ModelInfo, resolve_model

Waiting = asyncio.Future["Endpoint"]
Model = tuple[EndpointSpec, ModelInfo | None]
"""What is served where."""
_TRUSTED = 20
"""Replies after which it is forgotten that a server was left out."""
_UNKNOWN = 0.001
"""Seconds that a reply is thought to take before there was one: what was never asked is tried."""


@dataclass(eq=False)
class Endpoint:
    """A server, and who is asked there. It is down while it has a `fault`."""

    spec: EndpointSpec
    limit: AdaptiveLimit
    chat: ChatClient | None = None
    """None while it has not answered yet."""
    served: ModelInfo | None = None
    fault: str | None = None
    removed: bool = False
    judged: "asyncio.Task[str | None] | None" = None
    """While it is found out whether it still answers."""
    trying: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while one that is down is tried."""
    rests_until: float = 0.0
    """In monotonic seconds: it has asked for it."""
    failures: int = 0
    """Requests in a row that failed."""
    replies: int = 0
    """Since it was last left out."""
    left_out: int = 0
    """How often it was, without so many replies between that it is trusted again."""
    at_home: int = 0
    """Trajectories that are asked here."""
    line: deque[Waiting] = field(default_factory=deque)
    """Those of them that wait for room."""
    opened: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def is_up(self) -> bool:
        """Whether it is asked."""
        return self.chat is not None and self.fault is None and not self.removed

    @property
    def room(self) -> bool:
        """Whether it may be asked now."""
        return self.is_up and not self.rests and self.limit.room > 0

    @property
    def rests(self) -> bool:
        """Whether it is better not asked just now, though it is up."""
        return self.judged is not None or time.monotonic() < self.rests_until

    def answered(self, seconds: float) -> None:
        """It replied, after so many seconds."""
        self.limit.answered(seconds)
        self.failures, self.replies = 0, self.replies + 1
        if self.replies >= _TRUSTED:
            self.left_out = 0

    def expected(self, more: int = 1) -> float:
        """Seconds, about, until so many more requests are answered."""
        load = (max(self.limit.in_flight, self.at_home) + more) / self.limit.limit
        return (self.limit.reply_time or _UNKNOWN) * (1.0 + load) / self.spec.weight

    async def connect(
        self, config: ModelConfig, stop: Sequence[str], concurrency: int, like: "Model | None" = None
    ) -> None:
        """Ask what it serves, and have a client for that. Raises UsageError where nothing answers, or another model
        than the one that it is to be `like`, or than it had itself.
        """
        served = await resolve_model(
            self.spec.url, self.spec.model or config.model_name, config.api_key, config.headers
        )
        for before in (like, (self.spec, self.served)):
            if before:
                check_same(*before, self.spec, served)
        size = config.max_model_len or served.max_model_len
        if self.chat is None or self.served is None or self.served.name != served.name:
            named, most = replace(config, model_name=served.name), self.spec.max_in_flight or concurrency
            model = await self.opened.enter_async_context(
                open_chat_model(named, self.spec.url, concurrency=min(most, concurrency))
            )
            self.chat = ChatClient(model, stop, size, served.continues, self.spec.url, config.keep_token_ids)
        elif size != (config.max_model_len or self.served.max_model_len):
            self.chat.max_model_len = size
        self.served = served


def check_same(spec: EndpointSpec, served: ModelInfo | None, other: EndpointSpec, others: ModelInfo | None) -> None:
    """Raises UsageError for two servers that do not serve the same model."""
    if served is None or others is None or spec.model or other.model or served.is_like(others):
        return
    raise UsageError(
        f"{spec.url} serves {served.described}, {other.url} serves {others.described}: a run is of one model; if these "
        f"are the same, say so behind the address: ,model={others.name}"
    )
