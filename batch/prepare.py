"""What a command has to read before it asks anything: checked settings, the questions, the prompt's file, once each."""

import logging
from dataclasses import dataclass

from backends.mcp_servers import absolute
from batch import flags
from batch.config import RunConfig
from batch.find_run import find_run
from batch.flags import changed
from batch.questions import QuestionsFile, check_questions
from batch.run_files import RunFiles, check_writable

log = logging.getLogger("trajgraph")


@dataclass(frozen=True)
class Prepared:
    """A command that can begin."""

    config: RunConfig
    questions: QuestionsFile
    prompt_file: str | None
    """The system prompt that a file replaces the built-in one with."""
    run: RunFiles | None
    """The run that `resume` names."""


def prepare(config: RunConfig, run: RunFiles | None = None) -> Prepared:
    """Read what a command names. Raises UsageError for what is wrong with it."""
    config.check()
    config = changed(config, mcp=tuple(map(absolute, config.tools.mcp)))
    if not config.tools.mcp:
        config = changed(config, mcp_url=config.tools.url)
    prompt_file = None if run else config.prompt()
    questions = check_questions(
        config.questions_file, skip_bad_rows=config.skip_bad_rows, limit=config.limit, share=config.share()
    )
    check_writable(config.output)
    return Prepared(config, questions, prompt_file, run)


def first_word(prepared: Prepared) -> str:
    """What the command is about to do, before any server is asked."""
    config, questions = prepared.config, prepared.questions
    if prepared.run:
        does = f"goes on with {prepared.run.stem}"
    else:
        settings = flags.compared(config) | {
            "source_file": config.questions_file.name, "questions_sha256": questions.sha256,
        }  # fmt: skip
        found, _ = find_run(config, settings, "", questions.asked)
        does = "begins a run" if found is None else f"goes on with {found.files.stem}"
    tools = config.tools
    servers = [*(() if tools.mcp and not tools.mcp_url else (tools.url,)), *(word.split()[0] for word in tools.mcp)]
    return (
        f"{does}: {questions.asked:,} question{'s' * (questions.asked != 1)} of {config.questions_file}, model "
        f"{config.model.model_name} at {config.model.local_model_url}, tools "
        f"{', '.join(config.tools.tools)} at {', '.join(servers)}"
    )
