"""Several calls in one reply of others, and whose result is which."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.atif import UnknownShape
from training.messages import messages
from training.rows import Row
from training.shapes import as_record

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
