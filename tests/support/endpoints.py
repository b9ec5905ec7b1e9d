"""Model servers that do well until they do not, several at a time."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Literal

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tests.support.runs import answer, call
from tests.support.servers import completion, served

Fault = Literal[
    "502",
    "500",
    "page",
    "401",
    "404",
    "empty",
    "silent",
    "aborts",
    "nothing",
    "half",
    "400",
    "403",
    "302",
    "504",
    "429",
]


@dataclass
class Endpoint:
    """A model server that does well, until it has a `fault`."""

    fault: Fault | None = None
    after: int = 10_000
    """Completions until it has the fault."""
    answers_a_word: bool = False
    """Whether a request for one token does well all the same."""
    from_turn: int = 0
    """The first turn that has the fault."""
    retry_after: int | None = None
    seconds: float = 0.0
    slots: int = 1000
    root: str | None = None
    name: str = "Qwen3-8B"
    length: int | None = None
    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    """Requests by session; '' for those without one."""
    running: int = 0
    most: int = 0

    @contextmanager
    def served(self, port: int = 0) -> Iterator["Endpoint"]:
        routes = [
            Route("/v1/chat/completions", self.chat, methods=["POST"]), Route("/v1/models", self.models),
            Route("/metrics", self._metrics),
        ]  # fmt: skip
        with served(Starlette(routes=routes), port) as base:
            self.url = f"{base}/v1"
            yield self

    @property
    def _fails(self) -> Fault | None:
        return self.fault if sum(self.asked.values()) > self.after else None

    async def models(self, _: Request) -> Response:
        if self._fails == "502":
            return PlainTextResponse("bad gateway", 502)
        about = {"id": self.name, "root": self.root, "max_model_len": self.length}
        return JSONResponse({"data": [{key: value for key, value in about.items() if value}]})

    async def _metrics(self, _: Request) -> Response:
        waiting, running = max(self.running - self.slots, 0), min(self.running, self.slots)
        return PlainTextResponse(f"vllm:num_requests_running {running}\nvllm:num_requests_waiting {waiting}\n")

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.asked[request.headers.get("x-session-id", "")] += 1
        failures: dict[Fault, Response] = {
            "502": PlainTextResponse("bad gateway", 502),
            "500": JSONResponse({"error": {"message": "engine dead"}}, 500),
            "page": HTMLResponse("<html>welcome</html>"),
            "401": JSONResponse({"error": {"message": "no"}}, 401),
            "404": JSONResponse({"error": {"message": "no such model"}}, 404),
            "empty": JSONResponse({"choices": []}),
            "aborts": completion({"content": "half", "finish_reason": "abort"}),
            "nothing": completion({"content": "", "finish_reason": "stop"}),
            "half": Response(b'{"choices": [{"mess', headers={"content-length": "1000"}),
            "400": JSONResponse({"error": {"message": "bad parameter"}}, 400),
            "403": JSONResponse({"error": {"message": "forbidden"}}, 403),
            "302": Response(status_code=302, headers={"location": "http://elsewhere/v1"}),
            "504": PlainTextResponse("gateway timeout", 504),
            "429": JSONResponse({"error": {"message": "busy"}}, 429, headers={"retry-after": str(self.retry_after)}),
        }
        turns = sum(message["role"] == "assistant" for message in body["messages"])
        spared = turns < self.from_turn or (self.answers_a_word and body["max_tokens"] == 1)
        if (fault := None if spared else self._fails) == "silent":
            await asyncio.sleep(60)
        elif fault:
            return failures[fault]
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(self.seconds)
        self.running -= 1
        said = call("pubmed_search", f"word{turns}") if turns < 2 else answer("Yes.")
        return completion({"content": said, "finish_reason": "stop"})


@contextmanager
def several(*endpoints: Endpoint) -> Iterator[tuple[str, ...]]:
    with ExitStack() as stack:
        yield tuple(stack.enter_context(one.served()).url for one in endpoints)
