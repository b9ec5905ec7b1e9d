"""The folder of an export: whose files it takes, what its card says and is silent about."""

import json
import os
import re
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import metadata_load

from backends.errors import UsageError
from tests.support.exports import export
from tests.support.runs import trajgraph
from tests.support.tokenizers import byte_tokenizer
from tests.support.trajectories import record, sound, think
from tests.training.test_verify import MARKED_TO_THE_END
from training.export import ExportResult, exported
from training.export_spec import ExportSpec
from training.rows import read_rows

CHAT: dict[str, Any] = {"messages": [
    {"role": "user", "content": "Is it warm in Bern?"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}]},
    {"role": "tool", "tool_call_id": "a", "content": "21 degrees"}, {"role": "assistant", "content": "Yes."},
]}  # fmt: skip
NUDGED = record(3, [think("Hm."), *sound(3)], nudges=[{"at": len(think("Hm.")), "text": "Go on."}])


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return written(tmp_path, record(1, sound(1)), {**record(2, [*sound(2)[:3], think("I give up.")]), **asked(1)})


def asked(n: int) -> dict[str, Any]:
    return {"question": record(n, sound(n))["question"]}


def written(folder: Path, *records: dict[str, Any], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def refused(rows: Path, folder: Path, name: str) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = trajgraph("export", rows, "--format", "text", "--output", folder)
    assert done.returncode == 2 and f"{folder / name} is not an export's, or" in done.stderr, done
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["README.md", "train.jsonl", "test.jsonl.gz", "train.parquet", "dataset_info.json"])
def test_what_no_export_wrote_or_what_was_changed_since_is_not_written_over(
    rows: Path, tmp_path: Path, name: str
) -> None:
    taken, ours = tmp_path / "taken", tmp_path / "ours"
    taken.mkdir()
    (taken / name).write_text("mine\n")
    refused(rows, taken, name)
    export(rows, ours, "sharegpt", "--hard-gates", "")
    export(rows, ours, "sharegpt")  # over an earlier one
    with (ours / name).open("a") as file:
        file.write("mine\n")
    refused(rows, ours, name)


@pytest.mark.parametrize("name", ["README.md", "train.jsonl", "dataset_info.json"])
@pytest.mark.parametrize("kind", ["folder", "broken link", "pipe"])
def test_what_is_no_file_is_not_replaced_either(rows: Path, tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "set").mkdir()
    path = tmp_path / "set" / name
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")
    done = trajgraph("export", rows, "--format", "text", "--output", tmp_path / "set")
    assert done.returncode == 2 and f"{path} is not an export's, or" in done.stderr, done
    assert [one.name for one in (tmp_path / "set").iterdir()] == [name]
    is_kept = {"folder": stat.S_ISDIR, "broken link": stat.S_ISLNK, "pipe": stat.S_ISFIFO}[kind]
    assert is_kept(path.lstat().st_mode)


def test_what_comes_into_the_folder_while_an_export_is_made_is_not_written_over(tmp_path: Path) -> None:
    given = read_rows(written(tmp_path, record(1, sound(1)), record(2, sound(2))))

    def described(_: ExportResult) -> dict[str, str]:
        (tmp_path / "set" / "train.jsonl").write_text("mine\n")
        return {"README.md": "# Card"}

    with pytest.raises(UsageError, match="is not an export's"):
        exported(given, tmp_path / "set", ExportSpec("text"), described=described)
    assert [(path.name, path.read_text()) for path in (tmp_path / "set").iterdir()] == [("train.jsonl", "mine\n")]


@pytest.mark.parametrize("name", ["wea\rther", "w\udcff", "a|b", "x -->\n<!-- y"])
def test_an_export_knows_its_card_again_whatever_the_tools_are_called(tmp_path: Path, name: str) -> None:
    call = {"id": "a", "function": {"name": name, "arguments": "{}"}}
    path = written(
        tmp_path,
        {"messages": [CHAT["messages"][0], {**CHAT["messages"][1], "tool_calls": [call]}, *CHAT["messages"][2:]]},
    )
    for _ in range(2):
        export(path, tmp_path / "set", "messages")
    refused = trajgraph("export", tmp_path / "set", "--format", "text", "--output", tmp_path / "set")
    assert refused.returncode == 2 and "that is the export that is read" in refused.stderr


def test_rows_that_are_alike_letter_for_letter_are_told(tmp_path: Path) -> None:
    path = written(tmp_path, record(1, sound(1)), {**record(2, sound(1)), **asked(1)}, record(3, sound(3)))
    done = trajgraph("export", path, "--format", "text", "--output", tmp_path / "set")
    assert "rows that hold what another one holds, letter for letter: 1 of 3" in done.stdout


def test_the_types_of_the_columns_stand_in_the_card_as_the_rows_have_them(rows: Path, tmp_path: Path) -> None:
    for form in ("messages", "sharegpt", "drtulu", "text", "records", "dpo"):
        (row, *_) = export(rows, tmp_path / form, form)
        about = (metadata_load(tmp_path / form / "README.md") or {})["dataset_info"]["features"]
        assert [one["name"] for one in about] == list(row)
        for one in about:
            kind = one.get("dtype") or ("list" if "list" in one else "sequence")
            assert isinstance(row[one["name"]], {"string": str, "int64": int, "bool": bool}.get(kind, list))
            if kind == "list" and row[one["name"]]:
                assert {key for item in row[one["name"]] for key in item} <= {field["name"] for field in one["list"]}


def test_a_card_that_quotes_anothers_is_no_exports(rows: Path, tmp_path: Path) -> None:
    export(rows, tmp_path / "set", "text")
    card = (tmp_path / "set" / "README.md").read_text()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text(f"# Mine, made of this one:\n{card}")
    refused(rows, tmp_path / "mine", "README.md")


def test_no_file_of_an_earlier_format_is_left_and_no_link_is_written_through(rows: Path, tmp_path: Path) -> None:
    mine = written(tmp_path, {"mine": 1}, name="mine.jsonl")
    export(rows, tmp_path / "set", "sharegpt")
    (tmp_path / "set" / ".train.parquet.new").symlink_to(mine)
    assert trajgraph("export", rows, "--format", "parquet", "--output", tmp_path / "set").returncode == 0
    left = [".train.parquet.new", "README.md", "train.parquet"]
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == left
    assert json.loads(mine.read_text()) == {"mine": 1}


@pytest.mark.parametrize(
    ("format_name", "names"),
    [("dpo", ["TRL"]), ("messages", ["TRL", "open-instruct"]), ("sharegpt", ["LLaMA-Factory"]), ("text", [])],
)
def test_a_card_names_the_lengths_of_the_trainers_that_read_its_format_where_tokens_are_counted(
    rows: Path, tmp_path: Path, format_name: str, names: list[str]
) -> None:
    model = byte_tokenizer(tmp_path / "model", MARKED_TO_THE_END)
    for n, (flags, told) in enumerate([(["--tokenizer", model], True), ([], False)]):
        export(rows, tmp_path / f"{n}", format_name, *map(str, flags))
        card = (tmp_path / f"{n}" / "README.md").read_text()
        assert re.findall(r"\((\S+)'s default\)", card) == (names if told else [])
        assert ("(advised)" in card, "Exported with the model's folder as `--tokenizer`" in card) == (told, not told)
        assert ("To train on it" in card) == (told and bool(names))


@pytest.mark.parametrize("template", [None, ""])
def test_rows_are_left_out_for_their_length_where_it_is_known_alone(
    rows: Path, tmp_path: Path, template: str | None
) -> None:
    flags = [] if template is None else ["--tokenizer", byte_tokenizer(tmp_path / "model")]  # no template beside it
    command = ["export", rows, "--format", "messages", "--output", tmp_path / "set", "--max-length", "500"]
    done = trajgraph(*command, *flags)
    assert done.returncode == 2 and "give the model's folder as --tokenizer" in done.stderr, done
    assert not (tmp_path / "set").exists()


def test_a_card_of_others_says_which_tools_they_called_and_not_that_they_read_pubmed(
    rows: Path, tmp_path: Path
) -> None:
    export(written(tmp_path, CHAT, name="chat.jsonl"), tmp_path / "set", "messages")
    card = (tmp_path / "set" / "README.md").read_text()
    assert "| weather | 1 |" in card and "PubMed" not in card and "biomedical" not in card
    export(rows, tmp_path / "ours", "messages")
    ours = (tmp_path / "ours" / "README.md").read_text()
    assert "PubMed" in ours and "biomedical" in ours and re.search(r"\| pubmed_search \| \d+ \|", ours)


@pytest.mark.parametrize(("format_name", "is_told"), [("messages", True), ("sharegpt", True), ("text", False)])
def test_replies_that_were_asked_again_are_told_where_a_trainer_may_not_read_the_spans(
    tmp_path: Path, format_name: str, is_told: bool
) -> None:
    path = written(tmp_path, NUDGED, record(1, sound(1)))
    done = trajgraph("export", path, "--format", format_name, "--output", tmp_path / "set")
    for said in (done.stdout, (tmp_path / "set" / "README.md").read_text()):
        assert ("rows with a reply that was asked again: 1;" in said) == is_told


def test_the_counts_of_pairs_are_those_of_all_trajectories(tmp_path: Path) -> None:
    kinds = {"Q1?": (2, 3), "Q2?": (1, 0), "Q3?": (0, 2), "Q4?": (3, 1)}
    records, n = [], 0
    for question, (good, bad) in kinds.items():
        for pieces in [sound(1)] * good + [[*sound(1)[:3], think("I give up.")]] * bad:
            n += 1
            records.append({**record(n, [*pieces[:-1], think(f"{n}"), pieces[-1]]), "question": question})
    path = written(tmp_path, *records)
    for more in ([], ["--best", "1"]):
        done = trajgraph("export", path, "--format", "dpo", "--output", tmp_path / "set", *more)
        found = Counter({why: int(many) for many, why in re.findall(r"left out: (\d+) rows? (.*)", done.stdout)})
        (pairs,) = re.findall(r"train\.jsonl: (\d+) rows", done.stdout)
        assert found.total() + 2 * int(pairs) == n, done.stdout
    none = trajgraph(
        "export", path, "--format", "dpo", "--output", tmp_path / "no", "--where", "passes_every_gate=true"
    )
    assert none.returncode == 2 and "--where is asked of both" in none.stderr
