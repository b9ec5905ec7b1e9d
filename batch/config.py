"""The configuration of a run: what the flags say, what `run.json` keeps, what `resume` and Studio repeat."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from backends.bounded import check_database
from backends.config import ModelConfig, ToolsConfig
from backends.errors import UsageError, extra_missing
from backends.setting import setting
from batch import flags
from batch.questions import Share
from batch.remote import place
from graph.limits import Limits, ToolRole
from quality.gates import DEFAULT_HARD_GATES, check_names
from serializers.record import sample_of

_PART = 1_000
"""Records in a part that is uploaded, where nothing else is said."""
_LONGEST_PROMPT = 1_000_000
_EARLIER_HARD_GATES = (
    "unclosed_answer", "no_answer", "truncated", "forged_tool_output", "unbalanced_tags", "call_limit_passed",
)  # fmt: skip
Settings = dict[str, Any]
"""What decides the content of a run, flat and as JSON: the compared settings, the name of the questions file
(`source_file`), and the hashes of questions, prompt and tools. A run is only resumed under the same ones.
"""
HASHED = {
    "questions_sha256": "another content of the questions file",
    "prompt_sha256": "another system prompt",
    "tools_sha256": "other tools, or other input schemas of theirs",
}
"""What a run is compared by that no flag says."""
_HASHED_FIRST = (
    "max_tokens", "max_tool_calls", "max_turns", "model_name", "prompt_sha256", "temperature", "tool_role",
    "tools_sha256",
)  # fmt: skip
"""What the hash of a trajectory's settings held at first."""
_OF_THE_RUN = ("source_file", "questions_sha256", "instance_id", "hard_gates", "shard")
"""Settings in which two trajectories may differ that were made alike."""


@dataclass(frozen=True)
class Samples:
    """How many trajectories a question gets."""

    samples_per_question: int = setting(1, "Trajectories for each question, each with its seed.", "Samples", above=0)
    accept: int | None = setting(None, "Sample each question until so many are accepted …", "Samples", above=0)
    max_samples: int | None = setting(None, "… or so many spent (else four times as many).", "Samples", above=0)
    fork_at: int | None = setting(
        None, "The other samples go on from the first one's so many calls.", "Samples", above=0, compared=True
    )

    @property
    def most(self) -> int:
        """As many as a question gets at most."""
        return self.samples_per_question if self.accept is None else self.max_samples or 4 * self.accept

    def check(self) -> None:
        """Raises UsageError for flags that do not go together."""
        if self.accept is not None and self.samples_per_question > 1:
            raise UsageError(
                "--samples-per-question and --accept do not go together: one counts all, the other the accepted"
            )
        if self.fork_at is not None and self.most == 1:
            raise UsageError(f"--fork-at {self.fork_at}: it goes with --samples-per-question or --accept")
        if self.max_samples is not None and self.max_samples < (self.accept or self.max_samples + 1):
            raise UsageError(f"--max-samples {self.max_samples}: it goes with --accept, and is not below it")


@dataclass(frozen=True)
class RunConfig:
    """One name from flag to file. A setting is added here or to the part that it belongs to, and used where it acts."""

    questions_file: Path | str = setting(help="JSONL (.gz, .zst), Parquet, a folder of them; also s3://, hf://.")
    output: Path = setting(Path("pubmed_training_data"), "Folder for the run's files.")
    concurrency: int = setting(5, "Questions worked on at the same time.", above=0, high=100_000)
    workers: int = setting(1, "Processes to share them, when one CPU is saturated.", above=0, high=1000)
    ray: str | None = setting(None, "A Ray cluster to run on: auto, HOST:PORT, or local.", stored=False)
    limit: int | None = setting(None, "Only the first so many questions.", above=0)
    shard: str | None = setting(None, "I/N: the I-th of N shares, for machines started apart.", compared=True)
    incremental: bool = setting(True, "Put the trajectories in order at the end.")
    records_per_file: int | None = setting(None, "Seal the records in parts of so many.", above=0)
    zstd: bool = setting(False, "Pack sealed parts (.jsonl.zst).")
    upload_to: str | None = setting(None, "Copy sealed parts to this s3:// folder, and go on from it.")
    instance_id: str | None = setting(None, "Keeps runs apart that share an output folder.", compared=True)
    max_downtime: float | None = setting(None, "End the run when a server stays down so many seconds.", above=0)
    skip_bad_rows: bool = setting(False, "Report unusable rows and go on.")
    dedupe: bool = setting(False, "Ask a question that stands more than once only once.")
    verbose: bool = setting(False, "Write each request and each call to the run's log, too.", short="-v")
    system_prompt_file: Path | None = setting(None, "Replaces the built-in system prompt.", "Model")
    tool_role: ToolRole = setting("tool", "Role of tool outputs in the prompt.", "Model", compared=True)
    hard_gates: tuple[str, ...] = setting(
        DEFAULT_HARD_GATES, "Checks that reject a trajectory; see README.", "Limits", listed=True, compared=True,
        was=(_EARLIER_HARD_GATES,),
    )  # fmt: skip
    fresh: bool = setting(False, "Start another run, resume none.", "Resuming", stored=False)
    allow_changed_settings: bool = setting(False, "Resume a run under other settings.", "Resuming", stored=False)
    redo: str | None = setting(None, "`rejected`, or a reason: sample those anew.", "Resuming", stored=False)
    keep_checkpoints: bool = setting(False, "Keep finished steps.", "Resuming")
    checkpoints: str | None = setting(None, "postgresql://…: the steps go there, not into a file.", "Resuming")
    model: ModelConfig = field(default_factory=ModelConfig)
    tools: ToolsConfig = field(default_factory=ToolsConfig)
    limits: Limits = field(default_factory=Limits)
    samples: Samples = field(default_factory=Samples)

    def share(self) -> Share:
        """The questions that are this run's. Raises UsageError for a `--shard` that is none."""
        if self.shard is None:
            return Share()
        match = re.fullmatch(r"([1-9]\d{0,4})/([1-9]\d{0,4})", self.shard)
        if not match or int(match[1]) > int(match[2]):
            raise UsageError(f"--shard {self.shard}: give I/N, from 1/N to N/N")
        return Share(int(match[1]) - 1, int(match[2]))

    @property
    def most_in_part(self) -> int | None:
        """Records in a part; None where all are in one file."""
        return self.records_per_file or (_PART if self.upload_to else None)

    @property
    def source_file(self) -> str:
        """The name of the questions file."""
        return str(self.questions_file).rstrip("/").rpartition("/")[2]

    def check(self) -> None:
        """Raises UsageError for a value that makes no sense."""
        flags.check(self)
        self.share()
        if self.instance_id is not None and not (0 < len(self.instance_id) <= 80 and self.instance_id.isprintable()):
            raise UsageError("--instance-id: give a name of 1 to 80 letters that can be printed")
        self.samples.check()
        if self.samples.fork_at and self.ray:
            raise UsageError("--fork-at: the samples of a question are on several nodes under --ray: leave one out")
        if re.match(r"[a-z0-9]+:/", str(self.output)):
            raise UsageError(f"--output {self.output}: give a folder to work in, and --upload-to s3://… for its copy")
        if self.upload_to is not None and (not isinstance(place(self.upload_to), str) or self.upload_to[:3] == "hf:"):
            raise UsageError(f"--upload-to {self.upload_to}: give s3://BUCKET/FOLDER")
        if self.model.keep_token_ids and not find_spec("pyarrow"):
            raise extra_missing("--keep-token-ids", "training")
        if self.checkpoints is not None:
            check_database(self.checkpoints)
        check_names(self.hard_gates)

    def seed_of(self, sample_id: str) -> int | None:
        """Each of several samples has a seed of its own: they count on from `--sampling`'s, else from 1."""
        if self.samples.most == 1:
            return None
        return int(str(self.model.sampling.sampling.get("seed", 1))) + sample_of(sample_id)[1] - 1

    def prompt(self) -> str | None:
        """The system prompt of `--system-prompt-file`, read; None where the built-in one is meant."""
        return read_prompt(self.system_prompt_file) if self.system_prompt_file else None

    def settings(self, questions_sha256: str, prompt: str, tools_sha256: str) -> Settings:
        """What decides the content of this run."""
        return {
            **flags.compared(self), "source_file": self.source_file, "questions_sha256": questions_sha256,
            "prompt_sha256": text_sha256(prompt), "tools_sha256": tools_sha256,
        }  # fmt: skip


def made_under(settings: Settings) -> str:
    """A hash of what decides the content of a trajectory beside its question. A setting that was added since counts
    only where it is not as by default, so that the hashes of earlier versions stay.
    """
    defaults = flags.defaults(RunConfig)
    values = {
        name: value
        for name, value in settings.items()
        if name in _HASHED_FIRST or (name not in _OF_THE_RUN and value != defaults.get(name))
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def differences(theirs: Settings, ours: Settings) -> list[str]:
    """A line for each setting in which a stored run differs, `name: theirs -> ours`; none when it is the same."""
    return [
        f"{HASHED[name]} ({name})" if name in HASHED else f"{name}: {theirs.get(name)!r} -> {ours[name]!r}"
        for name in flags.differences(RunConfig, theirs, ours)
    ]


def text_sha256(text: str) -> str:
    """The hash of a text."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def read_prompt(path: Path) -> str:
    """A system prompt in a file. Raises UsageError for one that cannot be read, is empty, or too long."""
    try:
        with path.open("rb") as source:
            text = source.read(_LONGEST_PROMPT + 1).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--system-prompt-file {path}: {error}") from error
    if not text.strip() or len(text) > _LONGEST_PROMPT:
        raise UsageError(f"--system-prompt-file {path}: {'it is empty' if not text.strip() else 'it is too long'}")
    return text
