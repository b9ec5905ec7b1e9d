"""The settings of a run: frozen in memory, written to `<stem>_run.json`, compared on resume."""

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from graph.limits import ToolRole
from quality.gates import HARD

_EARLIER_HARD = [
    ["unclosed_answer", "no_answer", "truncated", "forged_tool_output", "unbalanced_tags", "call_limit_passed"]
]
"""What `HARD` was before: a run that was begun under it is continued under the new one."""
_HASHED = {
    "questions_sha256": "another content of the questions file",
    "prompt_sha256": "another system prompt",
    "tools_sha256": "other tools, or other input schemas of theirs",
}
_OF_THE_RUN = ("source_file", "questions_sha256", "instance_id", "hard_gates")
"""What may differ between two trajectories that were made alike."""


@dataclass(frozen=True)
class Samples:
    """How many trajectories a question gets: `most`, or fewer once `accept` of them are accepted."""

    most: int = 1
    accept: int | None = None


@dataclass(frozen=True)
class RunSettings:
    """What decides the content of a run; a run is only continued under the same ones. Names are the flags' own."""

    model_name: str
    source_file: str
    """Name of the questions file, without its folder."""
    questions_sha256: str
    prompt_sha256: str
    tools_sha256: str
    """Hash of the names, input schemas and mapping of the tools."""
    temperature: float
    max_tokens: int
    max_turns: int
    max_tool_calls: int
    tool_role: ToolRole
    instance_id: str | None = None
    hard_gates: tuple[str, ...] = HARD
    """Checks of the finished trajectory that reject it."""

    @classmethod
    def restored(cls, stored: dict[str, Any]) -> "RunSettings":
        """From what was written to `run.json`."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
        }
        return cls(**values)

    @property
    def made_under(self) -> str:
        """A hash of what decides the content of a trajectory beside its question."""
        values = {name: value for name, value in asdict(self).items() if name not in _OF_THE_RUN}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def difference(self, other: dict[str, Any]) -> list[str]:
        """A line for each setting in which a stored run differs, `name: theirs -> ours`; empty when none does."""
        mine = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        names = [field.name for field in fields(self)]
        other = {**_defaults(), **other}  # a run that was started before a setting was there had its default
        return [
            f"{_HASHED[name]} ({name})" if name in _HASHED else f"{name}: {other.get(name)!r} -> {mine[name]!r}"
            for name in names
            if other.get(name) != mine[name]
            and not (name == "hard_gates" and other.get(name) in _EARLIER_HARD and self.hard_gates == HARD)
        ]


def _defaults() -> dict[str, Any]:
    found = {field.name: field.default for field in fields(RunSettings) if field.default is not MISSING}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
