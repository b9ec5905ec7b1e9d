"""The parts, started: each in a process of its own, on a port of its own."""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as Asked
from starlette.responses import Response
from starlette.routing import Route

from tests.support.runs import ROOT
from tests.support.servers import free_port, served

HERE = Path(__file__).parent
MODEL = Path(os.environ.get("REAL_MODEL", ROOT.parent / "shared" / "models" / "loop-12m"))
"""A small model trained on this project's exports: its GGUF, `hf/` and `questions.jsonl`."""
ENVIRONMENTS = ROOT / ".venv-real"
LLAMA = ROOT / "examples" / "loop" / "serve.py"


@contextmanager
def process(*command: object, ready: str, within: float = 60) -> Iterator[None]:
    """A server, until it is left; `ready` is an address that answers, with whatever status, when it is up."""
    with tempfile.TemporaryFile() as said:  # no pipe: one that nobody reads stops a server that logs, soon or late
        running = subprocess.Popen(
            [str(word) for word in command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
        )
        try:
            deadline = time.monotonic() + within
            while not _answers(ready):
                if running.poll() is not None or time.monotonic() > deadline:
                    running.kill()
                    said.seek(0)
                    raise RuntimeError(f"{command} is not up: {said.read()[-2000:].decode()}")
                time.sleep(0.1)
            yield
        finally:
            running.kill()
            running.wait()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except HTTPError as error:
        error.close()
        return error.code != 503
    except (URLError, OSError):
        return False


@contextmanager
def llama(slots: int = 4, context: int = 32_768) -> Iterator[str]:
    """llama.cpp's server with the small model; yields its address."""
    port = free_port()
    command = [sys.executable, LLAMA, port, next(MODEL.glob("*.gguf")), "Qwen3-8B", slots, context]
    with process(*command, ready=f"http://127.0.0.1:{port}/health"):
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def logged(url: str, seen: list[tuple[dict[str, Any], dict[str, Any]]]) -> Iterator[str]:
    """A proxy in front of a model server that keeps each request and its answer; yields its address."""
    base = url.removesuffix("/v1")

    def ask(path: str, body: bytes) -> tuple[int, bytes]:
        request = Request(base + path, data=body or None, headers={"content-type": "application/json"})
        try:
            with urlopen(request, timeout=300) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            return error.code, error.read()

    async def passed_on(asked: Asked) -> Response:
        body = await asked.body()
        status, answer = await run_in_threadpool(ask, asked.url.path, body)
        if asked.url.path.endswith("/chat/completions") and status == 200:
            seen.append((json.loads(body), json.loads(answer)))
        return Response(answer, status, media_type="application/json")

    with served(Starlette(routes=[Route("/{path:path}", passed_on, methods=["GET", "POST"])])) as proxy:
        yield f"{proxy}/v1"


@contextmanager
def mcp_server(script: str, *manner: str) -> Iterator[str]:
    """A server of the next MCP SDK; yields its address."""
    port = free_port()
    python = ENVIRONMENTS / "mcp" / "bin" / "python"
    with process(python, HERE / script, port, *manner, ready=f"http://127.0.0.1:{port}/mcp"):
        yield f"http://127.0.0.1:{port}/mcp"


@contextmanager
def tools_for(questions: Path, folder: Path) -> Iterator[str]:
    """Our tool server over made-up papers that speak of these questions; yields its address."""
    papers = folder / "papers.jsonl"
    chance = random.Random(3)
    with questions.open(encoding="utf-8") as asked, papers.open("w", encoding="utf-8") as target:
        for number, line in enumerate(asked):
            row = json.loads(line)
            for place in range(4):
                target.write(json.dumps(_paper(10_000_000 + 10 * number + place, row, chance)) + "\n")
    index, port = folder / "papers.sqlite", free_port()
    build = [sys.executable, "-m", "cli", "corpus", "build", str(index), str(papers)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    command = [sys.executable, "-m", "cli", "serve-tools", "--corpus", index, "--port", port]
    with process(*command, ready=f"http://127.0.0.1:{port}/mcp/health"):
        yield f"http://127.0.0.1:{port}/mcp"


def _paper(pmid: int, row: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    terms = [term for term in row["expected_search_terms"] if len(term) < 45] or [row["topic"]]
    first = chance.choice(terms)
    second = chance.choice([term for term in terms if term != first] or terms)
    outcome = chance.choice(("overall survival", "relapse", "bleeding", "mortality", "remission", "quality of life"))
    patients, months = chance.randint(40, 9000), chance.randint(3, 120)
    name = first[0].upper() + first[1:]
    return {
        "paperId": str(pmid),
        "title": f"{name} and {outcome} in {second}: a cohort study.",
        "authors": [{"name": "Vadou, Gra"}],
        "year": str(chance.randint(1995, 2025)),
        "venue": "Lancet",
        "abstract": f"We enrolled {patients} adults with {second} in {chance.randint(2, 60)} centres. {name} changed "
        f"{outcome} by {round(chance.uniform(1, 60), 1)}% in {second}. Median follow-up was {months} months; "
        f"{chance.randint(40, 99)}% of {patients} completed it.",
    }
