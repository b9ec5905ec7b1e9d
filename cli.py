"""The command line: the only place where commands meet live models, tools, savers and files."""

import asyncio
import contextlib
import gc
import logging
import os
import sqlite3
import sys
import time
from collections.abc import Coroutine
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from backends.errors import UserError
from backends.printable import one_line, printable
from graph.limits import TOOL_NAMES
from quality.gates import HARD
from servers.commands import ApiKey, McpUrl, listed_names, option
from servers.commands import app as services_app
from training.commands import app as training_app

if TYPE_CHECKING:
    from batch.config import GenerateOptions
    from batch.run_files import RunFiles

Result = TypeVar("Result")
app = typer.Typer(
    help="Biomedical questions in, deep-research trajectories out: a LangGraph, a local model, MCP tools.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(services_app)
app.add_typer(training_app)


class Role(StrEnum):
    """The role in which tool outputs go back to the model."""

    tool = "tool"
    user = "user"


class Mode(StrEnum):
    """Where tool results come from, with a cassette."""

    auto = "auto"
    live = "live"
    record = "record"
    replay = "replay"


AllowChanged = Annotated[bool, option("Continue a run under other settings.", "Continuing", "--allow-changed-settings")]


@app.command()
def generate(
    questions_file: Annotated[Path, option("JSONL, one object with a question per line.")],
    local_model_url: Annotated[str, option("OpenAI-compatible address.", "Model")] = "http://localhost:8000/v1",
    model_name: Annotated[str, option("Name under which the server knows the model.", "Model")] = "Qwen3-8B",
    output: Annotated[Path, option("Folder for the run's files.")] = Path("pubmed_training_data"),
    concurrency: Annotated[int, option("Questions worked on at the same time.")] = 5,
    workers: Annotated[int, option("Processes to share them, when one CPU is full.")] = 1,
    limit: Annotated[int | None, option("Only the first so many questions.")] = None,
    samples_per_question: Annotated[int, option("Trajectories for each question, each with its seed.", "Samples")] = 1,
    accept: Annotated[int | None, option("Sample each question until so many are accepted …", "Samples")] = None,
    max_samples: Annotated[int | None, option("… or so many spent (else four times as many).", "Samples")] = None,
    no_incremental: Annotated[bool, option("Write all at the end, in order.", None, "--no-incremental")] = False,
    instance_id: Annotated[str | None, option("Keeps runs apart that share an output folder.")] = None,
    api_key: ApiKey = None,
    temperature: Annotated[float, option("Sampling temperature.", "Model")] = 0.1,
    max_tokens: Annotated[int, option("Tokens per reply; twice as many if cut off.", "Model")] = 4096,
    model_timeout: Annotated[float, option("Seconds a reply may take.", "Model")] = 180.0,
    max_model_len: Annotated[int | None, option("Its context, if the server does not say.", "Model")] = None,
    system_prompt_file: Annotated[Path | None, option("Replaces the built-in system prompt.", "Model")] = None,
    tool_role: Annotated[Role, option("Role of tool outputs in the prompt.", "Model")] = Role.tool,
    mcp_url: McpUrl = None,
    tools: Annotated[str, option("The tools to teach and use.", "Tools")] = ",".join(TOOL_NAMES),
    tool_map: Annotated[list[str] | None, option("TOOL=SERVER_TOOL(argument), for other names.", "Tools")] = None,
    tool_timeout: Annotated[float, option("Seconds a call may take.", "Tools")] = 120.0,
    cassette: Annotated[Path | None, option("File of kept results: no call is asked twice.", "Tools")] = None,
    tools_mode: Annotated[Mode, option("What the cassette is for: replay asks no server.", "Tools")] = Mode.auto,
    max_turns: Annotated[int, option("Replies per question at most.", "Limits")] = 10,
    max_tool_calls: Annotated[int, option("Tool calls per question at most.", "Limits")] = 5,
    hard_gates: Annotated[str, option("Checks that reject a trajectory; see README.", "Limits")] = ",".join(HARD),
    max_downtime: Annotated[float | None, option("End the run when a server stays away so many seconds.")] = None,
    skip_bad_rows: Annotated[bool, option("Report unusable rows and go on.", None, "--skip-bad-rows")] = False,
    fresh: Annotated[bool, option("Start another run, continue none.", "Continuing", "--fresh")] = False,
    allow_changed_settings: AllowChanged = False,
    keep_checkpoints: Annotated[bool, option("Keep finished steps.", "Continuing", "--keep-checkpoints")] = False,
) -> None:
    """Generate a trajectory for every question. The same command again continues an unfinished run."""
    from batch.config import GenerateOptions

    options = GenerateOptions(
        questions_file=questions_file, local_model_url=local_model_url, model_name=model_name, output=output,
        concurrency=concurrency, workers=workers, limit=limit, samples_per_question=samples_per_question,
        accept=accept, max_samples=max_samples, incremental=not no_incremental, instance_id=instance_id,
        temperature=temperature, max_tokens=max_tokens, max_model_len=max_model_len,
        model_timeout=model_timeout, tool_role=tool_role.value,
        system_prompt_file=system_prompt_file, mcp_url=mcp_url, tool_map=tuple(tool_map or ()),
        tools=listed_names(tools), tool_timeout=tool_timeout,
        cassette=cassette, tools_mode=tools_mode.value,
        hard_gates=listed_names(hard_gates), max_turns=max_turns, max_tool_calls=max_tool_calls,
        skip_bad_rows=skip_bad_rows, fresh=fresh,
        allow_changed_settings=allow_changed_settings, keep_checkpoints=keep_checkpoints, max_downtime=max_downtime,
    )  # fmt: skip
    raise typer.Exit(run_to_end(_generate(options, api_key)))


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(help="A …_run.json, or its folder for the newest run in it.")],
    api_key: ApiKey = None,
    allow_changed_settings: AllowChanged = False,
) -> None:
    """Continue a run with the flags it was begun with, and retry what failed."""
    from batch.config import GenerateOptions
    from batch.run_files import read_run

    files, content = read_run(run)
    options = GenerateOptions.restored(content["options"])
    options = replace(options, output=files.folder, allow_changed_settings=allow_changed_settings)
    raise typer.Exit(run_to_end(_generate(options, api_key, files)))


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


@app.command()
def doctor(
    local_model_url: Annotated[str, option("OpenAI-compatible address.", "Model")] = "http://localhost:8000/v1",
    model_name: Annotated[str, option("Name under which the server knows the model.", "Model")] = "Qwen3-8B",
    api_key: ApiKey = None,
    mcp_url: McpUrl = None,
    tools: Annotated[str, option("The tools to use.", "Tools")] = "pubmed_search,browse_webpage,google_search",
    tool_map: Annotated[list[str] | None, option("TOOL=SERVER_TOOL(argument), for other names.", "Tools")] = None,
    output: Annotated[Path, option("Folder for the run's files.")] = Path("pubmed_training_data"),
) -> None:
    """Look whether the model, the tools, their keys and the folder are there. Exit code 1 when something is missing."""
    from backends.bounded import check_address
    from backends.services import ToolsAddress, default_mcp_url

    check_address("--local-model-url", local_model_url)
    names = tuple(name.strip() for name in tools.split(",") if name.strip())
    address = ToolsAddress(mcp_url or default_mcp_url(), names, tuple(tool_map or ()))
    raise typer.Exit(asyncio.run(_doctor(local_model_url, model_name, api_key, address, output)))


async def _doctor(model_url: str, model: str, api_key: str | None, tools: Any, output: Path) -> int:
    from backends.doctor import findings

    missing = 0
    async for finding in findings(model_url, model, api_key, tools, output):
        missing += finding.state == "missing"
        typer.echo(one_line(f"{finding.state:<8} {finding.what:<15} {finding.said}"))
    return 1 if missing else 0


@app.command()
def status(
    run: Annotated[Path, typer.Argument(help="A …_run.json, or its folder for the newest run in it.")],
    follow: Annotated[bool, option("Say it again every few seconds.", None, "--follow")] = False,
) -> None:
    """Tell how a run is doing, from another terminal: what is written, what is left, how fast it goes."""
    from batch.status import standing

    while True:
        line, alive = standing(run)
        typer.echo(line)
        if not follow or not alive:
            return
        time.sleep(5)


@app.command(hidden=True)
def worker(run: Path) -> None:
    """One of the processes of `generate --workers`."""
    from batch.run import work

    raise typer.Exit(run_to_end(work(run)))


async def _generate(options: "GenerateOptions", api_key: str | None, run: "RunFiles | None" = None) -> int:
    from batch.run import generate

    ended = await generate(options, api_key, run)
    typer.echo(_summary(ended.stats, ended.files))
    if ended.stopped:
        _say(f"stopped; to continue: trajgraph resume {ended.files.run}")
    return ended.code


async def _demo(output: Path, concurrency: int) -> int:
    from batch.config import GenerateOptions
    from batch.jsonl import read_lines
    from batch.run_files import read_run
    from serializers.readable import readable
    from servers.serving import DEMO_QUESTIONS, demo_services

    async with demo_services() as services:
        options = GenerateOptions(
            questions_file=DEMO_QUESTIONS, output=output, concurrency=concurrency, fresh=True, model_name="demo",
            local_model_url=services.model_url, mcp_url=services.mcp_url,
        )  # fmt: skip
        code = await _generate(options, None)
    written = sorted(read_lines(read_run(output)[0].trajectories), key=lambda record: str(record["sample_id"]))
    if written:
        typer.echo("\n" + printable(readable(written[0])))
    return code


def _summary(stats: dict[str, Any], files: "RunFiles") -> str:
    counts = ", ".join(f"{stats[name]} {name}" for name in ("accepted", "rejected", "failed", "pending"))
    samples = "" if stats["samples"] == stats["questions"] else f", {stats['samples']} samples"
    lines = [f"{stats['questions']} questions{samples}: {counts}"]
    if stats["rejected"]:
        lines.append(f"rejected for {_listed(stats['reject_reasons'])}")
    if finished := stats["accepted"] + stats["rejected"]:
        clean = stats["pass_every_gate"]
        failed = f"; the others fail {_listed(stats['gates'])}" if stats["gates"] else ""
        lines.append(f"{clean} of {finished} pass every gate ({100 * clean / finished:.0f} %){failed}")
    if stats["failed"]:
        lines.append(f"run the same command again to retry the {stats['failed']} failed")
    written = (files.trajectories, files.rejected, files.failed, files.stats, files.run)
    return "\n".join([*lines, *(f"  {path}" for path in written if path.exists() and path.stat().st_size)])


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda one: -one[1]))


def run_to_end(work: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end, with tracing off: it would triple the cost and send the data out."""
    import uvloop

    os.environ["LANGSMITH_TRACING"] = os.environ["LANGCHAIN_TRACING_V2"] = "false"
    gc.freeze()  # what the imports left stays for good: the collector need not walk it again and again
    gc.set_threshold(100_000, 20, 20)
    sys.setswitchinterval(0.0005)  # seconds: else a thread that writes waits 5 ms for the loop's at each statement
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # where nobody can read it, the exit code still tells
        typer.echo(f"trajgraph: {one_line(line)}", err=True)


def main(arguments: list[str] | None = None) -> NoReturn:
    """The entry point: what was foreseen to go wrong becomes one line on stderr and an exit code."""
    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # its tracebacks of a broken connection, which is ours to tell
    try:
        sys.exit(app(arguments, standalone_mode=False))
    except UserError as error:
        _say(str(error))
        sys.exit(2)
    except (KeyboardInterrupt, asyncio.CancelledError, typer.Abort):
        _say("stopped at once; the same command continues")
        sys.exit(130)
    except sqlite3.DatabaseError as error:
        _say(
            f"the run's checkpoints cannot be written or read ({error}); mend that, or remove the file (its unfinished "
            "questions start again), and the same command continues"
        )
        sys.exit(1)
    except OSError as error:
        _say(f"the run's files cannot be written or read ({error}); mend that, and the same command continues")
        sys.exit(1)
    except Exception as error:
        if not hasattr(error, "format_message"):  # the command-line library's own: an unknown flag, a missing value
            raise
        _say(f"{error.format_message()} (see --help)")
        sys.exit(2)
    finally:
        try:
            if sys.stderr:  # there is none when it was closed
                sys.stderr.flush()
        except OSError:  # on a full disk, say: else Python would end with a code of its own, 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


if __name__ == "__main__":
    main()
