"""reason: the prompt goes to the model, its raw reply comes back."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.messages.ai import add_usage
from langchain_core.runnables import RunnableConfig

from backends.errors import ContextOverflow
from graph.limits import Limits, ToolRole
from graph.state import State
from nodes.clients import Chat
from nodes.context_budget import fit_context, prompt_was_cut, remaining_tokens
from nodes.prompts import full_text, prompt_messages


async def reason(
    state: State,
    config: RunnableConfig,
    *,
    chat: Chat,
    system: str,
    limits: Limits,
    tool_role: ToolRole,
    refused: bool = False,
) -> dict[str, Any]:
    """Ask for the next turn, within the model's context. `config` may name the `seed` of this sample.

    A reply still waiting in the state was cut off: it is continued where the server can, else asked again with twice
    its budget; one that a stop string ended within a thought that spoke of it, without stop strings. A prompt that was
    `refused` as too long is asked once more, with what fits by a stricter count.
    """
    cut_off, seed = state.get("reply"), config.get("configurable", {}).get("seed")
    budget = limits.max_tokens * 2 if cut_off else limits.max_tokens
    messages = state.get("messages", [])

    def build(history: Sequence[AnyMessage]) -> list[dict[str, str]]:
        return prompt_messages(system, state["question"], history, tool_role)

    shortened: list[AnyMessage] = []
    try:
        reply = await _continued(chat, build(messages), cut_off, budget, seed) if cut_off else None
        if reply is None:
            shortened, max_tokens = await fit_context(chat, build, messages, budget, refused=refused)
            prompt = build(_replaced(messages, shortened))
            in_thought = bool(cut_off and cut_off.response_metadata.get("in_thought"))
            reply = await chat.ask(prompt, max_tokens, seed, stops=not in_thought)
            if in_thought:
                reply.response_metadata["ran_on"] = True
            elif not shortened and prompt_was_cut(prompt, messages, reply):
                return {"reply": reply, "stop_reason": "prompt_cut"}
    except ContextOverflow as error:
        if cut_off:  # there is no room for a longer reply: it stays cut off
            cut_off.response_metadata["attempt"] = 2
            return {"reply": cut_off}
        chat.max_model_len = min(filter(None, (chat.max_model_len, error.max_model_len)), default=None)
        if refused or chat.max_model_len is None:
            return {"reply": None, "stop_reason": "context_overflow"}
        asked_again = partial(reason, chat=chat, system=system, limits=limits, tool_role=tool_role, refused=True)
        return await asked_again(state, config)
    usage = reply.usage_metadata
    reply.response_metadata["prompt_tokens"] = usage["input_tokens"] if usage else None
    if cut_off:
        reply.usage_metadata = add_usage(cut_off.usage_metadata, reply.usage_metadata)
        reply.response_metadata["seconds"] += cut_off.response_metadata.get("seconds", 0.0)
    reply.response_metadata["attempt"] = 2 if cut_off else 1
    return {"reply": reply, "messages": shortened} if shortened else {"reply": reply}


async def _continued(
    chat: Chat, prompt: list[dict[str, str]], begun: AIMessage, budget: int, seed: int | None
) -> AIMessage | None:
    """A cut-off reply with what follows it, from the very prompt that it started from; None where that cannot be, or
    not in the room that the context leaves.
    """
    room = remaining_tokens(chat, prompt, begun, budget)
    rest = await chat.continue_reply(prompt, full_text(begun), room, seed) if room > 0 else None
    if rest is None or (room < budget and rest.response_metadata.get("finish_reason") == "length"):
        return None
    return _joined(begun, rest)


def _joined(begun: AIMessage, rest: AIMessage) -> AIMessage:
    """A reply in two pieces as one; its thought may end in the second."""
    thought = rest.additional_kwargs.get("reasoning_content", "")
    closing = "</think>" if thought and rest.text else ""
    rest.response_metadata["continued"] = True
    rest.response_metadata["ran_on"] = bool(begun.response_metadata.get("in_thought"))
    return AIMessage(
        full_text(begun) + thought + closing + rest.text,
        response_metadata=rest.response_metadata,
        usage_metadata=rest.usage_metadata,
    )


def _replaced(messages: Sequence[AnyMessage], changed: Sequence[AnyMessage]) -> list[AnyMessage]:
    by_id = {message.id: message for message in changed}
    return [by_id.get(message.id, message) for message in messages]
