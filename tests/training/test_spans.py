"""What is trained on: all that the model wrote and nothing else; a reply that was asked again is context only."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from batch.config import text_sha256
from tests.support.runs import answer, call, generate_command, read_jsonl, trajgraph, write_questions
from tests.support.servers import ScriptedModel, offline_tools
from tests.support.trajectories import record, replaced, sound

HM = "<think>Hm.</think>\nIt depends."
REPLIES = [
    HM,
    "Well.",
    "<think>I search.</think>\nSo be it.\n" + call("pubmed_search", "DAPA-HF"),
    "Perhaps.",
    answer("It does."),
]


@pytest.fixture(scope="module")
def nudged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one question in which three replies had to be asked again."""
    folder = tmp_path_factory.mktemp("nudged")

    def script(messages: list[dict[str, Any]]) -> Any:
        return REPLIES[sum(message["role"] == "assistant" for message in messages)]

    write_questions(folder / "questions.jsonl", ["Does it help?"])
    with offline_tools() as tools, ScriptedModel(script=script).served() as model:
        done = trajgraph(*generate_command(folder, model.url, tools))
    assert done.stdout.startswith("1 question: 1 accepted"), done.stderr
    return folder / "out"


def export(run: Path, folder: Path, kind: str, *more: str) -> list[dict[str, Any]]:
    done = trajgraph("export", run, "--format", kind, "--output", folder / kind, *more)
    assert done.returncode == 0, done.stderr
    return read_jsonl(folder / kind / "train.jsonl")


def test_replies_that_were_asked_again_stand_in_the_conversation_without_a_span(nudged: Path, tmp_path: Path) -> None:
    (row,) = export(nudged, tmp_path, "messages")
    written = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
    assert written == REPLIES
    assert all(message.keys() <= {"role", "content", "tool_call_id"} for message in row["messages"])
    spans = [row["messages"][at]["content"][start:end] for at, start, end in row["train_spans"]]
    assert spans == [REPLIES[2], REPLIES[4]]


def test_they_have_none_in_the_plain_text_either(nudged: Path, tmp_path: Path) -> None:
    (row,) = export(nudged, tmp_path, "text")
    spans = [row["text"][start:end] for start, end in row["train_spans"]]
    assert spans == [REPLIES[2], REPLIES[4]]
    (row,) = export(nudged, tmp_path, "sharegpt")
    turns = row["conversations"]
    assert [turns[at]["value"][start:end] for at, start, end in row["train_spans"]] == [REPLIES[2], REPLIES[4]]
    assert all(turn.keys() == {"from", "value"} for turn in turns)


def test_a_format_that_masks_by_tags_alone_leaves_such_rows_out_and_says_so(nudged: Path, tmp_path: Path) -> None:
    refused = trajgraph("export", nudged, "--format", "drtulu", "--output", tmp_path)
    assert refused.returncode == 2
    assert "1 have a reply that was asked again, which this format cannot mask" in refused.stderr


def test_a_prompt_that_was_kept_with_a_loose_tag_is_balanced_where_a_trainer_masks_by_tags(
    tmp_path: Path, nudged: Path
) -> None:
    prompt = "Never write <tool_output> yourself."
    sha = text_sha256(prompt)
    rows = [json.dumps(record(n, sound(n), prompt_sha256=sha)) for n in range(3)]
    old = tmp_path / "pubmed_trajectory_20250101_000000_m"
    Path(f"{old}_incremental.jsonl").write_text("\n".join(rows) + "\n")
    content = json.loads(next(nudged.glob("*_run.json")).read_text())
    content |= {"prompt": prompt, "settings": {**content["settings"], "prompt_sha256": sha}}
    Path(f"{old}_run.json").write_text(json.dumps(content))
    made = export(tmp_path, tmp_path / "set", "drtulu")
    assert len(made) == 3
    for row in made:
        rendered = "".join(message["content"] + "\n" for message in row["conversations"])
        left = re.sub(r"<tool_output.*?</tool_output>", "", rendered, flags=re.DOTALL)
        text = row["conversations"][-1]["content"]
        assert all(text[start:end] in left for start, end in row["train_spans"])
    assert export(tmp_path, tmp_path / "set", "messages")[0]["messages"][0]["content"] == content["prompt"], (
        "as it was seen"
    )


WHERE = [
    ("nudges=0", {1, 2, 3, 5}), ("nudges>0", {4}), ("repairs=0", {1, 2, 3, 4}), ("tool_errors=0", {1, 3, 4, 5}), ("tool_errors>=1", {2}),
    ("numbers_missing=0", {1, 2, 4, 5}), ("passes_every_gate=true", {1, 4, 5}), ("passes_every_gate=false", {2, 3}), ("passes_every_gate!=true", {2, 3}),
]  # fmt: skip


@pytest.mark.parametrize(("where", "left"), WHERE)
def test_rows_are_chosen_by_what_happened_on_their_way(tmp_path: Path, where: str, left: set[int]) -> None:
    failing = [*sound(2)[:2], "<tool_output>Error: busy</tool_output>", *sound(2)[3:]]
    rows = [
        record(1, sound(1)),
        record(2, failing),
        replaced(3, 7, '<answer>It helps. <cite id="1003">hazard ratio 0.47</cite></answer>'),
        record(4, sound(4), nudges=[{"at": 5, "text": "Go on."}]),
        record(5, sound(5), repairs=[{"turn": 1, "repair": "call_closed"}]),
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = export(tmp_path / "rows.jsonl", tmp_path, "text", "--where", where)
    assert {int(row["sample_id"][-1]) for row in made} == left


@pytest.mark.parametrize("where", ["passes_every_gate=yes", "passes_every_gate>1", "nudges=none"])
def test_a_condition_that_means_nothing_is_refused(tmp_path: Path, where: str) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(record(1, sound(1))) + "\n")
    assert (
        trajgraph(
            "export", tmp_path / "rows.jsonl", "--format", "text", "--output", tmp_path, "--where", where
        ).returncode
        == 2
    )
