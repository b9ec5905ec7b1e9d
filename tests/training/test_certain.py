"""A conversation of others becomes a row only where it is certain what was said, by whom, and for which call."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quality.gates import failed_gate_names
from tests.support.runs import trajgraph
from training.export_spec import ExportSpec
from training.made import singles
from training.messages import messages
from training.rows import Row
from training.shapes import as_record
from training.sources import Prompts
from training.unknown import UnknownShape

SYSTEM: dict[str, Any] = {"role": "system", "content": "Be brief."}
USER: dict[str, Any] = {"role": "user", "content": "Q?"}
CALLS: dict[str, Any] = {"role": "assistant", "content": "I look.", "tool_calls": [
    {"id": "a", "function": {"name": "look", "arguments": '{"query": "x"}'}}]}  # fmt: skip
RESULT: dict[str, Any] = {"role": "tool", "tool_call_id": "a", "content": "R"}
ENDS: dict[str, Any] = {"role": "assistant", "content": "Done."}
WHOLE = [SYSTEM, USER, CALLS, RESULT, ENDS]
ATIF_ROLES = {"system": "system", "user": "user", "assistant": "agent"}
OTHERS = st.dictionaries(
    st.sampled_from(["nudges", "reminders", "system_prompt", "finish_reasons", "stop_reason", "max_tool_calls", "question",
                     "tool_role", "prompt_sha256", "snippet_ids", "reject_reasons", "gates", "usage", "model"]),
    st.recursive(st.none() | st.integers(-3, 9) | st.sampled_from(["x", "a", "user", "max_tokens", "truncated"]),
                 lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["at", "text", "1", "a"]), inner, max_size=2),
                 max_leaves=6),
    max_size=5,
)  # fmt: skip


def chat(*said: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": list(said), **more}


def as_atif(said: list[dict[str, Any]]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    for one in said:
        if one["role"] == "tool":
            steps[-1].setdefault("observation", {"results": []})["results"].append(
                {"source_call_id": one["tool_call_id"], "content": one["content"]}
            )
            continue
        calls = [{"tool_call_id": call["id"], "function_name": call["function"]["name"],
                  "arguments": json.loads(call["function"]["arguments"])} for call in one.get("tool_calls", ())]  # fmt: skip
        steps.append({"source": ATIF_ROLES[one["role"]], "message": one["content"], "tool_calls": calls})
    return {"schema_version": "ATIF-v1.7", "agent": {"name": "other", "version": "2"}, "steps": steps}


def text_of(row: dict[str, Any]) -> str:
    return str(as_record(row)["trajectory"]["interleaved_text"])


@given(st.permutations(WHOLE), st.data())
def test_only_an_order_that_a_trajectory_can_have_is_read(said: list[dict[str, Any]], data: Any) -> None:
    said = [one for one in said if one is not SYSTEM or data.draw(st.booleans())]
    fits = [one for one in said if one is not SYSTEM] == WHOLE[1:] and SYSTEM not in said[1:]
    rows = [chat(*said), *([as_atif(said)] if said[0] is not RESULT else [])]
    for row in rows:
        if fits:
            assert text_of(row).endswith("<answer>Done.</answer>")
        else:
            with pytest.raises(UnknownShape):
                as_record(row)


@pytest.mark.parametrize("at", range(len(WHOLE)))
def test_nothing_may_stand_twice(at: int) -> None:
    for row in (chat(*WHOLE[: at + 1], *WHOLE[at:]), as_atif([*WHOLE[: at + 1], *WHOLE[at:]])):
        with pytest.raises(UnknownShape):
            as_record(row)


@pytest.mark.parametrize(
    ("content", "given"),
    [(["r1", "r2"], "r1\nr2"), ([{"title": "P1"}], '[{"title": "P1"}]'), ({"temp": 21, "ok": True}, '{"temp": 21, "ok": true}'),
     (0, "0"), (None, ""), ([{"type": "text", "text": "T"}, "U"], "T\nU"), (["a", 1], '["a", 1]'),
     ([{"title": "T", "text": "b"}], '[{"title": "T", "text": "b"}]'), ({"type": "web", "title": "t"}, '{"type": "web", "title": "t"}')],
)  # fmt: skip
def test_whatever_a_tool_gave_is_in_its_output(content: Any, given: str) -> None:
    for row in (
        chat(USER, CALLS, {**RESULT, "content": content}, ENDS),
        as_atif([USER, CALLS, {**RESULT, "content": content}, ENDS]),
    ):
        assert f"<tool_output>\n{given}\n</tool_output>" in text_of(row)


@pytest.mark.parametrize("content", [[{"title": "P"}], {"a": 1}, 3, [{"type": "image_url"}], [1]])
@pytest.mark.parametrize("key", ["content", "reasoning_content", "reasoning", "thinking"])
def test_words_of_a_model_that_are_no_text_are_not_made_one(key: str, content: Any) -> None:
    with pytest.raises(UnknownShape):
        as_record(chat(USER, CALLS, RESULT, {**ENDS, key: content}))


@pytest.mark.parametrize("key", ["arguments", "args", "parameters", "input"])
def test_arguments_are_found_under_each_of_their_names(key: str) -> None:
    call = {"name": "look", key: {"query": "x"}}
    said = [{"from": "human", "value": "Q?"}, {"from": "function_call", "value": json.dumps(call)},
            {"from": "observation", "value": "R"}, {"from": "gpt", "value": "Done."}]  # fmt: skip
    for row in (chat(USER, {**CALLS, "tool_calls": [{"id": "a", **call}]}, RESULT, ENDS), {"conversations": said}):
        assert '<call_tool name="look">x</call_tool>' in text_of(row)
    with pytest.raises(UnknownShape):
        as_record(chat(USER, {**CALLS, "tool_calls": [{"id": "a", "name": "look", "query": "x"}]}, RESULT, ENDS))


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_is_kept_once_wherever_it_stands(key: str) -> None:
    called = {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}, key: "Hm."}
    assert text_of(chat(USER, called, {"role": "function", "name": "look", "content": "R"}, ENDS)).startswith(
        "<think>Hm.</think>\n<call"
    )
    assert text_of(chat(USER, {**ENDS, key: "Hm.", "content": "<think>\nHm.\n</think>\nDone."})).count("Hm.") == 1
    said = {"from": "function_call", "value": '<think>Hm.</think>\n{"name": "look", "arguments": {}}'}
    row = {
        "conversations": [
            {"from": "human", "value": "Q?"},
            said,
            {"from": "observation", "value": "R"},
            {"from": "gpt", "value": "D"},
        ]
    }
    assert text_of(row).startswith('<think>Hm.</think>\n<call_tool name="look"></call_tool>')


@pytest.mark.parametrize("ids", [True, False])
def test_results_that_name_their_tools_in_another_order_are_given_to_none(ids: bool) -> None:
    calls = [{**({"id": name} if ids else {}), "function": {"name": name, "arguments": "{}"}} for name in ("x", "y")]
    results = [{"role": "tool", "name": name, "content": name.upper()} for name in ("y", "x")]
    with pytest.raises(UnknownShape):
        as_record(chat(USER, {**CALLS, "tool_calls": calls}, *results, ENDS))
    text = text_of(chat(USER, {**CALLS, "tool_calls": calls}, *results[::-1], ENDS))
    assert text.index("\nX\n") < text.index("\nY\n")


@pytest.mark.parametrize("text", ["Action: look\nAction Input: x", "I look.", "[TOOL_CALLS] look", "<functioncall> {}"])
def test_a_result_behind_no_call_that_can_be_read_makes_a_shape_that_is_not_known(text: str) -> None:
    said = [USER, {"role": "assistant", "content": text}, RESULT, ENDS]
    for row in (chat(*said), as_atif(said)):
        with pytest.raises(UnknownShape):
            as_record(row)


def test_the_messages_are_read_where_a_rendered_text_stands_beside_them() -> None:
    row = chat(*WHOLE, text="<|im_start|>user\nQ?<|im_end|><|im_start|>assistant\n<think>", trajectory={"steps": [1]})
    assert as_record(row)["question"] == "Q?" and text_of(row) == text_of(chat(*WHOLE))
    with pytest.raises(UnknownShape):
        as_record({"trajectory": {"steps": [1]}})


@pytest.mark.parametrize(
    "text", ["Use the <search> tag.", "An XML <result> it is.", "Observation: the patient improved."]
)
def test_words_that_look_like_another_protocol_are_words_where_calls_stand_apart(text: str) -> None:
    assert text_of(chat(USER, CALLS, RESULT, {**ENDS, "content": text})).endswith(f"<answer>{text}</answer>")


@given(OTHERS, st.sampled_from(["messages", "sharegpt", "parquet", "text", "records", "atif", "drtulu"]))
def test_metadata_of_others_judges_nothing_and_is_read_again_as_it_was(theirs: dict[str, Any], form: str) -> None:
    plain, row = (Row(Path("x"), 1, as_record(chat(*WHOLE[1:], **more))) for more in ({}, {"metadata": theirs}))
    assert failed_gate_names(row.parsed) == failed_gate_names(plain.parsed)
    made = next(iter(singles([row], ExportSpec(form), Counter())))
    again = Row(Path("y"), 1, as_record(json.loads(json.dumps(made.whole(ExportSpec(form), 1)))))
    assert (again.text, again.question, again.own_prompt) == (row.text, row.question, None)
    assert messages(again, None) == messages(row, None) and failed_gate_names(again.parsed) == failed_gate_names(
        row.parsed
    )


@given(st.text("<|im_end>/tool_output answer", min_size=1).filter(str.strip))
def test_a_question_of_others_is_what_their_model_read(question: str) -> None:
    row = Row(Path("x"), 1, as_record(chat({**USER, "content": question}, ENDS)))
    assert messages(row, None)[0]["content"] == question


def test_a_conversation_of_others_without_a_prompt_gets_none() -> None:
    row, flat = (
        Row(Path("x"), 1, one) for one in (as_record(chat(USER, ENDS)), {"interleaved_text": "<answer>A</answer>"})
    )
    given_one = Prompts(given="Be brief.")
    assert given_one.system(row) is None and given_one.system(flat) == "Be brief."


TAGS = [
    '<call_tool name="look">x</call_tool>',
    "see the <tool_output> tag",
    "<tool_output>forged</tool_output>",
    "<answer>No.</answer>",
]


@pytest.mark.parametrize("words", TAGS)
def test_a_tag_of_ours_in_the_words_beside_calls_makes_a_shape_that_is_not_known(words: str) -> None:
    said = [USER, {**CALLS, "content": words}, RESULT, ENDS]
    for row in (chat(*said), as_atif(said)):
        with pytest.raises(UnknownShape):
            as_record(row)
    assert text_of(chat(USER, CALLS, RESULT, {**ENDS, "content": "<answer>Yes.</answer>"})).endswith(
        "\n<answer>Yes.</answer>"
    )


@pytest.mark.parametrize("words", ["I think.\n</think>\n\nYes.", "<think>I think.", "<thinking>Hm.</thinking>\nYes."])
def test_a_thought_that_is_not_opened_closed_or_known_is_no_part_of_an_answer(words: str) -> None:
    for said in ([USER, {**ENDS, "content": words}], [USER, CALLS, RESULT, {**ENDS, "content": words}]):
        for row in (chat(*said), as_atif(said)):
            with pytest.raises(UnknownShape):
                as_record(row)


@pytest.mark.parametrize("said", [[{**USER, "content": ""}, ENDS], [USER, {**ENDS, "content": None}],
                                  [USER, {"role": "assistant", "text": "A"}], [{"role": "user", "text": "Q"}, ENDS],
                                  [{**USER, "tool_calls": CALLS["tool_calls"]}, ENDS]])  # fmt: skip
def test_a_row_without_a_question_or_a_word_is_no_row(said: list[dict[str, Any]]) -> None:
    with pytest.raises(UnknownShape):
        as_record(chat(*said))


def test_a_step_whose_results_are_none_is_a_step_without_results() -> None:
    empty: list[dict[str, Any]] = [{"results": []}, {"results": None}, {}]
    for nothing in empty:
        steps = as_atif([USER, CALLS, RESULT, ENDS])["steps"]
        first = {**steps[1], "observation": nothing}
        with pytest.raises(UnknownShape):
            as_record({**as_atif([]), "steps": [steps[0], first, steps[1], steps[2]]})
        as_record({**as_atif([]), "steps": [{**steps[0], "observation": nothing}, *steps[1:]]})


def test_a_call_that_ends_a_conversation_needs_no_result() -> None:
    for row in (chat(USER, CALLS), as_atif([USER, CALLS])):
        assert text_of(row) == 'I look.\n<call_tool name="look">x</call_tool>'


@pytest.mark.parametrize("key", ["tool_call_id", "call_id"])
def test_a_result_is_that_of_its_call_by_whatever_key_it_names_it(key: str) -> None:
    calls = [{"call_id": one, "function": {"name": "look"}, "arguments": f'{{"query": "{one}"}}'} for one in "xy"]
    results = [{"role": "tool", key: one, "content": one.upper()} for one in "yx"]
    text = text_of(chat(USER, {**CALLS, "tool_calls": calls}, *results, ENDS))
    assert text.index(">x<") < text.index(">y<") < text.index("\nX\n") < text.index("\nY\n")


@pytest.mark.parametrize("form", ["messages", "sharegpt", "parquet", "text", "records", "atif", "drtulu"])
def test_the_very_arguments_come_through_every_format(form: str) -> None:
    given_ones = {"code": 'print("it\'s")', "ratio": 0.5, "tags": ["a"], "bad key": True}
    call = {"id": "a", "function": {"name": "run", "arguments": json.dumps(given_ones)}}
    row = Row(Path("x"), 1, as_record(chat(USER, {**CALLS, "tool_calls": [call]}, RESULT, ENDS)))
    made = next(iter(singles([row], ExportSpec(form), Counter()))).whole(ExportSpec(form), 1)
    again = Row(Path("y"), 1, as_record(json.loads(json.dumps(made))))
    assert [again.arguments(piece) for piece in again.parsed.of("call_tool")] == [given_ones]
    assert again.text == row.text


@pytest.mark.parametrize("row", [
    {"sample_id": "1", "messages": None, "train_spans": [], "metadata": "{}"},
    {"conversations": [], "system": "", "train_spans": [], "metadata": '{"question": "Q"}'},
    {"messages": [USER, ENDS], "train_spans": [], "metadata": '{"question": "\\ud800"}'},
])  # fmt: skip
def test_an_export_that_was_changed_by_hand_breaks_no_command(tmp_path: Path, row: dict[str, Any]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    for command in (["audit", path], ["show", "line 1", path], ["report", path, "--output", tmp_path / "r.html"],
                    ["export", path, "--format", "sharegpt", "--hard-gates", "", "--output", tmp_path / "set"]):  # fmt: skip
        assert "Traceback" not in trajgraph(*command).stderr
