"""What a command has to read before it asks anything: checked settings, the questions, the prompt's file, once each."""

import json
from dataclasses import dataclass

from backends.errors import UsageError
from backends.mcp_servers import absolute
from batch import flags
from batch.config import RunConfig, text_sha256
from batch.find_run import Found, as_found, find_run
from batch.flags import changed
from batch.index import RunIndex
from batch.questions import QuestionsFile
from batch.questions_cache import checked_questions
from batch.run_copy import fetch_missing
from batch.run_files import KINDS, RunFiles, check_writable, read_run

_MOST_SORTED = 1_000_000


@dataclass(frozen=True)
class Prepared:
    """A command that can begin."""

    config: RunConfig
    questions: QuestionsFile
    prompt_file: str | None
    """The system prompt that a file replaces the built-in one with."""
    run: RunFiles | None
    """The run that `resume` names."""
    found: RunFiles | None
    """The run that the command is about, as far as is known before the tools are."""
    is_done: bool
    """Whether nothing is left to do in it."""


def prepare(config: RunConfig, run: RunFiles | None = None) -> Prepared:
    """Read what a command names. Raises UsageError for what is wrong with it."""
    config.check()
    config = changed(config, mcp=tuple(map(absolute, config.tools.mcp)))
    if not config.tools.mcp:
        config = changed(config, mcp_url=config.tools.url)
    prompt_file = None if run else config.prompt()
    questions = checked_questions(
        config.questions_file, config.output, skip_bad_rows=config.skip_bad_rows, limit=config.limit,
        share=config.share(), dedupe=config.dedupe,
    )  # fmt: skip
    if not config.incremental and questions.asked > _MOST_SORTED:
        raise UsageError(
            f"--no-incremental puts records in order at the end, of {_MOST_SORTED:,} questions at most: leave it out"
        )
    if not config.incremental and config.most_in_part:
        raise UsageError(
            "--no-incremental puts one file in order, --records-per-file (or --upload-to) makes several: leave one out"
        )
    check_writable(config.output)
    if config.upload_to:
        fetch_missing(config)
    found = _found(config, questions, prompt_file, run)
    done = found is not None and found.complete and found.known and not config.redo
    done = done and found is not None and _same_tools(config, found) and _is_whole(found.files)
    return Prepared(config, questions, prompt_file, run, found.files if found else None, done)


def first_word(prepared: Prepared) -> str:
    """What the command is about to do, before any server is asked."""
    config, questions, tools = prepared.config, prepared.questions, prepared.config.tools
    does = f"goes on with {prepared.found.stem}" if prepared.found else "begins a run"
    servers = [*(() if tools.mcp and not tools.mcp_url else (tools.url,)), *(word.split()[0] for word in tools.mcp)]
    return (
        f"{does}: {questions.asked:,} question{'s' * (questions.asked != 1)} of {config.questions_file}, model "
        f"{config.model.model_name} at {config.model.where}, tools {', '.join(config.tools.tools)} at "
        f"{', '.join(servers)}"
    )


def _found(config: RunConfig, questions: QuestionsFile, prompt_file: str | None, run: RunFiles | None) -> Found | None:
    """The run that the command is about, as far as can be known without its tools."""
    about = {"source_file": config.source_file, "questions_sha256": questions.sha256}
    settings = flags.compared(config) | about
    if prompt_file is not None:
        settings["prompt_sha256"] = text_sha256(prompt_file)
    if run:
        return as_found(config, settings, "", questions.asked, *read_run(run.run), resumed=False)
    return find_run(config, settings, "", questions.asked)[0]


def _same_tools(config: RunConfig, found: Found) -> bool:
    """Whether what decides the prompt and the tools is the same, without asking a server: else it is compared there."""
    theirs, ours = found.content["options"], flags.to_dict(config)
    alike = all(theirs.get(name) == ours[name] for name in ("tools", "tool_map", "mcp", "mcp_url"))
    return alike and bool(theirs.get("system_prompt_file")) == bool(ours["system_prompt_file"])


def _is_whole(files: RunFiles) -> bool:
    """Whether a run's files have as many records as its statistics say: a line that was taken out is asked again."""
    stats, counts = json.loads(files.stats.read_text(encoding="utf-8")), RunIndex.read(files).stats.counts
    return all(counts[kind] == stats[kind] for kind in KINDS)
