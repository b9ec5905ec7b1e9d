"""Running the bundled servers: one in this process, or both in processes of their own for a demo."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from backends.errors import UsageError
from backends.own_process import own_command, own_environment
from servers.faults import Faults

DEMO_QUESTIONS = Path(__file__).parent / "demo_model" / "questions.jsonl"


@dataclass(frozen=True)
class DemoServices:
    """Addresses of a running demo model and tool server."""

    model_url: str
    mcp_url: str


def serve(app: Any, host: str, port: int, path: str, ready: str, faults: float = 0.0, seed: int = 0) -> None:
    """Serve an ASGI application until interrupted. Port 0 takes a free one; `ready` is printed before the address.

    `faults` is the share of requests that are broken on purpose.
    """
    if faults:
        app = Faults(app, faults, seed)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        why = error.strerror or error
        raise UsageError(f"{host}:{port} cannot be listened on ({why}): choose another --port") from error
    with listener:
        address = f"[{host}]" if ":" in host else host
        print(f"{ready} http://{address}:{listener.getsockname()[1]}{path}", flush=True)  # noqa: T201
        config = uvicorn.Config(
            app, log_level="critical" if faults else "warning", timeout_graceful_shutdown=3, timeout_keep_alive=60
        )
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def log_calls() -> None:
    """A line on stderr for every tool call."""
    lines = logging.StreamHandler()
    lines.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log = logging.getLogger("tool_server")
    log.handlers, log.propagate = [lines], False
    log.setLevel(logging.INFO)


async def serve_stdio(server: Any, sources: Any) -> None:
    """Serve one MCP client on standard input and output, until it goes."""
    try:
        await server.run_stdio_async()
    finally:
        await sources.aclose()


@asynccontextmanager
async def demo_services() -> AsyncIterator[DemoServices]:
    """The demo model and the offline tool server on free loopback ports, each in a process of its own."""
    async with (
        _process("serve-model", "--port", "0") as model,
        _process("serve-tools", "--offline", "--port", "0") as tools,
    ):
        model_url, mcp_url = await asyncio.gather(_address(model), _address(tools))
        yield DemoServices(model_url, mcp_url)


@asynccontextmanager
async def _process(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *own_command(*command), env=own_environment(), stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 60)
    if not line:
        raise RuntimeError("a demo server did not start")
    return line.decode().split()[-1]
