"""The graph for LangGraph Studio: `langgraph dev` calls the two factories named in `langgraph.json`.

Services come from the environment, by the same variables as in `generate`: LOCAL_MODEL_URL, MODEL_NAME,
OPENAI_API_KEY, and MCP_URL or MCP_TRANSPORT_HOST and MCP_TRANSPORT_PORT; when no model address is set, the bundled
demo's are started. TRAJGRAPH_RUN names the `…_run.json` of a batch run to work under the same settings,
TRAJGRAPH_CHECKPOINTS the SQLite file whose threads are shown.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph_sdk.runtime import ServerRuntime

from batch.config import RunConfig
from batch.flags import changed, from_dict, from_environment
from batch.run_files import read_run
from batch.start import graph_of, open_run_services, safe_prompt
from graph.build import TrajectoryGraph, unconnected_graph
from graph.checkpoints import open_checkpoints as open_saver
from servers.serving import demo_services


@asynccontextmanager
async def make_graph(runtime: ServerRuntime[Any]) -> AsyncIterator[TrajectoryGraph]:
    """The graph; connected only when it is about to run, not when it is drawn or its history is read."""
    if runtime.execution_runtime is None:
        yield unconnected_graph()
        return
    config, stored = await asyncio.to_thread(_config)
    async with AsyncExitStack() as stack:
        if not (os.environ.get("TRAJGRAPH_RUN") or "local_model_url" in from_environment(RunConfig)):
            demo = await stack.enter_async_context(demo_services())
            config = changed(config, local_model_url=(demo.model_url,), model_name="demo", mcp_url=demo.mcp_url)
        services = await stack.enter_async_context(open_run_services(config))
        yield graph_of(config, services, safe_prompt(config, services.tools.descriptions, stored))


@asynccontextmanager
async def open_checkpoints() -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """The threads that Studio shows: a batch run's, or a file of Studio's own in the working folder."""
    if schema := os.environ.get("TRAJGRAPH_SCHEMA"):
        from graph.postgres import open_postgres

        async with open_postgres(os.environ["TRAJGRAPH_CHECKPOINTS"], schema) as stored:
            yield stored
        return
    path = Path(os.environ.get("TRAJGRAPH_CHECKPOINTS", ".langgraph_api/checkpoints.sqlite"))
    await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
    async with open_saver(path) as saver:
        yield saver


def _config() -> tuple[RunConfig, str | None]:
    """The configuration and the prompt to work under: a run's own, as it keeps them, else the defaults; addresses of
    the environment go first.
    """
    run = os.environ.get("TRAJGRAPH_RUN")
    content = read_run(Path(run))[1] if run else {}
    config = from_dict(RunConfig, content["options"]) if run else RunConfig(Path())
    given = from_environment(RunConfig)
    if config.tools.tools_mode == "record":  # what the run has recorded stays as it is
        given["tools_mode"] = "auto"
    return changed(config, **given), content.get("prompt")
