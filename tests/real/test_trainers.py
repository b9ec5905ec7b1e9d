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
from training.messages import from_sharegpt
from training.tokens import Tokenizer
from training.verify import Verifier

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


def trained(python: Path, trainer: str, folder: Path, model: Path, length: int) -> list[tuple[int, int, list[str]]]:
    """Of each row of an export: its tokens, those that the trainer counts, and their texts."""
    script = Path(__file__).with_name("trained.py")
    command = [str(python), str(script), trainer, str(folder / "train.jsonl"), str(model / "hf"), str(length)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line.removeprefix("row ")) for line in done.stdout.splitlines() if line.startswith("row ")]


def bare(text: str) -> str:
    return re.sub(r"\s+", "", text.replace("<|im_end|>", ""))


KINDS = {"trl": "messages", "llamafactory": "sharegpt", "drtulu": "drtulu"}


def spans_of(row: dict[str, Any]) -> str:
    """What a row says is trained on."""
    if "messages" in row:
        return "".join(row["messages"][at]["content"][start:end] for at, start, end in row["train_spans"])
    if len(row["train_spans"][0]) == 2:
        return "".join(row["conversations"][-1]["content"][start:end] for start, end in row["train_spans"])
    return "".join(row["conversations"][at]["value"][start:end] for at, start, end in row["train_spans"])


@pytest.mark.parametrize("trainer", list(KINDS))
def test_a_trainer_trains_on_the_spans_and_on_what_verify_says_at_the_length_that_the_card_advises(
    runs: list[Path], trainers: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    trainer: str,
) -> None:  # fmt: skip
    kind, tokenizer = KINDS[trainer], Tokenizer(model_folder / "hf")
    verifier, spans = Verifier(trainer, tokenizer, tokenizer.template), 0
    for at, run in enumerate(runs[:2]):
        flags = ("--where", "nudges=0", "--tokenizer", str(model_folder / "hf"), "--verify", trainer)
        rows = exported(run, kind, tmp_path / str(at), *flags)
        card = (tmp_path / str(at) / kind / "README.md").read_text(encoding="utf-8")
        advised = re.search(r"\| ([\d,]+) \(advised\) \| ([\d,]+) of \2 \|", card)
        assert advised
        length = int(advised[1].replace(",", ""))
        made = trained(trainers, trainer, tmp_path / str(at) / kind, model_folder, length)
        assert len(made) == len(rows)
        for row, (tokens, counted, texts) in zip(rows, made, strict=True):
            assert bare("".join(texts)) == bare(spans_of(row))
            assert tokens == row["tokens"] <= length
            chat = from_sharegpt(row) if kind == "sharegpt" else row[{"trl": "messages"}.get(trainer, "conversations")]
            ours = verifier.trained(chat)
            assert (len(ours.places), sum(ours.counts)) == (tokens, counted)
            theirs = [text for one in texts for text in one.split("<|im_end|>") if text]
            assert list(ours.parts(tokenizer.special)) == theirs
            spans += len(row["train_spans"])
    with capsys.disabled():
        print(f"\n{trainer} trains on {spans} spans, as they and --verify say")


def test_preference_training_counts_the_two_replies_and_nothing_that_a_tool_gave(
    runs: list[Path], trainers: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one question two trajectories that begin alike, one of which gives up."""
    first = call("pubmed_search", "dapagliflozin")
    ends = [answer('It does <cite id="31535829">so</cite>.'), "<think>No idea.</think>\nIt depends."]
    asked: list[int] = []

    def script(messages: Any) -> str:
        if messages[-1]["role"] == "user" and not any(one["role"] == "tool" for one in messages):
            return first
        asked.append(1)
        return ends[0] if len(asked) == 1 else ends[1]

    questions = write_questions(tmp_path / "questions.jsonl", ["Does it help?"])
    with offline_tools() as tools, ScriptedModel(script=script).served() as model:
        done = trajgraph("generate", "--questions-file", questions, "--output", tmp_path / "two", "--local-model-url",
                         model.url, "--mcp-url", tools, "--samples-per-question", "2", "--concurrency", "1")  # fmt: skip
    assert done.stdout.startswith("1 question, 2 samples: 1 accepted, 1 rejected"), done
    (row,) = exported(tmp_path / "two", "dpo", tmp_path)
    made = trained(trainers, "dpo", tmp_path / "dpo", model_folder, 8192)
    assert [bare("".join(texts)).replace("<think></think>", "") for _, _, texts in made] == [
        bare(row[side][0]["content"]) for side in ("chosen", "rejected")
    ]
    assert "<tool_output>" in row["prompt"][-1]["content"]
    assert not any("<tool_output>" in text for _, _, texts in made for text in texts)
    with capsys.disabled():
        print(f"\npreference training counts {sum(count for _, count, _ in made)} tokens, 0 of them a tool's")


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
