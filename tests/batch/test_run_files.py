"""The files of a run: whole lines, and one process at a time."""

import json
import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.jsonl import encoded, summary, truncate_partial_line
from batch.records import Tail, put_in_order, read_lines, sample_ids
from tests.support.runs import append_lines


def test_lines_are_appended_whole_and_torn_ones_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_lines(path, [encoded({"sample_id": "a", "text": "x\ud800"})])
    append_lines(path, [encoded({"sample_id": "b"})])
    with path.open("ab") as target:
        target.write(b'{"sample_id": "c", "te')
    truncate_partial_line(path)
    assert [row["sample_id"] for row in read_lines(path)] == ["a", "b"]
    path.write_bytes(path.read_bytes()[:-1])
    truncate_partial_line(path)
    assert [row["sample_id"] for row in read_lines(path)] == ["a", "b"], "an editor took the last line feed, no row"
    append_lines(path, [encoded({"sample_id": "c"})])
    assert [row["sample_id"] for row in read_lines(path)] == ["a", "b", "c"]
    for nothing in (b"torn from the start", b"{}", b"12"):
        path.write_bytes(nothing)
        truncate_partial_line(path)
        assert path.read_bytes() == b""


def append_rows(path: Path, name: str) -> None:
    for number in range(100):
        append_lines(path, [encoded({"sample_id": f"{name}{number}", "text": "x" * 5000})])


@pytest.mark.long
def test_processes_append_whole_lines_to_one_file_and_cut_off_what_a_killed_one_left(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"sample_id": "a"}\n{"sample_id": "b", "tra')
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=append_rows, args=(path, name)) for name in "xy"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(row["sample_id"] for row in read_lines(path)) == sorted(
        ["a", *(f"{name}{number}" for name in "xy" for number in range(100))]
    )


def test_a_tail_reads_each_whole_line_once_and_records_are_put_in_order(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_lines(path, [b'{"sample_id": "m_traj_00009"}'])
    tail = Tail(path)
    append_lines(path, [b'{"sample_id": "m_traj_00002_s10"}', b'{"sample_id": "m_traj_00002_s9"}'])
    with path.open("ab") as target:
        target.write(b'{"sample_id"')
    assert len(list(tail.read())) == 2
    assert len(list(sample_ids(path))) == 3, "half a line is no damage: somebody writes it"
    append_lines(path, [b'{"sample_id": "m_traj_00001"}'])
    assert list(tail.read()) == [b'{"sample_id": "m_traj_00001"}\n']
    put_in_order(path)
    expected = ["m_traj_00001", "m_traj_00002_s9", "m_traj_00002_s10", "m_traj_00009"]
    assert [row["sample_id"] for row in read_lines(path)] == expected


TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_what_a_record_says_of_itself_is_found_without_reading_the_trajectory(
    question: str, topic: str, kind: str, text: str
) -> None:
    trajectory = {"text": text, "result": {"metadata": {"a": 1}, "b": ', "metadata": {'}}
    metadata = {"stop_reason": text, "nested": {"topic": "no"}}
    record = {
        "sample_id": "qwen3_traj_00001", "question": question, "topic": topic, "question_type": kind,
        "trajectory": trajectory, "metadata": metadata,
    }  # fmt: skip
    asked = {name: record[name] for name in ("sample_id", "question", "topic", "question_type", "metadata")}
    assert summary(encoded(record)) == asked
    assert summary(json.dumps(record, separators=(",", ":")).encode()) == asked
