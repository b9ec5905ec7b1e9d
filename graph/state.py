"""The state of one question: what goes in, and what the four nodes pass on to each other."""

from typing import Annotated

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.graph.message import add_messages
from typing_extensions import TypedDict


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
    messages: Annotated[list[AnyMessage], add_messages]
    reply: AIMessage | None
    """The model's raw answer, not yet read by `parse_tool`."""
    final_answer: str | None
    stop_reason: str | None
    """Why the loop ended: `answer`, `max_turns`, `max_tool_calls`, `no_answer`, `truncated`, `context_overflow`."""
