"""The beginning of one trajectory, for another to go on from: `--fork-at`."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, ToolMessage

FORKED = "forked_from"
"""In the first reply's `additional_kwargs`: whose beginning it is."""


def forked(messages: Sequence[AnyMessage], calls: int, sample_id: str) -> list[AnyMessage]:
    """The messages up to what the last of so many calls gave; none where there were not so many. What they cost is the
    other trajectory's, and is not counted again.
    """
    outputs = [at for at, message in enumerate(messages, 1) if isinstance(message, ToolMessage)]
    if len(outputs) < calls:
        return []
    begun = [_free(message) for message in messages[: outputs[calls - 1]]]
    first = next(at for at, message in enumerate(begun) if isinstance(message, AIMessage))
    about = {**begun[first].additional_kwargs, FORKED: {"sample_id": sample_id, "calls": calls}}
    begun[first] = begun[first].model_copy(update={"additional_kwargs": about})
    return begun


def _free(message: AnyMessage) -> AnyMessage:
    """The same message without its tokens and seconds."""
    kept = {name: value for name, value in message.additional_kwargs.items() if name != "seconds"}
    about = {name: value for name, value in message.response_metadata.items() if name != "seconds"}
    update: dict[str, Any] = {"additional_kwargs": kept, "response_metadata": about}
    return message.model_copy(update=update | ({"usage_metadata": None} if isinstance(message, AIMessage) else {}))
