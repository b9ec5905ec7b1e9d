"""The commands that serve: the tools, the demo model, a corpus of one's own."""

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backends.command_app import CommandApp
from backends.errors import UsageError
from backends.setting import option
from servers.demo_model.manners import MANNERS, ThinkIn

if TYPE_CHECKING:
    from servers.tool_server.corpus_build import Progress
    from servers.tool_server.sources import Sources

app = CommandApp()
corpus = CommandApp(help="A corpus of papers of your own, to search without a network.", no_args_is_help=True)
app.add_typer(corpus, name="corpus")


FaultRate = Annotated[float, option("Share of requests to break, 0 to 1, to inject faults.", low=0, high=1)]
FaultSeed = Annotated[int, option("Which requests are broken, and how.")]


@app.command()
def serve_model(
    host: Annotated[str, option("Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, option("Port; 0 takes a free one.", low=0, high=65535)] = 8000,
    model_name: Annotated[str, option("The name it serves.")] = "demo",
    manners: Annotated[str, option("Whose manners: " + ", ".join(MANNERS) + ".", metavar="NAME")] = "vllm",
    think_in: Annotated[ThinkIn | None, option("Where its thoughts go, if elsewhere.")] = None,
    latency: Annotated[float, option("Seconds a reply takes.", low=0)] = 0.0,
    max_model_len: Annotated[int | None, option("Tokens of prompt and reply together, if others.", low=1)] = None,
    api_key: Annotated[str | None, option("Refuse requests without this key.")] = None,
    faults: FaultRate = 0.0,
    seed: FaultSeed = 0,
) -> None:
    """Serve the demo model: rule-based, OpenAI-compatible, with the manners of the server that you name."""
    from servers.demo_model.server import DemoModel
    from servers.serving import serve

    if manners not in MANNERS:
        raise UsageError(f"--manners {manners}: it knows {', '.join(MANNERS)}")
    model = DemoModel(model_name, think_in, latency, max_model_len, api_key, MANNERS[manners])
    serve(model.app(), host, port, "/v1", "demo model:", faults, seed)


@app.command()
def serve_tools(
    host: Annotated[str, option("Address to listen on; beyond this machine, a token is needed.")] = "127.0.0.1",
    port: Annotated[int, option("Port; 0 takes a free one.", low=0, high=65535, envvar="MCP_TRANSPORT_PORT")] = 8003,
    stdio: Annotated[bool, option("Serve one client on standard input and output.", None, "--stdio")] = False,
    token: Annotated[str | None, option("Bearer token that callers must give.", envvar="MCP_TOKEN")] = None,
    max_calls: Annotated[int, option("Calls at the same time; the others wait.", low=1)] = 64,
    offline: Annotated[bool, option("The bundled papers, no network.", "Sources", "--offline")] = False,
    corpus_index: Annotated[
        Path | None, option("Papers from this index, no network.", "Sources", "--corpus", metavar="INDEX")
    ] = None,
    web: Annotated[bool, option("With --corpus: web pages and Google live.", "Sources", "--web")] = False,
    allow_host: Annotated[
        list[str] | None, option("A host of yours that pages may be read from: NAME or NAME:PORT.", "Sources")
    ] = None,
    ncbi_email: Annotated[
        str | None, option("Who asks NCBI; it asks for this.", "Sources", envvar="NCBI_EMAIL")
    ] = None,
    ncbi_url: Annotated[str | None, option("Another address of E-utilities.", "Sources", envvar="NCBI_URL")] = None,
    faults: FaultRate = 0.0,
    seed: FaultSeed = 0,
) -> None:
    """Serve pubmed_search, browse_webpage and google_search over MCP. Live ones use NCBI_API_KEY and SERPER_API_KEY."""
    from servers.serving import log_calls, serve, serve_stdio
    from servers.tool_server.guard import Guard, is_loopback
    from servers.tool_server.server import http_app, tool_server

    if web and not corpus_index:
        raise UsageError("--web goes with --corpus; without both, everything is live")
    if not stdio and not is_loopback(host) and not token:
        raise UsageError(f"--host {host} can be reached from other machines: set MCP_TOKEN (or --token) on both sides")
    sources, kind = _sources(offline, corpus_index, web, frozenset(allow_host or ()), ncbi_url, ncbi_email)
    if not stdio:  # there, standard error is its client's
        log_calls()
    if stdio:
        asyncio.run(serve_stdio(tool_server(sources, max_calls), sources))
        return
    guarded = Guard(http_app(sources, max_calls), loopback=is_loopback(host), token=token)
    serve(guarded, host, port, "/mcp", f"{kind} tools:", faults, seed)


@corpus.command("build")
def corpus_build(
    index: Annotated[Path, typer.Argument(help="The index to make, or to add to.")],
    files: Annotated[list[Path], typer.Argument(help="PubMed's pubmed26n*.xml.gz, or JSONL of papers.")],
) -> None:
    """Index papers for serve-tools --corpus. Killed, the same command resumes; update files revise and delete."""
    from servers.tool_server.corpus_build import build_corpus

    started: dict[Path, float] = {}

    def report(progress: "Progress") -> None:
        began = started.setdefault(progress.file, time.monotonic())
        rate = (progress.entries - progress.skipped) / max(time.monotonic() - began, 0.001)
        state = "done" if progress.done else f"{rate:,.0f}/s"
        typer.echo(f"{progress.file.name}: {progress.entries:,} entries, {state}", err=True)

    try:
        built = build_corpus(index, files, report)
    except OSError as error:
        raise UsageError(f"{index}: cannot be written ({error.strerror or error})") from error
    typer.echo(
        f"{index}: {built.papers:,} papers, {index.stat().st_size / 1e6:,.0f} MB; this time {built.replaced:,} "
        f"replaced a record, {built.deleted:,} were deleted, {built.older:,} were older than what is there"
    )
    typer.echo(f"serve them: trajgraph serve-tools --corpus {index}")


def _sources(
    offline: bool, index: Path | None, web: bool, allowed: frozenset[str], ncbi_url: str | None, email: str | None
) -> "tuple[Sources, str]":
    """What the tools answer from, and what to call it."""
    from servers.tool_server.corpus import Corpus
    from servers.tool_server.sources import CorpusPubMed, Sources

    papers = Corpus.open(index) if index else Corpus.bundled() if offline else None
    if papers and (missing := papers.unfinished()):
        typer.echo(f"trajgraph: {index} is not finished ({', '.join(missing)}): build it again", err=True)
    if papers and not web:
        return Sources.offline(papers), "offline"
    from servers.tool_server.fetch import Fetcher
    from servers.tool_server.google import SERPER, Serper
    from servers.tool_server.pubmed import NCBI, NcbiAddress, NcbiPubMed
    from servers.tool_server.webpage import LivePages

    live = NcbiPubMed(NcbiAddress(ncbi_url or NCBI, email, os.environ.get("NCBI_API_KEY")))
    google = Serper(os.environ.get("SERPER_API_KEY"), os.environ.get("SERPER_URL", SERPER))
    pubmed = CorpusPubMed(papers) if papers else live
    hosts = frozenset(host.lower().replace("[", "").replace("]", "") for host in allowed)
    return Sources(pubmed, LivePages(Fetcher(hosts)), google), "corpus and web" if papers else "live"
