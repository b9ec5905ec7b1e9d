"""The whole wiring of one question's graph: four nodes, one routing function."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.config import get_config
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from backends.config import TOOL_NAMES
from graph.limits import Limits, ToolRole
from graph.queued_writes import QueuedWrites
from graph.state import QuestionInput, State
from nodes.clients import CallTool, Chat
from nodes.execute_mcp import execute_mcp
from nodes.finalize import finalize
from nodes.parse_tool import parse_tool
from nodes.prompts import system_prompt
from nodes.reason import reason
from serializers.actions import calls_in

TrajectoryGraph = CompiledStateGraph[State, None, QuestionInput, State]


def build_graph(
    chat: Chat,
    call_tool: CallTool,
    *,
    limits: Limits,
    system: str | None = None,
    tools: Sequence[str] = TOOL_NAMES,
    tool_role: ToolRole = "tool",
    checkpointer: BaseCheckpointSaver[Any] | None = None,
) -> TrajectoryGraph:
    """The graph of one question, around a live model and live tools, under the names that the model knows.

    reason -> parse_tool -> (execute_mcp -> reason | reason | finalize)
    """
    builder = StateGraph(State, input_schema=QuestionInput)
    prompt = system if system is not None else system_prompt(limits, tools)
    if isinstance(checkpointer, QueuedWrites):
        chat = FlushingChat(chat, checkpointer)
    ask = partial(reason, chat=chat, system=prompt, limits=limits, tool_role=tool_role)
    builder.add_node("reason", ask)
    builder.add_node("parse_tool", partial(parse_tool, limits=limits, tools=tools, examples=calls_in(prompt)))
    builder.add_node("execute_mcp", partial(execute_mcp, call_tool=call_tool, limits=limits))
    builder.add_node("finalize", finalize)
    builder.add_edge(START, "reason")
    builder.add_edge("reason", "parse_tool")
    builder.add_conditional_edges("parse_tool", _Routing(), list(get_args(Next)))
    builder.add_edge("execute_mcp", "reason")
    builder.add_edge("finalize", END)
    return builder.compile(checkpointer=checkpointer, name="trajectory")


Next = Literal["execute_mcp", "reason", "finalize"]


def route(state: State) -> Next:
    """Where a read reply leads: its call is executed, its end is reached, anything else is asked again."""
    if state.get("stop_reason"):
        return "finalize"
    messages = state.get("messages", [])
    if not state.get("reply") and messages and isinstance(messages[-1], AIMessage) and messages[-1].tool_calls:
        return "execute_mcp"
    return "reason"


class FlushingChat:
    """The model, asked only when the thread's last reply is on disk: no reply is ever requested twice."""

    def __init__(self, chat: Chat, saver: QueuedWrites) -> None:
        self._chat, self._saver = chat, saver

    @property
    def max_model_len(self) -> int | None:
        """The model's own."""
        return self._chat.max_model_len

    @max_model_len.setter
    def max_model_len(self, tokens: int | None) -> None:
        self._chat.max_model_len = tokens

    async def ask(
        self, messages: list[dict[str, str]], max_tokens: int, seed: int | None, *, stops: bool = True
    ) -> AIMessage:
        """Flush, then ask."""
        await self._flush()
        return await self._chat.ask(messages, max_tokens, seed, stops=stops)

    async def continue_reply(
        self, messages: list[dict[str, str]], begun: str, max_tokens: int, seed: int | None
    ) -> AIMessage | None:
        """Flush, then ask."""
        await self._flush()
        return await self._chat.continue_reply(messages, begun, max_tokens, seed)

    async def count_tokens(self, messages: list[dict[str, str]]) -> int | None:
        """The model's own count."""
        return await self._chat.count_tokens(messages)

    async def _flush(self) -> None:
        await self._saver.flush(get_config()["configurable"]["thread_id"])


class _Routing(Runnable[State, Next]):
    """`route` as it is: a plain function would get a task and a callback manager of its own at every turn."""

    name = "route"

    def invoke(self, input: State, config: RunnableConfig | None = None, **_: Any) -> Next:
        return route(input)

    async def ainvoke(self, input: State, config: RunnableConfig | None = None, **_: Any) -> Next:
        return route(input)


def recursion_limit(limits: Limits) -> int:
    """Supersteps that no trajectory needs: three a turn, two more when it was cut off, and the end."""
    return 5 * limits.max_turns + 10


def drawing() -> str:
    """The graph as Mermaid, drawn from the compiled graph itself."""

    return unconnected_graph().get_graph().draw_mermaid()


def unconnected_graph() -> TrajectoryGraph:
    """The graph without services: for looking at, not for running."""
    unconnected: Any = None
    return build_graph(unconnected, unconnected, limits=Limits())
