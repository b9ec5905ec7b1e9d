"""The files of a run: whole lines, and one process at a time."""

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from batch.jsonl import append_lines, encoded, read_lines, summary, truncate_partial_line


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
