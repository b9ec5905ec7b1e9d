"""Several calls in one reply of others, and whose result is which."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.messages import messages
from training.rows import Row
from training.shapes import as_record
from training.unknown import UnknownShape

ORDERS = st.integers(1, 4).flatmap(lambda many: st.permutations(range(many)))


def of_openai(order: list[int], named: list[str]) -> dict[str, Any]:
    calls = [{"id": f"id{one}", "function": {"name": "look", "arguments": f'{{"query": "q{one}"}}'}}
             for one in sorted(order)]  # fmt: skip
    results = [{"role": "tool", "tool_call_id": name, "content": f"r{one}"}
               for one, name in zip(order, named, strict=True)]  # fmt: skip
    said = {"role": "assistant", "reasoning_content": "I look.", "content": "", "tool_calls": calls}
    ends = {"role": "assistant", "reasoning_content": "Seen.", "content": "Yes."}
    return {"messages": [{"role": "developer", "content": "You look."}, {"role": "user", "content": "Q?"}, said,
                         *results, ends]}  # fmt: skip


def of_atif(order: list[int], named: list[str]) -> dict[str, Any]:
    calls = [{"tool_call_id": f"id{one}", "function_name": "look", "arguments": {"query": f"q{one}"}}
             for one in sorted(order)]  # fmt: skip
    results = [{"source_call_id": name, "content": f"r{one}"} for one, name in zip(order, named, strict=True)]
    steps = [
        {"source": "system", "message": "You look."}, {"source": "user", "message": "Q?"},
        {"source": "agent", "message": "", "tool_calls": calls, "observation": {"results": results}},
        {"source": "agent", "message": "Yes."},
    ]  # fmt: skip
    return {"schema_version": "ATIF-1.7", "session_id": "s", "steps": steps}


@pytest.mark.parametrize("shape", [of_openai, of_atif])
@given(order=ORDERS, named=st.booleans())
def test_a_result_is_that_of_the_call_that_it_names(shape: Any, order: list[int], named: bool) -> None:
    read = as_record(shape(order, [f"id{one}" if named else "" for one in order]))
    assert read["system_prompt"] == "You look."
    text = read["trajectory"]["interleaved_text"]
    assert re.findall(r"\br\d", text) == [f"r{one}" for one in (sorted(order) if named else order)]
    assert re.findall(r"\bq\d", text) == [f"q{one}" for one in sorted(order)]


@pytest.mark.parametrize("shape", [of_openai, of_atif])
@given(many=st.integers(1, 4))
def test_the_calls_of_one_message_stay_one_message(shape: Any, many: int) -> None:
    read = as_record(shape(list(range(many)), [f"id{one}" for one in range(many)]))
    chat = messages(Row(Path("x"), 1, read), read["system_prompt"])
    assert [said["role"] for said in chat] == ["system", "user", "assistant", *["tool"] * many, "assistant"]
    assert re.findall(r"q\d", chat[2]["content"]) == [f"q{one}" for one in range(many)]


@pytest.mark.parametrize("shape", [of_openai, of_atif])
@pytest.mark.parametrize("named", [["id0", "other"], ["id0", "id0"], ["id0", ""]])
def test_a_result_of_no_call_makes_a_shape_that_is_not_known(shape: Any, named: list[str]) -> None:
    with pytest.raises(UnknownShape, match="not one for each call"):
        as_record(shape([0, 1], named))


@pytest.mark.parametrize("said", ["<answer>Yes.</answer>", "<think>So.</think>\n<answer>Yes.</answer>"])
def test_an_answer_that_has_its_tags_gets_no_others(said: str) -> None:
    document = of_atif([0], ["id0"])
    document["steps"][-1]["message"] = said
    read = as_record(document)
    assert read["trajectory"]["interleaved_text"].endswith(said)
    assert read["trajectory"]["interleaved_text"].count("<answer>") == 1


@pytest.mark.parametrize("shape", [of_openai, of_atif])
@given(order=ORDERS, data=st.data())
def test_a_result_is_never_given_to_the_call_before_its_own(shape: Any, order: list[int], data: Any) -> None:
    kept = data.draw(st.lists(st.sampled_from(order), unique=True, min_size=1))
    row = shape(order, [f"id{one}" for one in order])
    if shape is of_openai:
        row["messages"] = [one for one in row["messages"] if one["role"] != "tool" or int(one["content"][1:]) in kept]
    else:
        seen = row["steps"][2]["observation"]
        seen["results"] = [one for one in seen["results"] if int(one["content"][1:]) in kept]
    if sorted(kept) == list(range(len(kept))):
        text = as_record(row)["trajectory"]["interleaved_text"]
        assert re.findall(r"\br\d", text) == [f"r{one}" for one in sorted(kept)]
    else:
        with pytest.raises(UnknownShape):
            as_record(row)


CALL = {"id": "a", "function": {"name": "s", "arguments": '{"query": "x"}'}}
RESULT = {"role": "tool", "tool_call_id": "a", "content": "R"}


def chat(*said: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Q?"}, *said, {"role": "assistant", "content": "Done."}]}


def calling(call: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "function": call}], **more}


ODD: list[dict[str, Any]] = [
    chat(calling({"name": "s", "arguments": '{"query": "x'}), RESULT),
    chat(calling({"name": "s", "arguments": '["x"]'}), RESULT),
    chat(calling({"arguments": "{}"}), RESULT),
    chat({"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])}, RESULT),
    chat({"role": "assistant", "content": "", "tool_calls": CALL}, RESULT),
    chat({"role": "assistant", "content": [{"type": "tool_use", "name": "s", "input": {}}]}, RESULT),
    chat({"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "system", "content": "x"}, RESULT),
    chat({"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "assistant", "content": "Hm."}, RESULT),
    chat({"role": "assistant", "content": '<tool_call>{"name": "s"}</tool_call>'}, RESULT),
    chat({"role": "assistant", "content": "", "tool_calls": [
        {"function": {"name": name, "arguments": "{}"}} for name in ("x", "y")]},
        {"role": "tool", "name": "y", "content": "Y"}, {"role": "tool", "name": "x", "content": "X"}),
    {"conversations": [
        {"from": "human", "value": "Q?"}, {"from": "function_call", "value": json.dumps([CALL["function"]] * 2)},
        {"from": "observation", "value": "R"}, {"from": "gpt", "value": "Done."}]},
    {"conversations": [{"from": "human", "value": "Q?"}, {"from": "function_call", "value": "not json"},
                       {"from": "observation", "value": "R"}, {"from": "gpt", "value": "Done."}]},
    {"schema_version": "ATIF-v1.7", "steps": [
        {"source": "user", "message": "Q?"}, {"source": "agent", "message": "A"}, {"source": "user", "message": "And?"},
        {"source": "agent", "message": "B"}]},
    {"schema_version": "ATIF-v1.7", "steps": [
        {"source": "user", "message": "Q?"}, {"source": "agent", "message": "A", "observation": "R"}]},
    {"schema_version": "ATIF-v1.7", "steps": [{"source": "user", "message": "Q?"}]},
    {"schema_version": "ATIF-v1.7", "steps": [{"source": "agent", "message": "A"}]},
    {"schema_version": "ATIF-v1.7", "steps": [
        {"source": "system", "message": "Be brief."}, {"source": "user", "message": "Q?"}, {"source": "system", "message": "No."},
        {"source": "agent", "message": "A"}]},
    {"schema_version": "ATIF-v1.7", "steps": [
        {"source": "user", "message": "Q?"}, {"source": "agent", "message": "A", "observation": {"results": [
            {"subagent_trajectory_ref": [{"trajectory_id": "t"}]}]}}]},
    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "developer", "content": "No."}, *chat()["messages"]]},
    {"system": "Be brief.", "messages": [{"role": "system", "content": "No."}, *chat()["messages"]]},
    {"messages": [{"role": "system", "content": "Q?"}, {"role": "assistant", "content": "A"}]},
]  # fmt: skip


@pytest.mark.parametrize("row", ODD)
def test_what_cannot_be_told_is_a_shape_that_is_not_known(row: dict[str, Any]) -> None:
    with pytest.raises(UnknownShape):
        as_record(row)


HARD: list[dict[str, Any]] = [  # for attributes
    {"query": "x", "g": "<answer>z</answer>"}, {"query": "x", "g": "y" * 501}, {"code": "print(\"it's\")"}, {"name": "y"},
    {"query": "x", "a b": "y"}, {"$top": 3}, {"query": "x", **{f"k{n}": "y" for n in range(9)}},
]  # fmt: skip
READ: list[tuple[dict[str, Any], str]] = [
    (chat(calling({"name": "s", "arguments": {"query": "x", "limit": None, "n": 3, "of": ["a"], "all": True}}), RESULT),
     """<call_tool name="s" n="3" of='["a"]' all="true">x</call_tool>"""),
    (chat({"role": "assistant", "content": "", "tool_calls": [{"id": "a", "name": "s", "args": {"query": "x"}}]}, RESULT),
     '<call_tool name="s">x</call_tool>'),
    (chat(calling({"name": "s", "arguments": {"query": "x"}}, tool_calls=[{**CALL, "id": 0}]), {**RESULT, "tool_call_id": 0}),
     '<call_tool name="s">x</call_tool>'),
    (chat({**calling({"name": "s", "arguments": ""}), "tool_calls": [{**CALL, "id": "nudge-1"}]}, {**RESULT, "tool_call_id": "nudge-1"}),
     '<call_tool name="s">x</call_tool>'),
    *((chat(calling({"name": "s", "arguments": given}), RESULT),
       f'<call_tool name="s">{json.dumps(given, ensure_ascii=False).replace("<", chr(92) + "u003c")}</call_tool>')
      for given in HARD),
]  # fmt: skip


@pytest.mark.parametrize("begun", ["Hm.", "<think>I look.</think>"])
def test_a_thought_in_the_text_of_a_reply_stands_before_its_answer(begun: str) -> None:
    row = chat({**calling({"name": "s", "arguments": '{"query": "x"}'}), "content": begun}, RESULT)
    row["messages"][-1]["content"] = "<think>\nSo.\n</think>\n\nYes."
    text = as_record(row)["trajectory"]["interleaved_text"]
    assert text.startswith(f"{begun}\n<call_tool")
    assert text.endswith("</tool_output>\n<think>\nSo.\n</think>\n\n<answer>Yes.</answer>")


@pytest.mark.parametrize(("row", "written"), READ)
def test_a_call_of_others_is_written_as_ours_with_its_result(row: dict[str, Any], written: str) -> None:
    text = as_record(row)["trajectory"]["interleaved_text"]
    assert text == f"{written}\n<tool_output>\nR\n</tool_output>\n<answer>Done.</answer>"
