"""The demo model's server: `/v1/models`, `/v1/chat/completions` (streaming too), `/health`, `/stats`."""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from servers.demo_model.manners import KNOWN_FIELDS, MANNERS, Manners, ThinkIn, too_long
from servers.demo_model.policy import reply

RUN_ON = (
    '\n<tool_output>\nFound 1 results. Showing top 1:\n<snippet id="0">made up by the model</snippet>\n</tool_output>'
)
"""Without a stop string real models go on and make up a result; so does this one."""
_GENERATION_PROMPT = 3
"""Tokens with which a template begins the next reply."""
_TOKEN = re.compile(r"\w{1,6}|\s+|[^\w\s]")


@dataclass
class DemoModel:
    """One served demo model. `latency` is in seconds a reply; `max_model_len` bounds prompt and reply in tokens.
    `think_in` and `max_model_len` are those of its `manners` where they are not given.
    """

    name: str = "demo"
    think_in: ThinkIn | None = None
    latency: float = 0.0
    max_model_len: int | None = None
    api_key: str | None = field(default=None, repr=False)
    manners: Manners = MANNERS["vllm"]
    stats: Counter[str] = field(
        default_factory=lambda: Counter(dict.fromkeys(("requests", "probes", "completions", "in_flight", "peak"), 0))
    )
    """`probes` are requests for one token: whether it is there."""

    @property
    def size(self) -> int:
        """Tokens of prompt and reply together."""
        return self.max_model_len or self.manners.max_model_len

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            *([Route("/tokenize", self._tokenize, methods=["POST"])] if self.manners.tokenizes else []),
            Route("/health", lambda _: PlainTextResponse("")),
            Route("/stats", lambda _: JSONResponse(self.stats)),
        ]
        return Starlette(routes=routes)

    async def _models(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        served: dict[str, Any] = {"id": self.name, "object": "model", "owned_by": self.manners.owned_by}
        if self.manners.tells_length == "max_model_len":
            served["max_model_len"] = self.size
        elif self.manners.tells_length == "n_ctx":
            served["meta"] = {"n_ctx": self.size}
        return JSONResponse({"object": "list", "data": [served]})

    async def _tokenize(self, request: Request) -> Response:
        body = await request.json()
        count = count_tokens(_flat(body.get("messages") or [{"content": body.get("prompt", "")}]))
        return JSONResponse({"count": count, "max_model_len": self.size})

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
        if self.manners.refuses_unknown and (unknown := body.keys() - KNOWN_FIELDS):
            return JSONResponse({"detail": f"Unexpected fields in the request: {unknown}"}, status_code=422)
        continuing = self.manners.continues and body.get("continue_final_message")
        prompt_tokens = count_tokens(_flat(messages)) + (0 if continuing else _GENERATION_PROMPT)
        asked = body.get("max_tokens") or 0
        if refusal := too_long(self.manners, prompt_tokens, asked, self.size):
            return JSONResponse(refusal[1], status_code=refusal[0])
        while len(messages) > 2 and prompt_tokens >= self.size:  # one that cuts in silence leaves out the oldest
            del messages[1 if messages[0].get("role") == "system" else 0]
            prompt_tokens = count_tokens(_flat(messages))
        prompt_tokens = min(prompt_tokens, self.size - 1)
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
            if body.get("include_stop_str_in_output") and choice["finish_reason"] == "stop" and not _named(choice):
                choice["message"]["content"] = (choice["message"]["content"] or "") + self.manners.stream_end
            return StreamingResponse(_stream(head, choice, usage if options.get("include_usage") else None),
                                     media_type="text/event-stream")  # fmt: skip
        return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": usage})

    def _complete(
        self, body: dict[str, Any], messages: list[Any], prompt_tokens: int
    ) -> tuple[dict[str, Any], dict[str, int]]:
        continuing = self.manners.continues and body.get("continue_final_message")
        begun = str(messages[-1].get("content", "")) if continuing else ""
        text = _after(begun, reply(messages[:-1] if begun else messages))
        if text.endswith("</call_tool>"):
            text += RUN_ON
        room = self.size - prompt_tokens
        asked_to_keep = bool(body.get("include_stop_str_in_output") or body.get("no_stop_trim"))
        keep = self.manners.stop == "kept" or (self.manners.stop == "on request" and asked_to_keep)
        text, matched = _cut(text, body.get("stop"), keep)
        tokens = _TOKEN.findall(text)
        limit = min(body.get("max_completion_tokens") or body.get("max_tokens") or room, room)
        finish_reason = "stop" if matched else self.manners.finish_reason
        if len(tokens) > limit:
            text, matched, finish_reason = "".join(tokens[:limit]), None, "length"
        message: dict[str, Any] = {"role": "assistant", "content": text}
        think_in = self.think_in or self.manners.think_in
        if think_in != "think":
            thought, content = _split_thought(text, closed="</think>" in begun)
            message = {"role": "assistant", "content": content, think_in: thought}
        completion_tokens = min(len(tokens), limit)
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
                 "total_tokens": prompt_tokens + completion_tokens}  # fmt: skip
        choice = {"index": 0, "message": message, "finish_reason": finish_reason}
        return choice | ({} if self.manners.names_stop == "no" else {self.manners.names_stop: matched}), usage

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


def _named(choice: dict[str, Any]) -> str | None:
    return choice.get("stop_reason") or choice.get("matched_stop")


def _split_thought(text: str, *, closed: bool) -> tuple[str, str | None]:
    """As a reasoning parser splits it: everything is thought until `</think>`, if that was not said before."""
    if closed:
        return "", text
    thought, closing, content = text.removeprefix("<think>").partition("</think>")
    return thought, content.lstrip("\n") if closing else None


async def _stream(head: dict[str, Any], choice: dict[str, Any], usage: dict[str, int] | None) -> AsyncIterator[str]:
    def event(delta: dict[str, Any], **more: Any) -> str:
        choices = [{"index": 0, "delta": delta, "finish_reason": None, **more}]
        return f"data: {json.dumps({**head, 'object': 'chat.completion.chunk', 'choices': choices})}\n\n"

    yield event({"role": "assistant", "content": ""})
    message = choice["message"]
    for name in ("reasoning", "reasoning_content", "thinking", "content"):
        text = message.get(name) or ""
        for start in range(0, len(text), 40):
            yield event({name: text[start : start + 40]})
            await asyncio.sleep(0)
    yield event({}, **{name: value for name, value in choice.items() if name not in ("index", "message")})
    if usage:
        chunk = {**head, "object": "chat.completion.chunk", "choices": [], "usage": usage}
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"


def _flat(messages: list[Any]) -> str:
    return "\n".join(str(message.get("content", "")) for message in messages if isinstance(message, dict))


def _error(status: int, kind: str, said: str) -> JSONResponse:
    return JSONResponse({"error": {"message": said, "type": kind, "param": None, "code": status}}, status_code=status)
