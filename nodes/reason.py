"""reason: the prompt goes to the model, its raw reply comes back."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.runnables import RunnableConfig

from backends.errors import ContextOverflow
from graph.limits import Limits, ToolRole
from graph.state import State
from nodes.clients import Chat
from nodes.context_budget import fit_context, prompt_was_cut
from nodes.cut_off import continued, counted_room, ended_early, given_up, is_spent, second
from nodes.prompts import prompt_messages

_SMALLEST_BUDGET = 32
"""Tokens that are asked for after however many timeouts."""
_TOO_LONG: dict[str, Any] = {"reply": None, "stop_reason": "context_overflow"}


async def reason(
    state: State, config: RunnableConfig, *, chat: Chat, system: str, limits: Limits, tool_role: ToolRole
) -> dict[str, Any]:
    """Ask for the next turn, within the model's context. A question that the messages do not follow begins a new
    transcript.

    `config` may name the `seed` of this sample, and in a list `timeouts`, which is emptied here, how many there were at
    this very step: a reply that takes too long is asked for with half the budget each time. A reply still waiting in
    the state was cut off: it is continued where the server can, else asked again with twice its budget, if the context
    has room for more; one that a stop string ended within a thought that spoke of it, without stop strings.
    """
    begun = _begun(state)
    now: Any = {**state, **begun, "messages": [] if "messages" in begun else state.get("messages", [])}
    about = config.get("configurable", {})
    budget = _budget(now.get("reply"), limits, about.get("timeouts") or [])
    asked = partial(_ask, now, budget, about.get("seed"), chat=chat, system=system, tool_role=tool_role)
    try:
        return {**begun, **await asked()}
    except ContextOverflow as error:
        chat.max_model_len = min(filter(None, (chat.max_model_len, error.max_model_len)), default=None)
    try:
        return {**begun, **(await asked(refused=True) if chat.max_model_len else _TOO_LONG)}
    except ContextOverflow:
        return {**begun, **_TOO_LONG}


def _begun(state: State) -> dict[str, Any]:
    """The beginning of a transcript: what is left of another one in the same thread is no part of it."""
    question, messages = state["question"], state.get("messages", [])
    if not state.get("stop_reason") and state.get("asked", question) == question:
        return {} if messages or "asked" in state else {"asked": question}
    anew: dict[str, Any] = {"messages": {"__overwrite__": []}, "reply": None, "final_answer": None, "stop_reason": None}
    return {"asked": question, **anew}


async def _ask(
    state: State, budget: int, seed: int | None, *, chat: Chat, system: str, tool_role: ToolRole, refused: bool = False
) -> dict[str, Any]:
    """A reply of up to `budget` tokens. Raises ContextOverflow; a prompt that was `refused` so is asked once more, with
    what fits by a stricter count.
    """
    cut_off, messages = state.get("reply"), state.get("messages", [])
    if cut_off and ended_early(cut_off, chat.max_model_len):
        return {"reply": given_up(cut_off, True)}

    def build(history: Sequence[AnyMessage]) -> list[dict[str, str]]:
        return prompt_messages(system, state["question"], history, tool_role)

    shortened: list[AnyMessage] = []
    max_tokens = budget
    try:
        reply = await continued(chat, build(messages), cut_off, budget, seed) if cut_off else None
        if reply is None:
            counted = counted_room(cut_off, chat.max_model_len)
            if counted < budget:
                shortened, max_tokens = await fit_context(chat, build, messages, budget, refused=refused)
            if counted and not shortened:
                max_tokens = min(budget, counted)
            if cut_off and is_spent(cut_off, max_tokens, budget):
                return {"reply": given_up(cut_off, max_tokens < budget)}
            if max_tokens <= 0:
                raise ContextOverflow("there is no room for a reply")
            prompt = build(_replaced(messages, shortened))
            in_thought = bool(cut_off and cut_off.response_metadata.get("in_thought"))
            reply = await chat.ask(prompt, max_tokens, seed, stops=not in_thought)
            if in_thought:
                reply.response_metadata["ran_on"] = True
            elif not shortened and prompt_was_cut(prompt, messages, reply):
                return {"reply": reply, "stop_reason": "prompt_cut"}
    except ContextOverflow:
        if not cut_off:
            raise
        return {"reply": given_up(cut_off, True)}
    usage = reply.usage_metadata
    told = {"prompt_tokens": usage["input_tokens"] if usage else None, "max_tokens": max_tokens, "budget": budget}
    reply.response_metadata |= {**told, "attempt": 1}
    if cut_off:
        second(reply, cut_off, chat.max_model_len)
    return {"reply": reply, "messages": shortened} if shortened else {"reply": reply}


def _budget(cut_off: AIMessage | None, limits: Limits, timeouts: list[int]) -> int:
    """Tokens for a reply: twice as many as it had for one that was cut off, half as many for each of the `timeouts`."""
    had = cut_off.response_metadata.get("budget") if cut_off else None
    budget = (had if isinstance(had, int) else limits.max_tokens) * (2 if cut_off else 1)
    return max(budget >> (timeouts.pop() if timeouts else 0), min(limits.max_tokens, _SMALLEST_BUDGET))


def _replaced(messages: Sequence[AnyMessage], changed: Sequence[AnyMessage]) -> list[AnyMessage]:
    by_id = {message.id: message for message in changed}
    return [by_id.get(message.id, message) for message in messages]
