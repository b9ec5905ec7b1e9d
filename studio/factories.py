"""The graph for LangGraph Studio: `langgraph dev` calls the two factories named in `langgraph.json`.

Services come from the environment: LOCAL_MODEL_URL, MODEL_NAME, OPENAI_API_KEY, and MCP_URL or MCP_TRANSPORT_HOST and
MCP_TRANSPORT_PORT; when no model address is set, the bundled demo's are started. TRAJGRAPH_RUN names the `…_run.json`
of a batch run to work under the same settings, TRAJGRAPH_CHECKPOINTS the SQLite file whose threads are shown.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph_sdk.runtime import ServerRuntime

from backends.chat_model import ModelAddress
from backends.services import ToolsAddress, default_mcp_url, open_services
from batch.config import GenerateOptions
from batch.run_files import read_run
from graph.build import TrajectoryGraph, build_graph, unconnected_graph
from graph.checkpoints import open_checkpoints as open_saver
from serializers.escaping import balanced
from serializers.evidence import failed
from serializers.tags import STOP_STRINGS
from servers.serving import demo_services


@asynccontextmanager
async def make_graph(runtime: ServerRuntime[Any]) -> AsyncIterator[TrajectoryGraph]:
    """The graph; connected only when it is about to run, not when it is drawn or its history is read."""
    if runtime.execution_runtime is None:
        yield unconnected_graph()
        return
    options, system = await asyncio.to_thread(_options)
    async with AsyncExitStack() as stack:
        if not options.local_model_url:
            demo = await stack.enter_async_context(demo_services())
            options = replace(options, local_model_url=demo.model_url, model_name="demo", mcp_url=demo.mcp_url)
        key = os.environ.get("OPENAI_API_KEY")
        services = await stack.enter_async_context(
            open_services(
                ModelAddress(
                    options.local_model_url,
                    options.model_name,
                    key,
                    options.temperature,
                    options.model_timeout,
                    options.max_model_len,
                ),
                ToolsAddress(
                    options.mcp_url or default_mcp_url(), options.tools, options.tool_map, options.tool_timeout
                ),
                stop=STOP_STRINGS,
                concurrency=8,
                failed=failed,
            )
        )
        yield build_graph(
            services.chat,
            services.tools.call,
            limits=options.limits,
            system=system,
            tools=options.tools,
            tool_role=options.tool_role,
        )


@asynccontextmanager
async def open_checkpoints() -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """The threads that Studio shows: a batch run's, or a file of Studio's own in the working folder."""
    path = Path(os.environ.get("TRAJGRAPH_CHECKPOINTS", ".langgraph_api/checkpoints.sqlite"))
    await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
    async with open_saver(path) as saver:
        yield saver


def _options() -> tuple[GenerateOptions, str]:
    """The options and prompt to work under: a run's own, as it keeps them, else the defaults; addresses of the
    environment go first.
    """
    run = os.environ.get("TRAJGRAPH_RUN")
    content = read_run(Path(run))[1] if run else {}
    if run:
        options = GenerateOptions.restored(content["options"])
    else:
        options = GenerateOptions(questions_file=Path(), local_model_url="")
    options = replace(
        options,
        local_model_url=os.environ.get("LOCAL_MODEL_URL", options.local_model_url),
        model_name=os.environ.get("MODEL_NAME", options.model_name),
        mcp_url=os.environ.get("MCP_URL", options.mcp_url),
    )
    return options, str(content.get("prompt") or balanced(options.prompt())[0])
