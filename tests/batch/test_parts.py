"""Records in sealed parts: the same records, counted and read as one file's, whatever is killed, cut or packed."""

import json
import multiprocessing
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import UsageError
from batch.append import Appender
from batch.index import RunIndex
from batch.jsonl import encoded, named
from batch.part_counts import finish_part, finish_parts
from batch.parts import parts_of
from batch.records import Tail, read_lines, sample_ids, set_aside
from batch.run_files import RunFiles
from tests.batch.test_index import SAMPLES, files_in, record, said
from tests.batch.test_workers import asked, begun, workers_of
from tests.support.runs import command, trajgraph, write_questions
from tests.support.servers import demo_model
from training.sources import sources

COUNT = 24


def in_files(folder: Path, kind: str = "incremental") -> dict[str, list[str]]:
    """The ids in each of the files of a kind, read without the product; of a part that is there twice, in both."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob(f"[!.]*_{kind}*.jsonl*")):
        data = path.read_bytes()
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data) if path.suffix == ".zst" else data
        found[path.name] = [json.loads(line)["sample_id"] for line in data.splitlines()]
    return found


def append(path: Path, row: dict[str, Any], most: int, *, pack: bool, finish: bool = True) -> None:
    left = [encoded(row)]
    appender = Appender(path, most)
    while left:
        written, part = appender.append(left)
        left = left[written:]
        if part is not None and finish:
            finish_part(parts_of(path)[part], "accepted", pack=pack)


@settings(max_examples=60, deadline=None)
@given(SAMPLES, st.integers(1, 7), st.booleans(), st.lists(st.booleans(), min_size=41, max_size=41), st.data())
def test_records_in_parts_add_up_and_are_read_as_in_one_file(
    samples: Any, most: int, pack: bool, saved: list[bool], data: Any
) -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as several:
        whole, parted = files_in(Path(one)), files_in(Path(several))
        tail, seen = Tail(parted.trajectories), list[str]()
        for at, (row, number, _) in enumerate(samples):
            new = record(row, number, accepted=True)
            append(whole.trajectories, new, 1000, pack=False)
            append(parted.trajectories, new, most, pack=pack, finish=data.draw(st.booleans()))
            if saved[at]:
                RunIndex.read(parted).save()
                seen += map(named, tail.read())
        written = [row["sample_id"] for row in read_lines(whole.trajectories)]
        assert list(sample_ids(parted.trajectories)) == [*seen, *map(named, tail.read())] == written
        assert said(RunIndex.read(parted)) == said(RunIndex.anew(parted)) == said(RunIndex.read(whole))
        assert all(len(ids) == most for name, ids in in_files(Path(several)).items() if "_part" in name)
        kept = {name for name in written if data.draw(st.booleans())}
        for files in (whole, parted):
            set_aside(files.trajectories, files.superseded, lambda one: one["sample_id"] in kept)
            finish_parts(files.trajectories, "accepted", pack=pack)
            assert list(sample_ids(files.trajectories)) == [name for name in written if name in kept]
            assert list(sample_ids(files.superseded)) == [name for name in written if name not in kept]
        assert said(RunIndex.read(parted)) == said(RunIndex.read(whole))


@pytest.mark.parametrize("pack", [False, True])
def test_a_part_or_its_counts_cut_at_any_byte_give_no_false_count(tmp_path: Path, pack: bool) -> None:
    files = files_in(tmp_path)
    for row in range(1, 6):
        append(files.trajectories, record(row, 1, accepted=True), 2, pack=pack)
    RunIndex.read(files).save()
    expected = said(RunIndex.anew(files))
    (counts, _), (part, _) = sorted(tmp_path.glob("*_counts.json")), parts_of(files.trajectories).values()
    whole = counts.read_bytes()
    for cut in range(len(whole)):
        counts.write_bytes(whole[:cut])
        assert said(RunIndex.anew(files)) == expected
    counts.write_bytes(whole)
    records = part.read_bytes()
    line_ends = [at for at in range(len(records) + 1) if at == 0 or records[:at].endswith(b"\n")]
    for cut in range(len(records)):
        part.write_bytes(records[:cut])
        kept = cut + 1 if cut + 1 in line_ends else cut  # only the last line feed is gone
        if kept in line_ends and not pack:
            left = [1, 2][: line_ends.index(kept)]
            assert sorted(row for row, _ in RunIndex.read(files).finished.rows()) == [*left, 3, 4, 5]
        else:
            with pytest.raises(UsageError, match=f"{part}: (cut off|damaged)"):
                RunIndex.read(files)
    part.write_bytes(records)
    finish_parts(files.trajectories, "accepted", pack=pack)
    assert said(RunIndex.read(files)) == expected


@pytest.mark.parametrize("pack", [False, True])
def test_what_a_process_leaves_that_is_killed_while_it_seals_is_finished_by_the_next(
    tmp_path: Path, pack: bool
) -> None:
    files = files_in(tmp_path)
    for row in range(1, 4):
        append(files.trajectories, record(row, 1, accepted=True), 10, pack=pack)
    plain = files.trajectories.read_bytes()
    expected = said(RunIndex.read(files))
    assert Appender(files.trajectories).seal() == 1  # renamed, no more
    assert said(RunIndex.read(files)) == expected
    (tmp_path / f".{parts_of(files.trajectories)[1].name}.zst.new").write_bytes(b"half")
    assert said(RunIndex.read(files)) == expected
    finish_parts(files.trajectories, "accepted", pack=pack)
    if pack:  # packed, and the plain one not yet gone
        parts_of(files.trajectories)[1].with_suffix("").write_bytes(plain)
    assert said(RunIndex.read(files)) == expected and len(list(read_lines(files.trajectories))) == 3
    finish_parts(files.trajectories, "accepted", pack=pack)
    assert list(in_files(tmp_path).values()) == [[f"qwen3_traj_{row:05d}" for row in (1, 2, 3)]]


@pytest.mark.long
@pytest.mark.parametrize("more", [(), ("--workers", "2"), ("--workers", "3", "--zstd")])
def test_a_killed_run_in_parts_loses_and_repeats_nothing(tmp_path: Path, tools_url: str, more: tuple[str, ...]) -> None:
    folder, parted = asked(tmp_path, "killed"), ("--records-per-file", "3", *more)
    with demo_model(latency=0.05) as url:
        for _ in range(2):
            process = begun(folder, url, tools_url, after=30, processes=parted)
            workers = workers_of(process)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            while any(Path(f"/proc/{worker}").exists() for worker in workers):
                time.sleep(0.05)  # a busy machine takes its time to end them
        done = trajgraph(*command(folder, url, tools_url), *parted)
    assert done.stdout.startswith(f"{COUNT} questions: {COUNT} accepted, 0 rejected, 0 failed, 0 pending"), done
    files = in_files(folder)
    assert sorted(map(len, files.values())) == [3] * 8 and len({name for ids in files.values() for name in ids}) == 24
    assert all(name.endswith(".zst") for name in files) == ("--zstd" in more)
    assert len(list(folder.rglob("*_counts.json"))) == 8


def test_every_reader_takes_a_run_in_parts(tmp_path: Path, tools_url: str) -> None:
    one, parted = asked(tmp_path, "one"), asked(tmp_path, "parts")
    with demo_model() as url:
        assert trajgraph(*command(one, url, tools_url)).returncode == 0
        assert trajgraph(*command(parted, url, tools_url), "--records-per-file", "5", "--zstd").returncode == 0
        again = trajgraph(*command(parted, url, tools_url), "--records-per-file", "5")
        assert "already complete" in again.stderr and again.returncode == 0
    assert sorted(map(len, in_files(parted).values())) == [4, 5, 5, 5, 5]

    def told(folder: Path, *arguments: str) -> str:
        done = trajgraph(arguments[0], folder / "out", *arguments[1:])
        assert done.returncode == 0, done
        return done.stdout

    assert told(parted, "status").partition(": ")[2] == told(one, "status").partition(": ")[2]
    assert told(parted, "audit").splitlines()[1:] == told(one, "audit").splitlines()[1:]
    rows = []
    for folder in (one, parted):
        told(folder, "export", "--format", "messages", "--output", str(folder / "set"))
        written = map(json.loads, (folder / "set/train.jsonl").read_text().splitlines())
        rows.append({row["sample_id"]: (row["messages"], row["train_spans"], row["tokens"]) for row in written})
    assert rows[0] == rows[1] and len(rows[0]) == COUNT
    everything = sorted((parted / "out").iterdir())
    for names in (everything, [parted / "out", *everything], [*everything, parted / "out"]):
        done = trajgraph("export", *names, "--format", "text", "--output", parted / "text")
        assert f"train.jsonl: {COUNT} rows" in done.stdout, done
    assert trajgraph("audit", *everything, "--json").stdout.count(f'"rows": {COUNT}') >= 1
    for name in ("*_part00002.jsonl.zst", "*_incremental.jsonl"):
        (named,) = (parted / "out").glob(name)
        assert trajgraph("audit", named).returncode == 0


def test_parts_and_one_file_in_order_do_not_go_together(tmp_path: Path) -> None:
    questions = write_questions(tmp_path / "q.jsonl", ["Does it help?"])
    done = trajgraph("generate", "--questions-file", questions, "--no-incremental", "--records-per-file", "2")
    assert done.returncode == 2 and "leave one out" in done.stderr


def test_a_reader_misses_no_part_that_is_sealed_or_packed_while_it_reads(tmp_path: Path) -> None:
    path = files_in(tmp_path).trajectories
    for row in range(1, 10):
        append(path, record(row, 1, accepted=True), 2, pack=False)
    reads = sample_ids(path)
    seen = [next(reads) for _ in range(3)]
    Appender(path).seal()
    append(path, record(10, 1, accepted=True), 2, pack=False)
    finish_parts(path, "accepted", pack=True)
    assert [*seen, *reads] == [f"qwen3_traj_{row:05d}" for row in range(1, 11)]


def append_rows(path: Path, first: int) -> None:
    for row in range(first, first + 100):
        append(path, record(row, 1, accepted=True), 1, pack=True)


@pytest.mark.long
def test_processes_that_append_seal_and_pack_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=append_rows, args=(files.trajectories, first)) for first in (1, 1001)]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        names = list(sample_ids(files.trajectories))
        assert len(names) == len(set(names))
        assert RunIndex.read(files).finished.count() >= len(names)
    assert sorted(sample_ids(files.trajectories)) == [
        f"qwen3_traj_{row:05d}" for first in (1, 1001) for row in range(first, first + 100)
    ]


def test_appenders_count_anew_when_another_has_sealed_whatever_the_file_system_gives_the_next_file(
    tmp_path: Path,
) -> None:
    path = files_in(tmp_path).trajectories
    one, other = Appender(path, 5), Appender(path, 5)
    rows = [encoded(record(row, 1, accepted=True)) for row in range(1, 31)]
    one.append(rows[:3])
    for at in range(3, 30, 2):
        left = rows[at : at + 2]
        while left:
            written, part = (other if at % 4 == 3 else one).append(left)
            left = left[written:]
            if part:
                finish_part(parts_of(path)[part], "accepted", pack=True)
    assert [len(ids) for name, ids in in_files(tmp_path).items() if "_part" in name] == [5] * 6


def test_what_a_killed_worker_left_of_a_line_is_not_sealed(tmp_path: Path) -> None:
    path = files_in(tmp_path).trajectories
    append(path, record(1, 1, accepted=True), 10, pack=False)
    with path.open("ab") as file:
        file.write(b'{"sample_id": "qwen3_tr')
    assert Appender(path).seal() == 1
    finish_parts(path, "accepted", pack=True)
    assert list(sample_ids(path)) == ["qwen3_traj_00001"]


def test_the_parts_of_a_run_whose_name_begins_with_anothers_are_its_own(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    other = RunFiles(tmp_path, f"{files.stem}_incremental_part00001", files.run_id)
    odd = RunFiles(tmp_path, f"{files.stem}_[*]?**", files.run_id)
    for at, one in enumerate((files, other, odd)):
        for row in range(4):
            append(one.trajectories, record(10 * at + row + 1, 1, accepted=True), 2, pack=bool(at))
        finish_parts(one.trajectories, "accepted", pack=bool(at))
    for at, one in enumerate((files, other, odd)):
        assert [name[-2:] for name in sample_ids(one.trajectories)] == [f"{10 * at + row:02d}" for row in range(1, 5)]
        assert RunIndex.read(one).finished.count() == 4


def test_a_part_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    append(files.trajectories, record(1, 1, accepted=True), 1, pack=False)
    part = parts_of(files.trajectories)[1]
    part.unlink()
    part.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="cannot be opened: put it back"):
        list(sample_ids(files.trajectories))


def test_a_set_is_read_whole_while_its_run_seals_and_named_twice_it_is_read_once(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    for row in range(1, 13):
        append(files.trajectories, record(row, 1, accepted=True), 5, pack=True)
    (source,) = sources([files.trajectories])
    reads = source.rows(files.trajectories)
    next(reads)
    Appender(files.trajectories).seal()
    assert len(list(reads)) == 11
    named = sorted(tmp_path.glob("*_incremental*.jsonl*"))
    assert sum(1 for one in sources(named) for path in one.files for _ in one.rows(path)) == 12


def test_a_name_that_leaves_no_room_for_those_of_parts_is_refused_at_the_start(tmp_path: Path, tools_url: str) -> None:
    folder = asked(tmp_path, "long")
    with demo_model() as url:
        done = trajgraph(*command(folder, url, tools_url), "--instance-id", "病" * 70)
    assert done.returncode == 2 and "too long for the names of files" in done.stderr
