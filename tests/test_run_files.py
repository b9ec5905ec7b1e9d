"""The files of a run: whole lines, and one process at a time."""

from pathlib import Path

from graph.lines import append_line, drop_torn_line, encoded, read_lines


def test_lines_are_appended_whole_and_torn_ones_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, encoded({"sample_id": "a", "text": "x\ud800"}))
    append_line(path, encoded({"sample_id": "b"}))
    with path.open("ab") as target:
        target.write(b'{"sample_id": "c", "te')
    drop_torn_line(path)
    assert [row["sample_id"] for row in read_lines(path)] == ["a", "b"]
    path.write_bytes(b"torn from the start")
    drop_torn_line(path)
    assert path.read_bytes() == b""
