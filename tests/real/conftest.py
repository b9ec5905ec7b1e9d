"""What the tests against real parts share."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.real.parts import ENVIRONMENTS, MODEL, llama, logged, tools_for
from tests.support.runs import read_jsonl, trajgraph_process

QUESTIONS = int(os.environ.get("REAL_QUESTIONS", "30"))


@dataclass
class RealRun:
    """A finished run of the small model, and what its server was asked and said."""

    folder: Path
    seen: list[tuple[dict[str, Any], dict[str, Any]]]
    output: str

    @property
    def accepted(self) -> list[dict[str, Any]]:
        """The accepted records."""
        return [row for path in self.folder.glob("*_incremental.jsonl") for row in read_jsonl(path)]

    @property
    def records(self) -> list[dict[str, Any]]:
        """All records."""
        return [*self.accepted, *(row for path in self.folder.glob("*_rejected.jsonl") for row in read_jsonl(path))]


@pytest.fixture(scope="session")
def model_folder() -> Path:
    """The small model's folder; without it, its tests are skipped."""
    if not list(MODEL.glob("*.gguf")):
        pytest.skip(f"no model at {MODEL}: set REAL_MODEL to a folder with a GGUF, hf/ and questions.jsonl")
    return MODEL


@pytest.fixture(scope="session")
def trainers() -> Path:
    """The trainers' Python."""
    return _python("trainers")


@pytest.fixture(scope="session")
def next_mcp() -> Path:
    """The Python of the next MCP SDK."""
    return _python("mcp")


def _python(name: str) -> Path:
    python = ENVIRONMENTS / name / "bin" / "python"
    assert python.exists(), f"{python} is missing: make real makes it"
    return python


@pytest.fixture(scope="session")
def real_run(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRun]:
    """Questions that the model has never seen, through llama.cpp and over our tools."""
    folder = tmp_path_factory.mktemp("real")
    questions = folder / "questions.jsonl"
    lines = (model_folder / "questions.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    questions.write_text("".join(lines[:QUESTIONS]), encoding="utf-8")
    seen: list[tuple[dict[str, Any], dict[str, Any]]] = []
    with llama() as model, logged(model, seen) as proxy, tools_for(questions, folder) as tools:
        done = trajgraph_process(
            "generate", "--questions-file", questions, "--output", folder / "out", "--model-name", "Qwen3-8B",
            "--local-model-url", proxy, "--mcp-url", tools, "--max-tokens", 512, "--concurrency", 4,
            "--accept", 1, "--max-samples", 4, "--temperature", 0.3, "--keep-token-ids", timeout=max(120, 6 * QUESTIONS),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        yield RealRun(folder / "out", seen, done.stdout)
    shutil.rmtree(folder)
