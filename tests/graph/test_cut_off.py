"""A reply that is cut off: by its budget, by the end of the context, by the clock, or in circles without end."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from nodes.cut_off import as_rendered
from tests.support.graphs import run
from tests.support.runs import counts, generate, read_jsonl, write_questions
from tests.support.servers import ScriptedModel, completion, served

CUT = {"content": "<think>I know.</think>\n<answer>It wor", "finish_reason": "length"}
WHOLE = {"content": "<think>I know.</think>\n<answer>It works.</answer>", "finish_reason": "stop"}


async def test_a_reply_that_the_end_of_the_context_cuts_is_called_so_and_not_asked_again(tools_url: str) -> None:
    with ScriptedModel(max_model_len=6000).served() as model:
        state = await run(model, tools_url, [completion(CUT, prompt_tokens=3000, completion_tokens=3000)])
    assert len(model.requests) == 1
    assert state["stop_reason"] == "context_overflow"
    assert state["messages"][-1].text == CUT["content"]


async def test_one_that_its_budget_cuts_is_asked_again_for_as_much_more_as_the_context_has(tools_url: str) -> None:
    with ScriptedModel(max_model_len=12_000).served() as model:
        state = await run(
            model, tools_url, [completion(CUT, prompt_tokens=900, completion_tokens=4096), completion(WHOLE)]
        )
    assert [request["max_tokens"] for request in model.requests] == [4096, 8192]
    assert state["final_answer"] == "It works."


async def test_the_end_of_a_context_that_nobody_has_told_is_known_by_the_first_reply_that_it_cuts(
    scripted_model: ScriptedModel, tools_url: str
) -> None:
    cut = completion(CUT, prompt_tokens=3000, completion_tokens=1096)
    state = await run(scripted_model, tools_url, [cut])
    assert len(scripted_model.requests) == 1
    assert state["stop_reason"] == "context_overflow"


async def test_the_record_names_the_context_and_not_the_cut(folder: Path, tools_url: str) -> None:
    cut = completion(CUT, prompt_tokens=3000, completion_tokens=3000)
    with ScriptedModel(script=lambda _: cut, max_model_len=6000).served() as model:
        batch = await generate(folder, model, tools_url, limit=1)
    (row,) = read_jsonl(batch.files.rejected)
    assert row["metadata"]["reject_reasons"] == ["context_overflow", "unclosed_answer"]


PARTS = st.text(st.sampled_from("abc .\n<&é"), min_size=1, max_size=30).filter(str.strip)


@given(PARTS, PARTS)
def test_what_is_sent_for_continuing_is_what_qwens_template_writes(thought: str, content: str) -> None:
    rendered = f"<think>\n{thought.strip()}\n</think>\n\n{content.strip()}"
    assert as_rendered(f"<think>{thought.strip()}</think>\n{content.strip()}") == rendered
    assert as_rendered(rendered) == rendered
    assert as_rendered(f"<think>{thought}") == f"<think>{thought}"


@pytest.mark.parametrize("field", ["content", "reasoning"])
async def test_a_server_that_parses_thoughts_continues_a_reply_that_was_cut_behind_one(
    tools_url: str, field: str
) -> None:
    """As vLLM does with `--reasoning-parser qwen3`; `field` is where the rest comes."""
    begun = {"reasoning": "\nI know.\n", "content": "\n\n<answer>It wor", "finish_reason": "length"}
    rest = {field: "ks.</answer>", "finish_reason": "stop"}
    with ScriptedModel(owned_by="vllm").served() as model:
        state = await run(model, tools_url, [begun, rest])
    assert model.requests[1]["messages"][-1]["content"] == "<think>\nI know.\n</think>\n\n<answer>It wor"
    assert state["messages"][-1].text == "<think>I know.</think>\n<answer>It works.</answer>"
    assert state["messages"][-1].response_metadata["continued"]


async def test_white_space_that_a_template_drops_is_not_in_the_record_either(tools_url: str) -> None:
    begun = {"content": "<think>I know.</think>\n<answer>It \n", "finish_reason": "length"}
    with ScriptedModel(owned_by="vllm").served() as model:
        state = await run(model, tools_url, [begun, {"content": " works.</answer>", "finish_reason": "stop"}])
    assert model.requests[1]["messages"][-1]["content"].endswith("<answer>It")
    assert state["final_answer"] == "It works."


async def test_a_reply_that_takes_too_long_is_asked_for_with_half_the_budget(tmp_path: Path, tools_url: str) -> None:
    budgets: list[int] = []

    async def endless(request: Request) -> Response:
        budgets.append(budget := (await request.json())["max_tokens"])
        if budget > 1024:
            await asyncio.sleep(3)
        return completion({"content": "<think>" + "and so on, " * 600, "finish_reason": "length"})

    async def models(_: Request) -> Response:
        return JSONResponse({"data": [{"id": "Qwen3-8B"}]})

    write_questions(tmp_path / "questions.jsonl", ["Does it help?"])
    routes = [Route("/v1/chat/completions", endless, methods=["POST"]), Route("/v1/models", models)]
    with served(Starlette(routes=routes)) as base:
        batch = await generate(tmp_path, f"{base}/v1", tools_url, model_timeout=0.3)
    assert counts(batch) == [0, 1, 0, 0]
    assert [budget for budget in budgets if budget > 1] == [4096, 2048, 1024], "not again: it goes round in circles"
    (row,) = read_jsonl(batch.files.rejected)
    assert row["metadata"]["reject_reasons"] == ["truncated", "no_answer"]
    assert "repetition" in row["metadata"]["gates"]


async def test_a_cut_reply_after_a_timeout_is_asked_for_with_twice_what_it_had(tmp_path: Path, tools_url: str) -> None:
    budgets: list[int] = []

    async def slow(request: Request) -> Response:
        budgets.append(budget := (await request.json())["max_tokens"])
        if budget == 4096 and budgets.count(4096) == 1:
            await asyncio.sleep(3)
        whole = budget >= 4096 or budget == 1
        return completion(WHOLE if whole else CUT, prompt_tokens=900, completion_tokens=min(budget, 2048))

    async def models(_: Request) -> Response:
        return JSONResponse({"data": [{"id": "Qwen3-8B", "max_model_len": 32_768}]})

    write_questions(tmp_path / "questions.jsonl", ["Does it help?"])
    routes = [Route("/v1/chat/completions", slow, methods=["POST"]), Route("/v1/models", models)]
    with served(Starlette(routes=routes)) as base:
        batch = await generate(tmp_path, f"{base}/v1", tools_url, model_timeout=0.5)
    assert counts(batch) == [1, 0, 0, 0]
    assert [budget for budget in budgets if budget > 1] == [4096, 2048, 4096]


async def test_an_open_thought_is_asked_for_again_and_an_empty_list_of_stops_is_never_sent(tools_url: str) -> None:
    """transformers serve answers 500 to an empty list; Qwen's template puts an empty thought before an open one."""
    begun = {"reasoning": "\nI know", "content": None, "finish_reason": "length"}
    with ScriptedModel(owned_by="vllm").served() as model:
        state = await run(model, tools_url, [begun, WHOLE])
    assert [request["max_tokens"] for request in model.requests] == [4096, 8192]
    assert all(request.get("stop") != [] for request in model.requests)
    assert state["final_answer"] == "It works."


async def test_an_open_thought_that_a_stop_string_ended_is_no_full_context(
    scripted_model: ScriptedModel, tools_url: str
) -> None:
    spoken = {"content": "<think>I would write </call_tool", "finish_reason": "stop"}
    state = await run(scripted_model, tools_url, [completion(spoken, prompt_tokens=3000, completion_tokens=50), WHOLE])
    assert len(scripted_model.requests) == 2
    assert (state["stop_reason"], state["final_answer"]) == ("answer", "It works.")


async def test_a_server_with_a_limit_of_its_own_is_no_full_context(tools_url: str) -> None:
    with ScriptedModel(max_model_len=32_768).served() as model:
        state = await run(model, tools_url, [completion(CUT, prompt_tokens=1000, completion_tokens=2000)] * 2)
    assert [request["max_tokens"] for request in model.requests] == [4096, 8192]
    assert state["stop_reason"] == "truncated"


async def test_a_call_that_is_whole_in_a_second_attempt_is_made_though_the_context_cut_what_follows_it(
    tools_url: str,
) -> None:
    asked = {"content": '<think>I look.</think>\n<call_tool name="pubmed_search">a</call_tool>\n<think>I ex'}
    cut = completion({**asked, "finish_reason": "length"}, prompt_tokens=900, completion_tokens=5080)
    first = completion(CUT, prompt_tokens=900, completion_tokens=4096)
    with ScriptedModel(max_model_len=6000).served() as model:
        state = await run(model, tools_url, [first, cut, WHOLE])
    assert [message.type for message in state["messages"]] == ["ai", "tool", "ai"]
    assert (state["stop_reason"], state["final_answer"]) == ("answer", "It works.")


@pytest.mark.parametrize("begun", ["<answer>It do", "Okay, the user asks", "<think>I know.</think>\n"])
async def test_what_has_no_closed_thought_and_a_text_behind_it_is_asked_for_again(tools_url: str, begun: str) -> None:
    """Qwen's template would put an empty thought in front of it, which no record holds."""
    with ScriptedModel(owned_by="vllm").served() as model:
        state = await run(model, tools_url, [{"content": begun, "finish_reason": "length"}, WHOLE])
    assert not any("continue_final_message" in request for request in model.requests)
    assert state["messages"][-1].text == WHOLE["content"]


ANEW = ["<think>Good enough.</think>\n<answer>It works.</answer>", "<answer>It works.</answer>"]


@pytest.mark.parametrize("rest", [*({"content": text} for text in ANEW), {"reasoning": "So.", "content": ANEW[1]}])
async def test_a_server_that_begins_anew_instead_of_continuing_is_asked_again(
    tools_url: str, rest: dict[str, str]
) -> None:
    with ScriptedModel(owned_by="vllm").served() as model:
        state = await run(model, tools_url, [CUT, {**rest, "finish_reason": "stop"}, WHOLE])
    assert len(model.requests) == 3
    assert state["messages"][-1].text == WHOLE["content"]


@pytest.mark.parametrize(("begun", "rest"), [
    ('I will search now. <call_tool name="pubmed_search">heart fail', 'I will search now. <call_tool name="pubmed_search">heart failure</call_tool>'),
    ("Here is what I found: <ans", "Here is what I found: <answer>It works.</answer>"),
    ('Now <call_tool name="pubmed_search">heart', '<call_tool name="pubmed_search">heart failure</call_tool>'),
])  # fmt: skip
async def test_a_reply_that_begins_anew_is_not_joined_to_what_it_should_continue(
    tools_url: str, begun: str, rest: str
) -> None:
    with ScriptedModel(owned_by="vllm").served() as model:
        cut = {"content": f"<think>I look.</think>\n{begun}", "finish_reason": "length"}
        state = await run(model, tools_url, [cut, {"content": rest, "finish_reason": "stop"}, WHOLE])
    assert state["messages"][-1].text == WHOLE["content"]


async def test_a_server_that_repeats_what_it_continues_has_said_it_once(tools_url: str) -> None:
    with ScriptedModel(owned_by="vllm").served() as model:
        whole = CUT["content"] + "ks.</answer>"
        state = await run(model, tools_url, [CUT, {"content": whole, "finish_reason": "stop"}])
    assert state["messages"][-1].text == whole


async def test_a_reply_that_names_no_end_and_used_all_its_tokens_is_cut_off(
    scripted_model: ScriptedModel, tools_url: str
) -> None:
    call = {"content": '<think>I look.</think>\n<call_tool name="pubmed_search">adults with ob', "finish_reason": None}
    state = await run(scripted_model, tools_url, [completion(call, prompt_tokens=900, completion_tokens=4096), WHOLE])
    assert [message.type for message in state["messages"]] == ["ai"]
