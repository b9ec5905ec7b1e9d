"""The lines that hold tokens during a run become Parquet: every one once, wherever a process was killed."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backends.errors import UsageError
from batch.jsonl import encoded
from batch.parts import next_number, part_at, parts_of
from batch.token_files import finish_tokens, to_parquet
from tests.support.token_lines import line, rows_in


@pytest.mark.parametrize("state", ["appended", "sealed", "made", "half made", "both"])
def test_wherever_a_process_was_killed_every_line_becomes_rows_once(tmp_path: Path, state: str) -> None:
    path = tmp_path / "run_tokens.jsonl"
    lines = b"".join(encoded(line(number)) + b"\n" for number in range(120))
    (path if state == "appended" else part_at(path, 1)).write_bytes(lines)
    if state in ("made", "both"):
        finish_tokens(path)
    if state == "both":
        part_at(path, 1).write_bytes(lines)
    if state == "half made":
        part_at(path, 1).with_name(f".{part_at(path, 1).stem}.parquet.new").write_bytes(b"PAR1")
    finish_tokens(path)
    path.write_bytes(encoded(line(120)) + b"\n")
    finish_tokens(path)
    finish_tokens(path)
    assert [row["sample_id"] for row in rows_in(tmp_path)] == [line(number)["sample_id"] for number in range(121)]
    assert rows_in(tmp_path)[0]["logprobs"] == [-0.5, None]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "run_tokens_part00001.parquet", "run_tokens_part00002.parquet"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "rotten", [b'{"sample_id": "a', b"[]", b'{"sample_id": 1, "generation_time": "", "replies": [{"turn": "x"}]}']
)
def test_a_damaged_line_is_named_and_nothing_is_thrown_away(tmp_path: Path, rotten: bytes) -> None:
    path = tmp_path / "run_tokens.jsonl"
    path.write_bytes(encoded(line(1)) + b"\n" + rotten + b"\n")
    with pytest.raises(UsageError, match="damaged"):
        finish_tokens(path)
    assert [one.name for one in tmp_path.iterdir()] == ["run_tokens_part00001.jsonl"]


def test_a_damaged_part_holds_up_no_other(tmp_path: Path) -> None:
    path = tmp_path / "run_tokens.jsonl"
    part_at(path, 1).write_bytes(b"{}\n")
    part_at(path, 2).write_bytes(encoded(line(2)) + b"\n")
    with pytest.raises(UsageError, match=r"part00001.*damaged"):
        finish_tokens(path)
    assert [row["sample_id"] for row in rows_in(tmp_path)] == [line(2)["sample_id"]]


def test_two_threads_make_one_table(tmp_path: Path) -> None:
    """As when one copies a run's files and another has just sealed the part."""
    plain = part_at(tmp_path / "run_tokens.jsonl", 1)
    for _ in range(10):
        plain.write_bytes(b"".join(encoded(line(number)) + b"\n" for number in range(200)))
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(to_parquet, [plain] * 4))
        assert len(rows_in(tmp_path)) == 200
        assert [one.suffix for one in tmp_path.iterdir()] == [".parquet"]
        plain.with_suffix(".parquet").unlink()


@pytest.mark.parametrize("numbers", ["AAAA", "????", "AAAAAAA="])
def test_half_a_number_is_damage_and_shifts_no_other(tmp_path: Path, numbers: str) -> None:
    path, half = tmp_path / "run_tokens.jsonl", line(1)
    half["replies"][0]["ids"] = numbers
    path.write_bytes(encoded(half) + b"\n" + encoded(line(2)) + b"\n")
    with pytest.raises(UsageError, match="damaged"):
        finish_tokens(path)


def test_a_table_beside_the_records_is_none_of_their_parts(tmp_path: Path) -> None:
    path = tmp_path / "run_incremental.jsonl"
    path.with_name("run_incremental_part00009.parquet").write_bytes(b"PAR1")
    assert parts_of(path) == {} and next_number(path) == 1
