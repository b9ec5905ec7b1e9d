"""The flags of `generate` as data: stored in `…_run.json`, so that `resume` and Studio can repeat them."""

import hashlib
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.errors import UserError
from batch.settings import RunSettings, Samples
from graph.limits import TOOL_NAMES, Limits, ToolRole
from nodes.prompts import system_prompt
from quality.gates import HARD, check_names

if TYPE_CHECKING:
    from backends.cassette import ToolsMode

_ABOVE_ZERO = (
    "concurrency", "workers", "limit", "samples_per_question", "accept", "max_samples", "max_turns", "max_tokens",
    "max_model_len", "max_downtime", "model_timeout", "tool_timeout",
)  # fmt: skip
_LONGEST_PROMPT = 1_000_000
_NOT_STORED = ("fresh", "allow_changed_settings")


@dataclass(frozen=True)
class GenerateOptions:
    """One name from flag to file. Paths are made absolute when stored; the model server's key is never in here."""

    questions_file: Path
    local_model_url: str = "http://localhost:8000/v1"
    model_name: str = "Qwen3-8B"
    output: Path = Path("pubmed_training_data")
    concurrency: int = 5
    workers: int = 1
    limit: int | None = None
    samples_per_question: int = 1
    accept: int | None = None
    max_samples: int | None = None
    incremental: bool = True
    instance_id: str | None = None
    mcp_url: str | None = None
    tools: tuple[str, ...] = TOOL_NAMES
    tool_map: tuple[str, ...] = ()
    tool_role: ToolRole = "tool"
    system_prompt_file: Path | None = None
    temperature: float = 0.1
    max_tokens: int = Limits.max_tokens
    max_turns: int = Limits.max_turns
    max_tool_calls: int = Limits.max_tool_calls
    model_timeout: float = 180.0
    max_model_len: int | None = None
    tool_timeout: float = 120.0
    cassette: Path | None = None
    tools_mode: "ToolsMode" = "auto"
    hard_gates: tuple[str, ...] = HARD
    skip_bad_rows: bool = False
    keep_checkpoints: bool = False
    max_downtime: float | None = None
    fresh: bool = False
    allow_changed_settings: bool = False

    @property
    def samples(self) -> Samples:
        """How many trajectories each question is to have."""
        if self.accept is None:
            return Samples(self.samples_per_question, None)
        return Samples(self.max_samples or 4 * self.accept, self.accept)

    @property
    def limits(self) -> Limits:
        """The bounds that the graph enforces."""
        return Limits(self.max_turns, self.max_tool_calls, self.max_tokens)

    def check(self) -> None:
        """Raises UserError for a value that makes no sense."""
        for name in _ABOVE_ZERO:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"--{name.replace('_', '-')} {value}: give a number above 0")
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"--{item.name.replace('_', '-')} {value}: give a number")
        if self.tools_mode != "auto" and self.cassette is None:
            raise UserError(f"--tools-mode {self.tools_mode}: name the file with --cassette")
        check_names(self.hard_gates)
        if self.accept is not None and self.samples_per_question > 1:
            raise UserError("--samples-per-question and --accept do not go together: one counts all, the other the fit")
        if self.max_samples is not None and self.max_samples < (self.accept or self.max_samples + 1):
            raise UserError(f"--max-samples {self.max_samples}: it goes with --accept, and is not below it")
        if not self.tools:
            raise UserError("--tools: name at least one tool")
        if self.max_tool_calls < 0 or not 0 <= self.temperature <= 2:
            raise UserError("--max-tool-calls must not be negative, --temperature lies between 0 and 2")

    def prompt(self) -> str:
        """The system prompt, read: the file's, else the built-in one for these tools and limits."""
        path = self.system_prompt_file
        if path is None:
            return system_prompt(self.limits, self.tools)
        try:
            with path.open("rb") as source:
                text = source.read(_LONGEST_PROMPT + 1).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--system-prompt-file {path}: {error}") from error
        if not text.strip() or len(text) > _LONGEST_PROMPT:
            raise UserError(f"--system-prompt-file {path}: {'it is empty' if not text.strip() else 'it is too long'}")
        return text

    def settings(self, questions_sha256: str, prompt: str, tools_sha256: str) -> RunSettings:
        """What decides the content of the run."""
        return RunSettings(
            model_name=self.model_name,
            source_file=self.questions_file.name,
            questions_sha256=questions_sha256,
            prompt_sha256=text_sha256(prompt),
            tools_sha256=tools_sha256,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            max_turns=self.max_turns,
            max_tool_calls=self.max_tool_calls,
            tool_role=self.tool_role,
            instance_id=self.instance_id,
            hard_gates=self.hard_gates,
        )

    def stored(self) -> dict[str, Any]:
        """As JSON."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in _NOT_STORED}
        return {name: str(value.absolute()) if isinstance(value, Path) else value for name, value in values.items()}

    @classmethod
    def restored(cls, stored: dict[str, Any]) -> "GenerateOptions":
        """From what `stored` wrote. Raises UserError when it was not that."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
        }
        for name in ("questions_file", "output", "system_prompt_file", "cassette"):
            values[name] = Path(values[name]) if values.get(name) else None
        try:
            return cls(**values)
        except TypeError as error:
            raise UserError(f"the run's stored options do not fit this version: {error}") from error


def text_sha256(text: str) -> str:
    """The hash of a text."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
