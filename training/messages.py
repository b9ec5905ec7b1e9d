"""A trajectory as the conversation that the model saw, message by message, and as other formats of the field."""

from collections.abc import Mapping
from typing import Any

from graph.limits import ToolRole
from serializers.escaping import balanced, escape_tags
from serializers.segments import Segment
from training.rows import Row

Message = dict[str, Any]
SENDERS = {"user": "human", "assistant": "gpt", "tool": "observation"}
"""LLaMA-Factory's names for the roles."""


NUDGED = "nudged"
"""Marks, while a row is made, a reply after which the model had to be asked again: context, not to be trained on."""


def messages(row: Row, system: str | None, tool_role: ToolRole = "tool") -> list[Message]:
    """The conversation as the model saw it: the question escaped as it was, what the model wrote in a turn as one
    assistant message, what came back in the run's `tool_role`, reminders and nudges with it.

    The calls stand in the text, as the model wrote them: `tool_calls` beside it would have a template write them twice.
    """
    chat: list[Message] = [{"role": "system", "content": system}] if system else []
    chat.append({"role": "user", "content": row.question if row.is_of_others else escape_tags(row.question)})
    outputs = 0

    def from_outside(call_id: str, text: str) -> None:
        chat.append({"role": tool_role, **({"tool_call_id": call_id} if tool_role == "tool" else {}), "content": text})

    def asked_again(start: int, until: int) -> int:
        """The nudges up to a place in the text, each behind what the model had said since `start`, be it nothing."""
        while nudges and nudges[0][0] <= until:
            at, nudge = nudges.pop(0)
            said = row.text[start:at].strip("\n") if at > start else ""
            chat.append({"role": "assistant", "content": said, NUDGED: True})
            from_outside(f"nudge-{at}", nudge)
            start = max(start, at)
        return start

    nudges = sorted(row.nudges, key=lambda nudge: nudge[0])
    for segments in replies_and_outputs(row.parsed.segments):
        start, end = segments[0].start, segments[-1].end
        asked_again(start, start)
        if segments[0].kind == "tool_output":
            outputs += 1
            reminder = row.reminders.get(str(outputs))
            from_outside(f"call-{outputs}", "\n".join(filter(None, [row.text[start:end], reminder])))
        elif text := row.text[asked_again(start, end) : end].strip("\n"):
            chat.append({"role": "assistant", "content": text})
    asked_again(len(row.text), len(row.text))
    return chat


def turns(row: Row) -> int:
    """How many replies there are."""
    return len(_replies(row))


def thoughtless(row: Row) -> int:
    """How many replies have no thought."""
    return sum(all(piece.kind != "think" for piece in segments) for segments in _replies(row))


def _replies(row: Row) -> list[list[Segment]]:
    return [segments for segments in replies_and_outputs(row.parsed.segments) if segments[0].kind != "tool_output"]


def text_spans(row: Row) -> list[list[int]]:
    """`[start, end]` in the interleaved text of what the model wrote: all but the tool outputs, and the replies after
    which it had to be asked again.
    """
    spans: list[list[int]] = []
    read = True
    for piece in row.parsed.segments:
        if piece.kind != "tool_output" and read:
            spans.append([piece.start, piece.end])
        elif piece.kind != "tool_output":
            spans[-1][1] = piece.end
        read = piece.kind == "tool_output"
    for begun, ended in nudged_ranges(row):
        parts = ([[start, min(end, begun)], [max(start, ended), end]] for start, end in spans)
        spans = [_bare(row.text, start, end) for both in parts for start, end in both if start < end]
    return [[start, end] for start, end in spans if start < end]


def nudged_ranges(row: Row) -> list[tuple[int, int]]:
    """Where in the text the replies stand after which the model had to be asked again."""
    ranges, begun = [], 0
    outputs = [piece.end for piece in row.parsed.segments if piece.kind == "tool_output"]
    for at, _ in sorted(row.nudges, key=lambda nudge: nudge[0]):
        start = max([begun, *(end for end in outputs if end <= at)])
        if start < at:
            ranges.append((start, at))
        begun = at
    return ranges


def _bare(text: str, start: int, end: int) -> list[int]:
    """A span without the line feeds at its ends, which join the messages."""
    while start < end and text[start] == "\n":
        start += 1
    while start < end and text[end - 1] == "\n":
        end -= 1
    return [start, end]


def message_spans(chat: list[Message]) -> list[list[int]]:
    """`[message, start, end]` of what the model wrote in a conversation: its own messages, whole."""
    return [
        [at, 0, len(said["content"])]
        for at, said in enumerate(chat)
        if said["role"] == "assistant" and said["content"] and NUDGED not in said
    ]


def unmarked(chat: list[Message]) -> list[Message]:
    """The messages as they are written."""
    return [{name: value for name, value in said.items() if name != NUDGED} for said in chat]


def trained_on(chat: list[Message]) -> list[str]:
    """The texts that `message_spans` cut out."""
    return [chat[at]["content"][start:end] for at, start, end in message_spans(chat)]


def sharegpt(chat: list[Message]) -> dict[str, Any]:
    """LLaMA-Factory's: `human` or `observation`, then `gpt`, in turn and in pairs; the system prompt beside. What comes
    twice in a row from the same side is one message, and what no reply follows is left out: it trains nothing.
    """
    turns: list[dict[str, Any]] = []
    for said in chat:
        if said["role"] == "system":
            continue
        sender = SENDERS[said["role"]]
        marked = {NUDGED: True} if NUDGED in said else {}
        if turns and (turns[-1]["from"] == "gpt") == (sender == "gpt"):
            turns[-1]["value"] += f"\n{said['content']}"
        else:
            turns.append({"from": sender, "value": said["content"], **marked})
    if turns and turns[-1]["from"] != "gpt":
        turns.pop()
    system = chat[0]["content"] if chat and chat[0]["role"] == "system" else ""
    return {"conversations": turns, "system": system, "tools": ""}


def from_sharegpt(row: Mapping[str, Any]) -> list[Message]:
    """The same conversation under the roles that a chat template knows."""
    roles = {sender: role for role, sender in SENDERS.items()}
    chat = [{"role": "system", "content": row["system"]}] if row["system"] else []
    turns = ({**turn, "role": roles[turn["from"]], "content": turn["value"]} for turn in row["conversations"])
    return [*chat, *({key: turn[key] for key in ("role", "content", NUDGED) if key in turn} for turn in turns)]


def one_message(row: Row, system: str | None) -> list[Message]:
    """The question, and the whole interleaved text as one assistant message, for masking by `<tool_output>`: before the
    text, no tag of the protocol stands without its other half.
    """
    chat = [{"role": "system", "content": balanced(system)[0]}] if system else []
    return [*chat, {"role": "user", "content": escape_tags(row.question)}, {"role": "assistant", "content": row.text}]


def masked_by_tags(rendered: str) -> list[tuple[int, int]]:
    """What a trainer leaves out that masks from each `<tool_output` to the next `</tool_output>`, over a whole row."""
    spans, at = [], 0
    while (start := rendered.find("<tool_output", at)) >= 0:
        end = rendered.find("</tool_output>", start)
        if end < 0:
            break
        at = end + len("</tool_output>")
        spans.append((start, at))
    return spans


def replies_and_outputs(segments: list[Segment]) -> list[list[Segment]]:
    """Pieces by turn: a reply ends with its answer or its last call, and a tool output stands alone."""
    turns: list[list[Segment]] = []
    for piece in segments:
        before = turns[-1][-1].kind if turns else None
        goes_on = before in ("think", "text") or before == piece.kind == "call_tool"
        if goes_on and piece.kind != "tool_output":
            turns[-1].append(piece)
        else:
            turns.append([piece])
    return turns
