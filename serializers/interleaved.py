"""The messages of a trajectory as one interleaved text, the format that training reads."""

from collections.abc import Sequence

from langchain_core.messages import AIMessage, AnyMessage, ToolMessage


def interleaved_text(messages: Sequence[AnyMessage]) -> str:
    """Kept replies and tool outputs in order, joined by one newline; nudges and reminders are not in it."""
    kept = (message.text for message in messages if isinstance(message, AIMessage | ToolMessage))
    return "\n".join(text for text in kept if text)
