"""Stores of the test's own: an S3 server that others wrote, and a stand-in of the Hub's files at the wire."""

import hashlib
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.error import URLError

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.servers import free_port, served

KEYS = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "s3cr3t-of-the-store",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextmanager
def s3_server(bucket: str, port: int = 0) -> Iterator[dict[str, str]]:
    """A server with an empty bucket; yields what the environment has to say for it."""
    address = f"http://127.0.0.1:{port or free_port()}"
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-p", address.rpartition(":")[2]]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **KEYS})
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(urllib.request.Request(f"{address}/{bucket}", method="PUT")).close()
                break
            except (URLError, ConnectionError):
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
        yield {"AWS_ENDPOINT_URL": address, **KEYS}
    finally:
        server.kill()
        server.wait()


@contextmanager
def hub(files: dict[str, bytes]) -> Iterator[dict[str, str]]:
    """The Hub's answers about one dataset, `me/questions`, by path; yields what the environment has to say for it."""

    def entry(path: str) -> dict[str, Any]:
        if path not in files:
            return {"type": "directory", "path": path, "oid": "d" * 40, "size": 0}
        return {"type": "file", "path": path, "oid": hashlib.sha1(files[path]).hexdigest(), "size": len(files[path])}

    def listed(folder: str) -> list[dict[str, Any]]:
        below = [path.removeprefix(folder) for path in files if path.startswith(folder)]
        return [entry(folder + name) for name in dict.fromkeys(path.partition("/")[0] for path in below)]

    async def answer(request: Request) -> Response:
        path = request.url.path
        if found := re.fullmatch(r"/datasets/me/questions/resolve/main/(.+)", path):
            content = files[found[1]]
            first, _, last = request.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
            return Response(content[int(first) : int(last) + 1 if last else None], 206)
        if found := re.fullmatch(r"/api/datasets/me/questions/tree/main/?(.*)", path):
            return JSONResponse(listed(f"{found[1]}/" if found[1] else ""))
        if path == "/api/datasets/me/questions/paths-info/main":
            return JSONResponse([entry(str(path)) for path in (await request.form()).getlist("paths")])
        about = {"id": "me/questions", "sha": "c" * 40, "siblings": [], "private": False, "tags": []}
        return JSONResponse(about if path == "/api/datasets/me/questions" else {}, 200 if "me/q" in path else 404)

    with served(Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST", "HEAD"])])) as address:
        yield {"HF_ENDPOINT": address, "HF_HUB_DISABLE_TELEMETRY": "1"}
