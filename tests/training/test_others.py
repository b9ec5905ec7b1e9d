"""Rows of others become records and exports: with the arguments, tokens, ids and calls that they had."""

import json
from pathlib import Path
from typing import Any

import pytest
from atif import Trajectory

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


def test_an_id_of_others_may_stand_twice_and_one_of_ours_not(tmp_path: Path) -> None:
    rows = [{**OF_OTHERS[0], "id": 0}, {**OF_OTHERS[1], "id": 0}, {**OF_OTHERS[0], "id": "k"}]
    path = written(tmp_path, *rows, {**OF_OTHERS[1], "id": "k", "topic": "t"})
    assert trajgraph("export", path, "--format", "messages", "--output", tmp_path / "set").returncode == 0
    made = [row["sample_id"] for row in read_jsonl(tmp_path / "set" / "train.jsonl")]
    assert made[0] == "0" and made[2] == "k" and len(set(made)) == 4 and [one[:2] for one in made[1::2]] == ["0-", "k-"]
    assert counts(path)["rows"] == 4
    assert (
        "metformin" in trajgraph("show", made[1], path).stdout
        and "metformin" in trajgraph("show", made[3], path).stdout
    )
    ours = written(tmp_path, record(1, sound(1)), record(1, sound(2)), name="ours.jsonl")
    assert "stands twice" in trajgraph("export", ours, "--format", "text", "--output", tmp_path / "no").stderr


ARGUMENTS: list[dict[str, Any]] = [
    {"q": "x", "flag": True, "ratio": 0.5, "tags": ["a", "b"]}, {"url": "http://x", "query": "what"}, {"answer": "42"},
    {"input": "z", "text": "t"}, {"code": "print(\"it's\")"}, {"name": "Bob", "deep": {"a": [1, {"b": None}]}}, {},
]  # fmt: skip


@pytest.mark.parametrize("given", ARGUMENTS)
def test_a_document_of_others_keeps_its_arguments_its_agent_and_its_ids(given: dict[str, Any]) -> None:
    call = {"tool_call_id": "c", "function_name": "look", "arguments": given}
    steps = [{"step_id": 1, "source": "user", "message": "Q?"},
             {"step_id": 2, "source": "agent", "message": "", "tool_calls": [call],
              "observation": {"results": [{"source_call_id": "c", "content": "R"}]}},
             {"step_id": 3, "source": "agent", "message": "A"}]  # fmt: skip
    agent = {"name": "terminus", "version": "2.0", "model_name": "m"}
    row = as_record({"schema_version": "ATIF-v1.7", "session_id": "s-1", "agent": agent, "steps": steps})
    made = to_atif(Row(Path("x"), 1, row), None)
    Trajectory.model_validate(made)
    assert made["steps"][1]["tool_calls"][0]["arguments"] == without_none(given)
    assert (made["agent"], made["session_id"]) == (agent, "s-1")
    again = as_record(made)
    aside = to_atif(Row(Path("x"), 1, row), None, dict.fromkeys(given, "another"))  # other rows have other types
    for document in (made, aside):
        assert to_atif(Row(Path("x"), 1, as_record(document)), None) == made
    assert again["trajectory"]["interleaved_text"] == row["trajectory"]["interleaved_text"]


def without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_none(one) for name, one in value.items() if one is not None}
    return [without_none(one) for one in value] if isinstance(value, list) else value


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
