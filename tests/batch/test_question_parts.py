"""Questions in other files than plain JSONL: the same rows in the same order, whatever holds them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from backends.errors import UsageError
from batch.questions import check_questions
from tests.support.runs import counts, generate, trajgraph, two_turns
from tests.support.servers import ScriptedModel

ROWS = [{"question": f"Does drug {n} help (β ≥ {n})?", "topic": "t", "question_type": "r", "expected_search_terms": ["a"]}
        for n in range(7)]  # fmt: skip
LINES = [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS]


def write(path: Path, rows: slice = slice(None)) -> Path:
    lines = LINES[rows]
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(b"".join(lines[:2])) + gzip.compress(b"".join(lines[2:])))
    elif path.suffix == ".zst":
        path.write_bytes(zstandard.compress(b"".join(lines[:2])) + zstandard.compress(b"".join(lines[2:])))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS[rows]), path)
    else:
        path.write_bytes(b"".join(lines))
    return path


def folder_of_parts(folder: Path) -> Path:
    (folder / "parts").mkdir()
    write(folder / "parts" / "part-0.jsonl", slice(0, 3))
    write(folder / "parts" / "part-1.jsonl.gz", slice(3, 5))
    write(folder / "parts" / "part-2.parquet", slice(5, 7))
    (folder / "parts" / "README.md").write_text("no question")
    (folder / "parts" / ".hidden.jsonl").write_text("no question")
    return folder / "parts"


@pytest.mark.parametrize("name", ["q.jsonl", "q.jsonl.gz", "q.jsonl.zst", "q.parquet", "folder"])
def test_the_rows_are_the_same_in_the_same_order(tmp_path: Path, name: str) -> None:
    path = folder_of_parts(tmp_path) if name == "folder" else write(tmp_path / name)
    found = check_questions(path)
    assert (found.rows, found.asked) == (7, 7)
    assert [(number, row) for number, row in found.stream()] == list(enumerate(ROWS, start=1))
    some = check_questions(path, limit=6)
    assert [number for number, _ in some.stream(lambda number: number > 3)] == [4, 5, 6]
    assert check_questions(path).sha256 == found.sha256


async def test_a_run_over_a_folder_is_resumed_and_refused_when_a_part_changes(
    tmp_path: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = two_turns
    parts = folder_of_parts(tmp_path)
    half = await generate(tmp_path, scripted_model, tools_url, questions_file=parts, limit=3)
    assert counts(half) == [3, 0, 0, 0]
    done = await generate(tmp_path, scripted_model, tools_url, questions_file=parts)
    assert counts(done) == [7, 0, 0, 0] and done.files.run == half.files.run
    found = check_questions(parts)
    write(parts / "part-0.jsonl", slice(0, 4))
    with pytest.raises(UsageError, match="was changed during the run"):
        list(found.stream())


@pytest.mark.parametrize(
    ("name", "content"),
    [("q.jsonl.gz", b"no gzip"), ("q.jsonl.gz", gzip.compress(b"".join(LINES), mtime=0)[:-9]), ("q.jsonl.zst", b"no zstd"), ("q.jsonl.zst", zstandard.compress(b"".join(LINES))[:-9]),
     ("q.jsonl.zst", b""), ("q.jsonl.gz", b""),
     ("q.parquet", b"PAR1 no parquet PAR1"), ("q.jsonl.gz", gzip.compress(b"not JSON\n", mtime=0))],
)  # fmt: skip
def test_what_cannot_be_read_is_one_line_that_names_the_file(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    done = trajgraph("generate", "--questions-file", tmp_path / name, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"trajgraph: {tmp_path / name}"), done.stderr


def test_a_folder_without_questions_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no questions in this folder"):
        check_questions(tmp_path)


def test_questions_of_a_parquet_file_keep_their_other_columns(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"question": "Does it help?", "pmid": 12345678, "year": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "q.parquet")
    ((_, row),) = check_questions(tmp_path / "q.parquet").stream()
    assert row.get("fields") == {"pmid": 12345678, "year": None}
