"""The demo model's server: `/v1/models`, `/v1/chat/completions` (streaming too), `/health`, `/stats`."""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from servers.demo_model.policy import reply

ThinkIn = Literal["think", "reasoning", "reasoning_content"]
RUN_ON = (
    '\n<tool_output>\nFound 1 results. Showing top 1:\n<snippet id="0">made up by the model</snippet>\n</tool_output>'
)
"""Without a stop string real models go on and make up a result; so does this one."""
_TOKEN = re.compile(r"\w{1,6}|\s+|[^\w\s]")


@dataclass
class DemoModel:
    """One served demo model. `latency` is in seconds a reply; `max_model_len` bounds prompt and reply in tokens."""

    name: str = "demo"
    think_in: ThinkIn = "think"
    latency: float = 0.0
    max_model_len: int = 32768
    api_key: str | None = field(default=None, repr=False)
    stats: Counter[str] = field(
        default_factory=lambda: Counter(dict.fromkeys(("requests", "probes", "completions", "in_flight", "peak"), 0))
    )
    """`probes` are requests for one token: whether it is there."""

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/tokenize", self._tokenize, methods=["POST"]),
            Route("/health", lambda _: PlainTextResponse("")),
            Route("/stats", lambda _: JSONResponse(self.stats)),
        ]
        return Starlette(routes=routes)

    async def _models(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        served = {"id": self.name, "object": "model", "owned_by": "trajgraph-demo", "max_model_len": self.max_model_len}
        return JSONResponse({"object": "list", "data": [served]})

    async def _tokenize(self, request: Request) -> Response:
        body = await request.json()
        count = count_tokens(_flat(body.get("messages") or [{"content": body.get("prompt", "")}]))
        return JSONResponse({"count": count, "max_model_len": self.max_model_len})

    async def _chat(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        try:
            body = await request.json()
            messages = list(body["messages"])
        except (ValueError, KeyError, TypeError):
            return _error(400, "BadRequestError", "the body is not a chat completion request")
        probe = body.get("max_tokens") == 1
        self.stats["probes" if probe else "requests"] += 1
        if body.get("model") != self.name:
            return _error(404, "NotFoundError", f"The model `{body.get('model')}` does not exist.")
        prompt_tokens = count_tokens(_flat(messages))
        if prompt_tokens >= self.max_model_len:
            said = (f"This model's maximum context length is {self.max_model_len} tokens. However, your request has "
                    f"{prompt_tokens} input tokens. Please reduce the length of the input messages.")  # fmt: skip
            return _error(400, "BadRequestError", said)
        self.stats["in_flight"] += 1
        self.stats["peak"] = max(self.stats["peak"], self.stats["in_flight"])
        try:
            await asyncio.sleep(self.latency)
            choice, usage = self._complete(body, messages, prompt_tokens)
        finally:
            self.stats["in_flight"] -= 1
        self.stats["completions"] += not probe
        head = {"id": f"chatcmpl-demo-{self.stats['completions']}", "created": int(time.time()), "model": self.name}
        if body.get("stream"):
            options = body.get("stream_options") or {}
            return StreamingResponse(_stream(head, choice, usage if options.get("include_usage") else None),
                                     media_type="text/event-stream")  # fmt: skip
        return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": usage})

    def _complete(
        self, body: dict[str, Any], messages: list[Any], prompt_tokens: int
    ) -> tuple[dict[str, Any], dict[str, int]]:
        begun = str(messages[-1].get("content", "")) if body.get("continue_final_message") else ""
        text = _after(begun, reply(messages[:-1] if begun else messages))
        if text.endswith("</call_tool>"):
            text += RUN_ON
        room = self.max_model_len - prompt_tokens
        text, matched = _cut(text, body.get("stop"), bool(body.get("include_stop_str_in_output")))
        tokens = _TOKEN.findall(text)
        limit = min(body.get("max_completion_tokens") or body.get("max_tokens") or room, room)
        finish_reason = "stop"
        if len(tokens) > limit:
            text, matched, finish_reason = "".join(tokens[:limit]), None, "length"
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self.think_in != "think":
            thought, content = _split_thought(text)
            message = {"role": "assistant", "content": content, self.think_in: thought}
        completion_tokens = min(len(tokens), limit)
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
                 "total_tokens": prompt_tokens + completion_tokens}  # fmt: skip
        return {"index": 0, "message": message, "finish_reason": finish_reason, "stop_reason": matched}, usage

    def _refused(self, request: Request) -> Response | None:
        if self.api_key and request.headers.get("authorization") != f"Bearer {self.api_key}":
            return _error(401, "AuthenticationError", "Unauthorized")
        return None


def count_tokens(text: str) -> int:
    """A count that is near a real tokenizer's for English prose."""
    return sum(1 for _ in _TOKEN.finditer(text))


def _cut(text: str, stop: str | list[str] | None, keep: bool) -> tuple[str, str | None]:
    """Text up to the first stop string (with it when `keep`), and which one it was."""
    stops = [stop] if isinstance(stop, str) else stop or []
    found = [(text.find(string), string) for string in stops if string in text]
    if not found:
        return text, None
    at, string = min(found)
    return text[: at + len(string)] if keep else text[:at], string


def _after(begun: str, text: str) -> str:
    """What follows the beginning of a text, in which white space may stand otherwise."""
    pattern = r"\s*".join(map(re.escape, re.sub(r"\s+", "", begun)))
    match = re.match(pattern, text) if begun else None
    return text[match.end() :] if match else text


def _split_thought(text: str) -> tuple[str, str | None]:
    """As a reasoning parser splits it: everything is thought until `</think>`."""
    thought, closing, content = text.removeprefix("<think>").partition("</think>")
    return thought, content.lstrip("\n") if closing else None


async def _stream(head: dict[str, Any], choice: dict[str, Any], usage: dict[str, int] | None) -> AsyncIterator[str]:
    def event(delta: dict[str, Any], **more: Any) -> str:
        choices = [{"index": 0, "delta": delta, "finish_reason": None, **more}]
        return f"data: {json.dumps({**head, 'object': 'chat.completion.chunk', 'choices': choices})}\n\n"

    yield event({"role": "assistant", "content": ""})
    message = choice["message"]
    for name in ("reasoning", "reasoning_content", "content"):
        text = message.get(name) or ""
        for start in range(0, len(text), 40):
            yield event({name: text[start : start + 40]})
            await asyncio.sleep(0)
    yield event({}, finish_reason=choice["finish_reason"], stop_reason=choice["stop_reason"])
    if usage:
        chunk = {**head, "object": "chat.completion.chunk", "choices": [], "usage": usage}
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"


def _flat(messages: list[Any]) -> str:
    return "\n".join(str(message.get("content", "")) for message in messages if isinstance(message, dict))


def _error(status: int, kind: str, said: str) -> JSONResponse:
    return JSONResponse({"error": {"message": said, "type": kind, "param": None, "code": status}}, status_code=status)
