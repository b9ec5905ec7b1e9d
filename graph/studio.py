"""The graph for LangGraph Studio: `langgraph dev` calls the two factories named in `langgraph.json`.

Services come from the environment (LOCAL_MODEL_URL, MODEL_NAME, OPENAI_API_KEY, MCP_TRANSPORT_HOST and _PORT); when no
model address is set, the bundled demo's are started. TRAJGRAPH_RUN names the `…_run.json` of a batch run to work under
the same settings, TRAJGRAPH_CHECKPOINTS the SQLite file whose threads are shown.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph_sdk.runtime import ServerRuntime

from graph.build import TrajectoryGraph, build_graph
from graph.checkpoints import open_checkpoints as open_saver
from graph.checkpoints import thread_id
from graph.run_files import RunFiles, read_run
from graph.settings import TOOL_NAMES, Limits
from nodes.prompts import system_prompt
from serializers.tags import STOP_STRINGS


@asynccontextmanager
async def make_graph(runtime: ServerRuntime[Any]) -> AsyncIterator[TrajectoryGraph]:
    """The graph; connected only when it is about to run, not when it is drawn or its history is read."""
    if runtime.execution_runtime is None:
        yield build_graph(_no_model, _no_tools, limits=Limits())
        return
    from backends.services import open_services

    content = await asyncio.to_thread(_run_content)
    settings, options = content.get("settings", {}), content.get("options", {})
    limits = Limits(**{name: settings[name] for name in Limits.__dataclass_fields__ if name in settings})
    tools = tuple(options.get("tools", TOOL_NAMES))
    system = await asyncio.to_thread(_system, options, limits, tools)
    async with AsyncExitStack() as stack:
        model, tools_address = await _addresses(stack, settings, options, tools)
        services = await stack.enter_async_context(
            open_services(model, tools_address, stop=STOP_STRINGS, concurrency=8)
        )
        yield build_graph(
            services.chat.ask,
            services.tools.call,
            limits=limits,
            system=system,
            tool_role=settings.get("tool_role", "tool"),
        )


@asynccontextmanager
async def open_checkpoints() -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """The threads that Studio shows: a batch run's, or a file of Studio's own in the working folder."""
    path = Path(os.environ.get("TRAJGRAPH_CHECKPOINTS", ".langgraph_api/checkpoints.sqlite"))
    await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
    async with open_saver(path) as saver:
        yield saver


async def register_threads(api_url: str, files: RunFiles, names: dict[str, str]) -> None:
    """Make a run's threads known to a Studio server; `names` maps sample_id to its question."""
    from langgraph_sdk import get_client

    client = get_client(url=api_url)
    for sample_id, question in names.items():
        await client.threads.create(
            thread_id=thread_id(files.run_id, sample_id),
            graph_id="trajectory",
            if_exists="do_nothing",
            metadata={"thread_name": f"{sample_id}: {question}", "sample_id": sample_id, "question": question},
        )


async def _addresses(
    stack: AsyncExitStack, settings: dict[str, Any], options: dict[str, Any], tools: tuple[str, ...]
) -> tuple[Any, Any]:
    from backends.chat_model import ModelAddress
    from backends.services import ToolsAddress, default_mcp_url

    model_url, mcp_url = options.get("local_model_url"), options.get("mcp_url") or default_mcp_url()
    model_url = os.environ.get("LOCAL_MODEL_URL", model_url)
    name = os.environ.get("MODEL_NAME", settings.get("model_name", "Qwen3-8B"))
    if not model_url:
        from backends.serving import demo_services

        demo = await stack.enter_async_context(demo_services())
        model_url, mcp_url, name = demo.model_url, demo.mcp_url, "demo"
    temperature = settings.get("temperature", ModelAddress.temperature)
    model = ModelAddress(model_url, name, os.environ.get("OPENAI_API_KEY"), temperature)
    return model, ToolsAddress(mcp_url, tools, tuple(options.get("tool_map", ())))


def _run_content() -> dict[str, Any]:
    path = os.environ.get("TRAJGRAPH_RUN")
    return read_run(Path(path))[1] if path else {}


def _system(options: dict[str, Any], limits: Limits, tools: tuple[str, ...]) -> str:
    path = options.get("system_prompt_file")
    return Path(path).read_text(encoding="utf-8") if path else system_prompt(limits, tools)


async def _no_model(_: list[BaseMessage], __: int) -> AIMessage:
    raise RuntimeError("this graph is only for looking at")


async def _no_tools(*_: Any) -> Any:
    raise RuntimeError("this graph is only for looking at")
