"""A trajectory as the conversation that the model saw, message by message, and as other formats of the field."""

from collections.abc import Mapping
from typing import Any

from graph.settings import ToolRole
from serializers.segments import Segment
from serializers.tags import neutralise
from training.rows import Row

Message = dict[str, Any]
SENDERS = {"user": "human", "assistant": "gpt", "tool": "observation"}
"""LLaMA-Factory's names for the roles."""


def messages(row: Row, system: str | None, tool_role: ToolRole = "tool") -> list[Message]:
    """The conversation as the model saw it: the question made harmless as it was, what the model wrote in a turn as one
    assistant message, what came back in the run's `tool_role`, reminders and nudges with it.

    The calls stand in the text, as the model wrote them: `tool_calls` beside it would have a template write them twice.
    """
    told: list[Message] = [{"role": "system", "content": system}] if system else []
    told.append({"role": "user", "content": neutralise(row.question)})
    outputs = 0

    def from_outside(identity: str, text: str) -> None:
        told.append({"role": tool_role, **({"tool_call_id": identity} if tool_role == "tool" else {}), "content": text})

    def asked_again(start: int, until: int) -> int:
        """The nudges up to a place in the text, each behind what the model had said since `start`, be it nothing."""
        while nudges and nudges[0][0] <= until:
            at, nudge = nudges.pop(0)
            told.append({"role": "assistant", "content": row.text[start:at].strip("\n") if at > start else ""})
            from_outside(f"nudge-{at}", nudge)
            start = max(start, at)
        return start

    nudges = sorted(row.nudges)
    for pieces in _turns(row.apart.pieces):
        start, end = pieces[0].start, pieces[-1].end
        asked_again(start, start)
        if pieces[0].kind == "tool_output":
            outputs += 1
            reminder = row.reminders.get(str(outputs))
            from_outside(f"call-{outputs}", "\n".join(filter(None, [row.text[start:end], reminder])))
        elif text := row.text[asked_again(start, end) : end].strip("\n"):
            told.append({"role": "assistant", "content": text})
    asked_again(len(row.text), len(row.text))
    return told


def thoughtless(row: Row) -> int:
    """How many replies have no thought."""
    turns = [pieces for pieces in _turns(row.apart.pieces) if pieces[0].kind != "tool_output"]
    return sum(all(piece.kind != "think" for piece in pieces) for pieces in turns)


def text_spans(pieces: list[Segment]) -> list[list[int]]:
    """`[start, end]` in the interleaved text of what the model wrote: all but the tool outputs."""
    spans: list[list[int]] = []
    read = True
    for piece in pieces:
        if piece.kind != "tool_output" and read:
            spans.append([piece.start, piece.end])
        elif piece.kind != "tool_output":
            spans[-1][1] = piece.end
        read = piece.kind == "tool_output"
    return spans


def message_spans(told: list[Message]) -> list[list[int]]:
    """`[message, start, end]` of what the model wrote in a conversation: its own messages, whole."""
    return [[at, 0, len(said["content"])] for at, said in enumerate(told) if said["role"] == "assistant"]


def trained_on(told: list[Message]) -> list[str]:
    """The texts that `message_spans` cut out."""
    return [told[at]["content"][start:end] for at, start, end in message_spans(told)]


def sharegpt(told: list[Message]) -> dict[str, Any]:
    """LLaMA-Factory's: `human` or `observation`, then `gpt`, in turn and in pairs; the system prompt beside. What comes
    twice in a row from the same side is one message, and what no reply follows is left out: it trains nothing.
    """
    turns: list[dict[str, str]] = []
    for said in told:
        if said["role"] == "system":
            continue
        sender = SENDERS[said["role"]]
        if turns and (turns[-1]["from"] == "gpt") == (sender == "gpt"):
            turns[-1]["value"] += f"\n{said['content']}"
        else:
            turns.append({"from": sender, "value": said["content"]})
    if turns and turns[-1]["from"] != "gpt":
        turns.pop()
    system = told[0]["content"] if told and told[0]["role"] == "system" else ""
    return {"conversations": turns, "system": system, "tools": ""}


def from_sharegpt(row: Mapping[str, Any]) -> list[Message]:
    """The same conversation under the roles that a chat template knows."""
    roles = {sender: role for role, sender in SENDERS.items()}
    told = [{"role": "system", "content": row["system"]}] if row["system"] else []
    return [*told, *({"role": roles[turn["from"]], "content": turn["value"]} for turn in row["conversations"])]


def one_message(row: Row, system: str | None) -> list[Message]:
    """The question, and the whole interleaved text as one assistant message, for masking by `<tool_output>`."""
    told = [{"role": "system", "content": system}] if system else []
    return [*told, {"role": "user", "content": neutralise(row.question)}, {"role": "assistant", "content": row.text}]


def _turns(pieces: list[Segment]) -> list[list[Segment]]:
    """Pieces by turn: a reply ends with its call or answer, and a tool output stands alone."""
    turns: list[list[Segment]] = []
    for piece in pieces:
        begins = (
            not turns or piece.kind == "tool_output" or turns[-1][-1].kind in ("tool_output", "call_tool", "answer")
        )
        if begins:
            turns.append([piece])
        else:
            turns[-1].append(piece)
    return turns
