"""Fakes at the wire: a scripted model and small MCP servers, each on a real socket in a thread of its own."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from servers.demo_model.server import DemoModel, count_tokens
from servers.tool_server.corpus import Corpus
from servers.tool_server.server import http_app
from servers.tool_server.sources import Sources

Reply = str | Mapping[str, Any] | Response


@contextmanager
def served(app: Any, port: int = 0) -> Iterator[str]:
    """An ASGI application on a free loopback port; yields `http://127.0.0.1:PORT`."""
    listener = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


@dataclass
class ScriptedModel:
    """Answers each request with the next of `replies`: a text, a message with more fields, or a whole response.

    `script` takes over where order is not enough: it gets the request's messages. Every request body is kept.
    """

    replies: list[Reply] = field(default_factory=list)
    script: Callable[[list[dict[str, Any]]], Reply] | None = None
    finish_reason: str = "stop"
    owned_by: str = "nobody"
    serves: str = "Qwen/Qwen3-8B"
    max_model_len: int | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    @contextmanager
    def served(self) -> Iterator["ScriptedModel"]:
        routes = [Route("/v1/chat/completions", self._chat, methods=["POST"]), Route("/v1/models", self._models)]
        with served(Starlette(routes=routes)) as base:
            self.url = f"{base}/v1"
            yield self

    async def _models(self, _: Request) -> Response:
        served = {"id": self.serves, "object": "model", "owned_by": self.owned_by, "max_model_len": self.max_model_len}
        return JSONResponse({"object": "list", "data": [served]})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        if body.get("max_tokens") == 1:  # whether it is there: it is
            return completion({"content": "Hello", "finish_reason": "length"})
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        reply = self.script(body["messages"]) if self.script else self.replies.pop(0)
        if isinstance(reply, Response):
            return reply
        choice = {"finish_reason": self.finish_reason, **(reply if isinstance(reply, Mapping) else {"content": reply})}
        prompt = "\n".join(str(message["content"]) for message in body["messages"])
        return completion(choice, stream=bool(body.get("stream")), prompt_tokens=count_tokens(prompt))


def completion(
    said: Mapping[str, Any], *, stream: bool = False, prompt_tokens: int = 10, completion_tokens: int = 5
) -> Response:
    """A chat completion; `said` holds the message's fields beside `finish_reason`, `stop_reason`, `matched_stop`."""
    about = {name: said[name] for name in ("finish_reason", "stop_reason", "matched_stop") if name in said}
    message = {"role": "assistant", **{name: value for name, value in said.items() if name not in about}}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
             "total_tokens": prompt_tokens + completion_tokens}  # fmt: skip
    head = {"id": "scripted", "created": 0, "model": "Qwen3-8B"}
    if not stream:
        choices = [{"index": 0, "message": message, **about}]
        return JSONResponse({**head, "object": "chat.completion", "choices": choices, "usage": usage})
    deltas: list[dict[str, Any]] = [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
    for name, text in message.items():
        if name != "role" and text:
            pieces = (text[start : start + 7] for start in range(0, len(text), 7))
            deltas += [{"delta": {name: piece}, "finish_reason": None} for piece in pieces]
    deltas.append({"delta": {}, **about})
    chunks = [{**head, "object": "chat.completion.chunk", "choices": [{"index": 0, **delta}]} for delta in deltas]
    chunks.append({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks] + ["data: [DONE]\n\n"]
    return StreamingResponse(iter(events), media_type="text/event-stream")


@contextmanager
def demo_model(**settings: Any) -> Iterator[str]:
    """The demo model as Qwen3-8B; yields its address."""
    with served(DemoModel(**{"name": "Qwen3-8B", **settings}).app()) as base:
        yield f"{base}/v1"


@contextmanager
def offline_tools(port: int = 0, corpus: Path | None = None) -> Iterator[str]:
    """The tool server over the bundled papers, or those of an index; yields the address of its MCP endpoint."""
    with served(http_app(Sources.offline(Corpus.open(corpus) if corpus else Corpus.bundled())), port) as base:
        yield f"{base}/mcp"


def with_message(message: Any, receive: Any) -> Any:
    """A `receive` that gives a message once more to the application behind an ASGI layer."""
    waiting = [message]

    async def again() -> Any:
        return waiting.pop() if waiting else await receive()

    return again


def free_port() -> int:
    """A port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
