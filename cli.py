"""The command line: the commands of a run, beside those of the rooms that have their own."""

import asyncio
import logging
import os
import sqlite3
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from backends.config import ModelConfig, ToolsConfig
from backends.errors import UsageError
from backends.setting import option, setting
from batch.config import RunConfig
from batch.flags import changed, from_dict, with_flags
from batch.process import log_to_stderr, run_to_end
from servers.commands import app as servers_app
from training.commands import app as training_app

if TYPE_CHECKING:
    from batch.run_files import RunFiles

log = logging.getLogger("trajgraph")
app = typer.Typer(
    help="Biomedical questions in, deep-research trajectories out: a LangGraph, a local model, MCP tools.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(servers_app)
app.add_typer(training_app)
ApiKey = Annotated[str | None, option("Key of the model server, if it wants one.", "Model", envvar="OPENAI_API_KEY")]
Run = Annotated[Path, typer.Argument(help="A …_run.json, or its folder for the newest run in it.")]


@app.command()
@with_flags(RunConfig)
def generate(config: RunConfig) -> None:
    """Generate a trajectory for every question. The same command again resumes an unfinished run."""
    raise typer.Exit(run_to_end(_generate(config)))


@app.command()
def resume(
    run: Run,
    api_key: ApiKey = None,
    allow_changed_settings: Annotated[bool, option("Resume a run under other settings.")] = False,
) -> None:
    """Resume a run with the flags that it was started with, and retry what failed."""
    from batch.run_files import read_run

    files, content = read_run(run)
    config = from_dict(RunConfig, content["options"])
    config = changed(config, output=files.folder, api_key=api_key, allow_changed_settings=allow_changed_settings)
    raise typer.Exit(run_to_end(_generate(config, files)))


@app.command()
def demo(
    output: Annotated[Path, option("Folder for the run's files.")] = Path("demo_output"),
    concurrency: Annotated[int, option("Questions worked on at the same time.")] = 4,
) -> None:
    """See it work: bundled questions, a small rule-based model and an offline tool server, all on this machine."""
    raise typer.Exit(run_to_end(_demo(output, concurrency)))


@app.command()
def diagram() -> None:
    """Print the graph as Mermaid."""
    from graph.build import drawing

    typer.echo(drawing(), nl=False)


@app.command()
def studio(
    run: Annotated[Path | None, typer.Argument(help="A …_run.json or its folder, to look into a batch run.")] = None,
    port: Annotated[int, option("Port of the API that Studio talks to.")] = 2024,
    browser: Annotated[bool, option("Open the page.")] = True,
    api_key: ApiKey = None,
) -> None:
    """Open the graph in LangGraph Studio; with RUN, on a copy of that run's checkpoints, which stay untouched."""
    from studio.server import open_studio

    raise typer.Exit(run_to_end(open_studio(run, port, browser, api_key)))


@dataclass(frozen=True)
class Needed:
    """What `doctor` looks at."""

    model: ModelConfig = field(default_factory=ModelConfig)
    tools: ToolsConfig = field(default_factory=ToolsConfig)
    output: Path = setting(Path("pubmed_training_data"), "Folder for the run's files.")


@app.command()
@with_flags(Needed, "local_model_url", "model_name", "api_key", "mcp_url", "tools", "tool_map", "output")
def doctor(needed: Needed) -> None:
    """Look whether the model, the tools, their keys and the folder are there. Exit code 1 when something is missing."""
    from backends.doctor import findings
    from backends.printable import one_line

    async def look() -> bool:
        missing = False
        async for finding in findings(needed.model, needed.tools, needed.output):
            missing |= finding.state == "missing"
            typer.echo(one_line(f"{finding.state:<8} {finding.what:<15} {finding.said}"))
        return missing

    raise typer.Exit(int(asyncio.run(look())))


@app.command()
def status(
    run: Run, follow: Annotated[bool, option("Print it again every few seconds.", None, "--follow")] = False
) -> None:
    """Print how a run is doing, from another terminal: what is written, what is left, how fast it goes."""
    from batch.status import status_line

    while True:
        line, alive = status_line(run)
        typer.echo(line)
        if not follow or not alive:
            return
        time.sleep(5)


@app.command(hidden=True)
def worker(run: Path, number: int, count: int, limit: int) -> None:
    """One of the processes of `generate --workers`."""
    from batch.run import work

    raise typer.Exit(run_to_end(work(run, number, count, limit or None)))


async def _generate(config: RunConfig, run: "RunFiles | None" = None) -> int:
    from batch.run import generate
    from batch.stats import describe

    result = await generate(config, run)
    files = result.files
    written = (files.trajectories, files.rejected, files.failed, files.stats, files.run)
    typer.echo(
        "\n".join([describe(result.stats), *(f"  {path}" for path in written if path.exists() and path.stat().st_size)])
    )
    if result.stopped:
        log.info("stopped; to resume: trajgraph resume %s", files.run)
    return result.code


async def _demo(output: Path, concurrency: int) -> int:
    from backends.printable import printable
    from batch.jsonl import read_lines
    from batch.run_files import read_run
    from serializers.readable import readable
    from servers.serving import DEMO_QUESTIONS, demo_services

    async with demo_services() as services:
        config = changed(
            RunConfig(DEMO_QUESTIONS, output, concurrency, fresh=True),
            model_name="demo", local_model_url=services.model_url, mcp_url=services.mcp_url,
        )  # fmt: skip
        code = await _generate(config)
    written = sorted(read_lines(read_run(output)[0].trajectories), key=lambda record: str(record["sample_id"]))
    if written:
        typer.echo("\n" + printable(readable(written[0])))
    return code


def main(arguments: list[str] | None = None) -> NoReturn:
    """The entry point: what was foreseen to go wrong becomes one line on stderr and an exit code."""
    log_to_stderr()
    try:
        sys.exit(app(arguments, standalone_mode=False))
    except UsageError as error:
        log.error("%s", error)
        sys.exit(2)
    except (KeyboardInterrupt, asyncio.CancelledError, typer.Abort):
        log.error("stopped at once; run the same command to resume")
        sys.exit(130)
    except sqlite3.DatabaseError as error:
        log.error(
            "the run's checkpoints cannot be written or read (%s); fix it, or remove the file (what is unfinished "
            "starts again), and run the same command to resume", error,
        )  # fmt: skip
        sys.exit(1)
    except OSError as error:
        log.error("the run's files cannot be written or read (%s); fix it and run the same command to resume", error)
        sys.exit(1)
    except Exception as error:
        if not hasattr(error, "format_message"):  # the command-line library's own: an unknown flag, a missing value
            raise
        log.error("%s (see --help)", error.format_message())
        sys.exit(2)
    finally:
        try:
            if sys.stderr:  # there is none when it was closed
                sys.stderr.flush()
        except OSError:  # on a full disk, say: else Python would end with a code of its own, 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


if __name__ == "__main__":
    main()
