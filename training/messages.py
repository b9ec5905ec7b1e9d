"""A trajectory as the conversation that the model saw, message by message, and as other formats of the field."""

from collections.abc import Mapping
from typing import Any

from serializers.segments import Segment
from serializers.tags import neutralise
from training.rows import Row

Message = dict[str, Any]


def messages(row: Row, system: str | None) -> list[Message]:
    """The conversation as the model saw it: the question made harmless as it was, what the model wrote in a turn as one
    assistant message, what came back in role `tool`, reminders and nudges with it.
    """
    told: list[Message] = [{"role": "system", "content": system}] if system else []
    told.append({"role": "user", "content": neutralise(row.question)})
    nudges = {int(nudge["at"]): str(nudge["text"]) for nudge in row.metadata.get("nudges") or []}
    reminders: Mapping[str, str] = row.metadata.get("reminders") or {}
    outputs = 0
    for pieces in _turns(row.apart.pieces):
        start, end = pieces[0].start, pieces[-1].end
        if pieces[0].kind == "tool_output":
            outputs += 1
            content = "\n".join(filter(None, [row.text[start:end], reminders.get(str(outputs))]))
            told.append({"role": "tool", "tool_call_id": f"call-{outputs}", "content": content})
            continue
        for at in sorted(at for at in nudges if start < at <= end):  # the model was asked again in between
            told.append({"role": "assistant", "content": row.text[start:at].strip("\n")})
            told.append({"role": "tool", "tool_call_id": f"nudge-{at}", "content": nudges[at]})
            start = at
        if text := row.text[start:end].strip("\n"):
            told.append({"role": "assistant", "content": text})
    return told


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


def sharegpt(told: list[Message]) -> dict[str, Any]:
    """LLaMA-Factory's: `human`, `gpt`, `observation` in turn, the system prompt beside. What comes twice in a row from
    the same side is one message.
    """
    names = {"user": "human", "assistant": "gpt", "tool": "observation"}
    turns: list[dict[str, str]] = []
    for said in told:
        if said["role"] == "system":
            continue
        sender = names[said["role"]]
        if turns and turns[-1]["from"] == sender:
            turns[-1]["value"] += f"\n{said['content']}"
        else:
            turns.append({"from": sender, "value": said["content"]})
    system = told[0]["content"] if told and told[0]["role"] == "system" else ""
    return {"conversations": turns, "system": system, "tools": ""}


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
