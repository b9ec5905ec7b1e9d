"""One reply at a time from the model, however its server names and refuses things."""

import asyncio
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import aiohttp
import openai
from langchain_core.messages import AIMessage

from backends.bounded import TooLong, without_secrets
from backends.chat_model import LocalChatModel
from backends.errors import (
    ContextOverflow,
    InvalidResponse,
    ModelError,
    ModelUnreachable,
    ServerOverloaded,
    Unauthorized,
)  # fmt: skip
from backends.model_errors import to_model_error
from backends.reply_tokens import ASKED, REFUSED, STREAMED

calls = logging.getLogger("trajgraph.calls")
_ABORTED = "the model server gave up half-way (finish_reason: abort): it is shutting down"
_PROBE_TIMEOUT = 5.0
_LATELY = 5.0
"""Seconds, and twice the time of a reply, within which a server that answered one request is there."""
_PROBE_REPLY_TIMEOUT = 20.0
_LOAD = tuple(
    re.compile(rf"^(?:{names})(?:\{{[^}}]*\}})?\s+([\d.eE+]+)", re.MULTILINE)
    for names in (
        "vllm:num_requests_running|sglang:num_running_reqs|llamacpp:requests_processing|tgi_batch_current_size",
        "vllm:num_requests_waiting|sglang:num_queue_reqs|llamacpp:requests_deferred|tgi_queue_size",
    )
)
"""What vLLM, SGLang, llama.cpp and TGI call the requests that run, and those that wait."""


@dataclass(frozen=True)
class Replies:
    """Those that have come: how many, and at which turn of any question the latest; -1 when none has."""

    count: int = 0
    last_turn: int = -1


class ChatClient:
    """Asks a chat model for one reply at a time, under fixed stop strings."""

    EXTRAS: ClassVar[dict[str, Any]] = {"include_stop_str_in_output": True, "no_stop_trim": True}
    """Keep the stop string that matched (vLLM's name, SGLang's name); most servers ignore what they do not know."""

    def __init__(
        self,
        model: LocalChatModel,
        stop: Sequence[str],
        max_model_len: int | None = None,
        continues: bool = False,
        address: str | None = None,
        keep_token_ids: bool = False,
    ) -> None:
        self._model = model
        self._address = address
        self.continues = continues
        self._stop = list(stop)
        self._ladder = [*([self.EXTRAS | ASKED] if keep_token_ids else []), self.EXTRAS, {}]
        """The extra fields to ask with: all, or fewer where a server refuses them."""
        self._taken: dict[str, Any] | None = None
        """Those that it takes; None until it has answered once."""
        self._tokenizes = True
        self.answered = float("-inf")
        """When it last replied, in monotonic seconds."""
        self.reply_time = 1.0
        """Seconds, as of late."""
        self.max_model_len = self._told = max_model_len
        """Tokens of prompt and reply together; None while nobody has said."""
        self._counted = 0
        """The most tokens of prompt and reply that the server has counted."""

    async def ask(
        self, messages: list[dict[str, str]], max_tokens: int, seed: int | None = None, *, stops: bool = True
    ) -> AIMessage:
        """One reply, with `seconds` in its `response_metadata`; no stop string ends it if `stops` says so. Raises a
        `ModelError` that says what went wrong.
        """
        turn = sum(message["role"] == "assistant" for message in messages)
        try:
            reply = await self._invoke(
                messages, {"max_tokens": max_tokens, **({"stop": self._stop} if stops else {}), **_seeded(seed)}
            )
        except ModelError as error:
            error.turn = turn
            if isinstance(error, ContextOverflow) and 2 * (error.max_model_len or 0) < self._counted:
                error.max_model_len = None  # it has answered far more: that number is about something else
            raise
        usage = reply.usage_metadata
        self._counted = max(self._counted, usage["total_tokens"] if usage else 0)
        if self.max_model_len and self.max_model_len < self._counted:
            self.max_model_len = self._told  # what a refusal seemed to say of it is not so
        finish_reason = reply.response_metadata.get("finish_reason")
        if finish_reason == "abort":
            raise InvalidResponse(_ABORTED)
        if not finish_reason and usage and usage["output_tokens"] >= max_tokens:
            finish_reason = reply.response_metadata["finish_reason"] = "length"
        silent = not reply.text.strip() and not reply.additional_kwargs.get("reasoning_content")
        if silent and finish_reason != "length":
            raise InvalidResponse(f"empty reply from the model server (finish_reason: {finish_reason})")
        return reply

    async def ask_for_a_token(self, messages: list[dict[str, str]]) -> AIMessage:
        """What a prompt's first token costs: whether it is taken at all. Raises a `ModelError`."""
        return await self._invoke(messages, {"max_tokens": 1, "stop": self._stop})

    async def try_out(self, messages: list[dict[str, str]], max_tokens: int, **body: Any) -> dict[str, Any]:
        """The server's own answer to a request with these fields, as JSON. Raises a `ModelError`."""
        asked = {**self._model.request(messages, max_tokens=max_tokens, stop=self._stop), **body}
        asked = {name: value for name, value in asked.items() if value is not None}  # some refuse an empty list
        try:
            answer = await self._model.completion(asked)
        except Exception as error:
            raise await self._failure(error) from error
        if not isinstance(answer, dict):
            raise InvalidResponse("the model server's reply is not a chat completion")
        return answer

    async def server_properties(self) -> dict[str, Any]:
        """What llama.cpp says of itself at `/props`, beside `/v1`; nothing where there is no such place."""
        try:
            said = await self._model.get(str(self._base.join("../props")))
        except Exception:
            return {}
        return said if isinstance(said, dict) else {}

    async def continue_reply(
        self, messages: list[dict[str, str]], begun: str, max_tokens: int, seed: int | None = None
    ) -> AIMessage | None:
        """What follows `begun`, a reply that was cut off; None where the server cannot continue it."""
        if not self.continues:
            return None
        body = {"continue_final_message": True, "add_generation_prompt": False, **self._extras}
        asked = {"max_tokens": max_tokens, "stop": self._stop, "extra_body": body, **_seeded(seed)}
        try:
            reply = await self._timed([*messages, {"role": "assistant", "content": begun}], asked)
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            return None  # some chat templates rewrite the message, and the server refuses
        except Exception as error:
            raise await self._failure(error) from error
        if reply.response_metadata.get("finish_reason") == "abort":
            raise InvalidResponse(_ABORTED)
        if not reply.text.strip() and not reply.additional_kwargs.get("reasoning_content"):
            return None
        return reply

    async def _invoke(self, messages: list[dict[str, str]], asked: dict[str, Any]) -> AIMessage:
        ladder = self._ladder if self._taken is None else [self._taken]
        for extras in ladder:
            try:
                reply = await self._timed(messages, {**asked, "extra_body": extras})
            except Exception as error:
                failure = await self._failure(error)
                refused = isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError)
                if isinstance(failure, Unauthorized):  # a 403 may be about the tokens alone
                    refused = failure.forbidden and ASKED.keys() <= extras.keys()
                if extras is ladder[-1] or isinstance(failure, ContextOverflow) or not refused:
                    raise failure from error
                continue  # perhaps a strict server: it is asked for no more than every server knows
            if self._taken is None and (fewer := self._ladder[0].keys() - extras.keys()):
                calls.info("%s refuses %s: it is asked without", self._base, ", ".join(sorted(fewer)))
            if self._taken is None or len(extras) > len(self._taken):  # what it took of another request, it takes
                self._taken = extras
            return reply
        raise AssertionError("no way to ask")

    @property
    def _extras(self) -> dict[str, Any]:
        return self._ladder[0] if self._taken is None else self._taken

    async def _timed(self, messages: list[dict[str, str]], asked: dict[str, Any]) -> AIMessage:
        """A reply, how long it took, and who gave it."""
        asked, started = self._with_own(asked), time.monotonic()
        reply = await self._model.reply(messages, **asked)
        self.answered = time.monotonic()
        seconds = self.answered - started
        self.reply_time += 0.2 * (seconds - self.reply_time)
        calls.debug(
            "reply of %s: %.1f s, %d characters, from %s", self._model.model_name, seconds, len(reply.text), self._base
        )
        reply.response_metadata["seconds"] = round(seconds, 3)
        if "return_token_ids" in self._ladder[0]:
            why = STREAMED if "return_token_ids" in asked["extra_body"] else REFUSED
            reply.response_metadata.setdefault("tokens", {"left_out": why})
        if self._address:
            reply.response_metadata["endpoint"] = self._address
        return reply

    def _with_own(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A call's `extra_body` replaces the model's own: both are wanted."""
        own = {name: value for name, value in (self._model.extra_body or {}).items() if name not in asked}
        return {**asked, "extra_body": {**own, **asked.get("extra_body", {})}}

    def request(self, messages: list[dict[str, str]], max_tokens: int, seed: int | None = None) -> dict[str, Any]:
        """The body of a first request, as `ask` sends it."""
        asked = {"max_tokens": max_tokens, "stop": self._stop, "extra_body": self._extras, **_seeded(seed)}
        return self._model.request(messages, **self._with_own(asked))

    async def count_tokens(self, messages: list[dict[str, str]]) -> int | None:
        """Tokens of a prompt by vLLM's `/tokenize`, which lies beside `/v1`; None where there is none."""
        if not self._tokenizes:
            return None
        body = {"model": self._model.model_name, "messages": messages}
        try:
            counted = await self._model.post(str(self._base.join("../tokenize")), body)
            return int(counted["count"])
        except (openai.APIStatusError, KeyError, TypeError, ValueError, TooLong):
            self._tokenizes = False
        except (aiohttp.ClientError, OSError):
            pass
        return None

    async def probe(self) -> str | None:
        """Why the model server is down: it refuses, resets, or answers 5xx to a request for one token. None when it
        answers, be it with a refusal; and when it takes its time, for then it is at work.
        """
        said = [{"role": "user", "content": "Hello"}]
        body = {"model": self._model.model_name, "messages": said, "max_tokens": 1}
        try:
            async with asyncio.timeout(_PROBE_REPLY_TIMEOUT):
                await self._model.post(str(self._base.join("chat/completions")), body)
        except Exception as error:
            failure = await self._failure(error)
            if isinstance(failure, ModelUnreachable) or (isinstance(failure, ServerOverloaded) and not failure.busy):
                return f"{without_secrets(str(self._base))}: {failure}"
        return None

    async def check(self) -> str | None:
        """Why the server answers no request as a model does, to one for a single token; None when it does, or says that
        it has too much to do.
        """
        began = time.monotonic()
        try:
            async with asyncio.timeout(_PROBE_REPLY_TIMEOUT):
                reply = await self.ask_for_a_token([{"role": "user", "content": "Hello"}])
        except TimeoutError:  # one that answers others meanwhile is only slow
            return None if self.answered > began else f"no reply of one token in {_PROBE_REPLY_TIMEOUT:g} s"
        except ModelError as error:
            return None if error.busy else str(error)
        return _ABORTED if reply.response_metadata.get("finish_reason") == "abort" else None

    async def load(self) -> tuple[float, float] | None:
        """Requests that run in the server and that wait, by its `/metrics` beside `/v1`; None where it has none."""
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT):
                return load_in(await self._model.text(str(self._base.join("../metrics"))))
        except (openai.APIStatusError, aiohttp.ClientError, OSError, TimeoutError, ValueError, TooLong):
            return None

    async def _failure(self, error: Exception) -> Exception:
        """What a request came to. A server that answers others meanwhile, and this one with 503, has too much to do."""
        failure = to_model_error(error)
        if isinstance(failure, Unauthorized) and getattr(error, "status_code", None) == 404:
            served = await self._served() or "; is --local-model-url the address of its API, http://HOST:PORT/v1?"
            return Unauthorized(f"{failure}{served}")
        lately = time.monotonic() - self.answered < _LATELY + 2 * self.reply_time
        if isinstance(failure, ServerOverloaded) and getattr(error, "status_code", None) == 503 and lately:
            failure.busy = failure.answered = failure.guessed = True
        return failure

    async def _served(self) -> str:
        """What is served instead, for a refusal; nothing where no list is to be had."""
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT):
                listed = await self._model.get(str(self._base.join("models")))
            names = [str(entry["id"]) for entry in listed["data"]]
        except Exception:
            return ""
        return f"; it serves {', '.join(names)[:1000]} (--model-name)"

    @property
    def _base(self) -> Any:
        return self._model.root_async_client.base_url


def load_in(metrics: str) -> tuple[float, float] | None:
    """Requests that run and that wait, in what Prometheus would read; None where neither is told."""
    found = [[float(value) for value in pattern.findall(metrics)] for pattern in _LOAD]
    return (sum(found[0]), sum(found[1])) if all(found) else None


def _seeded(seed: int | None) -> dict[str, Any]:
    return {} if seed is None else {"seed": seed}
