"""Simulated model servers on one machine, with slots, a line, a prefix cache, `/metrics` and deaths; and tools.

python -m benchmarks.sim_endpoints SPEC     {"calls": 5, "tool_seconds": 0.2, "endpoints": [{"slots": 16,
                                             "seconds": 0.5, "prefill": 0.05, "dies_at": 7, "down": 10,
                                             "longest_line": 2}, …]}

Prints the tool server's address, that of `/stats` and those of the endpoints in one line. A request holds a slot for
`seconds`, half of it when the server is nearly idle, and for `prefill` seconds a message that is not in its cache.
`dies_at` counts from the first request: then every connection is dropped, and none is taken for `down` seconds.
"""

import asyncio
import json
import sys
import time
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import uvloop

from benchmarks.load_servers import Connection, Model, Tools, answered_by

_CACHED = 512
"""Conversations in a server's prefix cache."""


@dataclass
class Seen:
    """What all the servers were asked."""

    began: float = 0.0
    turns: dict[str, list[int]] = field(default_factory=dict)
    """By question the servers that answered its turns, in order."""

    def at_the_same(self) -> float:
        """The share of later turns at the server of the turn before."""
        pairs = [pair for asked in self.turns.values() for pair in pairwise(asked)]
        return sum(one == other for one, other in pairs) / max(len(pairs), 1)


class SimEndpoint:
    """One model server."""

    def __init__(self, number: int, about: dict[str, Any], model: Model, seen: Seen) -> None:
        self._number, self._about, self._model, self._seen = number, about, model, seen
        self._free, self._line = about["slots"], deque[tuple[Connection, bytes]]()
        self._cache: OrderedDict[str, int] = OrderedDict()
        self._connections: set[Connection] = set()
        self._life, self._dying = 0, about.get("dies_at") is not None
        self.counts: Counter[str] = Counter()
        self.port = 0

    async def listen(self) -> None:
        """Take connections, at the same port each time."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self._take), "127.0.0.1", self.port, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]

    def _take(self, path: str, body: bytes, connection: Connection) -> None:
        self._connections.add(connection)
        waits, runs = len(self._line), self._about["slots"] - self._free
        if path.startswith("/metrics"):
            text = f'vllm:num_requests_running{{a="b"}} {runs}.0\nvllm:num_requests_waiting{{a="b"}} {waits}.0\n'
            connection.send(200, text.encode())
        elif path.startswith("/health"):
            connection.send(200, b"{}")
        elif not path.endswith("/chat/completions"):
            connection.send(*self._model(path, body)[:2])
        elif self._about.get("longest_line") is not None and waits >= self._about["longest_line"]:
            self.counts["refused"] += 1
            connection.send(429, b'{"error": {"message": "too many requests"}}')
        else:
            self._begin()
            self._line.append((connection, body))
            self._work()

    def _begin(self) -> None:
        self._seen.began = self._seen.began or time.monotonic()
        if self._dying:
            self._dying = False
            left = self._about["dies_at"] - (time.monotonic() - self._seen.began)
            asyncio.get_running_loop().call_later(left, lambda: asyncio.ensure_future(self._die()))

    def _work(self) -> None:
        while self._free and self._line:
            connection, body = self._line.popleft()
            asked = json.loads(body)
            messages = asked["messages"]
            question = next(message["content"] for message in messages if message["role"] == "user")
            new = max(len(messages) - self._cache.get(question, 0), 0)
            self.counts["messages"] += len(messages)
            self.counts["read anew"] += new
            self._cache[question] = len(messages) + 1
            self._cache.move_to_end(question)
            if len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
            if asked["max_tokens"] > 1:
                self._seen.turns.setdefault(question, []).append(self._number)
            self._free -= 1
            busy = 1 - self._free / self._about["slots"]
            seconds = self._about["seconds"] * (0.5 + 0.5 * busy) + self._about.get("prefill", 0) * new
            asyncio.get_running_loop().call_later(seconds, self._reply, connection, body, self._life)

    def _reply(self, connection: Connection, body: bytes, life: int) -> None:
        if life != self._life:
            return
        self._free += 1
        self.counts["answered"] += 1
        connection.send(*self._model("/chat/completions", body)[:2])
        self._work()

    async def _die(self) -> None:
        self.counts["dropped"] = len(self._line) + self._about["slots"] - self._free
        self._life += 1
        self._server.close()
        for connection in self._connections:
            connection.drop()
        self._connections.clear()
        self._line.clear()
        self._cache.clear()
        self._free = self._about["slots"]
        await asyncio.sleep(self._about["down"])
        await self.listen()


async def serve(about: dict[str, Any]) -> None:
    """Serve until killed."""
    seen, model = Seen(), Model(about["calls"], 0)
    endpoints = [SimEndpoint(number, one, model, seen) for number, one in enumerate(about["endpoints"])]
    for endpoint in endpoints:
        await endpoint.listen()

    def stats(path: str, body: bytes) -> tuple[int, bytes, float]:
        told = {"at_the_same": seen.at_the_same(), "endpoints": [dict(one.counts) for one in endpoints]}
        return 200, json.dumps(told).encode(), 0

    loop, ports = asyncio.get_running_loop(), list[int]()
    for answer in (Tools(about["tool_seconds"]), stats):
        server = await loop.create_server(partial(Connection, answered_by(answer)), "127.0.0.1", 0, backlog=4096)
        ports.append(server.sockets[0].getsockname()[1])
    ports += [endpoint.port for endpoint in endpoints]
    print(*(f"http://127.0.0.1:{port}" for port in ports), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(json.loads(sys.argv[1])))
