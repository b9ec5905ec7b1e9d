"""What a run says of itself while it works: two lines that fit a terminal, its log, JSON lines, true statistics."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.watch import duration, outcome_line
from tests.support.runs import ROOT, generate_command, trajgraph, trajgraph_process, write_questions
from tests.support.servers import demo_model

FACTS = st.fixed_dictionaries({
    "accepted": st.integers(0, 10**8), "rejected": st.integers(0, 10**8), "failed": st.integers(0, 10**8),
    "reject_reasons": st.dictionaries(st.sampled_from(["forged_tool_output", "no_answer", "context_overflow"]), st.integers(1, 10**8)),
    "replies_per_second": st.floats(0, 10**5), "tokens_per_second": st.floats(0, 10**7), "tool_errors": st.integers(0, 10**8),
})  # fmt: skip


@given(FACTS, st.sampled_from([60, 79, 80, 119, 120, 200]))
def test_the_line_of_outcomes_fits_its_width_and_names_everything_where_there_is_room(
    facts: dict[str, Any], width: int
) -> None:
    line = outcome_line(facts, width)
    assert len(line) <= width
    if width == 200:
        assert all(word in line for word in ("accepted", "rejected", "failed", "replies/s", "tokens/s", "tool errors"))


def test_a_screen_of_80_columns_has_all_of_it_and_one_of_120_in_whole_words() -> None:
    facts = {
        "accepted": 812, "rejected": 176, "failed": 12, "reject_reasons": {"no_citation": 120, "truncated": 56},
        "replies_per_second": 3.14, "tokens_per_second": 912.0, "tool_errors": 4,
    }  # fmt: skip
    assert outcome_line(facts, 79) == "82% accepted · 176 rejected: no_… · 12 failed · 3.1 r/s 912 tok/s · 4 tool err"
    assert outcome_line(facts, 119) == (
        "82% accepted · 176 rejected (no_citation 120) · 12 failed · 3.1 replies/s, 912 tokens/s · 4 tool errors"
    )


@given(st.floats(0, 10**7))
def test_what_is_left_is_never_nothing(seconds: float) -> None:
    assert not re.fullmatch(r"0 \w+", duration(seconds))


def test_a_run_writes_its_log_and_verbose_each_call(tmp_path: Path, tools_url: str) -> None:
    write_questions(tmp_path / "questions.jsonl", ["Does semaglutide help?", "Does olaparib help?"])
    with demo_model() as url:
        done = trajgraph(*generate_command(tmp_path, url, tools_url), "-v")
        assert done.returncode == 0, done.stderr
        log = next((tmp_path / "out").glob("*_run.log"))
        text = log.read_text()
        assert all(re.match(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ [A-Z]+ +\S", line) for line in text.splitlines())
        for said in ("begins a run: 2 questions", "settings: {", "qwen3_traj_00001 accepted: ", "pubmed_search {", "reply of Qwen3-8B: ",
                     "ended, exit code 0: 2 questions: 2 accepted"):  # fmt: skip
            assert said in text, said
        again = trajgraph(*generate_command(tmp_path, url, tools_url))
        assert again.returncode == 0
        assert "is already complete" in log.read_text()[len(text) :]
        rows = next((tmp_path / "out").glob("*_incremental.jsonl"))
        rows.write_text(rows.read_text().splitlines()[0] + "\n")  # a line that is taken out is asked again
        assert "goes on with" in trajgraph(*generate_command(tmp_path, url, tools_url)).stderr
        assert len(rows.read_text().splitlines()) == 2
    assert "is already complete" in trajgraph(*generate_command(tmp_path, url, tools_url)).stderr, "without any server"


@pytest.mark.long
def test_worker_processes_write_their_calls_and_their_samples_ends_to_the_runs_log(
    tmp_path: Path, tools_url: str
) -> None:
    write_questions(tmp_path / "questions.jsonl", [f"Does drug {n} help?" for n in range(4)])
    with demo_model() as url:
        done = trajgraph_process(*generate_command(tmp_path, url, tools_url), "--workers", "2", "--verbose")
    assert done.returncode == 0, done.stderr
    text = next((tmp_path / "out").glob("*_run.log")).read_text()
    assert len(re.findall(r"qwen3_traj_0000\d \w+: ", text)) == len(re.findall(r"qwen3_traj_0000\d ", text)) == 4
    assert text.count("reply of Qwen3-8B: ") >= 8


@pytest.mark.long
def test_with_json_each_line_is_an_event_and_the_last_one_has_the_statistics(tmp_path: Path, tools_url: str) -> None:
    write_questions(tmp_path / "questions.jsonl", ["Does semaglutide help?", "Does olaparib help?"])
    with demo_model() as url:
        done = trajgraph_process(*generate_command(tmp_path, url, tools_url), "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {event["event"] for event in events} == {"log", "sample", "end"}
    assert events[0]["message"].startswith("begins a run: 2 questions")
    assert [event["outcome"] for event in events if event["event"] == "sample"] == ["accepted"] * 2
    assert (events[-1]["event"], events[-1]["exit_code"], events[-1]["stats"]["accepted"]) == ("end", 0, 2)
    assert done.stderr == ""


@pytest.mark.long
def test_json_lines_stay_on_stdout_where_the_errors_go_to_a_terminal(tmp_path: Path, tools_url: str) -> None:
    write_questions(tmp_path / "questions.jsonl", ["Does semaglutide help?", "Does olaparib help?"])
    ours, theirs = pty.openpty()
    with demo_model() as url:
        command = [sys.executable, "-m", "cli", *generate_command(tmp_path, url, tools_url), "--json"]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, text=True, check=True)
    os.close(theirs)
    os.close(ours)
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()].count("sample") == 2


@pytest.mark.long
def test_a_terminal_that_goes_away_costs_the_run_nothing(tmp_path: Path, tools_url: str) -> None:
    write_questions(tmp_path / "questions.jsonl", [f"Does drug {n} help?" for n in range(8)])
    ours, theirs = pty.openpty()
    with demo_model(latency=0.2) as url:
        command = [sys.executable, "-m", "cli", *generate_command(tmp_path, url, tools_url)]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, text=True, start_new_session=True
        )
        os.close(theirs)
        while not list((tmp_path / "out").glob("*_incremental.jsonl")):
            os.read(ours, 1 << 16)
        os.close(ours)
        told = process.communicate(timeout=60)[0]
    assert (process.returncode, told.startswith("8 questions: 8 accepted")) == (0, True)
