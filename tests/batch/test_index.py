"""The index of a run only saves reading: whatever is cut, edited or older, the counts are those of the records."""

import json
import logging
import os
import tempfile
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch.finished import Finished
from batch.index import RunIndex
from batch.jsonl import encoded
from batch.questions import Share
from batch.questions_cache import checked_questions
from batch.run_files import RunFiles
from tests.support.runs import QUESTIONS, append_lines, counts, generate, read_jsonl, two_turns, write_questions
from tests.support.servers import ScriptedModel

SAMPLES = st.lists(
    st.tuples(st.integers(1, 60), st.integers(1, 3), st.booleans()), max_size=40, unique_by=lambda one: one[:2]
)


def record(row: int, number: int, *, accepted: bool) -> dict[str, Any]:
    sample = f"qwen3_traj_{row:05d}" + (f"_s{number}" if number > 1 else "")
    about = {"stop_reason": "answer", "reject_reasons": [] if accepted else ["no_answer"], "total_tool_calls": row,
             "turns": number, "tool_errors": [], "usage": {"input_tokens": row, "output_tokens": number},
             "model_seconds": 0.5, "tool_seconds": 0.25, "endpoint": "http://ä/v1"}  # fmt: skip
    return {"sample_id": sample, "question": f"Q{row}?", "topic": "t€", "question_type": "r", "metadata": about}


def files_in(folder: Path) -> RunFiles:
    return RunFiles(folder, "pubmed_trajectory_20260101_000000_Qwen3-8B", str(uuid.UUID(int=7)))


def write(files: RunFiles, samples: list[tuple[int, int, bool]]) -> None:
    for row, number, accepted in samples:
        path = files.trajectories if accepted else files.rejected
        append_lines(path, [encoded(record(row, number, accepted=accepted))])


def said(index: RunIndex) -> Any:
    known = sorted((row, number, index.finished.get(row, number)) for row, number in index.finished.rows())
    return json.loads(json.dumps(index.stats.to_dict())), known


@settings(max_examples=60)
@given(SAMPLES, st.integers(0, 40), st.integers(0, 40), st.booleans())
def test_with_or_without_an_index_the_records_add_up_to_the_same(
    samples: Any, half: int, more: int, edits: bool
) -> None:
    with tempfile.TemporaryDirectory() as name:
        files = files_in(Path(name))
        for part in (samples[:half], samples[half : half + more]):
            write(files, part)
            RunIndex.read(files).save()
        write(files, samples[half + more :])
        if edits and files.rejected.exists():  # a line is taken out by hand
            lines = files.rejected.read_bytes().splitlines(keepends=True)
            files.rejected.write_bytes(b"".join(lines[1:]))
        assert said(RunIndex.read(files)) == said(RunIndex.anew(files))


def test_a_cut_at_any_byte_of_index_or_records_loses_no_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "trajgraph")
    files = files_in(tmp_path)
    write(files, [(1, 1, True), (2, 1, False)])
    RunIndex.read(files).save()
    whole = files.index.read_bytes()
    write(files, [(3, 1, True)])
    expected = said(RunIndex.anew(files))
    for cut in range(len(whole)):
        files.index.write_bytes(whole[:cut])
        assert said(RunIndex.read(files)) == expected
    assert "the records are read anew" in caplog.text
    files.index.write_bytes(whole)
    assert said(RunIndex.read(files)) == expected
    records = files.trajectories.read_bytes()
    for cut in range(len(records) + 1):
        files.trajectories.write_bytes(records[:cut])
        assert said(RunIndex.read(files)) == said(RunIndex.anew(files))


def test_a_record_that_is_edited_in_place_is_read_anew(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    write(files, [(number, 1, True) for number in range(1, 40)])
    RunIndex.read(files).save()
    content = files.trajectories.read_bytes()
    files.trajectories.write_bytes(
        content.replace(b"traj_00003", b"traj_00099")
    )  # of the same length, long before the end
    index = RunIndex.read(files)
    assert index.finished.get(3, 1) is None and index.finished.get(99, 1) == "accepted"


def test_an_index_of_another_run_counts_for_nothing(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    write(files, [(1, 1, True)])
    RunIndex.read(files).save()
    other = RunFiles(tmp_path, files.stem, str(uuid.UUID(int=8)))
    assert said(RunIndex.read(other)) == said(RunIndex.anew(files))


@given(st.dictionaries(st.tuples(st.integers(1, 40_000), st.integers(1, 3)), st.sampled_from(["accepted", "rejected"]),
                       max_size=60), st.integers(0, 45_000), st.integers(1, 3))  # fmt: skip
def test_two_bits_a_sample_say_what_a_dictionary_would(known: Any, last: int, most: int) -> None:
    finished = Finished()
    for (row, number), kind in known.items():
        finished.set(row, number, kind)
    finished = Finished.from_dict(json.loads(json.dumps(finished.copy().to_dict())))
    assert {place: finished.get(*place) for place in finished.rows()} == known
    assert finished.count() == len(known)
    assert finished.count(last, most) == sum(row <= last and number <= most for row, number in known)
    assert finished.last_row(last) == max((row for row, _ in known if row <= last), default=0)
    assert finished.get(last, 4) is None


async def test_a_run_goes_on_by_its_index_and_by_its_records_alike(
    folder: Path, scripted_model: ScriptedModel, tools_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    scripted_model.script = two_turns
    half = await generate(folder, scripted_model, tools_url, limit=3)
    assert half.files.index.exists()
    lines = half.files.trajectories.read_bytes().splitlines(keepends=True)
    half.files.trajectories.write_bytes(b"".join(lines[1:]))  # its question is asked again
    caplog.set_level(logging.INFO, "trajgraph")
    done = await generate(folder, scripted_model, tools_url)
    assert counts(done) == [len(QUESTIONS), 0, 0, 0]
    assert "does not fit the records: they are read anew" in caplog.text
    assert len({row["sample_id"] for row in read_jsonl(done.files.trajectories)}) == len(QUESTIONS)
    assert said(RunIndex.read(done.files)) == said(RunIndex.anew(done.files))


def test_a_large_questions_file_is_checked_once_until_it_changes(tmp_path: Path) -> None:
    path = write_questions(tmp_path / "questions.jsonl", [f"Q{number}?" for number in range(10_000)])

    def check() -> Any:
        found = checked_questions(path, tmp_path, skip_bad_rows=False, limit=5, share=Share(1, 2), dedupe=False)
        return found, [row for row, _ in found.stream()]

    first, (cache,) = check(), tmp_path.glob(".*_questions")
    kept = json.loads(cache.read_text())
    assert check() == first and first[1] == [2, 4]
    cache.write_text(json.dumps({**kept, "rows": 3}))
    assert check()[0].rows == 3, "it is read from there"
    cache.write_text(json.dumps(kept)[:-9])
    assert check() == first
    times = path.stat()
    path.write_bytes(path.read_bytes().replace(b"Q0?", b"Q9?"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert check()[0].sha256 != first[0].sha256, "another content under the same size and time of change"
