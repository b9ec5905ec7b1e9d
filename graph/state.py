"""The state of one question: what goes in, and what the four nodes pass on to each other."""

from collections.abc import Sequence
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage, convert_to_messages
from langgraph.channels import DeltaChannel
from typing_extensions import TypedDict


def merge_messages(kept: list[AnyMessage], writes: Sequence[Sequence[AnyMessage]]) -> list[AnyMessage]:
    """Append each message, or put it in the place of the one with its id. The same for writes together or one by one,
    so that a state can be read back from what the nodes wrote instead of being stored whole at every step.
    """
    merged: dict[object, Any] = {message.id or object(): message for message in kept}
    for message in convert_to_messages([message for written in writes for message in written]):
        merged[message.id or object()] = message
    return list(merged.values())


class QuestionInput(TypedDict):
    """What a run of the graph is given; Studio shows this one field as a form."""

    question: str


class State(TypedDict, total=False):
    """Plain JSON and LangChain messages only, so that a checkpoint names no class of ours.

    `messages` is what followed the question, and the only source of the record. Nodes append to it; every message
    carries an id of its own (`turn-1`, `output-1`, `nudge-1`), so a node that runs again after a crash replaces what
    it wrote instead of doubling it, and an edit made by hand in Studio replaces the message it edits.
    """

    question: str
    asked: str
    """The question that `messages` follow: another one begins a new transcript."""
    messages: Annotated[list[AnyMessage], DeltaChannel(merge_messages)]
    reply: AIMessage | None
    """The model's raw answer, not yet read by `parse_tool`."""
    final_answer: str | None
    stop_reason: str | None
    """Why the loop ended: `answer`, `max_turns`, `max_tool_calls`, `no_answer`, `truncated`, `context_overflow`,
    `prompt_cut`."""
