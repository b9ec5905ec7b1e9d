"""What a command would do, without asking a server: settings, counts, prompt, first request."""

import json
from typing import Any

from backends.chat_model import open_chat_model
from backends.config import TOOL_NAMES
from backends.model_client import ChatClient
from backends.services import open_tools
from batch.config import RunConfig
from batch.find_run import find_run
from batch.flags import to_dict
from batch.progress import Progress
from batch.questions import check_questions
from batch.run_files import Ids, RunFiles
from batch.start import safe_prompt
from nodes.prompts import prompt_messages
from serializers.evidence import failed
from serializers.tags import STOP_STRINGS


async def described(config: RunConfig) -> str:
    """The text of `--dry-run`. Raises UsageError for what would end the command. Only tools that the prompt does not
    know of itself are looked up at their server.
    """
    config.check()
    descriptions: dict[str, tuple[str, str]] = {}
    if config.system_prompt_file is None and not set(config.tools.tools) <= set(TOOL_NAMES):
        async with open_tools(config.tools, concurrency=1, failed=failed) as tools:
            descriptions = tools.descriptions
    prompt = safe_prompt(config, descriptions, config.prompt())
    questions = check_questions(
        config.questions_file, skip_bad_rows=config.skip_bad_rows, limit=config.limit, share=config.share(),
        dedupe=config.dedupe,
    )  # fmt: skip
    settings = config.settings(questions.sha256, prompt, "")
    del settings["tools_sha256"]
    found, _ = find_run(config, settings, prompt, questions.asked)
    files = found.files if found else RunFiles(config.output, "", "")
    ids = Ids.of_run(files, found.content if found else {"settings": settings})
    progress = Progress(files, questions, config, ids)
    if found:
        progress.read_finished(retried=True)
    pending = [(str(progress.next_sample(number)), row["question"]) for number, row in progress.pending_questions()]
    run = f"the run that would be resumed, if its settings are these: {files.run}" if found else "a new run"
    lines = [
        "# settings", _json(to_dict(config)), "", "# counts",
        f"{questions.asked:,} questions, {len(questions.bad_rows()):,} unusable rows, "
        f"{config.samples.most} samples of each at most; {len(pending):,} questions pending; {run}",
        "", "# system prompt", prompt,
    ]  # fmt: skip
    if pending:
        async with open_chat_model(config.model, (url := config.model.servers()[0].url), concurrency=1) as model:
            messages, seed = prompt_messages(prompt, pending[0][1], ()), config.seed_of(pending[0][0])
            request = ChatClient(model, STOP_STRINGS, keep_token_ids=config.model.keep_token_ids).request(
                messages, config.limits.max_tokens, seed
            )
        lines += ["", f"# first request, to {url}/chat/completions", _json(request)]
    return "\n".join(lines)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1)
