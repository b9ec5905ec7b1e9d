"""A Ray cluster, joined for a run: a wrong address ends the command at once, where Ray would wait for minutes."""

import asyncio
import contextlib
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from backends.errors import UsageError
from batch.config import RunConfig
from batch.on_ray import Cluster
from batch.stop import StopSignal

_CONNECT, _JOIN = 2.0, 60.0
"""Seconds for the head's port, and for joining the cluster behind it."""


@asynccontextmanager
async def open_cluster(config: RunConfig, stop: StopSignal) -> AsyncIterator[Cluster]:
    """Join a cluster (`auto`, `HOST:PORT`, or `local` for one on this machine) and start the actors of a run there.
    Raises UsageError.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise UsageError("--ray is an extra: pip install 'trajgraph[ray]'") from error
    address = str(config.ray)
    wished = config.workers if config.workers > 1 else None
    if address not in ("auto", "local"):
        await asyncio.to_thread(_check_port, address)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Ray prints what it has to say of nodes
            await _join(ray, address, wished)
            cluster = Cluster(ray, config, stop, wished or max(int(ray.cluster_resources().get("CPU", 1)), 1))
            try:
                await cluster.check_versions()
                yield cluster
            finally:
                await cluster.close()
    finally:
        ray.shutdown()


def _check_port(address: str) -> None:
    """Ray itself waits for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in address:
        raise UsageError(f"--ray {address}: give auto, local, or HOST:PORT of the cluster's head")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT).close()
    except OSError as error:
        raise UsageError(f"--ray {address}: nothing answers there ({error.strerror or error})") from error


async def _join(ray: Any, address: str, wished: int | None) -> None:
    local = {"num_cpus": wished, "include_dashboard": False, "object_store_memory": 100 * 2**20}
    how = {**local, "_node_ip_address": "127.0.0.1"} if address == "local" else {"address": address}
    loop = asyncio.get_running_loop()
    joined: asyncio.Future[None] = loop.create_future()

    def settle(error: Exception | None) -> None:
        if not joined.done():
            joined.set_exception(error) if error else joined.set_result(None)

    def join() -> None:
        error = None
        try:
            ray.init(namespace="trajgraph", log_to_driver=False, logging_level="ERROR", **how)
        except Exception as failure:
            error = failure
        with contextlib.suppress(RuntimeError):  # nobody waits any more
            loop.call_soon_threadsafe(settle, error)
        threading.Event().wait()  # what Ray started ends with the thread that started it

    threading.Thread(target=join, daemon=True).start()
    try:
        await asyncio.wait_for(joined, _JOIN)
    except TimeoutError as error:
        raise UsageError(f"--ray {address}: no Ray cluster answered in {_JOIN:g} s") from error
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        hint = "; Ray wants the cluster's token: RAY_AUTH_TOKEN or ~/.ray/auth_token" if "token" in said.lower() else ""
        raise UsageError(f"--ray {address}: cannot join a Ray cluster ({said}){hint}") from error
