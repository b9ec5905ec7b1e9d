"""Which run a command works on: the newest unfinished one that was made alike, else a complete one, else a new one."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backends.errors import UsageError
from batch import flags
from batch.config import HASHED, RunConfig, Settings, differences, text_sha256
from batch.records import read_lines, sample_ids, summaries
from batch.run_files import RunFiles, runs_in
from serializers.record import sample_of

_QUESTIONS = "questions_sha256"
_WANTED = ("samples_per_question", "accept", "max_samples", "dedupe")
"""What decides, beside the questions, how many samples a run is to have."""
_SAME_RUN = ("source_file", "model_name", "instance_id", "shard")


@dataclass(frozen=True)
class Found:
    """A stored run as a command would go on with it: under these settings and this prompt."""

    files: RunFiles
    content: dict[str, Any]
    settings: Settings
    prompt: str
    changed: Sequence[str]
    """A line for each setting in which it was made otherwise; empty when it is the same."""
    complete: bool
    known: bool
    """Whether it has been worked on under these settings, perhaps with others since: by `--redo`, say."""

    @property
    def same_flags(self) -> bool:
        """Whether what differs is what the flags name, not the flags: the questions, the prompt's text, the tools."""
        ours = {name: value for name, value in self.settings.items() if name not in HASHED}
        return not flags.differences(RunConfig, self.content["settings"], ours)


def find_run(config: RunConfig, settings: Settings, prompt: str, asked: int) -> tuple[Found | None, list[Found]]:
    """The run in the output folder that a command is about, and the unfinished others of the same questions, model and
    instance, newest first. `asked` is how many questions the command asks. `settings` may lack what is not known yet.
    """
    runs = [
        as_found(config, settings, prompt, asked, files, content, resumed=False)
        for files, content in reversed(runs_in(config.output, strict=not config.fresh))
        if is_same_run(content["settings"], config)
    ]
    unfinished = [run for run in runs if not run.complete]
    if config.redo and config.fresh:
        raise UsageError("--redo and --fresh do not go together: one goes on with a run, the other begins one")
    if config.redo:
        ranked = [*(run for run in runs if not run.changed), *(run for run in runs if run.known), *runs]
        asked_same = [run for run in ranked if run.content["settings"].get(_QUESTIONS) == settings[_QUESTIONS]]
        chosen = next(iter(ranked if config.allow_changed_settings else asked_same), None)
        if not chosen:
            raise UsageError(f"--redo {config.redo}: there is no run of these questions and this model to redo it in")
    elif config.fresh:
        chosen = None
    elif config.allow_changed_settings:
        ranked = [*(run for run in unfinished if not run.changed), *unfinished, *runs]
        chosen = next(iter(ranked), None)
    else:
        ranked = [
            *(run for run in unfinished if not run.changed), *(run for run in unfinished if run.known),
            *(run for run in runs if not run.changed), *(run for run in runs if run.known),
            *(run for run in unfinished if run.same_flags),
        ]  # fmt: skip
        chosen = next(iter(ranked), None)
    return chosen, [run for run in unfinished if run is not chosen]


def is_same_run(theirs: Settings, config: RunConfig) -> bool:
    """Whether a stored run may be the one that a command is about, by what never changes in it."""
    ours = {**flags.compared(config), "source_file": config.source_file}
    return all(theirs.get(name) == ours[name] for name in _SAME_RUN)


def as_found(
    config: RunConfig, settings: Settings, prompt: str, asked: int, files: RunFiles, content: dict[str, Any],
    *, resumed: bool,
) -> Found:  # fmt: skip
    """A run, compared with what a command says. `resumed` is one that was named, and keeps its own prompt."""
    settings, prompt = _under_stored_prompt(config, settings, prompt, content, resumed=resumed)
    changed = differences(content["settings"], settings)
    known = not changed or any(not differences(earlier, settings) for earlier in content.get("earlier_settings", ()))
    return Found(files, content, settings, prompt, changed, _is_complete(files, config, asked), known)


def _under_stored_prompt(
    config: RunConfig, settings: Settings, prompt: str, content: dict[str, Any], *, resumed: bool
) -> tuple[Settings, str]:
    """A run that is resumed keeps the text that it was started with: `resume` whatever the file says now, `generate`
    where no file is given and the built-in text has another wording in this version.
    """
    theirs, stored, options = content["settings"], content.get("prompt"), content["options"]
    alike = theirs.get("max_tool_calls") == settings["max_tool_calls"] and tuple(
        options.get("tools") or config.tools.tools
    ) == tuple(config.tools.tools)
    built_in = not config.system_prompt_file and not options.get("system_prompt_file") and alike
    if "prompt_sha256" not in settings or not (resumed or built_in) or not isinstance(stored, str):
        return settings, prompt
    if text_sha256(stored) != theirs.get("prompt_sha256"):
        if not resumed:
            return settings, prompt
        raise UsageError(
            "the run's stored prompt is not the one that it was started with: start another run with --fresh"
        )
    return {**settings, "prompt_sha256": text_sha256(stored)}, stored


def _is_complete(files: RunFiles, config: RunConfig, asked: int) -> bool:
    """Whether a run had nothing left to do, for so many questions, when it was last worked on."""
    try:
        left = json.loads(files.stats.read_text(encoding="utf-8"))
        if left["pending"] or left["failed"] or left["questions"] < asked or any(read_lines(files.failed)):
            return False
        theirs = json.loads(files.run.read_text(encoding="utf-8"))["options"]
        ours, defaults = flags.to_dict(config), flags.defaults(RunConfig)
        return all(theirs.get(name, defaults[name]) == ours[name] for name in _WANTED)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def rejected_for(files: RunFiles, wanted: str, accept: int | None = None) -> set[str]:
    """The ids of a run's rejected samples, or of those with this reason; not of questions that have as many
    accepted as they are to have. Raises UsageError for none.
    """
    reasons: dict[str, int] = {}
    found = set[str]()
    accepted = Counter(sample_of(name)[0] for name in sample_ids(files.trajectories)) if accept else Counter[int]()
    for row in summaries(files.rejected):
        named = list(map(str, row["metadata"].get("reject_reasons") or ["no_answer"]))
        reasons |= {name: reasons.get(name, 0) + 1 for name in named}
        has_enough = accept is not None and accepted[sample_of(row["sample_id"])[0]] >= accept
        found |= {row["sample_id"]} if wanted in ("rejected", *named) and not has_enough else set()
    if not found:
        there = ", ".join(f"{name} {count}" for name, count in sorted(reasons.items(), key=lambda one: -one[1]))
        raise UsageError(
            f"--redo {wanted}: {files.rejected} has no such sample; " + (f"it has: {there}" if there else "it has none")
        )
    return found
