"""A run, wired once: from a checked configuration to closed files, in one process or in several."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from backends.errors import UsageError
from backends.services import Services
from batch import flags
from batch.acquire import Acquired, acquire_run
from batch.actor import Looked
from batch.config import RunConfig
from batch.flags import changed, from_dict
from batch.logs import calls_to, ends, log
from batch.on_ray import ClusterRollouts, ClusterSteps
from batch.outage import Outages
from batch.parts import files_of
from batch.prepare import Prepared
from batch.progress import Progress
from batch.questions import check_questions
from batch.ray_cluster import open_cluster
from batch.records import put_in_order
from batch.rollout import RETRY_WAITS, Rollout
from batch.run_files import Ids, RunFiles, read_run
from batch.runner import Runner
from batch.saver import open_saver
from batch.start import STARTING, graph_of, open_when_up, safe_prompt, try_first_request
from batch.stop import Stopped, StopSignal
from batch.token_files import finish_tokens
from batch.watch import watched
from batch.worker_checkpoints import gather
from batch.workers import run_workers, watch_first_process
from graph.queued_writes import QueuedWrites

_NAMED = 20
"""Skipped rows that are named one by one."""
_EXIT_CODES = {"interrupted": 130, "outage": 1, "worker": 1}


@dataclass(frozen=True)
class RunResult:
    """How a run ended: its statistics, its files, and the exit code."""

    stats: dict[str, Any]
    files: RunFiles
    code: int


async def generate(
    prepared: Prepared, waits: tuple[float, ...] = RETRY_WAITS, to_log: Callable[[Path], None] | None = None
) -> RunResult:
    """Work through the questions: of the run that was named, else of one that fits, else of a new one, whose log
    `to_log` is told. Raises UsageError.
    """
    config, questions, run = prepared.config, prepared.questions, prepared.run
    if questions.repeated and not config.dedupe:
        row, before = questions.first_repeated
        log.warning(
            "%d questions stand more than once (row %d is row %d): --dedupe asks each once",
            questions.repeated, row, before,
        )  # fmt: skip
    bad_rows = questions.bad_rows()
    if len(bad_rows) > _NAMED:
        log.warning("skipped: %d rows of %s; the first of them:", len(bad_rows), config.questions_file)
    for bad in bad_rows[:_NAMED]:
        log.warning("skipped: %s, line %d: %s", config.questions_file, bad.line, bad.why)
    if config.samples.most > 1 and config.model.sampling.temperature < 0.5:
        log.warning(
            "several samples of a question at --temperature %g are much alike", config.model.sampling.temperature
        )
    stop = StopSignal()
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(open_cluster(config, stop)) if config.ray else None
        if cluster:
            looked = await cluster.look(prepared)
        else:
            services = await open_when_up(stack, config, stop, starting=STARTING)
            looked = await _look(prepared, services)
        prompt = looked.prompt
        settings = config.settings(questions.sha256, prompt, looked.tools_sha256)
        with acquire_run(config, settings, prompt, questions.asked, run) as acquired:
            files = acquired.files
            if to_log:
                to_log(files.log)
            ends.info("settings: %s", json.dumps(flags.to_dict(config), ensure_ascii=False))
            if config.checkpoints is None:
                await asyncio.to_thread(gather, files.checkpoints, files.worker_checkpoints)
            progress, code = Progress(files, questions, config, acquired.ids), 0
            if cluster:
                try:
                    await cluster.begin(files, read_run(files.run)[1])
                except Stopped as error:
                    raise UsageError("--ray: no actor can begin: fix that and run the same command") from error
            started = time.monotonic()
            try:
                with stop.on_signals():
                    async with open_saver(config.checkpoints, files.checkpoints) as saver:
                        steps = ClusterSteps(cluster) if cluster else saver
                        await progress.load_finished(steps, changed=acquired.changed, redo=acquired.redo)
                        progress.write_stats(0.0)  # what is true now, should this process be killed
                        log.info("%s", looked.found)
                        log.info("%s", _word(acquired, progress))
                        if files_of(files.tokens) and not config.model.keep_token_ids:
                            log.warning("the tokens of its earlier replies were kept, those to come are not")
                        if acquired.named_alike:
                            log.warning(
                                "its samples get the same ids as those of %s: a training set of both is refused; give "
                                "--instance-id or another --output",
                                ", ".join(one.stem for one in acquired.named_alike[:3]),
                            )
                        if cluster:
                            async with watched(progress, started):
                                rollouts = ClusterRollouts(cluster, acquired.ids)
                                await Runner(rollouts, progress, config, stop).run()
                        elif config.workers == 1:
                            async with watched(progress, started):
                                await _run_here(config, services, saver, acquired, progress, stop, waits)
                    if config.workers > 1 and not cluster:
                        async with watched(progress, started):
                            code = await run_workers(config, progress, stop)
                if not config.incremental and not stop.reason:
                    put_in_order(files.trajectories)
            finally:
                stats = progress.write_stats(time.monotonic() - started)
                with contextlib.suppress(OSError):
                    progress.save_index(at_end=True)
                with stop.on_signals():
                    for what, finish in (
                        ("the table of tokens", partial(finish_tokens, files.tokens)),
                        ("the copy", partial(progress.upload, at_end=True)),
                    ):
                        try:
                            await asyncio.to_thread(finish)
                        except (OSError, UsageError) as error:
                            log.error("%s is not whole, the same command completes it: %s", what, error)
                            code = code or 1
    if not code and stop.reason and stats["pending"]:
        code = _EXIT_CODES[stop.reason]
    return RunResult(stats, files, code or int(bool(stats["failed"] or stats["pending"])))


async def _look(prepared: Prepared, services: Services) -> Looked:
    """The prompt to work under, and what the services are."""
    run, config = prepared.run, prepared.config
    stored = str(read_run(run.run)[1].get("prompt")) if run else None
    prompt = stored or safe_prompt(config, services.tools.descriptions, prepared.prompt_file)
    question = next((row["question"] for _, row in prepared.questions.stream()), "")
    return Looked(prompt, services.tools_sha256, await try_first_request(services, prompt, question))


def _word(acquired: Acquired, progress: Progress) -> str:
    """What the command does with which run, and what it leaves alone."""
    left = progress.asked - progress.stats.counts.total()
    counts = ", ".join(f"{progress.stats.counts[kind]:,} {kind}" for kind in ("accepted", "rejected"))
    said = f"{'begins' if acquired.is_new else 'goes on with'} {acquired.files.run}: {counts}, {left:,} to do"
    if not left:
        said = f"{acquired.files.run} is already complete: {counts} (another: --fresh; those anew: --redo rejected)"
    if acquired.redo:
        said += f"; {len(acquired.redo):,} rejected are sampled anew"
    for other in acquired.others[:3]:
        differs = "; ".join(other.changed) or "an older one of the same settings"
        said += f"; left alone, unfinished: {other.files.run} ({differs})"
    return said


async def work(run: Path, worker: int, workers: int, limit: int | None) -> int:
    """Be one of a run's processes: work through its share of the questions. Returns the exit code."""
    files, content = read_run(run)
    config = changed(from_dict(RunConfig, content["options"]), api_key=os.environ.get("OPENAI_API_KEY"))
    if config.verbose:
        calls_to(files.log)
    stop = StopSignal()
    watch_first_process(stop)
    share = config.share().of(worker, workers)
    questions = check_questions(
        config.questions_file, skip_bad_rows=True, limit=limit, share=share, dedupe=config.dedupe
    )
    if questions.sha256 != content["settings"]["questions_sha256"]:
        raise UsageError(f"{config.questions_file} was changed during the run: put it back and run the same command")
    ids = Ids.of_run(files, content)
    acquired = Acquired(files, content["settings"], str(content["prompt"]), ids)
    progress = Progress(files, questions, config, ids)
    progress.read_finished()
    config = changed(config, concurrency=-(-config.concurrency // workers), shared_by=workers)
    async with AsyncExitStack() as stack:
        with contextlib.suppress(Stopped):
            services = await open_when_up(stack, config, stop, starting=None)
            own = files.checkpoints_of(worker, workers)
            saver = await stack.enter_async_context(open_saver(config.checkpoints, own))
            await _run_here(config, services, saver, acquired, progress, stop)
    return _EXIT_CODES[stop.reason] if stop.reason else 0


async def _run_here(
    config: RunConfig,
    services: Services,
    saver: QueuedWrites,
    acquired: Acquired,
    progress: Progress,
    stop: StopSignal,
    waits: tuple[float, ...] = RETRY_WAITS,
) -> None:
    """Work through what is pending in this process."""
    stop.on_request.append(services.chat.close)
    probes = {"model": services.chat.probe, "tool": services.tools.probe}
    outages = Outages(probes, stop, config.max_downtime)
    graph = graph_of(config, services, acquired.prompt, saver)
    rollout = Rollout(
        graph, saver, config, acquired.settings, acquired.ids, stop, outages.wait_for_recovery, services.chat, waits
    )
    await Runner(rollout, progress, config, stop).run()
