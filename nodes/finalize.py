"""finalize: the loop is over; what is left open gets a name."""

from typing import Any

from graph.state import State


async def finalize(state: State) -> dict[str, Any]:
    """Set `final_answer` (empty when there is none) and `stop_reason`."""
    return {
        "reply": None,
        "final_answer": state.get("final_answer") or "",
        "stop_reason": state.get("stop_reason") or "no_answer",
    }
