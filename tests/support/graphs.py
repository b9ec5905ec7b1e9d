"""A graph around live services, and one question through it."""

from contextlib import AsyncExitStack
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver

from backends.config import ModelConfig, ToolsConfig
from backends.services import open_services
from graph.build import TrajectoryGraph, build_graph
from graph.limits import Limits, ToolRole
from serializers.evidence import failed
from serializers.tags import STOP_STRINGS
from tests.support.servers import Reply, ScriptedModel


async def open_graph(
    stack: AsyncExitStack,
    model: ScriptedModel | str,
    tools_url: str,
    *,
    limits: Limits | None = None,
    tool_role: ToolRole = "tool",
    checkpointer: BaseCheckpointSaver[Any] | None = None,
) -> TrajectoryGraph:
    """The real graph around real clients of the scripted model and the offline tools."""
    services = await stack.enter_async_context(
        open_services(
            ModelConfig((model if isinstance(model, str) else model.url,)),
            ToolsConfig(tools_url),
            stop=STOP_STRINGS,
            concurrency=4,
            failed=failed,
        )
    )
    return build_graph(
        services.chat, services.tools.call, limits=limits or Limits(), tool_role=tool_role, checkpointer=checkpointer
    )


async def run(model: ScriptedModel, tools_url: str, replies: list[Reply], **more: Any) -> dict[str, Any]:
    model.replies = replies
    async with AsyncExitStack() as stack:
        graph = await open_graph(stack, model, tools_url, **more)
        return dict(await graph.ainvoke({"question": "Does dapagliflozin help in heart failure?"}))
