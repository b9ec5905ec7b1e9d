"""What the model client raises, as failures typed by the boundary they crossed."""

import re
from typing import Any

import aiohttp
import httpx2
import openai

from backends.bounded import TooLong, redirection
from backends.errors import (
    BadRequest,
    ContextOverflow,
    InvalidResponse,
    ModelError,
    ModelTimeout,
    ModelUnreachable,
    ServerOverloaded,
    Unauthorized,
    seconds_to_wait,
)
from backends.secrets import Secrets, header_secrets

NO_KEY = "none"
"""Sent where no key is given: the client insists on one."""
_OVERFLOW = (
    "context length", "context_length", "context size", "context_size", "context window", "is longer than",
    "maximum model length", "max_model_len", "max_new_tokens` must be <=", "`inputs` must have less than",
)  # fmt: skip
_NO_KEY_SENT, _FORBIDDEN, _NOT_FOUND, _NOT_IMPLEMENTED = 401, 403, 404, 501
_NO_TEMPLATE = ("chat template", "chat_template", "prompt cannot be empty")
_ADDRESS_HINT = "is --local-model-url the address of its API?"
_TEMPLATE_HINT = "; serve the model with a chat template (vLLM: --chat-template FILE)"
_CONTEXT_STATED = re.compile(
    r"(?:context|model) (?:length|size|window)(?: is| of)?(?: only)? \(?(\d{2,8})"
    r"|(?:n_ctx|max_model_len)\D{1,4}(\d{2,8})|max_new_tokens` must be <= (\d{2,8})"
)


def to_model_error(error: Exception) -> Exception:
    """The `ModelError` for what the client raised; anything unknown is a bug of ours and stays as it is."""
    if isinstance(error, ModelError):
        return error
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return _unsent("no connection to the model server in time")
    if isinstance(error, TooLong):
        return InvalidResponse(f"the model server's reply cannot be one: {error}")
    if isinstance(error, openai.APIStatusError):
        return _typed_status(error)
    # aiohttp's transport reports a dropped connection as a connect timeout: the first cause says which.
    cause = error if isinstance(error, TimeoutError) else _first_cause(error)
    timed_out = isinstance(error, openai.APITimeoutError | httpx2.TimeoutException | TimeoutError)
    if timed_out and isinstance(cause, TimeoutError):
        return ModelTimeout("the model server did not reply in time: lower --concurrency or raise --model-timeout")
    lost = (openai.APIConnectionError, httpx2.TransportError, aiohttp.ClientError, OSError)
    if isinstance(error, lost) or isinstance(cause, aiohttp.ClientError | OSError):
        said = f"no connection to the model server ({type(cause).__name__})"
        return _unsent(said) if isinstance(error, aiohttp.ClientConnectorError) else ModelUnreachable(said)
    if isinstance(error, openai.APIError | httpx2.HTTPError | ValueError | KeyError | TypeError | RecursionError):
        is_page = str(getattr(error, "doc", "")).lstrip().startswith("<")
        what = f"a web page: {_ADDRESS_HINT}" if is_page else f"not a chat completion ({type(error).__name__})"
        reply = InvalidResponse(f"the model server's reply is {what}")
        reply.is_no_completion = True
        return reply
    return error


def _unsent(said: str) -> ModelUnreachable:
    unreachable = ModelUnreachable(said)
    unreachable.was_sent = False
    return unreachable


def said_in(answer: Any, secrets: Secrets) -> ModelError | None:
    """The failure that an answer of status 200 holds in the place of a completion."""
    error = answer.get("error") if isinstance(answer, dict) and not answer.get("choices") else None
    if not error:
        return None
    said = secrets.hidden(str(error.get("message") if isinstance(error, dict) else error))[:500]
    if any(phrase in said.lower() for phrase in _OVERFLOW):
        stated = _CONTEXT_STATED.search(said)
        return ContextOverflow(said, int(next(filter(None, stated.groups()))) if stated else None)
    return InvalidResponse(f"the model server's reply is an error: {said}")


def _typed_status(error: openai.APIStatusError) -> ModelError:
    if elsewhere := redirection(error.status_code, error.response.headers.get("location")):
        return BadRequest(f"the model server is not where --local-model-url says: {_hidden(error, elsewhere)}")
    raw = _said(error)
    said = _hidden(error, raw)[:500]
    kind = str(error.body.get("type")) if isinstance(error.body, dict) else ""
    overflow = any(phrase in f"{raw} {kind}".lower() for phrase in _OVERFLOW)
    if error.status_code in (400, 413, 422, 500) and overflow:
        stated = _CONTEXT_STATED.search(raw)
        return ContextOverflow(said, int(next(filter(None, stated.groups()))) if stated else None)
    if error.status_code in (408, 409, 429) or (error.status_code >= 500 and error.status_code != _NOT_IMPLEMENTED):
        return ServerOverloaded(
            f"the model server answered {error.status_code}: {said}",
            seconds_to_wait(error.response.headers.get("retry-after")),
            busy=error.status_code == 429,
        )
    if error.status_code in (401, 403, 404):
        own = {name: value for name, value in error.request.headers.items() if name.lower() != "authorization"}
        keyless = error.status_code == _NO_KEY_SENT and _key(error) is None and not header_secrets(own)
        hint = "; no key was sent (--api-key, OPENAI_API_KEY)" if keyless else ""
        what = (
            "has no such model, or nothing at this path"
            if error.status_code == _NOT_FOUND
            else "denies the key or the model"
        )
        denied = Unauthorized(f"the model server {what} ({error.status_code}): {said}{hint}")
        denied.forbidden = error.status_code == _FORBIDDEN
        return denied
    hint = _TEMPLATE_HINT if any(words in raw.lower() for words in _NO_TEMPLATE) else ""
    return BadRequest(f"the model server refused the request ({error.status_code}): {said}{hint}")


def _said(error: openai.APIStatusError) -> str:
    """What the server said, with whatever it repeats."""
    body = error.body if isinstance(error.body, dict) else {}
    details = body.get("detail")  # FastAPI's, which repeats the request beside
    entries = [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    told = "; ".join(f"{_field(one)}{one['msg']}" for one in entries if one.get("msg"))
    said = str(body.get("message") or told or error.response.text or error.message).strip()
    if said.startswith("<"):
        said = f"with a web page: {_ADDRESS_HINT}"
    if "n_ctx" in body:
        said += f" (n_ctx: {body['n_ctx']})"
    return said


def _field(entry: dict[str, Any]) -> str:
    """The field of the request that a detail is about: `stop: `."""
    place = entry.get("loc")
    names = [str(name) for name in place if name != "body"] if isinstance(place, list) else []
    return f"{'.'.join(names)}: " if names else ""


def _hidden(error: openai.APIStatusError, said: str) -> str:
    return Secrets(_key(error), told=header_secrets(dict(error.request.headers))).hidden(said)


def _key(error: openai.APIStatusError) -> str | None:
    key = error.request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    return key if key != NO_KEY else None


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
