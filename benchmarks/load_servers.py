"""A model and a tool server that cost next to nothing, so that what is measured is the client between them.

python -m benchmarks.load_servers [--calls 5] [--model-latency 0] [--tool-latency 0]     latencies in milliseconds

Prints both addresses in one line. The model thinks some 800 characters a turn, searches `--calls` times under the stop
strings of the protocol, then answers; a search returns five papers, 12 kB, as text and as structured content. GET
/stats on either port counts what was asked.
"""

import argparse
import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, cast

import uvloop

from batch.records import read_lines
from servers.tool_server.corpus_format import BUNDLED

_DIFFERENT = 64
"""So many thoughts and results: within one, no sentence comes twice, so that it packs no better than real text does."""
_TEXTS = [paper["abstract"] for paper in read_lines(BUNDLED)]
_SEARCH = {
    "name": "pubmed_search",
    "description": "Search PubMed.",
    "inputSchema": {
        "type": "object",
        "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}, "offset": {"type": "integer"}},
        "required": ["query"],
    },
}
Answer = Callable[[str, bytes], tuple[int, bytes, float]]
"""From path and body of a request: the status, the body, and the seconds to wait before sending them."""


def thought(number: int) -> str:
    """Some 800 characters."""
    return " ".join(Random(number).sample(_TEXTS, 3))[:800]


def found(number: int) -> bytes:
    """What a search returns: five papers."""
    texts = Random(number).sample(_TEXTS, 25)
    papers = [
        {
            "paperId": str(30000000 + n), "url": f"https://pubmed.ncbi.nlm.nih.gov/{30000000 + n}/",
            "title": f"A randomised trial of the treatment, report {n}", "abstract": " ".join(texts[n::5]),
            "year": "2023", "venue": "The Lancet", "authors": [{"name": "Doe, Jane"}, {"name": "Roe, Richard"}],
        }
        for n in range(5)
    ]  # fmt: skip
    result = {"total": 5, "offset": 0, "next": 5, "data": papers}
    text = {"type": "text", "text": json.dumps(result)}
    return json.dumps({"content": [text], "structuredContent": result, "isError": False}).encode()


@dataclass
class Model:
    """One OpenAI-compatible model, `Qwen3-8B`."""

    calls: int
    latency: float
    stats: dict[str, int] = field(default_factory=lambda: {"requests": 0})

    def __post_init__(self) -> None:
        self._replies = [
            [self._reply(turn, thought(number)) for number in range(_DIFFERENT)] for turn in range(self.calls + 1)
        ]

    def __call__(self, path: str, body: bytes) -> tuple[int, bytes, float]:
        if path.endswith("/models"):
            return 200, b'{"object": "list", "data": [{"id": "Qwen3-8B", "object": "model"}]}', 0
        if not path.endswith("/chat/completions"):
            return (200, json.dumps(self.stats).encode(), 0) if path == "/stats" else (404, b"{}", 0)
        self.stats["requests"] += 1
        replies = self._replies[min(body.count(b'"assistant"'), self.calls)]
        counted = b'"prompt_tokens": %d' % (len(body) // 4)  # else the prompts would seem to be cut
        return 200, replies[self.stats["requests"] % _DIFFERENT].replace(b'"prompt_tokens": 0', counted), self.latency

    def _reply(self, turn: int, thought: str) -> bytes:
        if turn < self.calls:
            said = (
                f'<think>{thought}</think>\n<call_tool name="pubmed_search" limit="5">trial outcome {turn}</call_tool>'
            )
        else:
            said = f'<think>{thought}</think>\n<answer>It helps. <cite id="30000001">HR 0.78</cite></answer>'
        message = {"role": "assistant", "content": said}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "stop_reason": None}
        usage = {"prompt_tokens": 0, "completion_tokens": 200, "total_tokens": 200}
        answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "Qwen3-8B"}
        return json.dumps({**answer, "choices": [choice], "usage": usage}).encode()


@dataclass
class Tools:
    """One MCP server over streamable HTTP with JSON answers and no sessions."""

    latency: float
    stats: dict[str, int] = field(default_factory=lambda: {"requests": 0})

    def __post_init__(self) -> None:
        self._found = [found(number) for number in range(_DIFFERENT)]

    def __call__(self, path: str, body: bytes) -> tuple[int, bytes, float]:
        if not body:
            return (200, json.dumps(self.stats).encode(), 0) if path == "/stats" else (405, b"", 0)
        message: dict[str, Any] = json.loads(body)
        result, wait = b"{}", 0.0
        if "id" not in message:
            return 202, b"", 0
        if message["method"] == "initialize":
            about = {"capabilities": {"tools": {}}, "serverInfo": {"name": "load", "version": "1"}}
            result = json.dumps({"protocolVersion": message["params"]["protocolVersion"], **about}).encode()
        elif message["method"] == "tools/list":
            result = json.dumps({"tools": [_SEARCH]}).encode()
        elif message["method"] == "tools/call":
            self.stats["requests"] += 1
            result, wait = self._found[self.stats["requests"] % _DIFFERENT], self.latency
        identity = json.dumps(message["id"]).encode()
        return 200, b'{"jsonrpc": "2.0", "id": %b, "result": %b}' % (identity, result), wait


Take = Callable[[str, bytes, "Connection"], None]
"""What is done with a path, a body and the connection to answer on."""


class Connection(asyncio.Protocol):
    """Just enough of HTTP/1.1: requests with a Content-Length, one after the other, kept alive."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._read = bytearray()
        self._path = ""
        self._body = 0
        """Where the body of the request that is being read begins; 0 while its head is not whole."""
        self._wanted = 1
        """Bytes without which nothing can be done."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._read += data
        while len(self._read) >= self._wanted:
            if not self._body:
                end = self._read.find(b"\r\n\r\n")
                if end < 0:
                    return
                head = bytes(self._read[:end])
                at = head.lower().find(b"content-length:")
                self._path = head.split(b" ", 2)[1].decode()
                self._body = end + 4
                self._wanted = self._body + (int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0)
                continue
            path, body = self._path, bytes(self._read[self._body : self._wanted])
            del self._read[: self._wanted]
            self._body, self._wanted = 0, 1
            self._take(path, body, self)

    def send(self, status: int, answer: bytes) -> None:
        """Answer the oldest request that has none."""
        head = b"HTTP/1.1 %d OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        if not self._transport.is_closing():
            self._transport.writelines([head % (status, len(answer)), answer])

    def drop(self) -> None:
        """Break it."""
        self._transport.abort()


def answered_by(answer: Answer) -> Take:
    """Answers each request by itself."""

    def take(path: str, body: bytes, connection: Connection) -> None:
        status, said, wait = answer(path, body)
        if wait:
            asyncio.get_running_loop().call_later(wait, connection.send, status, said)
        else:
            connection.send(status, said)

    return take


async def serve(calls: int, model_latency: float, tool_latency: float) -> None:
    """Serve both until killed."""
    loop = asyncio.get_running_loop()
    addresses = []
    for answer in (Model(calls, model_latency / 1000), Tools(tool_latency / 1000)):
        server = await loop.create_server(partial(Connection, answered_by(answer)), "127.0.0.1", 0, backlog=4096)
        addresses.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    print(f"{addresses[0]}/v1 {addresses[1]}/mcp", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serve with the latencies asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--model-latency", type=float, default=0)
    parser.add_argument("--tool-latency", type=float, default=0)
    asked = parser.parse_args()
    uvloop.run(serve(asked.calls, asked.model_latency, asked.tool_latency))


if __name__ == "__main__":
    main()
