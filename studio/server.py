"""`trajgraph studio`: LangGraph's development server around this graph, on demand over a batch run's own threads."""

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from backends.errors import UsageError
from batch.config import RunConfig
from batch.flags import from_dict, from_environment
from batch.questions import check_questions
from batch.run_files import Ids, RunFiles, read_run
from batch.saver import copied_schema, open_saver
from batch.worker_checkpoints import gather, threads_in
from graph.checkpoints import copy_checkpoints

_FACTORIES = Path(__file__).with_name("factories.py")


async def open_studio(run: Path | None, port: int, browser: bool, api_key: str | None) -> int:
    """Serve until interrupted. A run is shown from a passing copy of its checkpoints: whatever is forked, edited or
    resumed there, the batch goes on from its own. Returns the exit code.
    """
    if importlib.util.find_spec("langgraph_api") is None:
        raise UsageError("LangGraph Studio is an extra: pip install 'trajgraph[studio]'")
    environment = {**os.environ, "LANGSMITH_TRACING": "false"}
    if api_key:
        environment["OPENAI_API_KEY"] = api_key
    async with AsyncExitStack() as stack:
        threads: dict[str, str] = {}
        files: RunFiles | None = None
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="trajgraph-studio-")))
        if run is not None:
            files, content = read_run(run)
            config = from_dict(RunConfig, content["options"])
            if config.checkpoints:
                schema = await stack.enter_async_context(copied_schema(config.checkpoints))
                environment |= {"TRAJGRAPH_CHECKPOINTS": config.checkpoints, "TRAJGRAPH_SCHEMA": schema}
                async with open_saver(config.checkpoints, folder) as saver:
                    stored = set(saver.threads)
            else:
                copy = await _copied(files, folder)
                environment["TRAJGRAPH_CHECKPOINTS"] = str(copy)
                stored = await asyncio.to_thread(threads_in, copy)
            threads = await asyncio.to_thread(_threads, Ids.of_run(files, content), config, stored)
            environment["TRAJGRAPH_RUN"] = str(files.run.resolve())
        elif "local_model_url" not in from_environment(RunConfig):
            from servers.serving import demo_services

            demo = await stack.enter_async_context(demo_services())
            environment |= {"LOCAL_MODEL_URL": demo.model_url, "MODEL_NAME": "demo", "MCP_URL": demo.mcp_url}
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
    """In a folder of its own: the server keeps its state where it runs."""
    config = folder / "langgraph.json"
    described = {
        "dependencies": [str(folder)],
        "graphs": {"trajectory": f"{_FACTORIES}:make_graph"},
        "checkpointer": {"path": f"{_FACTORIES}:open_checkpoints"},
    }
    config.write_text(json.dumps(described), encoding="utf-8")
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


async def _copied(files: RunFiles, folder: Path) -> Path:
    """A copy of all checkpoints of a run, those of its workers too."""
    copy = folder / "checkpoints.sqlite"
    await copy_checkpoints(files.checkpoints, copy)
    for part in files.worker_checkpoints:
        await copy_checkpoints(part, folder / part.name)
        gather(copy, [folder / part.name])
    return copy


def _threads(ids: Ids, config: RunConfig, stored: set[str]) -> dict[str, str]:
    """The run's stored threads under readable names, those of all samples: thread id to `sample_id: question`."""
    named = {}
    for row_number, row in check_questions(config.questions_file, skip_bad_rows=True).stream():
        for sample in range(1, config.samples.most + 1):
            name = ids.sample(row_number, sample)
            if (thread := ids.thread(name, row["question"])) in stored:
                named[thread] = f"{name}: {row['question']}"
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
        name, _, question = name.partition(": ")
        metadata = {"thread_name": name, "sample_id": name, "question": question, "run": files.stem}
        await client.threads.create(thread_id=thread, graph_id="trajectory", if_exists="do_nothing", metadata=metadata)
    hint = "" if threads else "; those of finished questions are deleted unless the run keeps them (--keep-checkpoints)"
    sys.stderr.write(f"trajgraph: {len(threads)} threads of {files.stem} are in Studio{hint}\n")
