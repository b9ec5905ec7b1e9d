"""A run, wired: from checked flags to closed files, in one process or in several."""

import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backends.chat_model import ModelAddress
from backends.model_first import ModelFirst
from backends.services import Services, ToolsAddress, default_mcp_url, open_services
from batch.acquire import Acquired, acquired_run
from batch.attempts import Attempts, Away, Stop
from batch.config import GenerateOptions
from batch.outage import Downtimes
from batch.outcomes import Settle, Settler
from batch.questions import check_questions
from batch.run_files import RunFiles, check_writable, read_run
from batch.runner import Batch, BatchSettings, say
from batch.settings import RunSettings
from batch.workers import WorkerPool, meet_foreman, open_workers
from graph.build import build_graph
from graph.checkpoints import ThreadIds, open_checkpoints
from graph.group_saver import GroupSaver
from serializers.escaping import balanced
from serializers.evidence import failed
from serializers.tags import STOP_STRINGS


@dataclass(frozen=True)
class Ended:
    """How a run ended: its statistics, its files, and the exit code."""

    stats: dict[str, Any]
    files: RunFiles
    code: int

    @property
    def stopped(self) -> bool:
        """Whether it was ended before all was settled."""
        return self.code != 0 and bool(self.stats["pending"])


async def generate(options: GenerateOptions, api_key: str | None, run: RunFiles | None = None) -> Ended:
    """Work through the questions: of `run`, else of the last run that fits, else of a new one. Raises UserError."""
    options = replace(options, mcp_url=options.mcp_url or default_mcp_url())
    options.check()
    prompt, strays = ("", []) if run else balanced(options.prompt())
    if strays:
        say(
            f"the system prompt has {', '.join(strays)} without its other half: escaped, as trainers mask by these tags"
        )
    questions = check_questions(options.questions_file, skip_bad_rows=options.skip_bad_rows, limit=options.limit)
    for bad in questions.bad_within(options.limit):
        say(f"skipped: {options.questions_file}, line {bad.line}: {bad.why}")
    check_writable(options.output)
    how = BatchSettings(
        options.concurrency, options.limit, options.incremental, options.keep_checkpoints, options.samples
    )
    stop = Stop()
    async with AsyncExitStack() as stack:
        turn = ModelFirst(put_off=options.concurrency)
        services = await stack.enter_async_context(_services(options, api_key, turn))
        settings = options.settings(questions.sha256, prompt, services.tools_sha256)
        acquired = stack.enter_context(acquired_run(options, settings, prompt, run))
        files = acquired.files
        saver = await stack.enter_async_context(open_checkpoints(files.checkpoints, turn.at_disk))
        stop.told.append(services.chat.in_flight.close)
        probes = {"model": services.chat.probe, "tool": services.tools.probe}
        downtimes = Downtimes(probes, stop, say, options.max_downtime)
        pool: WorkerPool | None = None
        settle: Settle
        if options.workers > 1:
            opened = open_workers(files.run, options.workers, downtimes, stop, say, api_key)
            settle = pool = await stack.enter_async_context(opened)
        else:
            settle = _settler(options, services, saver, acquired, stop, say, downtimes.away, turn)
        batch = Batch(settle, saver, files, questions, acquired.settings, acquired.threads, acquired.changed, how, stop)
        stats = await batch.run()
    if stop.event.is_set() and stats["pending"]:
        return Ended(stats, files, 1 if downtimes.gave_up or (pool and pool.lost) else 130)
    return Ended(stats, files, 1 if stats["failed"] or stats["pending"] else 0)


async def work(run: Path) -> int:
    """Be one of a run's worker processes: settle what the first process asks for."""
    files, content = read_run(run)
    options, settings = GenerateOptions.restored(content["options"]), RunSettings.restored(content["settings"])
    foreman, turn = await meet_foreman(), ModelFirst()
    async with (
        _services(options, os.environ.get("OPENAI_API_KEY"), turn) as services,
        open_checkpoints(files.checkpoints, turn.at_disk) as saver,
    ):
        foreman.stop.told.append(services.chat.in_flight.close)
        threads = ThreadIds(files.run_id, content.get("made_under"))
        acquired = Acquired(files, settings, str(content["prompt"]), threads)
        await foreman.serve(_settler(options, services, saver, acquired, foreman.stop, foreman.say, foreman.away, turn))
    return 0


def _services(options: GenerateOptions, api_key: str | None, turn: ModelFirst) -> AbstractAsyncContextManager[Services]:
    """Both services, to be connected."""
    model = ModelAddress(
        options.local_model_url, options.model_name, api_key, options.temperature, options.model_timeout,
        options.max_model_len,
    )  # fmt: skip
    tools = ToolsAddress(
        str(options.mcp_url), options.tools, options.tool_map, options.tool_timeout, options.cassette,
        options.tools_mode,
    )  # fmt: skip
    return open_services(
        model,
        tools,
        stop=STOP_STRINGS,
        concurrency=options.concurrency,
        failed=failed,
        at_model=turn.at_model,
        away=turn.away,
    )


def _settler(
    options: GenerateOptions, services: Services, saver: GroupSaver, run: Acquired, stop: Stop,
    tell: Callable[[str], None], away: Away, turn: ModelFirst,
) -> Settler:  # fmt: skip
    """The graph around live services, ready to settle questions in this process."""
    graph = build_graph(
        services.chat, services.tools.call, limits=options.limits, system=run.prompt, tools=options.tools,
        tool_role=options.tool_role, checkpointer=saver,
    )  # fmt: skip
    attempts = Attempts(graph, saver, options.limits, stop, tell, away, turn, max_downtime=options.max_downtime)
    return Settler(attempts, run.settings, run.threads, options.samples.most > 1, turn.afterwards)
