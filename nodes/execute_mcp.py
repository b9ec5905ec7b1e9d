"""execute_mcp: the call goes to the tool server, its result comes back as the text that the model will read."""

import time
from datetime import datetime
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, ToolMessage

from backends.errors import ToolFailed
from graph.limits import Limits
from graph.state import State
from nodes.clients import CallTool
from nodes.prompts import NUDGE_ANSWER
from serializers.evidence import failed
from serializers.reply import read_reply
from serializers.tags import Call, write_call
from serializers.tool_output import MAX_JSON, Rendered, render, render_error


async def execute_mcp(state: State, *, call_tool: CallTool, limits: Limits) -> dict[str, Any]:
    """Execute the last reply's call. A failure of the tool itself is an output; one of the way there is raised."""
    messages = state["messages"]
    asked = messages[-1]
    assert isinstance(asked, AIMessage)
    called = asked.tool_calls[0]
    parameters = dict(called["args"])
    call = Call(called["name"], str(parameters.pop("query", "")), parameters)
    started = time.monotonic()
    kept = False
    try:
        result, kept = await call_tool(call.name, call.query, call.parameters)
        output, is_error = render(call.name, result), failed(result)
    except ToolFailed as error:
        output, is_error = Rendered(render_error(str(error)), {"error": str(error)[:MAX_JSON]}), True
    beside: dict[str, Any] = {
        "timestamp": datetime.now().isoformat(),
        "seconds": round(time.monotonic() - started, 3),
        "snippet_ids": output.snippet_ids,
    }
    if kept:
        beside["from_cassette"] = True
    if output.shortened:
        beside["shortened"] = output.shortened
    if _is_last_call(messages, limits):
        beside["reminder"] = NUDGE_ANSWER
    message = ToolMessage(
        output.text,
        id=str(called["id"]).replace("call", "output"),
        name=call.name,
        tool_call_id=str(called["id"]),
        artifact=output.recorded,
        status="error" if is_error else "success",
        additional_kwargs=beside,
    )
    return {"messages": [*_edited(asked, call), message]}


def _is_last_call(messages: list[AnyMessage], limits: Limits) -> bool:
    calls = sum(isinstance(message, ToolMessage) for message in messages) + 1
    turns = sum(isinstance(message, AIMessage) for message in messages)
    return calls >= limits.max_tool_calls or turns + 1 >= limits.max_turns


def _edited(asked: AIMessage, call: Call) -> list[AnyMessage]:
    """A call edited by hand (in Studio, say) is written into the text too, so the record shows what was executed."""
    if asked.text.endswith(write_call(call)):  # as nearly always: it need not be read again
        return []
    written = read_reply(asked.text)
    if written.call is None or written.call == call:
        return []
    head = asked.text[: asked.text.rindex("<call_tool")]
    return [asked.model_copy(update={"content": head + write_call(call)})]
