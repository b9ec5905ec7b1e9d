"""What a model server says of the model that is asked for."""

from dataclasses import dataclass

import openai

from backends.errors import UserError
from backends.model_failures import NO_KEY

_CONTINUING = ("vllm", "sglang", "trajgraph-demo")
"""Servers, by what they say owns their models, that know `continue_final_message`."""


@dataclass(frozen=True)
class ServedModel:
    """What the server says of a model."""

    name: str
    max_model_len: int | None = None
    """Tokens of prompt and reply together; None when it does not say."""
    continues: bool = False
    """Whether it can go on writing an assistant message that it is given."""


async def resolve_model(url: str, model: str, api_key: str | None = None, timeout: float = 10.0) -> ServedModel:
    """The id under which the server knows `model` (`Qwen3-8B` finds `Qwen/Qwen3-8B`), with what it says of it.

    Raises UserError when nothing answers at `url`, the key is refused, or no such model is served.
    """
    if api_key and not (api_key.isascii() and api_key.isprintable()):
        raise UserError("--api-key (or OPENAI_API_KEY): it holds a character that cannot be sent")
    client = openai.AsyncOpenAI(
        base_url=url, api_key=api_key or NO_KEY, timeout=timeout, max_retries=0,
        http_client=openai.DefaultAioHttpClient(trust_env=False),
    )  # fmt: skip
    async with client:
        try:
            entries = (await client.models.list()).data
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise UserError(f"the model server at {url} refuses the key: give the right one with --api-key") from error
        except openai.NotFoundError as error:
            hint = "" if url.rstrip("/").endswith("/v1") else f"; did you mean {url.rstrip('/')}/v1"
            raise UserError(f"{url} has no list of models: change --local-model-url{hint}") from error
        except openai.APIStatusError as error:
            raise UserError(f"the model server at {url} answers {error.status_code} to /models") from error
        except openai.APIConnectionError as error:
            raise UserError(f"no model server answers at {url}: start it or change --local-model-url") from error
        except Exception as error:
            raise UserError(f"{url} is no OpenAI-compatible server: change --local-model-url") from error
    served = {
        entry.id: ServedModel(entry.id, (entry.model_extra or {}).get("max_model_len"), entry.owned_by in _CONTINUING)
        for entry in entries
    }
    if model in served or not served:
        return served.get(model, ServedModel(model))
    alike = [name for name in served if name.rsplit("/", 1)[-1].lower() == model.rsplit("/", 1)[-1].lower()]
    if len(alike) == 1:
        return served[alike[0]]
    raise UserError(f"the server at {url} has no model {model!r}; it serves {', '.join(served)} (--model-name)")
