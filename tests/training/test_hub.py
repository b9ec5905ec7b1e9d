"""A training set as the Hub and `datasets` want it: one schema whatever the tools gave, true numbers, packed if asked."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.support.exports import export
from tests.support.runs import trajgraph, trajgraph_process
from tests.support.stores import TakingHub
from tests.support.trajectories import record, sound
from tests.training.test_training import run

__all__ = ["run"]
RESULTS: list[Any] = [{"total": 1, "data": [{"pmid": 1}]}, "a text", ["a", {"b": None}], None, 7, {"total": "many"}]


def mixed(folder: Path) -> Path:
    """Rows whose tools gave an object, a text, a list, nothing, a number, and arguments of two types."""
    path = folder / "rows.jsonl"
    rows = []
    for n, result in enumerate(RESULTS):
        pieces = sound(n)
        if n % 2:
            pieces[1] = pieces[1].replace('limit="5"', 'limit="five" note="x"')
        row = record(
            n, pieces, model="m", usage={"input_tokens": n, "output_tokens": 1}, reminders={str(n): "One left."}
        )
        call = {"tool_name": "t", "query": "q", "parameters": {"limit": n if n % 2 else "x"}, "result": result}
        row["trajectory"]["tool_calls"] = [call, call]
        rows.append(json.dumps(row) + "\n")
    path.write_text("".join(rows))
    return path


@pytest.mark.parametrize("format_name", ["messages", "sharegpt", "drtulu", "text", "parquet", "atif", "records"])
@pytest.mark.parametrize("packing", [None, "gzip", "zstd"])
def test_datasets_loads_every_export_of_mixed_results_by_its_card(
    tmp_path: Path, format_name: str, packing: str | None
) -> None:
    import datasets

    datasets.disable_progress_bars()
    more = ("--compress", packing) if packing and format_name != "parquet" else ()
    done = trajgraph("export", mixed(tmp_path), "--format", format_name, "--output", tmp_path / "set", *more)
    assert done.returncode == 0, done.stderr
    loaded = datasets.load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))["train"]
    assert loaded.num_rows == len(RESULTS)
    if format_name == "records":
        assert [json.loads(row["tool_calls"][1]["result"]) for row in loaded] == RESULTS
        assert loaded[3]["interleaved_text"] == "\n".join(sound(3)).replace('limit="5"', 'limit="five" note="x"', 1)
    if packing and format_name != "parquet":
        (path,) = (tmp_path / "set").glob("train.jsonl.*")
        data = path.read_bytes()
        text = (
            gzip.decompress(data)
            if packing == "gzip"
            else zstandard.ZstdDecompressor().decompressobj().decompress(data)
        )
        assert len(text.splitlines()) == len(RESULTS)
        assert trajgraph("audit", path).returncode == 0


def test_an_export_in_another_form_replaces_the_one_before(tmp_path: Path) -> None:
    rows = mixed(tmp_path)
    for more in ((), ("--compress", "zstd"), ("--compress", "gzip")):
        assert trajgraph("export", rows, "--format", "text", "--output", tmp_path / "set", *more).returncode == 0
        assert len(list((tmp_path / "set").glob("train*"))) == 1
    assert not list((tmp_path / "set").glob(".*"))


def test_the_card_of_a_run_at_work_counts_what_is_there_now(run: Path, tmp_path: Path) -> None:
    (stats,) = run.glob("trajectory_stats_*.json")
    now = stats.read_text()
    try:
        stats.write_text(json.dumps({**json.loads(now), "accepted": 3, "pending": 13}))  # a minute ago
        export(run, tmp_path / "set", "text")
    finally:
        stats.write_text(now)
    card = (tmp_path / "set" / "README.md").read_text()
    assert "| accepted | 16 |" in card and "| pending | 0 |" in card


@pytest.mark.long
def test_an_export_is_pushed_whole_and_a_refusal_is_one_line(tmp_path: Path) -> None:
    rows, hub = mixed(tmp_path), TakingHub()
    command = ["export", rows, "--format", "sharegpt", "--output", tmp_path / "set", "--push-to-hub", "me/set"]
    with hub.served() as environment:
        done = trajgraph_process(*command, env={**os.environ, **environment})
        assert done.returncode == 0 and "datasets/me/set: pushed" in done.stdout, done.stderr
        assert hub.files == {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()}
        assert {"README.md", "train.jsonl", "dataset_info.json"} == set(hub.files)
        hub.refuses = True
        refused = trajgraph_process(*command, env={**os.environ, **environment})
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "--push-to-hub me/set: " in refused.stderr and "s3cr3t" not in refused.stderr + done.stdout + done.stderr
    assert "Bearer hf_s3cr3t" in hub.tokens
