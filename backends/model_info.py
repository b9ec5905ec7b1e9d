"""What a model server says of the model that is asked for."""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import aiohttp

from backends.bounded import MAX_REPLY, TooLong, read_bounded, redirection
from backends.errors import NothingAnswers, UsageError
from backends.json_codec import load_json
from backends.model_errors import NO_KEY
from backends.secrets import Secrets, secret_values

_NOT_READY = (502, 503, 504)
_CONTINUING = ("vllm", "sglang", "trajgraph-demo")
"""Servers, by what they say owns their models, that know `continue_final_message`."""


@dataclass(frozen=True)
class ModelInfo:
    """What the server says of a model."""

    name: str
    max_model_len: int | None = None
    """Tokens of prompt and reply together; None when it does not say."""
    continues: bool = False
    """Whether it can go on writing an assistant message that it is given."""
    unlisted: str | None = None
    """Why the list of models does not say whether it is served; None when it does."""
    root: str | None = None
    """What it was loaded from (vLLM, SGLang)."""
    parameters: int | None = None
    """How many it has (llama.cpp)."""

    @property
    def described(self) -> str:
        """Its name, and what stands behind the name."""
        parts = [self.root or "", f"{self.parameters:,} parameters" if self.parameters else ""]
        behind = ", ".join(part for part in parts if part and part != self.name)
        return f"{self.name} ({behind})" if behind else self.name

    def is_like(self, other: "ModelInfo") -> bool:
        """Whether two servers may serve the same model, under whatever names."""
        roots, sizes = (self.root, other.root), (self.parameters, other.parameters)
        same_root = not all(roots) or len({_bare(str(root)) for root in roots}) == 1
        return same_root and (not all(sizes) or sizes[0] == sizes[1])


async def resolve_model(
    url: str, model: str, api_key: str | None = None, more: Mapping[str, str] | None = None, timeout: float = 10.0
) -> ModelInfo:
    """The id under which the server knows `model` (`Qwen3-8B` finds `Qwen/Qwen3-8B`), with what it says of it.
    `more` are headers.

    A server without a list of models may serve it all the same: the first request will say. Raises UsageError when
    nothing answers at `url`, or its list has no such model.
    """
    if api_key and not (api_key.isascii() and api_key.isprintable()):
        raise UsageError("--api-key (or OPENAI_API_KEY): it holds a character that cannot be sent")
    headers = {"Authorization": f"Bearer {api_key or NO_KEY}", **(more or {})}
    base, beside = url.rstrip("/"), ""
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout), headers=headers) as http:
            answer, content = await _list(http, base)
            if answer.status in _NOT_READY and await _answers(http, base, model):
                return ModelInfo(model, unlisted=f"{url}/models answers {answer.status}")
            if answer.status in (404, 405):
                beside = await _beside(http, base)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise NothingAnswers(f"no model server answers at {url}: start it or change --local-model-url") from error
    except TooLong:
        return ModelInfo(model, unlisted=f"{url}/models is no list of models")
    secrets = Secrets(api_key, *secret_values(more or {}))
    if unlisted := _refused(url, answer, secrets, beside):
        return ModelInfo(model, unlisted=unlisted)
    served = _listed(content)
    if served is None:
        return ModelInfo(model, unlisted=f"{url}/models is no list of models")
    if model in served or not served:
        return served.get(model, ModelInfo(model))
    alike = [name for name in served if _bare(name) == _bare(model)]
    alike = alike or [name for name, about in served.items() if about.root and _bare(about.root) == _bare(model)]
    if len(alike) == 1:
        return served[alike[0]]
    others = secrets.hidden(", ".join(served))[:1000]
    raise UsageError(f"the server at {url} has no model {model!r}; it serves {others} (--model-name)")


async def _list(http: aiohttp.ClientSession, base: str) -> tuple[aiohttp.ClientResponse, bytes]:
    async with http.get(f"{base}/models", allow_redirects=False) as answer:
        return answer, await read_bounded(answer.content, MAX_REPLY)


async def _answers(http: aiohttp.ClientSession, base: str, model: str) -> bool:
    """Whether a server without a list of models is at work all the same."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    async with http.post(f"{base}/chat/completions", json=body, allow_redirects=False) as answer:
        return answer.status not in _NOT_READY


async def _beside(http: aiohttp.ClientSession, base: str) -> str:
    """Where the same host does list models; empty when nowhere usual."""
    for address in (f"{base}/v1", urljoin(base, "/v1")):
        with contextlib.suppress(aiohttp.ClientError, OSError, TooLong):
            answer, content = await _list(http, address)
            if answer.status == 200 and _listed(content):
                return address
    return ""


def _refused(url: str, answer: aiohttp.ClientResponse, secrets: Secrets, beside: str) -> str | None:
    """Why the list of models did not come; None when it did. Raises UsageError where no request can be meant."""
    if elsewhere := redirection(answer.status, answer.headers.get("location")):
        raise UsageError(f"the model server is not at {url}: {secrets.hidden(elsewhere)}; change --local-model-url")
    if answer.status in _NOT_READY:
        raise NothingAnswers(f"the model server at {url} answers {answer.status}: it is not ready", there=True)
    if answer.status == 200:
        return None
    return f"{url}/models answers {answer.status}{f' (did you mean {beside}?)' if beside else ''}"


def _listed(content: bytes) -> dict[str, ModelInfo] | None:
    try:
        listed = load_json(content)
        entries = listed["data"] if isinstance(listed, dict) else listed
        return {entry["id"]: _served(entry) for entry in entries if isinstance(entry["id"], str)}
    except (ValueError, RecursionError, KeyError, TypeError):
        return None


def _served(entry: dict[str, Any]) -> ModelInfo:
    about = entry.get("meta")  # llama.cpp's
    stated = entry.get("max_model_len") or (about.get("n_ctx") if isinstance(about, dict) else None)
    length = stated if isinstance(stated, int) and not isinstance(stated, bool) and stated > 0 else None
    root, size = entry.get("root"), about.get("n_params") if isinstance(about, dict) else None
    return ModelInfo(
        entry["id"], length, entry.get("owned_by") in _CONTINUING,
        root=root if isinstance(root, str) and root else None, parameters=size if isinstance(size, int) else None,
    )  # fmt: skip


def _bare(name: str) -> str:
    """A model's name without its owner and its folders, those of the Hub's cache too."""
    cached = re.search(r"models--(?:[^/]*--)?([^/]+)/snapshots/", name)
    return (cached[1] if cached else name.rstrip("/").rsplit("/", 1)[-1]).lower()
