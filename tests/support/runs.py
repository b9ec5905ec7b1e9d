"""The command as a user runs it, the files of a run, and runs in this process."""

import contextlib
import io
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import zstandard

from batch.append import Appender
from batch.config import RunConfig
from batch.flags import build
from batch.prepare import prepare
from batch.run import RunResult
from batch.run import generate as run_generate
from cli import main
from serializers.tags import TAG
from tests.support.servers import Reply, ScriptedModel

ROOT = Path(__file__).resolve().parents[2]


QUESTIONS = [f"Question {n} about heart failure?" for n in range(1, 7)]


def call(name: str, query: str, thought: str = "I search.") -> str:
    """A model's reply that calls a tool, as vLLM returns it with the stop string kept."""
    return f'<think>{thought}</think>\n<call_tool name="{name}">{query}</call_tool>'


def answer(text: str = "It works.", thought: str = "I know enough.") -> str:
    """A model's reply that answers."""
    return f"<think>{thought}</think>\n<answer>{text}</answer>"


def write_questions(path: Path, questions: Sequence[str]) -> Path:
    """A questions file with one row per text."""
    rows = (
        {"question": text, "topic": "t", "question_type": "review", "expected_search_terms": []} for text in questions
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def trajgraph(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """The command, in this process: what it prints and its exit code."""
    words, out, err = list(map(str, arguments)), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def trajgraph_process(*arguments: object, **more: Any) -> "subprocess.CompletedProcess[str]":
    """The command as a user runs it, in a process of its own."""
    command = [sys.executable, "-m", "cli", *map(str, arguments)]
    more = {"cwd": ROOT, "timeout": 120, **more}
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def append_lines(path: Path, lines: Sequence[bytes]) -> None:
    """Append to a file that is not in parts."""
    Appender(path).append(lines)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; none when it is not there."""
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return []


def written_bytes(run: Path) -> bytes:
    """Every byte in a run's folder, and what its checkpoints hold once it is unpacked."""
    files = b"".join(path.read_bytes() for path in run.iterdir())
    return files + stored_bytes(next(run.glob("*_checkpoints.sqlite")))


def stored_bytes(checkpoints: Path) -> bytes:
    """What the rows of a checkpoint file say, unpacked. Raises KeyError for what is packed in a way unknown here."""
    opened: dict[str, Callable[[bytes], bytes]] = {
        "msgpack": bytes,
        "null": bytes,
        "msgpack+zstd": zstandard.decompress,
    }
    with contextlib.closing(sqlite3.connect(checkpoints)) as database:
        rows = [
            (kind, content, str(rest).encode())
            for columns in ("type, checkpoint, * FROM checkpoints", "type, value, * FROM writes")
            for kind, content, *rest in database.execute(f"SELECT {columns}")
        ]
    return b"".join(opened[kind](content or b"") + rest for kind, content, rest in rows)


def unbalanced(text: str) -> list[str]:
    """Names of protocol tags that are not opened and closed in turn, in order of appearance; empty when all are."""
    found: list[str] = []
    open_name: str | None = None
    for tag in TAG.finditer(text):
        if tag["close"] and tag["name"] == open_name:
            open_name = None
        elif tag["close"] or open_name is not None:
            found.append(tag["name"])
        else:
            open_name = tag["name"]
    return list(dict.fromkeys([*found, *([open_name] if open_name else [])]))


Messages = list[dict[str, Any]]


def two_turns(messages: Messages) -> Reply:
    """Search once, then answer."""
    return answer() if any(message["role"] == "assistant" for message in messages) else call("pubmed_search", "DAPA-HF")


async def generate(
    folder: Path,
    model: ScriptedModel | str | tuple[str, ...],
    tools_url: str,
    waits: tuple[float, ...] = (0, 0, 0),
    **settings: Any,
) -> RunResult:
    """What `generate` does, in this process, three questions at a time and without waits between attempts."""
    urls = model if isinstance(model, tuple) else (model if isinstance(model, str) else model.url,)
    config = build(
        RunConfig,
        {"questions_file": folder / "questions.jsonl", "output": folder, "local_model_url": urls, "mcp_url": tools_url,
         "concurrency": 3, **settings},
    )  # fmt: skip
    return await run_generate(prepare(config), waits)


def stats(result: RunResult) -> dict[str, Any]:
    return dict(json.loads(result.files.stats.read_text(encoding="utf-8")))


def counts(result: RunResult) -> list[int]:
    return [stats(result)[name] for name in ("accepted", "rejected", "failed", "pending")]


def generate_command(folder: Path, model_url: str, tools_url: str) -> list[str]:
    command = ["generate", "--questions-file", str(folder / "questions.jsonl"), "--output", str(folder / "out")]
    return [*command, "--local-model-url", model_url, "--mcp-url", tools_url]


CONCURRENCY = 4


def command(folder: Path, model_url: str, tools_url: str, concurrency: int = CONCURRENCY) -> list[str]:
    return [
        "generate", "--questions-file", str(folder / "questions.jsonl"), "--local-model-url", model_url,
        "--mcp-url", tools_url, "--output", str(folder / "out"), "--concurrency", str(concurrency),
    ]  # fmt: skip


def requests_so_far(model_url: str) -> int:
    with urlopen(model_url.replace("/v1", "/stats")) as response:
        return int(json.load(response)["requests"])


def records(folder: Path) -> list[dict[str, Any]]:
    (path,) = (folder / "out").glob("*_incremental.jsonl")
    return sorted(map(content, read_jsonl(path)), key=lambda record: str(record["sample_id"]))


def content(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what differs between any two runs: times and the run's own ids."""
    trajectory = record["trajectory"]
    calls = [{key: value for key, value in call.items() if key != "timestamp"} for call in trajectory["tool_calls"]]
    kept = ("stop_reason", "turns", "finish_reasons", "repairs", "usage", "tool_errors", "reject_reasons")
    return {
        "sample_id": record["sample_id"],
        "trajectory": {**trajectory, "tool_calls": calls},
        "metadata": {key: record["metadata"][key] for key in kept},
    }
