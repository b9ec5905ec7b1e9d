"""The start of a run: services that are waited for, and a first request that says what to expect of the others."""

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.checkpoint.base import BaseCheckpointSaver

from backends.endpoint import Endpoint
from backends.errors import (
    BackendError,
    BadRequest,
    ContextOverflow,
    InvalidResponse,
    NothingAnswers,
    Unauthorized,
    UsageError,
)
from backends.model_client import ChatClient
from backends.services import Services, open_services
from batch.config import RunConfig
from batch.stop import Stopped, StopSignal
from graph.build import TrajectoryGraph, build_graph
from nodes.prompts import prompt_messages, system_prompt
from serializers.escaping import balanced
from serializers.evidence import failed
from serializers.tags import STOP_STRINGS

log = logging.getLogger("trajgraph")
STARTING = 60.0
"""Seconds that a server gets to open its port: often it is started together with the run."""
_FIRST_REPLY = 1.0
_LONGEST_WAIT = 15.0


def open_run_services(config: RunConfig) -> AbstractAsyncContextManager[Services]:
    """The services of a run, to be connected."""
    return open_services(config.model, config.tools, stop=STOP_STRINGS, concurrency=config.concurrency, failed=failed)


def safe_prompt(config: RunConfig, descriptions: Mapping[str, tuple[str, str]], own: str | None) -> str:
    """The system prompt to work under: `own`, else the built-in one for these limits and tools, of which those that
    it does not know have `descriptions`. No half of a tag is in it, as trainers mask by these tags.
    """
    built_in = system_prompt(config.limits, config.tools.tools, descriptions)
    prompt, unmatched = balanced(built_in if own is None else own)
    if unmatched:
        log.warning(
            "the system prompt has %s without its other half: escaped, as trainers mask by these tags",
            ", ".join(unmatched),
        )
    return prompt


def graph_of(
    config: RunConfig, services: Services, prompt: str, saver: BaseCheckpointSaver[Any] | None = None
) -> TrajectoryGraph:
    """The graph of a run around live services."""
    return build_graph(
        services.chat, services.tools.call, limits=config.limits, system=prompt, tools=config.tools.tools,
        tool_role=config.tool_role, checkpointer=saver,
    )  # fmt: skip


async def open_when_up(
    stack: AsyncExitStack, config: RunConfig, stop: StopSignal, *, starting: float | None
) -> Services:
    """The services; one that does not answer yet is waited for, until `--max-downtime` has passed.

    At the start of a run a closed port is waited for no longer than `starting` seconds, and then NothingAnswers is
    raised. With None the run is under way: that nothing answers is an outage, and ends in Stopped.
    """
    since, waits = time.monotonic(), 0
    while True:
        try:
            return await stack.enter_async_context(open_run_services(config))
        except NothingAnswers as error:
            most = config.max_downtime or math.inf
            if starting is not None and not error.there:
                most = min(most, starting)
            left = most - (time.monotonic() - since)
            if left <= 0 and starting is not None:
                raise
            if left <= 0:
                stop.request("outage")
                raise Stopped from error
            if not waits:
                until = "until it answers" if math.isinf(most) else f"{most:g} s at most"
                log.info("%s: %s %s", error, "waiting for it," if starting else "paused", until)
            waits += 1
            await stop.sleep(min(0.5 * waits, _LONGEST_WAIT, left))


async def try_first_request(services: Services, prompt: str, question: str) -> str:
    """Ask each model server for one token in reply to the first prompt of a run; returns a line about what is known
    then. A reply that takes longer than a second is not waited for. Raises UsageError when key or model are denied.
    """
    messages = prompt_messages(prompt, question, ())
    asked = services.chat.endpoints.up
    replies = await asyncio.gather(*(_first_reply(endpoint, messages) for endpoint in asked))
    for served in (one.served for one in asked if one.served):
        if served.unlisted:
            log.warning("%s; %s is asked for all the same", served.unlisted, served.name)
    known = list(dict.fromkeys(one.served.name for one in asked if one.served))
    at = (
        f" at {len(asked)} of {len(services.chat.endpoints.all)} addresses"
        if len(services.chat.endpoints.all) > 1
        else ""
    )
    seconds = [reply.response_metadata["seconds"] for reply in replies if reply]
    told = [f"answers in {_from_to(seconds)} s" if seconds else "takes more than a second to answer"]
    told += [
        f"first prompt {one.usage_metadata['input_tokens']:,} tokens" for one in replies if one and one.usage_metadata
    ][:1]
    size = services.chat.max_model_len
    told.append(f"context {size:,} tokens" if size else "context unknown")
    return f"model {', '.join(known)}{at}: {', '.join(told)}; tools: {', '.join(services.tools.routes)}"


def _from_to(seconds: list[float]) -> str:
    low, high = f"{min(seconds):.1f}", f"{max(seconds):.1f}"
    return low if low == high else f"{low} to {high}"


async def _first_reply(endpoint: Endpoint, messages: list[dict[str, str]]) -> AIMessage | None:
    """One token, if it comes within a second."""
    chat, served = endpoint.chat, endpoint.served
    assert chat and served
    try:
        async with asyncio.timeout(_FIRST_REPLY):
            return await chat.ask_for_a_token(messages)
    except TimeoutError:
        return None
    except Unauthorized as error:
        if error.forbidden and await _is_let_in(chat):
            log.warning("the first question is forbidden, another prompt is not: %s", error)
        else:
            raise UsageError(
                f"{endpoint.spec.url}: {error}{_and(served.unlisted)}; fix it and run the same command"
            ) from error
    except ContextOverflow as error:
        log.warning("the first prompt is longer than the model's context: %s", error)
    except (InvalidResponse, BadRequest) as error:
        if served.unlisted:
            raise UsageError(f"{served.unlisted}, and {error}: change --local-model-url") from error
        log.warning("the first request failed: %s", error)
    except BackendError as error:
        log.warning("the first request failed: %s", error)
    return None


async def _is_let_in(chat: ChatClient) -> bool:
    """Whether the server answers another prompt: then it is not the key that it forbids."""
    try:
        await chat.ask_for_a_token([{"role": "user", "content": "Hello"}])
    except BackendError:
        return False
    return True


def _and(more: str | None) -> str:
    return f"; {more}" if more else ""
