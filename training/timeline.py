"""One trajectory for a terminal: thoughts, calls, results and answer, each marked."""

import textwrap

from training.rows import Row

_MARKS = {"think": "thought", "call_tool": "call", "tool_output": "result", "answer": "answer", "text": "text"}
_LINES = 6
_WIDTH = 110


def timeline(row: Row, *, whole: bool = False) -> str:
    """Each piece under its name; results cut to a few lines unless they are wanted whole."""
    parts = []
    for piece in row.parsed.segments:
        number = f" {piece.call}" if piece.call else ""
        head = f"── {_MARKS[piece.kind]}{number}{' (left open)' if not piece.closed else ''} {piece.attributes.strip()}"
        lines = [wrapped for line in piece.body.strip().split("\n") for wrapped in textwrap.wrap(line, _WIDTH) or [""]]
        if piece.kind == "tool_output" and not whole and len(lines) > _LINES:
            lines = [*lines[:_LINES], f"… {len(lines) - _LINES} more lines"]
        parts.append("\n".join([head.rstrip(), *(f"   {line}" for line in lines)]))
    return "\n".join(parts)
