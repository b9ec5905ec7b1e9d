"""One of a run's model servers: its client, what it bears, and whether it answers."""

import asyncio
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
        return self.is_up and self.judged is None and self.limit.room > 0

    def expected(self, more: int = 1) -> float:
        """Seconds, about, until so many more requests are answered."""
        load = (max(self.limit.in_flight, self.at_home) + more) / self.limit.limit
        return (self.limit.reply_time or _UNKNOWN) * (1.0 + load) / self.spec.weight

    async def connect(
        self, config: ModelConfig, stop: Sequence[str], concurrency: int, like: "Endpoint | None" = None
    ) -> None:
        """Ask what it serves, and have a client for that. Raises UsageError where nothing answers, or another model
        than at the endpoint that it is to be `like`.
        """
        served = await resolve_model(
            self.spec.url, self.spec.model or config.model_name, config.api_key, config.headers
        )
        if like is not None and like is not self:
            check_same(like.spec, like.served, self.spec, served)
        size = config.max_model_len or served.max_model_len
        if self.chat is None or self.served is None or self.served.name != served.name:
            named, most = replace(config, model_name=served.name), self.spec.max_in_flight or concurrency
            model = await self.opened.enter_async_context(
                open_chat_model(named, self.spec.url, concurrency=min(most, concurrency))
            )
            self.chat = ChatClient(model, stop, size, served.continues, self.spec.url)
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
