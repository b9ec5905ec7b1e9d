"""What a run needs, looked at before it: the model, the tools, their keys, the folder. Nothing is generated."""

import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp

from backends.bounded import TooLong, read_bounded
from backends.config import ModelConfig, ToolsConfig
from backends.errors import UsageError
from backends.json_codec import load_json
from backends.model_info import resolve_model
from backends.tools import map_tools, open_tool_client

_MOST = 100_000
"""Bytes that a health check may say."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `warning` lets a run go on without it."""

    state: Literal["ok", "warning", "missing"]
    what: str
    said: str


async def findings(model: ModelConfig, tools: ToolsConfig, output: Path) -> AsyncIterator[Finding]:
    """All findings, each as soon as it is known."""
    yield Finding("ok", "python", sys.version.split()[0])
    try:
        served = await resolve_model(model.local_model_url, model.model_name, model.api_key)
        length = f", {served.max_model_len:,} tokens" if served.max_model_len else ", context length not said"
        yield Finding("ok", "model", f"{served.name} at {model.local_model_url}{length}")
    except UsageError as error:
        yield Finding("missing", "model", str(error))
    try:
        async with open_tool_client(tools.url, concurrency=1, timeout=15, token=tools.token) as client:
            routes = map_tools(client.served, tools.tools, tools.tool_map, address=tools.url)
        problems = {finding.what: finding async for finding in _health(tools.url)}
        for name, route in routes.items():
            yield problems.get(name, Finding("ok", name, f"{route.server_name} at {tools.url}"))
    except UsageError as error:
        yield Finding("missing", "tools", str(error))
    yield _folder(output)


def _folder(output: Path) -> Finding:
    folder = next(parent for parent in (output, *output.absolute().parents) if parent.exists())
    if folder.is_dir() and os.access(folder, os.W_OK):
        return Finding("ok", "output", str(output))
    return Finding("missing", "output", f"{output}: {folder} cannot be written")


async def _health(url: str) -> AsyncIterator[Finding]:
    """What a tool server of ours says of itself beside the protocol; other servers say nothing."""
    try:
        timeout = aiohttp.ClientTimeout(total=60)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{url.rstrip('/')}/health", allow_redirects=False) as answer,
        ):
            said: Any = load_json(await read_bounded(answer.content, _MOST))
    except (aiohttp.ClientError, OSError, ValueError, RecursionError, TooLong):
        return
    for name, problem in said.items() if isinstance(said, dict) else ():
        if isinstance(problem, str) and problem != "ok":
            yield Finding("missing" if name == "pubmed_search" else "warning", name, problem)
