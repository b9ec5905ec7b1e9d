"""reason: the prompt goes to the model, its raw reply comes back."""

from collections.abc import Awaitable, Callable
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import add_usage

from backends.errors import ContextOverflow
from graph.settings import Limits, ToolRole
from graph.state import State
from nodes.prompts import prompt_messages

Ask = Callable[[list[BaseMessage], int], Awaitable[AIMessage]]
"""Sends a request with so many completion tokens at most; raises a `ModelError`."""


async def reason(state: State, *, ask: Ask, system: str, limits: Limits, tool_role: ToolRole) -> dict[str, Any]:
    """Ask for the next turn. A reply still waiting in the state was cut off: ask again with twice its budget."""
    cut_off = state.get("reply")
    max_tokens = limits.max_tokens * 2 if cut_off else limits.max_tokens
    prompt = prompt_messages(system, state["question"], state.get("messages", []), tool_role)
    try:
        reply = await ask(prompt, max_tokens)
    except ContextOverflow:
        return {"reply": None, "stop_reason": "context_overflow"}
    if cut_off:
        reply.usage_metadata = add_usage(cut_off.usage_metadata, reply.usage_metadata)
    reply.response_metadata["attempt"] = 2 if cut_off else 1
    return {"reply": reply}
