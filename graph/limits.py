"""What bounds a trajectory."""

from dataclasses import dataclass
from typing import Literal

from backends.setting import setting

ToolRole = Literal["tool", "user"]


@dataclass(frozen=True)
class Limits:
    """Bounds that the graph enforces, whatever the prompt says."""

    max_turns: int = setting(10, "Replies per question at most.", "Limits", above=0, compared=True)
    max_tool_calls: int = setting(5, "Tool calls per question at most.", "Limits", low=0, compared=True)
    max_tokens: int = setting(4096, "Tokens per reply; twice as many if cut off.", "Limits", above=0, compared=True)
