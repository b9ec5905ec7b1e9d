"""`trajgraph studio`: LangGraph's development server around this graph, on demand over a batch run's own threads."""

import asyncio
import contextlib
import importlib.util
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from backends.errors import UserError
from batch.config import GenerateOptions
from batch.questions import check_questions
from batch.run_files import RunFiles, read_run
from graph.checkpoints import ThreadIds, copy_checkpoints, open_checkpoints
from serializers.record import sample_id

_ROOT = Path(__file__).resolve().parents[1]


async def open_studio(run: Path | None, port: int, browser: bool, api_key: str | None) -> int:
    """Serve until interrupted. A run is shown from a passing copy of its checkpoints: whatever is forked, edited or
    resumed there, the batch goes on from its own. Returns the exit code.
    """
    if importlib.util.find_spec("langgraph_api") is None:
        raise UserError("LangGraph Studio is an extra: make studio, or pip install -e '.[studio]'")
    environment = {**os.environ, "LANGSMITH_TRACING": "false"}
    if api_key:
        environment["OPENAI_API_KEY"] = api_key
    async with AsyncExitStack() as stack:
        threads: dict[str, str] = {}
        files: RunFiles | None = None
        copy: Path | None = None
        if run is not None:
            files, content = read_run(run)
            copy = Path(stack.enter_context(TemporaryDirectory(prefix="trajgraph-studio-"))) / "checkpoints.sqlite"
            await copy_checkpoints(files.checkpoints, copy)
            ids = ThreadIds(files.run_id, content.get("made_under"))
            threads = await _threads(ids, GenerateOptions.restored(content["options"]), copy)
            environment |= {"TRAJGRAPH_RUN": str(files.run.resolve()), "TRAJGRAPH_CHECKPOINTS": str(copy.resolve())}
        elif "LOCAL_MODEL_URL" not in environment:
            from servers.serving import demo_services

            demo = await stack.enter_async_context(demo_services())
            environment |= {"LOCAL_MODEL_URL": demo.model_url, "MODEL_NAME": "demo", "MCP_URL": demo.mcp_url}
        folder = copy.parent if copy else _ROOT
        server = await stack.enter_async_context(_development_server(port, browser, environment, folder))
        registering = asyncio.create_task(_register(server, port, files, threads)) if files else None
        try:
            return max(await server.wait(), 0)
        finally:
            if registering:
                registering.cancel()


@asynccontextmanager
async def _development_server(
    port: int, browser: bool, environment: dict[str, str], folder: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    config = folder / "langgraph.json"
    if folder != _ROOT:  # the server keeps its own state where it runs, and reads paths from there
        ours = (_ROOT / "langgraph.json").read_text(encoding="utf-8")
        config.write_text(ours.replace("./", f"{_ROOT}/").replace('"."', f'"{_ROOT}"'), encoding="utf-8")
    command = [sys.executable, "-m", "langgraph_cli", "dev", "--config", str(config), "--port", str(port)]
    command += ["--no-reload", *([] if browser else ["--no-browser"])]
    server = await asyncio.create_subprocess_exec(*command, env=environment, cwd=folder)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _end, server)
    try:
        yield server
    finally:
        _end(server)
        await server.wait()


def _end(server: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        server.terminate()


async def _threads(ids: ThreadIds, options: GenerateOptions, copy: Path) -> dict[str, str]:
    """The run's stored threads under readable names: thread id to `sample_id: question`."""
    async with open_checkpoints(copy) as saver:
        stored = saver.threads
    named = {}
    for place, row in check_questions(options.questions_file, skip_bad_rows=True).stream():
        identity = sample_id(options.model_name, place)
        thread = ids.of(identity, row["question"])
        if thread in stored:
            named[thread] = f"{identity}: {row['question']}"
    return named


async def _register(server: asyncio.subprocess.Process, port: int, files: RunFiles, threads: dict[str, str]) -> None:
    """Make the run's threads known to the server, once it answers."""
    from langgraph_sdk import get_client

    client = get_client(url=f"http://127.0.0.1:{port}")
    while server.returncode is None:
        try:
            await client.assistants.search(limit=1)
            break
        except Exception:
            await asyncio.sleep(0.3)
    for thread, name in threads.items():
        identity, _, question = name.partition(": ")
        metadata = {"thread_name": name, "sample_id": identity, "question": question, "run": files.stem}
        await client.threads.create(thread_id=thread, graph_id="trajectory", if_exists="do_nothing", metadata=metadata)
    hint = "" if threads else "; finished questions are let go unless the run keeps them (--keep-checkpoints)"
    sys.stderr.write(f"trajgraph: {len(threads)} threads of {files.stem} are in Studio{hint}\n")
