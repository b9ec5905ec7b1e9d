"""Completions that are odd but usable do not fail a question; thoughts are kept wherever they are."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response

from backends.completion import plain_completion
from backends.errors import InvalidResponse
from batch.jsonl import encoded
from tests.support.graphs import run
from tests.support.runs import read_jsonl, trajgraph
from tests.support.servers import ScriptedModel

TEXT = "<think>I know.</think>\n<answer>Yes.</answer>"
MESSAGE = {"role": "assistant", "content": TEXT}


def completion(message: Any = MESSAGE, usage: Any = None, **choice: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}], "usage": usage}


ODD: list[dict[str, Any]] = [
    completion({"content": TEXT}), completion({"role": "tool", "content": TEXT}), completion({"role": None, "content": TEXT}),
    completion(finish_reason="STOP"), completion(finish_reason=" complete "), completion(finish_reason={"type": "stop"}), completion(finish_reason=None), completion(finish_reason={"a": 2**70}), completion(finish_reason=2**80),
    completion(usage=None), completion(usage=[1, 2]), completion(usage={"prompt_tokens": "x"}), completion(usage={"prompt_tokens": 1.5}),
    completion(usage={"prompt_tokens": "12", "completion_tokens": 3.0}), completion(usage={"prompt_tokens": -1, "completion_tokens": 10**30}),
    completion(usage={"prompt_tokens": 2, "prompt_tokens_details": [1]}), completion({**MESSAGE, "tool_calls": "evil"}),
    completion({**MESSAGE, "tool_calls": [{"function": {"name": "x", "arguments": "{bad"}}]}), completion({**MESSAGE, "function_call": {"name": 2**70}}),
    completion(logprobs={"content": [[[[[]]]]]}), completion({**MESSAGE, "audio": {"id": 2**70}, "annotations": [{"a": 2**70}]}),
    {"choices": [{"index": 1, "message": {"content": "second"}}, {"index": 0, "message": MESSAGE}]},
    {"choices": ["x", None, {"message": MESSAGE}], "id": {"a": 1}, "model": {"x": 1}, "created": "x", "system_fingerprint": 2**90},
    completion(stop_reason=2**70, matched_stop={"a": 1}),
    completion({"content": [{"type": "text", "text": TEXT}]}), completion({"content": ["<think>I know.</think>\n", "<answer>Yes.</answer>"]}),
]  # fmt: skip


@pytest.mark.parametrize("body", ODD, ids=range(len(ODD)))
async def test_an_odd_completion_that_can_be_used_is_used(
    scripted_model: ScriptedModel, tools_url: str, body: dict[str, Any]
) -> None:
    state = await run(scripted_model, tools_url, [Response(json.dumps(body), media_type="application/json")])
    assert state["final_answer"] == "Yes."
    assert state["messages"][0].text == TEXT


THOUGHTFUL: list[dict[str, Any]] = [
    {"reasoning": "I know."}, {"reasoning_content": "I know."}, {"thinking": "I know."}, {"reasoning_content": ["I know."]},
    {"reasoning_details": [{"type": "reasoning.text", "text": "I know."}]}, {"reasoning_details": [{"type": "reasoning.summary", "summary": "I know."}]},
    {"reasoning": {"content": "I know."}}, {"reasoning": " ", "reasoning_content": "I know."},
    {"content": [{"type": "thinking", "thinking": "I know."}, {"type": "text", "text": {"value": "<answer>Yes.</answer>"}}]},
    {"content": [{"type": "thinking", "thinking": "I know."}, {"type": "text", "text": "<answer>Yes.</answer>"}]},
    {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "I know."}]}, {"type": "text", "text": "<answer>Yes.</answer>"}]},
    {"content": "◁think▷I know.◁/think▷<answer>Yes.</answer>"},
    {"content": "<|channel|>analysis<|message|>I know.<|end|><|start|>assistant<|channel|>final<|message|><answer>Yes.</answer>"},
]  # fmt: skip


@pytest.mark.parametrize("message", THOUGHTFUL, ids=range(len(THOUGHTFUL)))
async def test_a_thought_is_kept_wherever_a_server_puts_it(
    scripted_model: ScriptedModel, tools_url: str, message: dict[str, Any]
) -> None:
    scripted_model.replies = [{"content": "<answer>Yes.</answer>", **message}]
    state = await run(scripted_model, tools_url, scripted_model.replies)
    assert state["messages"][0].text.replace("</think>\n", "</think>") == TEXT.replace("</think>\n", "</think>")


NATIVE: list[dict[str, Any]] = [
    {"content": None, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "pubmed_search", "arguments": '{"query": "DAPA-HF", "limit": 2}'}}]},
    {"content": "", "tool_calls": [{"name": "pubmed_search", "arguments": {"query": "DAPA-HF", "limit": 2}}]},
    {"content": [{"type": "tool_use", "name": "pubmed_search", "input": {"query": "DAPA-HF", "limit": 2}}]},
    {"content": None, "function_call": {"name": "pubmed_search", "arguments": '{"query": "DAPA-HF", "limit": 2.0}'}},
]  # fmt: skip


@pytest.mark.parametrize("message", NATIVE)
async def test_a_native_call_without_a_text_is_the_call_that_it_is(
    scripted_model: ScriptedModel, tools_url: str, message: dict[str, Any]
) -> None:
    first = {"reasoning": "I search.", "finish_reason": "tool_calls", **message}
    state = await run(scripted_model, tools_url, [first, TEXT])
    assert (
        state["messages"][0].text
        == '<think>I search.</think>\n<call_tool name="pubmed_search" limit="2">DAPA-HF</call_tool>'
    )
    assert state["messages"][1].artifact["data"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["choices", "message", "content", "usage", "prompt_tokens", "index", "finish_reason",
                                       "reasoning", "tool_calls", "function", "name", "arguments", "type", "text"]), inner, max_size=5),
    max_leaves=25,
)  # fmt: skip


@given(JSON, JSON)
def test_any_body_is_a_plain_completion_or_is_refused_by_name(body: Any, message: Any) -> None:
    for response in (body, completion(message)):
        try:
            plain = plain_completion(response)
        except InvalidResponse:
            continue
        (choice,) = plain["choices"]
        assert isinstance(choice["message"]["content"], str)
        assert all(isinstance(count, int) for name, count in (plain["usage"] or {}).items() if name.endswith("_tokens"))


@given(
    st.recursive(
        st.none() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_a_line_is_one_line_for_every_reader_and_holds_no_number_that_is_none(value: Any) -> None:
    line = encoded({"sample_id": "x", "value": value, "text": "a\u2028b\u2029c\x85d"}).decode()
    assert len(line.splitlines()) == 1
    read = json.loads(line, parse_constant=lambda name: pytest.fail(name))
    assert read["text"] == "a\u2028b\u2029c\x85d"


@pytest.mark.parametrize("flag", ["--temperature", "--model-timeout", "--tool-timeout", "--max-downtime"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_flag_takes_no_number_that_is_none(folder: Path, flag: str, value: str) -> None:
    refused = trajgraph(
        "generate", "--questions-file", folder / "questions.jsonl", "--output", folder / "out", f"{flag}={value}"
    )
    assert refused.returncode == 2
    assert flag in refused.stderr
    assert read_jsonl(folder / "out" / "none") == []
