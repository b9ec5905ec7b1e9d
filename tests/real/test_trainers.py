"""What trainers that others wrote train on is what the model wrote."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import RealRun
from tests.support.runs import ROOT, answer, call, read_jsonl, trajgraph, write_questions
from tests.support.servers import ScriptedModel, offline_tools

NUDGED = [
    "<think>Hm.</think>\nIt depends.",
    call("pubmed_search", "dapagliflozin"),
    answer('It does <cite id="31535829">so</cite>.'),
]


@pytest.fixture(scope="module")
def runs(real_run: RealRun, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The real model's run, the demo's, and one in which replies had to be asked again."""
    folder = tmp_path_factory.mktemp("runs")
    assert trajgraph("demo", "--output", folder / "demo").returncode == 0
    script = lambda messages: NUDGED[sum(message["role"] == "assistant" for message in messages)]  # noqa: E731
    questions = write_questions(folder / "questions.jsonl", ["Does it help?"])
    with offline_tools() as tools, ScriptedModel(script=script).served() as model:
        done = trajgraph("generate", "--questions-file", questions, "--output", folder / "nudged", "--local-model-url",
                         model.url, "--mcp-url", tools)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [real_run.folder, folder / "demo", folder / "nudged"]


def exported(run: Path, kind: str, folder: Path, *more: str) -> list[dict[str, Any]]:
    done = trajgraph("export", run, "--format", kind, "--output", folder / kind, *more)
    assert done.returncode == 0, done.stderr
    return read_jsonl(folder / kind / "train.jsonl")


def trained(python: Path, trainer: str, rows: list[dict[str, Any]], model: Path, folder: Path) -> list[list[str]]:
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = [str(python), str(Path(__file__).with_name("trained.py")), trainer, str(source), str(model / "hf")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line.removeprefix("row ")) for line in done.stdout.splitlines() if line.startswith("row ")]


def bare(text: str) -> str:
    return re.sub(r"\s+", "", text.replace("<|im_end|>", ""))


def test_trl_trains_on_what_the_spans_say(
    runs: list[Path], trainers: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row for run in runs[:2] for row in exported(run, "messages", tmp_path, "--where", "nudges=0")]
    made = trained(trainers, "trl", rows, model_folder, tmp_path)
    want = [[row["messages"][at]["content"][start:end] for at, start, end in row["train_spans"]] for row in rows]
    assert [list(map(bare, texts)) for texts in made] == [list(map(bare, texts)) for texts in want]
    with capsys.disabled():
        print(f"\nTRL trains on {sum(map(len, want))} spans of {len(rows)} rows, as they say")


def test_llamafactory_trains_on_what_the_spans_say(
    runs: list[Path], trainers: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row for run in runs[:2] for row in exported(run, "sharegpt", tmp_path, "--where", "nudges=0")]
    made = trained(trainers, "llamafactory", rows, model_folder, tmp_path)
    want = [[row["conversations"][at]["value"][start:end] for at, start, end in row["train_spans"]] for row in rows]
    assert [list(map(bare, texts)) for texts in made] == [list(map(bare, texts)) for texts in want]
    with capsys.disabled():
        print(f"\nLLaMA-Factory trains on {sum(map(len, want))} spans of {len(rows)} rows, as they say")


def test_masking_by_tags_over_the_whole_row_trains_on_all_that_the_model_wrote(
    runs: list[Path], model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """DR Tulu's rule, restated: from each `<tool_output` to the next `</tool_output>` of the rendered row."""
    rows = [row for run in runs[:2] for row in exported(run, "drtulu", tmp_path)]
    for row in rows:
        rendered = "".join(
            f"<|im_start|>{said['role']}\n{said['content']}<|im_end|>\n" for said in row["conversations"]
        )
        masked = re.sub(r"<tool_output.*?</tool_output>", "\0", rendered, flags=re.DOTALL)
        text = row["conversations"][-1]["content"]
        spans = "".join(text[start:end] for start, end in row["train_spans"])
        reply = masked.rpartition("<|im_start|>assistant\n")[2].removesuffix("<|im_end|>\n")
        assert bare(reply.replace("\0", "")) == bare(spans)
    with capsys.disabled():
        print(f"\nmasked by tags, {len(rows)} rows train on what their spans say")


def test_a_reply_that_was_asked_again_is_context_and_left_out_where_that_cannot_be(
    runs: list[Path], tmp_path: Path
) -> None:
    (row,) = exported(runs[2], "messages", tmp_path)
    assert row["messages"][2]["content"] == NUDGED[0]
    assert [at for at, _, _ in row["train_spans"]] == [4, 6]
    refused = trajgraph("export", runs[2], "--format", "drtulu", "--output", tmp_path / "none")
    assert refused.returncode == 2
    assert "1 have a reply that was asked again, which this format cannot mask" in refused.stderr
    assert (
        trajgraph(
            "export", runs[2], "--format", "messages", "--where", "nudges=0", "--output", tmp_path / "x"
        ).returncode
        == 2
    )
