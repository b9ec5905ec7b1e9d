"""parse_tool: the raw reply is read, once, into the text that is kept and the call or answer in it."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage

from backends.config import TOOL_NAMES
from graph.limits import Limits
from graph.state import State
from nodes.prompts import NUDGE_ANSWER, NUDGE_FORMAT, full_text
from serializers.actions import Reading
from serializers.repetition import is_endless
from serializers.reply import Reply, model_ended, read_reply
from serializers.tags import Call

_MAX_NUDGES = 2
"""Nudges in a row; a model that ignores them is not asked again."""


async def parse_tool(
    state: State,
    *,
    limits: Limits,
    tools: Sequence[str] = TOOL_NAMES,
    examples: frozenset[tuple[str, str]] = frozenset(),
) -> dict[str, Any]:
    """One AIMessage with the kept text and its call; or the final answer; or a nudge; or, cut off, another attempt.

    `examples` are the calls that the prompt itself shows: in an unclosed thought they are only quoted.
    """
    raw = state.get("reply")
    if raw is None:
        return {}
    messages = state.get("messages", [])
    about = raw.response_metadata
    stopped = model_ended(about.get("finish_reason"))
    reply = read_reply(full_text(raw), Reading(stopped, tools, examples, bool(about.get("ran_on"))))
    context_full = bool(about.get("context_full"))
    cut_off = context_full or not stopped or "answer_closed" in reply.repairs
    turn = sum(isinstance(message, AIMessage) for message in messages) + 1
    if state.get("stop_reason"):  # the prompt was cut: the reply is kept, and not acted on
        return {"messages": [_kept(raw, reply, turn)], "reply": None}
    first = about.get("attempt", 1) == 1
    if reply.thought_open and stopped and first:  # what ended it was a stop string that it only spoke of, perhaps
        about["in_thought"] = True
        return {"reply": raw}
    if cut_off and reply.call is None:  # cut off is never an answer, and no call either; nor is one left open
        if first and not is_endless(reply.text):
            return {"reply": raw}
        by = "context_overflow" if context_full else "truncated"
        return {"messages": [_kept(raw, reply, turn)], "reply": None, "stop_reason": by}
    if reply.answer is not None:
        return {
            "messages": [_kept(raw, reply, turn)],
            "reply": None,
            "final_answer": reply.answer,
            "stop_reason": "answer",
        }
    calls = sum(isinstance(message, ToolMessage) for message in messages)
    closing = calls >= limits.max_tool_calls or turn >= limits.max_turns
    if reply.call and not closing:
        return {"messages": [_kept(raw, reply, turn, call_number=calls + 1)], "reply": None}
    if reply.call:
        reply = Reply(reply.prefix, reply.prefix, repairs=(*reply.repairs, "call_over_limit_dropped"))
    update: dict[str, Any] = {"messages": [_kept(raw, reply, turn)], "reply": None}
    if turn >= limits.max_turns:
        return {**update, "stop_reason": "max_turns"}
    if _nudges_in_a_row(messages) >= (1 if closing else _MAX_NUDGES):
        return {**update, "stop_reason": "max_tool_calls" if closing else "no_answer"}
    last_chance = closing or turn + 1 >= limits.max_turns
    update["messages"].append(HumanMessage(NUDGE_ANSWER if last_chance else NUDGE_FORMAT, id=f"nudge-{turn}"))
    return update


def _kept(raw: AIMessage, reply: Reply, turn: int, call_number: int = 0) -> AIMessage:
    beside: dict[str, Any] = {"repairs": list(reply.repairs)} if reply.repairs else {}
    if full_text(raw) != reply.text:
        beside["raw"] = {"content": raw.text, **raw.additional_kwargs}
    return AIMessage(
        reply.text,
        id=f"turn-{turn}",
        tool_calls=[_tool_call(reply.call, call_number)] if reply.call and call_number else [],
        additional_kwargs=beside,
        response_metadata=raw.response_metadata,
        usage_metadata=raw.usage_metadata,
    )


def _tool_call(call: Call, number: int) -> Any:
    return {"name": call.name, "args": {"query": call.query, **call.parameters}, "id": f"call-{number}"}


def _nudges_in_a_row(messages: list[AnyMessage]) -> int:
    count = 0
    for message in reversed(messages):
        if isinstance(message, ToolMessage):
            break
        count += isinstance(message, HumanMessage)
    return count
