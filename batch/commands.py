"""The commands of a run: generate, resume, doctor, status."""

import asyncio
import json
import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backends.command_app import CommandApp
from backends.errors import UsageError
from backends.setting import option
from batch.config import RunConfig
from batch.flags import changed, from_dict, with_flags
from batch.logs import ends, log, log_as_json, run_log, tell
from batch.parts import files_of
from batch.process import run_to_end

if TYPE_CHECKING:
    from backends.model_check import Finding
    from batch.run_files import RunFiles

app = CommandApp()
ApiKey = Annotated[str | None, option("Key of the model server, if it wants one.", "Model", envvar="OPENAI_API_KEY")]
Runs = Annotated[list[Path], typer.Argument(help="Each a …_run.json, or a folder for all runs in it.")]


@app.command()
@with_flags(RunConfig)
def generate(
    config: RunConfig,
    as_json: Annotated[bool, option("Say what happens as JSON lines on stdout.", None, "--json")] = False,
    dry_run: Annotated[bool, option("Print what would run, and ask no model.", None, "--dry-run")] = False,
) -> None:
    """Generate a trajectory for every question. The same command again resumes an unfinished run."""
    if dry_run:
        from batch.dry_run import described

        typer.echo(asyncio.run(described(config)))
        return
    raise typer.Exit(run_to_end(generate_and_report(config, as_json=as_json)))


@app.command()
def resume(
    runs: Runs,
    api_key: ApiKey = None,
    allow_changed_settings: Annotated[bool, option("Resume a run under other settings.")] = False,
) -> None:
    """Resume runs, one after the other, with the flags that they were started with, and retry what failed."""
    from batch.run_files import named_runs

    codes = []
    for files, content in named_runs(runs):
        config = from_dict(RunConfig, content["options"])
        config = changed(config, output=files.folder, api_key=api_key, allow_changed_settings=allow_changed_settings)
        try:
            codes.append(run_to_end(generate_and_report(config, files)))
        except UsageError as error:
            if len(codes) == 0 and len(runs) == 1 and not runs[0].is_dir():
                raise
            log.error("%s", error)
            codes.append(2)
        if codes[-1] == 130:
            break
    raise typer.Exit(max(codes))


@app.command()
@with_flags(RunConfig, optional={"questions_file": Path()})
def doctor(config: RunConfig, as_json: Annotated[bool, option("Print it as JSON.", None, "--json")] = False) -> None:
    """Ask the model and call the tools, with the flags of `generate`, and say what to change. Exit code 1 when a run
    would fail.
    """
    raise typer.Exit(int(asyncio.run(_look(config, as_json))))


@app.command()
def status(
    runs: Runs, follow: Annotated[bool, option("Print it again every few seconds.", None, "--follow")] = False
) -> None:
    """Print how runs are doing, from another terminal: what is written, what is left, how fast, what is stuck."""
    from batch.run_files import named_runs
    from batch.status import status_of

    while True:
        told = []
        for files, content in named_runs(runs):
            try:
                told.append(status_of(files, content))
            except UsageError as error:
                told.append((f"{files.stem}: {error}", False))
        typer.echo("\n".join(text for text, _ in told))
        if not follow or not any(alive for _, alive in told):
            return
        time.sleep(5)


@app.command(hidden=True)
def worker(run: Path, number: int, count: int, limit: int) -> None:
    """One of the processes of `generate --workers`."""
    from batch.run import work

    raise typer.Exit(run_to_end(work(run, number, count, limit or None)))


async def generate_and_report(config: RunConfig, run: "RunFiles | None" = None, *, as_json: bool = False) -> int:
    """A run to its end, with what is told of it then; returns the exit code."""
    from batch.prepare import first_word, prepare
    from batch.run_copy import RunCopy
    from batch.stats import describe, next_commands, quoted
    from batch.token_files import finish_tokens, has_unfinished

    if as_json:
        log_as_json()
    prepared = prepare(config, run)
    with run_log(verbose=config.verbose) as to_log:
        if prepared.is_done and prepared.found:
            files, code = prepared.found, 0
            to_log(files.log)
            stats = json.loads(files.stats.read_text(encoding="utf-8"))
            if has_unfinished(files.tokens):
                try:
                    with files.locked():
                        finish_tokens(files.tokens)
                except (OSError, UsageError) as error:
                    log.error("%s", error)
                    code = 1
            if config.upload_to:
                RunCopy(files, config).complete()
            log.info("%s is already complete (another: --fresh; its rejected anew: --redo rejected)", files.run)
        else:
            log.info("%s", first_word(prepared))
            from batch.run import generate  # takes a second or two to import

            result = await generate(prepared, to_log=to_log)
            files, stats, code = result.files, result.stats, result.code
        records = [[one for one in files_of(path) if _has_content(one)] for path in files.outputs.values()]
        others = [path for path in (files.stats, files.run, files.log) if _has_content(path)]
        written = [*chain.from_iterable(records), *others]
        ends.info("ended, exit code %d: %s", code, describe(stats).replace("\n", "; "))
        if as_json:
            tell(event="end", exit_code=code, stats=stats, files=list(map(str, written)))
        else:
            said = [describe(stats), *(f"  {one}" for paths in (*records, others) for one in _shortly(paths))]
            typer.echo("\n".join([*said, *(f"next: {one}" for one in next_commands(stats, files.run))]))
        if code and stats["pending"]:
            resumes = "run the same command" if config.ray else f"trajgraph resume {quoted(files.run)}"
            log.info("stopped; to resume: %s", resumes)
    return code


def _shortly(paths: list[Path]) -> list[str]:
    """Paths to show; of many parts the first and the last."""
    if len(paths) < 4:
        return list(map(str, paths))
    return [str(paths[0]), f"… {len(paths) - 2} more parts", str(paths[-1])]


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


async def _look(config: RunConfig, as_json: bool) -> bool:
    """Print each finding, and the flags that follow from them; returns whether something is missing."""
    from backends.printable import one_line
    from batch.doctor import findings

    found: list[Finding] = []
    async for finding in findings(config):
        found.append(finding)
        if not as_json:
            typer.echo(one_line(f"{finding.state:<8} {finding.what:<15} {finding.said}"))
    flags = list(dict.fromkeys(flag for finding in found for flag in finding.flags))
    missing = any(finding.state == "missing" for finding in found)
    if as_json:
        rows = [{"state": one.state, "what": one.what, "said": one.said, "flags": list(one.flags)} for one in found]
        typer.echo(json.dumps({"ok": not missing, "findings": rows, "flags": flags}, ensure_ascii=False, indent=1))
    elif flags:
        typer.echo(f"flags to use: {' '.join(flags)}")
    return missing
