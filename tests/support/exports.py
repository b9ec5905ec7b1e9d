"""Exports of rows, and the template they are rendered with."""

from pathlib import Path
from typing import Any

from tests.support.runs import read_jsonl, trajgraph

TEMPLATE = Path(__file__).parents[1] / "golden" / "qwen3_history.jinja"


def export(run: Path, folder: Path, format_name: str, *more: str) -> list[dict[str, Any]]:
    done = trajgraph("export", run, "--format", format_name, "--output", folder, *more)
    assert done.returncode == 0, done.stderr
    return [] if format_name == "parquet" else read_jsonl(folder / "train.jsonl")
