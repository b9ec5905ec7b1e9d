"""The model client: langchain-openai, keeping what local servers send and OpenAI's own API does not.

`ChatOpenAI` drops the reasoning field and the matched stop string and renames `max_tokens`; its base class with the
hooks below keeps all three. Reasoning is read from wherever a server puts it (see `completion`) and left in
`additional_kwargs["reasoning_content"]`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any

import aiohttp
import httpx2
import openai
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, BaseCallbackManager
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables.config import var_child_runnable_config
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import ConfigDict, SecretStr

from backends.bounded import MAX_REPLY, MAX_REPLY_WITH_TOKENS, read_bounded
from backends.completion import plain_completion, thought_of, without_end_token
from backends.config import ModelConfig
from backends.json_codec import dump_json, load_json
from backends.model_errors import NO_KEY, said_in
from backends.reply_tokens import tokens_of
from backends.secrets import Secrets, header_secrets, secret_values

_CONNECT = 4.0
"""Seconds for a connection: a host that takes none is down, one that only answers late is at work."""
_KEPT_HEADERS = ("content-type", "retry-after", "location")  # of a refusal: its body has been decoded already


class LocalChatModel(BaseChatOpenAI):
    """An OpenAI-compatible chat model on one's own GPUs. Whole replies come over `pool`, streamed ones by the SDK."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    pool: aiohttp.ClientSession
    max_reply: int = MAX_REPLY
    """Bytes."""

    @property
    def _llm_type(self) -> str:
        return "openai-compatible"

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await self._answered(self._get_request_payload(messages, stop=stop, **kwargs))

    def request(self, messages: list[dict[str, str]], **asked: Any) -> dict[str, Any]:
        """The body of a request."""
        body = {**self._default_params, **asked, "messages": messages}
        more = body.pop("extra_body", None) or {}
        return {**body, **more}

    async def completion(self, body: dict[str, Any]) -> Any:
        """The server's own answer to a request, as JSON."""
        more = body.pop("extra_body", None) or {}
        answer = await self.post(self._endpoint, {**body, **more}, self.max_reply)
        if error := said_in(answer, self._secrets):
            raise error
        return answer

    async def _answered(self, body: dict[str, Any]) -> ChatResult:
        asked_for_tokens = "return_token_ids" in {**body, **(body.get("extra_body") or {})}
        answer = await self.completion(body)
        response = plain_completion(answer)
        (choice,) = response["choices"]
        result = self._create_chat_result(response)
        _keep_reasoning(result.generations[0].message, choice["message"])
        _keep_stop(result.generations[0].message, choice)
        if asked_for_tokens:
            tokens = tokens_of(answer, choice["message"], body.get("stop") or ())
            result.generations[0].message.response_metadata["tokens"] = tokens
        return result

    async def post(self, url: str, body: dict[str, Any], most: int = MAX_REPLY) -> Any:
        """A request straight to the HTTP pool, as a ready body: by the SDK's typed way it costs four times as much,
        since every message of the history would be validated again at each turn. Followed nowhere, and read up to a
        bound.
        """
        headers = {**session_header(), **self._headers}
        async with self.pool.post(url, data=dump_json(body), headers=headers, allow_redirects=False) as response:
            return await self._read("POST", url, response, most)

    async def get(self, url: str) -> Any:
        """The same without a body."""
        async with self.pool.get(url, headers=self._headers, allow_redirects=False) as response:
            return await self._read("GET", url, response)

    async def text(self, url: str) -> str:
        """The same, of what is no JSON."""
        async with self.pool.get(url, headers=self._headers, allow_redirects=False) as response:
            return (await self._content("GET", url, response)).decode("utf-8", "replace")

    async def _read(self, method: str, url: str, response: aiohttp.ClientResponse, most: int = MAX_REPLY) -> Any:
        return load_json(self._secrets.hidden_in(await self._content(method, url, response, most)))

    async def _content(self, method: str, url: str, response: aiohttp.ClientResponse, most: int = MAX_REPLY) -> bytes:
        content = await read_bounded(response.content, most)
        if response.status < 300:
            return content
        sdk = self.root_async_client
        request = httpx2.Request(method, url, headers={**self._headers})
        kept = {name: value for name in _KEPT_HEADERS if (value := response.headers.get(name, "")).isascii() and value}
        answer = httpx2.Response(response.status, headers=kept, content=content, request=request)
        raise sdk._make_status_error_from_response(answer)

    @cached_property
    def _endpoint(self) -> str:
        """Where requests go."""
        return str(self.root_async_client.base_url.join("chat/completions"))

    @cached_property
    def _secrets(self) -> Secrets:
        key = self.root_async_client.api_key
        headers = self.default_headers or {}
        return Secrets(key if key != NO_KEY else None, *secret_values(headers), told=header_secrets(headers))

    @cached_property
    def _headers(self) -> dict[str, str]:
        own = self.default_headers or {}
        return {**self.root_async_client.auth_headers, "Content-Type": "application/json", **own}

    async def reply(self, messages: list[dict[str, str]], **asked: Any) -> AIMessage:
        """One reply to messages as OpenAI's API takes them: by `ainvoke` where somebody listens (Studio, a tracer),
        else without its callbacks and conversions, which cost as much as the request.
        """
        if _listened_to():
            streamed = await self.ainvoke(
                messages, extra_headers={**session_header(), **(self.default_headers or {})}, **asked
            )
            streamed.content = without_end_token(streamed.text)  # it may come in several pieces
            return streamed
        generation = (await self._answered(self.request(messages, **asked))).generations[0]
        assert isinstance(generation.message, AIMessage)
        generation.message.response_metadata |= generation.generation_info or {}
        return generation.message

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        generation = super()._convert_chunk_to_generation_chunk(chunk, default_chunk_class, base_generation_info)
        choices = chunk.get("choices")
        ended = bool(choices and choices[0].get("finish_reason"))
        if generation is not None and ended and isinstance(generation.message.content, str):
            generation.message.content = without_end_token(generation.message.content)
        if generation is not None and choices and choices[0].get("delta"):
            _keep_reasoning(generation.message, choices[0]["delta"])
            _keep_stop(generation.message, choices[0])
        return generation


@asynccontextmanager
async def open_chat_model(config: ModelConfig, url: str, *, concurrency: int) -> AsyncIterator[LocalChatModel]:
    """A client of the server at `url`, with HTTP pools sized for `concurrency`; closed on leaving."""
    many, seconds = concurrency + 8, config.model_timeout
    limits = httpx2.Limits(max_connections=many, max_keepalive_connections=many, keepalive_expiry=60)
    async with (
        openai.DefaultAioHttpClient(
            timeout=seconds, limits=limits, trust_env=False, follow_redirects=False
        ) as http_client,
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=many, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT),
        ) as pool,
    ):
        yield LocalChatModel(
            model=config.model_name,
            base_url=url,
            api_key=SecretStr(config.api_key or NO_KEY),
            temperature=config.sampling.temperature,
            extra_body=config.sampling.sampling,
            default_headers=config.headers or None,
            timeout=seconds,
            max_retries=0,  # the batch retries, from the checkpoint
            stream_usage=True,
            http_async_client=http_client,
            pool=pool,
            max_reply=MAX_REPLY_WITH_TOKENS if config.keep_token_ids else MAX_REPLY,
        )


def asking_thread() -> str | None:
    """The thread of the graph that this runs in: which trajectory asks."""
    thread = (var_child_runnable_config.get() or {}).get("configurable", {}).get("thread_id")
    return str(thread) if thread else None


def session_header() -> dict[str, str]:
    """By which a router in front of several servers can keep a trajectory at one of them."""
    thread = asking_thread()
    return {"X-Session-Id": thread} if thread else {}


def _listened_to() -> bool:
    """Whether the graph that this runs in has callback handlers."""
    callbacks = (var_child_runnable_config.get() or {}).get("callbacks")
    return bool(callbacks.handlers if isinstance(callbacks, BaseCallbackManager) else callbacks)


def _keep_reasoning(message: BaseMessage, source: dict[str, Any]) -> None:
    text = without_end_token(thought_of(source))
    if text:
        message.additional_kwargs["reasoning_content"] = text


def _keep_stop(message: BaseMessage, choice: dict[str, Any]) -> None:
    matched = choice.get("stop_reason", choice.get("matched_stop"))
    if isinstance(matched, str):
        message.response_metadata["stop_reason"] = matched
