"""What bounds a trajectory, and the tools that it may use."""

from dataclasses import dataclass
from typing import Literal

ToolRole = Literal["tool", "user"]

TOOL_NAMES = ("pubmed_search", "browse_webpage", "google_search")
"""The tools the prompt teaches, under the names the model uses."""


@dataclass(frozen=True)
class Limits:
    """Bounds that the graph enforces, whatever the prompt says."""

    max_turns: int = 10
    """Replies of the model per question, the final answer included."""
    max_tool_calls: int = 5
    max_tokens: int = 4096
    """Completion tokens per reply; a reply cut off by it is asked again once with twice as many."""
