"""The example that closes the loop, as far as it goes without a trainer: its questions, its papers, its table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import ROOT, trajgraph
from tests.support.servers import demo_model, offline_tools

LOOP = ROOT / "examples" / "loop"


def script(name: str, *arguments: object, folder: Path) -> str:
    command = [sys.executable, str(LOOP / name), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_the_teacher_answers_the_examples_questions_from_its_papers_and_the_table_counts_it(tmp_path: Path) -> None:
    script("questions.py", ".", 6, 30, folder=tmp_path)
    held_out = [json.loads(line)["question"] for line in (tmp_path / "held_out.jsonl").read_text().splitlines()]
    assert len(held_out) == len(set(held_out)) == 30
    built = trajgraph("corpus", "build", tmp_path / "papers.sqlite", tmp_path / "papers.jsonl")
    assert built.returncode == 0, built.stderr
    with offline_tools(corpus=tmp_path / "papers.sqlite") as tools, demo_model(name="demo") as model:
        done = trajgraph(
            "generate", "--questions-file", tmp_path / "held_out.jsonl", "--output", tmp_path / "by", "--model-name", "demo",
            "--local-model-url", model, "--mcp-url", tools, "--system-prompt-file", LOOP / "prompt.txt",
            "--tools", "pubmed_search,browse_webpage", "--concurrency", 8,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "escaped" not in done.stderr, "the prompt has no half of a tag"
    table = script("table.py", "by", "by", folder=tmp_path)
    assert "| accepted | 30 of 30 | 30 of 30 |" in table
    cited = next(line for line in table.splitlines() if line.startswith("| cited sentences"))
    stand, of = cited.split("|")[2].split(" of ")
    assert int(stand) == int(of) > 20


@pytest.mark.parametrize("path", sorted(LOOP.glob("*.sh")))
def test_the_loop_calls_scripts_that_are_there(path: Path) -> None:
    assert os.access(path, os.X_OK)
    named = {word.strip('"').removeprefix("$here/") for word in path.read_text().split() if "$here/" in word}
    assert len(named) > 5 and all((LOOP / name).exists() for name in named)
