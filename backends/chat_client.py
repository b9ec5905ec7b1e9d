"""One reply at a time from the model, however its server names and refuses things."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import openai
from langchain_core.messages import AIMessage

from backends.chat_model import LocalChatModel
from backends.errors import ContextOverflow, ModelReplyInvalid
from backends.model_failures import typed_failure
from backends.model_first import Waiting

_ABORTED = "the model server gave up half-way (finish_reason: abort): it is shutting down"
_PROBE_TIMEOUT = 5.0
_PROBE_REPLY_TIMEOUT = 20.0


class ChatClient:
    """Asks a chat model for one reply at a time, under fixed stop strings."""

    _EXTRAS: ClassVar[dict[str, Any]] = {"include_stop_str_in_output": True, "no_stop_trim": True}
    """Keep the stop string that matched (vLLM's name, SGLang's name); most servers ignore what they do not know."""

    def __init__(
        self,
        model: LocalChatModel,
        stop: Sequence[str],
        max_model_len: int | None = None,
        continues: bool = False,
        waiting: Waiting = nullcontext,
    ) -> None:
        self._model = model
        self._waiting = waiting
        self._continues = continues
        self._stop = list(stop)
        self._extras: bool | None = None
        """Whether the server takes the extra fields; None until it has answered once."""
        self._tokenizes = True
        self.max_model_len = max_model_len
        """Tokens of prompt and reply together; None while nobody has said."""

    async def ask(self, messages: list[dict[str, str]], max_tokens: int, seed: int | None = None) -> AIMessage:
        """One reply, with `seconds` in its `response_metadata`. Raises a `ModelError` that says what went wrong."""
        reply = await self._invoke(messages, max_tokens, seed)
        finish_reason = reply.response_metadata.get("finish_reason")
        if finish_reason == "abort":
            raise ModelReplyInvalid(_ABORTED)
        silent = not reply.text.strip() and not reply.additional_kwargs.get("reasoning_content")
        if silent and finish_reason != "length":
            raise ModelReplyInvalid(f"empty reply from the model server (finish_reason: {finish_reason})")
        return reply

    async def continue_reply(
        self, messages: list[dict[str, str]], begun: str, max_tokens: int, seed: int | None = None
    ) -> AIMessage | None:
        """What follows `begun`, a reply that was cut off; None where the server cannot take it up."""
        if not self._continues:
            return None
        body = {"continue_final_message": True, "add_generation_prompt": False, **self._EXTRAS}
        try:
            async with self._waiting():
                reply = await self._timed(
                    [*messages, {"role": "assistant", "content": begun}],
                    max_tokens=max_tokens, extra_body=body, **_seeded(seed),
                )  # fmt: skip
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            return None  # some chat templates rewrite the message, and the server refuses
        except Exception as error:
            raise typed_failure(error) from error
        if reply.response_metadata.get("finish_reason") == "abort":
            raise ModelReplyInvalid(_ABORTED)
        if not reply.text.strip() and not reply.additional_kwargs.get("reasoning_content"):
            return None
        return reply

    async def _invoke(self, messages: list[dict[str, str]], max_tokens: int, seed: int | None) -> AIMessage:
        extras = self._extras is not False
        try:
            reply = await self._send(messages, max_tokens, seed, extras)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            refusal = typed_failure(error)
            if not extras or self._extras or isinstance(refusal, ContextOverflow):
                raise refusal from error
            try:  # perhaps a strict server: ask for no more than every server knows
                reply = await self._send(messages, max_tokens, seed, False)
            except Exception:
                raise refusal from error
            extras = False
        except Exception as error:
            raise typed_failure(error) from error
        self._extras = extras
        return reply

    async def _send(self, messages: list[dict[str, str]], max_tokens: int, seed: int | None, extras: bool) -> AIMessage:
        more: dict[str, Any] = {**_seeded(seed), **({"extra_body": self._EXTRAS} if extras else {})}
        async with self._waiting():
            return await self._timed(messages, max_tokens=max_tokens, **more)

    async def _timed(self, messages: list[dict[str, str]], **asked: Any) -> AIMessage:
        started = time.monotonic()
        reply = await self._model.reply(messages, stop=self._stop, **asked)
        reply.response_metadata["seconds"] = round(time.monotonic() - started, 3)
        return reply

    async def count_tokens(self, messages: list[dict[str, str]]) -> int | None:
        """Tokens of a prompt by vLLM's `/tokenize`, which lies beside `/v1`; None where there is none."""
        if not self._tokenizes:
            return None
        client = self._model.root_async_client
        body = {"model": self._model.model_name, "messages": messages}
        try:
            async with self._waiting():
                counted = await client.post(str(client.base_url.join("../tokenize")), body=body, cast_to=object)
            return int(counted["count"])
        except (openai.APIStatusError, KeyError, TypeError, ValueError):
            self._tokenizes = False
        except openai.APIError:
            pass
        return None

    async def probe(self) -> bool:
        """Whether the model server answers, be it with a refusal: its list of models, and one token from the model."""
        client = self._model.root_async_client
        said = [{"role": "user", "content": "Hello"}]
        body = {"model": self._model.model_name, "messages": said, "max_tokens": 1}
        try:
            await client.with_options(timeout=_PROBE_TIMEOUT).models.list()
            await client.with_options(timeout=_PROBE_REPLY_TIMEOUT).post("/chat/completions", body=body, cast_to=object)
        except openai.APIStatusError as error:
            return error.status_code < 500
        except Exception:
            return False
        return True


def _seeded(seed: int | None) -> dict[str, Any]:
    return {} if seed is None else {"seed": seed}
