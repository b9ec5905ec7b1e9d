"""A folder is all its runs: each row is read once, under the prompt that it was made under."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import generate_command, read_jsonl, trajgraph, write_questions
from tests.support.servers import demo_model


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, tools_url: str) -> Path:
    """Four instances that shared a folder, each under a system prompt of its own."""
    folder = tmp_path_factory.mktemp("night")
    write_questions(folder / "questions.jsonl", [f"Does drug {n} help?" for n in range(5)])
    with demo_model() as url:
        for number in range(4):
            prompt = folder / f"prompt{number}.txt"
            prompt.write_text(f"You are researcher {number}. Search, then answer in <answer>.")
            done = trajgraph(
                *generate_command(folder, url, tools_url),
                "--instance-id",
                f"gpu{number}",
                "--system-prompt-file",
                prompt,
            )
            assert done.returncode == 0, done.stderr
    return folder / "out"


def exported(folder: Path, *arguments: object) -> list[dict[str, Any]]:
    done = trajgraph("export", *arguments, "--format", "messages", "--output", folder)
    assert done.returncode == 0, done.stderr
    return read_jsonl(folder / "train.jsonl")


def check(rows: list[dict[str, Any]], instances: range = range(4)) -> None:
    """Every row once, under its own instance's prompt."""
    assert sorted(row["sample_id"] for row in rows) == [f"gpu{i}_traj_{n:05d}" for i in instances for n in range(1, 6)]
    for row in rows:
        assert row["messages"][0]["content"].startswith(f"You are researcher {row['sample_id'][3]}.")


def test_a_folder_of_four_instances_is_exported_whole_each_row_under_its_own_prompt(
    night: Path, tmp_path: Path
) -> None:
    check(exported(tmp_path / "folder", night))
    check(exported(tmp_path / "runs", *night.glob("*_run.json")))
    check(exported(tmp_path / "files", *night.glob("*_incremental.jsonl")))
    check(exported(tmp_path / "both", night, next(night.glob("*_run.json"))))
    check(exported(tmp_path / "one", next(night.glob("*gpu2_run.json"))), range(2, 3))


def test_a_cat_of_several_runs_finds_its_prompts_in_the_runs_beside_it(night: Path, tmp_path: Path) -> None:
    cat = night / "all.jsonl"
    cat.write_bytes(b"".join(path.read_bytes() for path in night.glob("*_incremental.jsonl")))
    check(exported(tmp_path / "set", cat))
    away = tmp_path / "away.jsonl"
    shutil.move(cat, away)
    lost = trajgraph("export", away, "--format", "messages", "--output", tmp_path / "lost")
    assert lost.returncode == 2
    assert "nothing to export" in lost.stderr
    assert "20 rows made under a prompt that is not kept" in lost.stderr
    with away.open("a") as rows:  # of the earlier scripts
        row = read_jsonl(away)[0]
        rows.write(json.dumps({**row, "sample_id": "pubmed_traj_00001", "metadata": {}}) + "\n")
    done = trajgraph("export", away, "--format", "messages", "--output", tmp_path / "lost")
    assert "left out: 20 rows made under a prompt that is not kept" in done.stdout
    assert "1 row without the name of a prompt, exported without one" in done.stdout
    given = exported(tmp_path / "given", away, "--system-prompt-file", night.with_name("prompt2.txt"))
    check([row for row in given if row["sample_id"].startswith("gpu")], range(2, 3))
    (other,) = [
        row for row in given if not row["sample_id"].startswith("gpu")
    ]  # names none: it is the one that is given
    assert other["messages"][0] == {
        "role": "system",
        "content": "You are researcher 2. Search, then answer in &lt;answer>.",
    }


def test_an_id_that_stands_twice_is_refused_with_both_places(night: Path, tmp_path: Path) -> None:
    first = next(night.glob("*gpu0_incremental.jsonl"))
    twice = tmp_path / "twice.jsonl"
    twice.write_bytes(first.read_bytes() * 2)
    for command in (
        ("audit", twice), ("export", twice, "--format", "text", "--output", tmp_path / "set"), ("report", twice, "--output", tmp_path / "r.html"),
        ("show", "gpu0_traj_00001", twice),
    ):  # fmt: skip
        done = trajgraph(*command)
        assert done.returncode == 2, done.stdout
        assert "gpu0_traj_0000" in done.stderr
        assert "line " in done.stderr
    assert not (tmp_path / "r.html").exists()
    assert trajgraph("audit", first, first).returncode == 0, "two arguments stand side by side"
    for mistaken in (
        ("report", first, "--output", "."),
        ("audit", first, "--write-clean", tmp_path),
        ("export", first, "--format", "text", "--output", twice),
    ):
        done = trajgraph(*mistaken)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr


def test_a_row_that_is_named_twice_is_one_row(night: Path, tmp_path: Path) -> None:
    cat = tmp_path / "all.jsonl"
    cat.write_bytes(b"".join(path.read_bytes() for path in night.glob("*_incremental.jsonl")))
    (tmp_path / "link").symlink_to(night)
    check(exported(tmp_path / "set", cat, night, tmp_path / "link"))
    card = (tmp_path / "set" / "README.md").read_text()
    assert "| accepted | 20 |" in card


def test_every_command_reads_all_runs_of_a_folder_and_says_which(night: Path, tmp_path: Path) -> None:
    audit = trajgraph("audit", night, "--json")
    assert sum(one["rows"] for one in json.loads(audit.stdout) if one["file"] != "total") == 20
    assert "4 runs are read: " in audit.stderr
    assert trajgraph("report", night, "--output", tmp_path / "page.html").stdout.endswith("20 trajectories\n")
    assert "gpu3_traj_00002" in trajgraph("show", "gpu3_traj_00002", night).stdout
    told = trajgraph("status", night)
    assert [f"gpu{n}" in line for n, line in enumerate(told.stdout.splitlines())] == [True] * 4
    again = trajgraph("resume", night)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("is already complete") == 4


def test_a_run_that_accepted_nothing_names_its_rejected(night: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rejected"
    shutil.copytree(night, folder)
    for path in folder.glob("*gpu[123]_*"):
        path.unlink()
    accepted = next(folder.glob("*_incremental.jsonl"))
    rejected = accepted.rename(str(accepted).replace("incremental", "rejected"))
    done = trajgraph("audit", folder)
    assert done.returncode == 2
    assert str(rejected) in done.stderr
    assert "gpu0_traj_00001" in trajgraph("audit", folder, "--explain", "gpu0_traj_00001").stdout
    assert trajgraph("audit", rejected).returncode == 0
