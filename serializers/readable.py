"""A record for human eyes in a terminal: the trajectory with its long tool outputs shortened."""

import re
from collections.abc import Mapping
from typing import Any

_OUTPUT = re.compile(r"<tool_output>(.*?)</tool_output>", re.DOTALL)
_LINES = 6
_WIDTH = 160


def readable(record: Mapping[str, Any]) -> str:
    """The question, the interleaved text with each tool output cut to a few lines, and a line of facts."""
    trajectory = record["trajectory"]
    text = _OUTPUT.sub(
        lambda match: f"<tool_output>{_shortened(match[1])}</tool_output>", trajectory["interleaved_text"]
    )
    facts = [
        f"{trajectory['total_tool_calls']} tool calls",
        f"cites {', '.join(trajectory['pmids_cited']) or 'nothing'}",
        f"ended by {record['metadata']['stop_reason']}",
    ]
    return f"{record['sample_id']}: {record['question']}\n\n{text}\n\n{'; '.join(facts)}"


def _shortened(output: str) -> str:
    lines = output.split("\n")
    kept = [line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…" for line in lines]
    if len(lines) <= _LINES + 2:
        return "\n".join(kept)
    return "\n".join([*kept[:_LINES], f"… ({len(lines) - _LINES - 1} more lines)", kept[-1]])
