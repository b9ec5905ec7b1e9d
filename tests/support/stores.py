"""Stores of the test's own: an S3 server that others wrote, and a stand-in of the Hub's files at the wire."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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


@dataclass
class TakingHub:
    """The Hub, as it takes a dataset: what was put there, by path."""

    files: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str | None] = field(default_factory=set)
    refuses: bool = False

    @contextmanager
    def served(self) -> Iterator[dict[str, str]]:
        """Yields what the environment has to say for it."""
        app = Starlette(routes=[Route("/{path:path}", self._answer, methods=["GET", "POST", "HEAD"])])
        with served(app) as address:
            yield {"HF_ENDPOINT": address, "HF_TOKEN": "hf_s3cr3t", "HF_HUB_DISABLE_TELEMETRY": "1"}

    async def _answer(self, request: Request) -> Response:
        path, body = request.url.path, await request.body()
        self.tokens.add(request.headers.get("authorization"))
        if self.refuses:
            return JSONResponse({"error": "You do not have the rights"}, 403)
        if path == "/api/repos/create":
            about = json.loads(body)
            address = f"{request.base_url}datasets/{about['organization']}/{about['name']}"
            return JSONResponse({"url": address, "id": "1"})
        if path == "/api/validate-yaml":
            return JSONResponse({"errors": [], "warnings": []})
        if path.endswith("/preupload/main"):
            each = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return JSONResponse({"files": [{**file, "shouldIgnore": False} for file in each]})
        if path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            about = {
                "commitUrl": f"{request.base_url}{path[5:].partition('/commit')[0]}/commit/c",
                "commitOid": "c" * 40,
                "success": True,
                "pullRequestUrl": None,
            }
            return JSONResponse(about)
        return JSONResponse({}, 404)
