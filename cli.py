"""The command line: the commands of a run, beside those of the rooms that have their own."""

import asyncio
import logging
import os
import sqlite3
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from dotenv import load_dotenv

from backends.command_app import CommandApp
from backends.errors import UsageError
from backends.setting import option
from batch.commands import ApiKey, generate_and_report
from batch.commands import app as batch_app
from batch.config import RunConfig
from batch.flags import changed
from batch.logs import log_to_stderr
from batch.process import run_to_end
from servers.commands import app as servers_app
from training.commands import app as training_app

log = logging.getLogger("trajgraph")
app = CommandApp(
    help="Biomedical questions in, deep-research trajectories out: a LangGraph, a local model, MCP tools.",
    no_args_is_help=True,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(batch_app)
app.add_typer(servers_app)
app.add_typer(training_app)


@app.callback()
def common(version: Annotated[bool, option("Print the version.", None, "--version", is_eager=True)] = False) -> None:
    if version:
        typer.echo(f"trajgraph {metadata.version('trajgraph')}")
        raise typer.Exit


@app.command()
def demo(
    output: Annotated[Path, option("Folder for the run's files.")] = Path("demo_output"),
    concurrency: Annotated[int, option("Questions worked on at the same time.", low=1)] = 4,
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
    port: Annotated[int, option("Port of the API that Studio talks to.", low=1, high=65535)] = 2024,
    browser: Annotated[bool, option("Open the page.")] = True,
    api_key: ApiKey = None,
) -> None:
    """Open the graph in LangGraph Studio; with RUN, on a copy of that run's checkpoints, which stay untouched."""
    from studio.server import open_studio

    raise typer.Exit(run_to_end(open_studio(run, port, browser, api_key)))


async def _demo(output: Path, concurrency: int) -> int:
    from backends.printable import printable
    from batch.records import read_lines
    from batch.run_files import read_run
    from serializers.readable import readable
    from servers.serving import DEMO_QUESTIONS, demo_services

    async with demo_services() as services:
        config = changed(
            RunConfig(DEMO_QUESTIONS, output, concurrency, fresh=True),
            model_name="demo", local_model_url=(services.model_url,), mcp_url=services.mcp_url,
        )  # fmt: skip
        code = await generate_and_report(config)
    written = sorted(read_lines(read_run(output)[0].trajectories), key=lambda record: str(record["sample_id"]))
    if written:
        typer.echo("\n" + printable(readable(written[0])))
    return code


def load_environment() -> None:
    """What a `.env` file in the folder says, where the environment itself says nothing."""
    try:
        load_dotenv(Path(".env"))
    except (UnicodeDecodeError, OSError) as error:
        raise UsageError(f".env cannot be read ({error})") from error


def main(arguments: list[str] | None = None) -> NoReturn:
    """The entry point: what was foreseen to go wrong becomes one line on stderr and an exit code."""
    log_to_stderr()
    try:
        load_environment()
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
