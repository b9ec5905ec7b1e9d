"""From a run to a training set: exports that other libraries load, what is masked in them, and the page to look at."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from serializers.segments import split_segments
from tests.support.exports import TEMPLATE, export
from tests.support.runs import read_jsonl, trajgraph
from tests.support.trajectories import record, replaced, sound
from training.messages import text_spans
from training.rows import Row
from training.template import wrongly_masked


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished demo run."""
    folder = tmp_path_factory.mktemp("run")
    assert trajgraph("demo", "--output", folder).returncode == 0
    return folder


def written_by_the_model(text: str) -> str:
    """All of a text but the tool outputs, by a way of its own."""
    return re.sub(r"<tool_output>.*?</tool_output>", "", text, flags=re.DOTALL)


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def texts(run: Path) -> dict[str, str]:
    (path,) = run.glob("*_incremental.jsonl")
    return {row["sample_id"]: row["trajectory"]["interleaved_text"] for row in read_jsonl(path)}


@pytest.mark.parametrize("format_name", ["messages", "sharegpt", "drtulu", "text"])
def test_what_is_trained_on_is_exactly_what_the_model_wrote(run: Path, tmp_path: Path, format_name: str) -> None:
    rows = export(run, tmp_path, format_name)
    assert len(rows) == 16
    for row in rows:
        whole = texts(run)[row["sample_id"]]
        if format_name in ("messages", "sharegpt"):
            turns = [turn.get("content") or turn["value"] for turn in row.get("messages") or row["conversations"]]
            trained = [turns[at][start:end] for at, start, end in row["train_spans"]]
        else:
            text = row["text"] if format_name == "text" else row["conversations"][-1]["content"]
            assert text == whole
            trained = [text[start:end] for start, end in row["train_spans"]]
        assert squeezed("".join(trained)) == squeezed(written_by_the_model(whole))
        assert "<tool_output>" not in "".join(trained)
        assert row["fits_16384"] is (row["tokens"] <= 16_384)


def test_messages_are_the_conversation_that_the_model_saw(run: Path, tmp_path: Path) -> None:
    (stored,) = run.glob("*_run.json")
    prompt = json.loads(stored.read_text(encoding="utf-8"))["prompt"]
    for row in export(run, tmp_path, "messages"):
        roles = [said["role"] for said in row["messages"]]
        assert roles[:2] == ["system", "user"]
        assert row["messages"][0]["content"] == prompt
        assert set(roles[2::2]) == {"assistant"}
        assert set(roles[3::2]) <= {"tool"}
        said = "\n".join(message["content"] for message in row["messages"][2:])
        assert said == texts(run)[row["sample_id"]]


def test_a_nudge_and_a_reminder_are_in_the_conversation_and_not_trained_on(tmp_path: Path) -> None:
    whole = sound(1)
    row = record(1, ["I am not sure.", *whole])
    row["metadata"] = {
        "nudges": [{"at": len("I am not sure."), "text": "Make one call."}],
        "reminders": {"2": "Answer now."},
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (made,) = export(tmp_path / "rows.jsonl", tmp_path / "set", "messages")
    said = [(message["role"], message["content"]) for message in made["messages"]]
    assert said[1:3] == [("assistant", "I am not sure."), ("tool", "Make one call.")]
    assert said[6] == ("tool", f"{whole[5]}\nAnswer now.")
    (turned,) = export(tmp_path / "rows.jsonl", tmp_path / "set", "sharegpt")
    assert [turn["from"] for turn in turned["conversations"]] == ["human", *["gpt", "observation"] * 3, "gpt"]


def test_the_libraries_that_the_formats_are_meant_for_load_them(run: Path, tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    cache = str(tmp_path / "cache")
    for format_name, columns in {
        "messages": {"messages"}, "sharegpt": {"conversations", "system", "tools"}, "drtulu": {"conversations"},
        "text": {"text"},
    }.items():  # fmt: skip
        folder = tmp_path / format_name
        export(run, folder, format_name, "--test-share", "0.3")
        loaded = datasets.load_dataset("json", data_files={"train": str(folder / "train.jsonl"),
                                                           "test": str(folder / "test.jsonl")}, cache_dir=cache)  # fmt: skip
        assert columns <= set(loaded["train"].column_names)
        assert loaded["train"].num_rows + loaded["test"].num_rows == 16
        again = read_jsonl(folder / "train.jsonl")
        assert loaded["train"][0]["train_spans"] == again[0]["train_spans"]
    done = trajgraph("export", run, "--format", "parquet", "--output", tmp_path / "parquet")
    assert done.returncode == 0, done.stderr
    loaded = datasets.load_dataset("parquet", data_files=str(tmp_path / "parquet" / "train.parquet"), cache_dir=cache)
    row = loaded["train"][0]
    assert row["text"] == texts(run)[row["sample_id"]]
    assert row["messages"][-1]["role"] == "assistant"
    for row in loaded["train"]:
        trained = "".join(row["text"][start:end] for start, end in row["train_spans"])
        assert squeezed(trained) == squeezed(written_by_the_model(row["text"]))
    card = (tmp_path / "parquet" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlanguage: en\n")
    assert "path: train.parquet" in card
    assert "| accepted | 16 |" in card


def test_the_split_goes_by_question_and_is_the_same_in_every_export(run: Path, tmp_path: Path) -> None:
    splits = []
    for format_name in ("messages", "text"):
        export(run, tmp_path / format_name, format_name, "--test-share", "0.3")
        splits.append({row["sample_id"] for row in read_jsonl(tmp_path / format_name / "test.jsonl")})
    assert splits[0] == splits[1]
    assert 0 < len(splits[0]) < 16


def test_rows_are_chosen_by_fields_and_gates(tmp_path: Path) -> None:
    rows = [
        record(1, sound(1)),
        replaced(2, 3, "<think></think>"),
        record(3, ["<think>I know.</think>", "<answer>Yes.</answer>"]),
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for where, left in [
        ("gate!=empty_think", {1, 3}),
        ("gate=empty_think", {2}),
        ("calls>=2", {1, 2}),
        ("topic=x", set()),
    ]:
        done = trajgraph("export", tmp_path / "rows.jsonl", "--format", "text", "--output", tmp_path, "--where", where)
        assert done.returncode == (0 if left else 2)
        if left:
            found = {int(row["sample_id"][-1]) for row in read_jsonl(tmp_path / "train.jsonl")}
            assert found == left
    assert trajgraph("export", tmp_path / "rows.jsonl", "--format", "text", "--where", "colour=red").returncode == 2


def test_a_format_that_survives_the_template_is_told_from_one_that_does_not(run: Path, tmp_path: Path) -> None:
    kept = trajgraph("export", run, "--format", "messages", "--output", tmp_path / "a", "--verify-template", TEMPLATE)
    assert kept.returncode == 0, kept.stderr
    assert "every row round-trips through" in kept.stdout
    for format_name in ("sharegpt",):
        assert trajgraph("export", run, "--format", format_name, "--output", tmp_path / "b",
                         "--verify-template", TEMPLATE).returncode == 0  # fmt: skip
    lost = trajgraph("export", run, "--format", "drtulu", "--output", tmp_path / "c", "--verify-template", TEMPLATE)
    assert lost.returncode == 2
    assert "the chat template would lose" in lost.stderr
    assert "--format messages round-trips" in lost.stderr
    assert not list((tmp_path / "c").glob("*.jsonl"))


def test_pairs_are_made_of_accepted_and_rejected_trajectories_of_one_question(tmp_path: Path) -> None:
    good, bad = record(1, sound(1)), {**record(2, sound(1)[:7]), "question": "Does it help, 1?"}
    alone = record(3, sound(3))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (good, bad, alone)))
    (pair,) = export(tmp_path / "rows.jsonl", tmp_path / "set", "dpo")
    assert pair["prompt"][0] == {"role": "user", "content": "Does it help, 1?"}
    assert pair["rejected_id"] == bad["sample_id"]
    assert pair["chosen"][-1]["content"].endswith("</answer>")
    assert "<answer>" not in json.dumps(pair["rejected"])


def test_one_trajectory_is_shown_in_the_terminal_and_a_run_tells_how_it_stands(run: Path) -> None:
    shown = trajgraph("show", "demo_traj_00001", run)
    assert "── thought" in shown.stdout
    assert '── call 1 name="pubmed_search"' in shown.stdout
    assert "grounded, call 1, place" in shown.stdout
    assert trajgraph("show", "nobody", run).returncode == 2
    told = trajgraph("status", run)
    assert "16 accepted, 0 rejected, 0 failed, 0 pending of 16; no process is working on it" in told.stdout


def test_segments_and_spans_cover_a_real_trajectory_without_a_gap(run: Path) -> None:
    for text in texts(run).values():
        segments, unmatched_closing_tags = split_segments(text)
        assert unmatched_closing_tags == []
        assert "\n".join(text[piece.start : piece.end] for piece in segments) == text
        row = Row(run, 1, {"trajectory": {"interleaved_text": text}})
        trained = "\n".join(text[start:end] for start, end in text_spans(row))
        assert trained == re.sub(r"\n<tool_output>.*?</tool_output>", "", text, flags=re.DOTALL)


def test_a_file_may_be_cleaned_in_its_own_place(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (record(1, sound(1)), record(2, sound(2)[:5]))))
    assert trajgraph("audit", path, "--write-clean", path).returncode == 1
    assert [row["sample_id"] for row in read_jsonl(path)] == ["qwen3_traj_00001"]
    assert trajgraph("audit", path).returncode == 0


def test_what_fails_a_hard_gate_is_not_exported_unless_it_is_asked_for(tmp_path: Path) -> None:
    rows = [record(1, sound(1)), replaced(2, 7, "<answer>It helps")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(export(tmp_path / "rows.jsonl", tmp_path / "a", "text")) == 1
    assert len(export(tmp_path / "rows.jsonl", tmp_path / "b", "text", "--hard-gates", "no_answer")) == 2


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('roles must alternate') }}", "refuses the messages: roles must alternate"),
        ("{% for m in messages if m.role != 'tool' %}{{ m.content }}{% endfor %}", "would lose"),
        ("{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}", "would lose"),
    ],
)
def test_a_template_that_refuses_or_drops_leaves_no_file_behind(
    run: Path, tmp_path: Path, template: str, said: str
) -> None:
    (tmp_path / "t.jinja").write_text(template)
    for format_name in ("messages", "parquet", "sharegpt"):
        done = trajgraph("export", run, "--format", format_name, "--output", tmp_path / "set",
                         "--verify-template", tmp_path / "t.jinja")  # fmt: skip
        assert done.returncode == 2
        assert said in done.stderr
        assert not [path for path in (tmp_path / "set").iterdir() if "jsonl" in path.name]


def test_spans_that_take_in_a_result_or_leave_out_a_thought_are_found() -> None:
    row = Row(Path("x"), 1, record(1, sound(1)))
    segments = sound(1)
    whole = ["\n".join(segments[:2]), "\n".join(segments[3:5]), "\n".join(segments[6:])]
    assert wrongly_masked(row, whole) == []
    assert wrongly_masked(row, whole[1:])[0].startswith("masked although the model wrote it")
    assert wrongly_masked(row, ["\n".join(segments)])[0].startswith("trained on although a tool gave it")


def test_a_page_that_looks_like_a_snippet_grounds_no_citation() -> None:
    segments = sound(1)
    segments[2] = '<tool_output><webpage><snippet id="99">Title: x</snippet></webpage></tool_output>'
    segments[7] = '<answer>Yes. <cite id="99">x</cite></answer>'
    assert [citation.verdict for citation in Row(Path("x"), 1, record(1, segments)).parsed.cited] == ["never_retrieved"]


ODD: list[Any] = [
    "x",
    5,
    None,
    [],
    {"a": 1},
    float("nan"),
    float("inf"),
    [None, 5, {"at": "x"}, {"at": True, "text": 5}],
]


def test_odd_metadata_stops_neither_an_audit_nor_an_export_nor_a_page(tmp_path: Path) -> None:
    names = ("nudges", "reminders", "reject_reasons", "tool_errors", "model_seconds", "finish_reasons", "stop_reason",
             "gates", "citations", "max_tool_calls")  # fmt: skip
    rows = [record(1, sound(1), None, **{name: value}) for name in names for value in ODD]
    rows += [{**record(2, sound(2)), "question": value, "topic": value} for value in ODD]
    rows = [{**row, "sample_id": f"qwen3_traj_{number:05d}"} for number, row in enumerate(rows, 1)]
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
        + '{"sample_id": "\\ud800", "metadata": {"model_seconds": 1e999}}\n'
    )
    for command in (
        ("audit", path, "--write-clean", tmp_path / "clean.jsonl"), ("audit", path, "--explain", "qwen3_traj_00001"),
        ("report", path, "--output", tmp_path / "page.html"), ("show", "qwen3_traj_00001", path),
        *(("export", path, "--format", name, "--hard-gates", "", "--output", tmp_path / name)
          for name in ("messages", "sharegpt", "drtulu", "parquet", "text")),
    ):  # fmt: skip
        done = trajgraph(*command)
        assert done.returncode in (0, 1), (command, done.stderr)
        assert "Traceback" not in done.stderr


def test_an_audit_tells_of_an_empty_file_too_and_counts_tokens_as_it_is_told(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "rows.jsonl").write_text(json.dumps(record(1, sound(1))) + "\n")
    count = len(record(1, sound(1))["trajectory"]["interleaved_text"].split())
    for limit, over in ((count, 0), (count - 1, 1)):
        told = trajgraph("audit", tmp_path / "empty.jsonl", tmp_path / "rows.jsonl", "--json", "--token-limit", str(limit),
                         "--tokenizer", tmp_path / "tokenizer.json")  # fmt: skip
        empty, full, total = json.loads(told.stdout)
        assert (empty["rows"], full["rows"], total["rows"]) == (0, 1, 1)
        assert full["gates"]["over_token_limit"] == over
