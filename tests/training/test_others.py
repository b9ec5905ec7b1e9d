"""Rows of others become records and exports: with the arguments, tokens, ids and calls that they had."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.exports import export
from tests.support.runs import read_jsonl, trajgraph
from tests.support.trajectories import record, sound
from tests.training.test_shapes import ANSWER, OF_OTHERS, SNIPPET, counts, written
from training.atif import from_atif
from training.atif_export import to_atif
from training.rows import Row
from training.shapes import as_record


@pytest.mark.parametrize("name", ["browse_webpage", "weather", "look"])
def test_a_call_has_the_arguments_of_its_tool_alone(name: str) -> None:
    given = {"browse_webpage": {"url": "https://x.org"}, "weather": {"city": "Bern", "days": 2}, "look": {}}[name]
    row = {"messages": [
        {"role": "user", "content": "Q?"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "function": {"name": name, "arguments": given}}]},
        {"role": "tool", "tool_call_id": "a", "content": "R"}, {"role": "assistant", "content": "Yes."}]}  # fmt: skip
    document = to_atif(Row(Path("x"), 1, as_record(row)), None)
    assert document["steps"][1]["tool_calls"][0]["arguments"] == given
    assert from_atif(document)["trajectory"]["interleaved_text"] == as_record(row)["trajectory"]["interleaved_text"]


LOOKED = {"tool_calls": [{"tool_call_id": "a", "function_name": "look", "arguments": {}}],
          "observation": {"results": [{"source_call_id": "a", "content": "R"}]}}  # fmt: skip


def test_the_tokens_of_another_agents_steps_are_added_up_where_it_says_no_sum(tmp_path: Path) -> None:
    steps = [{"step_id": 1, "source": "user", "message": "Q?"},
             *({"step_id": n, "source": "agent", "message": "A", "metrics": {"prompt_tokens": n, "completion_tokens": 10},
                **more} for n, more in ((2, LOOKED), (3, {})))]  # fmt: skip
    document = {"schema_version": "ATIF-v1.7", "agent": {"name": "other", "version": "1"}, "steps": steps}
    assert from_atif(document)["metadata"]["usage"] == {"input_tokens": 5, "output_tokens": 20}
    document["final_metrics"] = {"total_prompt_tokens": 7, "total_completion_tokens": 21}
    assert from_atif(document)["metadata"]["usage"] == {"input_tokens": 7, "output_tokens": 21}
    del document["final_metrics"]
    kept = export(
        written(tmp_path, document), tmp_path / "set", "text", "--hard-gates", "", "--where", "output_tokens=20"
    )
    assert len(kept) == 1


def test_rows_without_ids_of_several_files_are_told_apart_when_they_are_read_again(tmp_path: Path) -> None:
    rows = [{**OF_OTHERS[n], "n": m} for n, m in ((0, 1), (1, 1), (0, 2), (0, 3))]
    first, second = written(tmp_path, *rows[:2], name="a.jsonl"), written(tmp_path, *rows[2:], name="b.jsonl")
    assert trajgraph("export", first, second, "--format", "messages", "--output", tmp_path / "set").returncode == 0
    made = read_jsonl(tmp_path / "set" / "train.jsonl")
    assert len({row["sample_id"] for row in made}) == 4
    again = export(tmp_path / "set", tmp_path / "again", "messages")
    assert [row["sample_id"] for row in again] == [row["sample_id"] for row in made]


def test_every_reason_for_which_a_shape_is_not_known_is_told_with_its_count(tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"a": 1}
    pair: dict[str, Any] = {"prompt": [], "chosen": [], "rejected": []}
    path = written(tmp_path, nothing, pair, nothing, record(1, sound(1)), nothing)
    told = [f"{path}, line 1: it has no interleaved_text", "(and 2 more)", f"{path}, line 2: it is a preference pair"]
    for command in (["audit", path], ["export", path, "--format", "text", "--output", tmp_path / "set"]):
        done = trajgraph(*command)
        assert all(line in done.stdout for line in told), done
    assert sorted(counts(path)["unknown_reasons"].values()) == [1, 3]


def test_tools_that_are_defined_beside_the_conversation_are_said_to_be_left_out(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "search"}}]
    atif = {**OF_OTHERS[2], "agent": {"name": "other", "version": "1", "tool_definitions": tools}}
    path = written(
        tmp_path, {**OF_OTHERS[0], "tools": tools}, {**OF_OTHERS[1], "tools": json.dumps(tools)}, atif, OF_OTHERS[1]
    )
    done = trajgraph("export", path, "--format", "messages", "--output", tmp_path / "set")
    assert "3 rows whose tools are defined beside the conversation, exported without the definitions" in done.stdout


@pytest.mark.parametrize("row", OF_OTHERS)
def test_the_records_of_others_have_their_calls_answer_and_citations(tmp_path: Path, row: dict[str, Any]) -> None:
    (made,) = export(written(tmp_path, row), tmp_path / "set", "records")
    assert made["final_answer"] == ANSWER and made["pmids_cited"] == ["101"]
    (call,) = made["tool_calls"]
    assert (call["tool_name"], call["query"]) == ("search", "metformin") and SNIPPET in json.loads(call["result"])
