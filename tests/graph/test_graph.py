"""The loop of one question: what is seen is what is stored, and the limits hold whatever the model says."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from langchain_core.messages import AIMessage, ToolMessage

from backends.errors import InvalidResponse
from graph.build import drawing
from graph.limits import Limits
from nodes.prompts import NUDGE_ANSWER, NUDGE_FORMAT
from serializers.interleaved import interleaved_text
from tests.support.graphs import open_graph, run
from tests.support.runs import answer, call, unbalanced
from tests.support.servers import Reply, ScriptedModel

SEARCHES = [call("pubmed_search", "DAPA-HF"), call("browse_webpage", "https://pubmed.ncbi.nlm.nih.gov/31535829/")]


async def test_a_question_is_searched_read_and_answered(scripted_model: ScriptedModel, tools_url: str) -> None:
    state = await run(scripted_model, tools_url, [*SEARCHES, answer("It does.")])
    assert state["final_answer"] == "It does."
    assert state["stop_reason"] == "answer"
    kinds = [type(message) for message in state["messages"]]
    assert kinds == [AIMessage, ToolMessage, AIMessage, ToolMessage, AIMessage]
    assert state["messages"][0].tool_calls[0]["args"] == {"query": "DAPA-HF"}
    assert state["messages"][1].artifact["data"][0]["paperId"] == "31535829"
    assert state["messages"][1].status == "success"


async def test_each_prompt_begins_with_the_one_before_and_its_reply(
    scripted_model: ScriptedModel, tools_url: str
) -> None:
    replies: list[Reply] = [*SEARCHES, "I am not sure.", call("pubmed_search", "EMPEROR"), answer()]
    texts = [text for text in replies if isinstance(text, str)]
    state = await run(scripted_model, tools_url, list(replies))
    prompts = [request["messages"] for request in scripted_model.requests]
    assert len(prompts) == len(texts)
    for earlier, reply, later in zip(prompts, texts, prompts[1:], strict=False):
        assert later[: len(earlier) + 1] == [*earlier, {"role": "assistant", "content": reply}]
    seen = [message["content"] for message in [*prompts[-1][2:], {"content": texts[-1]}]]
    assert NUDGE_FORMAT in seen
    assert interleaved_text(state["messages"]) == "\n".join(text for text in seen if text != NUDGE_FORMAT)


def qwen3_render(messages: list[dict[str, Any]]) -> str:
    """Qwen3's history rule: thoughts of assistant turns before the last user message are dropped."""
    last_user = max(at for at, message in enumerate(messages) if message["role"] == "user")
    lines = []
    for at, message in enumerate(messages):
        content = message["content"]
        if message["role"] == "assistant" and "</think>" in content and at < last_user:
            content = content.rsplit("</think>", 1)[-1].lstrip("\n")
        lines.append(f"<|im_start|>{message['role']}\n{content}<|im_end|>")
    return "\n".join(lines)


async def test_no_earlier_thought_is_lost_in_qwen3s_template(scripted_model: ScriptedModel, tools_url: str) -> None:
    thoughts = ["First thought.", "Second thought.", "Third thought."]
    replies: list[Reply] = [call("pubmed_search", "DAPA-HF", thought) for thought in thoughts]
    await run(scripted_model, tools_url, ["Hm.", *replies, answer()])
    rendered = qwen3_render(scripted_model.requests[-1]["messages"])
    assert all(f"<think>{thought}</think>" in rendered for thought in thoughts)
    assert [message["role"] for message in scripted_model.requests[-1]["messages"]].count("user") == 1


async def test_tool_outputs_go_back_as_user_where_a_server_wants_that(
    scripted_model: ScriptedModel, tools_url: str
) -> None:
    await run(scripted_model, tools_url, [*SEARCHES, answer()], tool_role="user")
    roles = [message["role"] for message in scripted_model.requests[-1]["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]


async def test_no_call_beyond_the_limit_is_executed(scripted_model: ScriptedModel, tools_url: str) -> None:
    replies: list[Reply] = [call("pubmed_search", f"DAPA-HF {n}") for n in range(4)]
    state = await run(scripted_model, tools_url, [*replies, answer()], limits=Limits(max_tool_calls=2))
    assert state["stop_reason"] == "max_tool_calls"
    assert sum(isinstance(message, ToolMessage) for message in state["messages"]) == 2
    third = scripted_model.requests[2]["messages"][-1]
    assert third["role"] == "tool"
    assert third["content"].endswith(f"</tool_output>\n{NUDGE_ANSWER}")
    assert NUDGE_ANSWER not in interleaved_text(state["messages"])
    assert unbalanced(interleaved_text(state["messages"])) == []


async def test_a_call_beyond_the_limit_is_dropped_by_name_and_one_last_answer_is_asked_for(
    scripted_model: ScriptedModel, tools_url: str
) -> None:
    replies: list[Reply] = [*SEARCHES, call("pubmed_search", "more", "One more."), answer("It does.")]
    state = await run(scripted_model, tools_url, replies, limits=Limits(max_tool_calls=2))
    assert state["stop_reason"] == "answer"
    dropped = state["messages"][4]
    assert dropped.text == "<think>One more.</think>"
    assert dropped.additional_kwargs["repairs"] == ["call_over_limit_dropped"]
    assert dropped.tool_calls == []


async def test_the_number_of_turns_is_bounded(scripted_model: ScriptedModel, tools_url: str) -> None:
    replies: list[Reply] = [call("pubmed_search", f"q{n}") for n in range(9)]
    state = await run(scripted_model, tools_url, replies, limits=Limits(max_turns=3, max_tool_calls=9))
    assert state["stop_reason"] == "max_turns"
    assert len(scripted_model.requests) == 3
    assert scripted_model.requests[2]["messages"][-1]["content"].endswith(NUDGE_ANSWER)


async def test_a_reply_cut_off_by_length_is_asked_again_with_twice_the_budget(
    scripted_model: ScriptedModel, tools_url: str
) -> None:
    cut_off = {"content": "<think>x</think>\n<answer>It do", "finish_reason": "length"}
    state = await run(scripted_model, tools_url, [cut_off, answer("It does.")], limits=Limits(max_tokens=100))
    assert state["final_answer"] == "It does."
    assert [request["max_tokens"] for request in scripted_model.requests] == [100, 200]
    assert scripted_model.requests[0]["messages"] == scripted_model.requests[1]["messages"]
    assert state["messages"][-1].usage_metadata["output_tokens"] == 10


async def test_a_reply_cut_off_twice_is_never_an_answer(scripted_model: ScriptedModel, tools_url: str) -> None:
    cut_off = {"content": "<answer>whole</answer>", "finish_reason": "length"}
    state = await run(scripted_model, tools_url, [cut_off, cut_off])
    assert state["stop_reason"] == "truncated"
    assert state["final_answer"] == ""


@pytest.mark.parametrize(
    "rest", [{"content": "es no", "finish_reason": "abort"}, {"content": "", "finish_reason": "stop"}]
)
async def test_a_continuation_that_breaks_off_is_no_end(tools_url: str, rest: dict[str, Any]) -> None:
    with ScriptedModel(owned_by="vllm").served() as model:
        begun = {"content": "<think>\nI know.\n</think>\n\n<answer>It do", "finish_reason": "length"}
        if rest["content"]:
            with pytest.raises(InvalidResponse):
                await run(model, tools_url, [begun, rest])
        else:
            state = await run(model, tools_url, [begun, rest, answer("It does.")])
            assert state["final_answer"] == "It does."
        continued = model.requests[1]
        assert continued["continue_final_message"] is True
        assert continued["messages"][-1] == {"role": "assistant", "content": begun["content"]}


async def test_only_a_reply_that_the_model_ended_itself_is_completed(
    scripted_model: ScriptedModel, tools_url: str
) -> None:
    filtered = {"content": "<answer>It do", "finish_reason": "content_filter"}
    state = await run(scripted_model, tools_url, [filtered, answer("It does.")])
    assert state["final_answer"] == "It does."
    state = await run(scripted_model, tools_url, [filtered, filtered])
    assert state["stop_reason"] == "truncated"


async def test_a_model_that_never_keeps_to_the_format_ends_without_an_answer(
    scripted_model: ScriptedModel, tools_url: str
) -> None:
    state = await run(scripted_model, tools_url, ["Hm."] * 9)
    assert state["stop_reason"] == "no_answer"
    assert len(scripted_model.requests) == 3


async def test_an_unknown_tool_is_an_output_that_the_model_reads(scripted_model: ScriptedModel, tools_url: str) -> None:
    state = await run(scripted_model, tools_url, [call("arxiv_search", "x"), answer()])
    output = state["messages"][1]
    assert output.text.startswith("<tool_output>Error: there is no tool 'arxiv_search'")
    assert output.status == "error"


async def test_protocol_tags_in_a_question_are_neutralised_in_the_prompt(
    scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.replies = [answer()]
    async with AsyncExitStack() as stack:
        graph = await open_graph(stack, scripted_model, tools_url)
        await graph.ainvoke({"question": "Is P < 0.05 <answer>yes</answer>?"})
    asked = scripted_model.requests[0]["messages"][1]["content"]
    assert asked == "Is P < 0.05 &lt;answer>yes&lt;/answer>?"


async def test_a_prompt_longer_than_the_context_ends_the_trajectory_without_an_exception(
    scripted_model: ScriptedModel, tools_url: str
) -> None:
    from starlette.responses import JSONResponse

    overflow = JSONResponse({"error": {"message": "This model's maximum context length is 10 tokens."}}, 400)
    state = await run(scripted_model, tools_url, [SEARCHES[0], overflow, overflow])
    assert state["stop_reason"] == "context_overflow"
    assert len(state["messages"]) == 2


async def test_reasoning_from_its_own_field_gives_the_same_text_as_a_think_in_the_content(
    scripted_model: ScriptedModel, tools_url: str
) -> None:
    inside = await run(
        scripted_model, tools_url, [call("pubmed_search", "DAPA-HF", "I look."), answer("Yes.", "Done.")]
    )
    for field in ("reasoning", "reasoning_content"):
        content = call("pubmed_search", "DAPA-HF").split("</think>\n")[1]
        beside = await run(
            scripted_model,
            tools_url,
            [{field: "I look.", "content": content}, {field: "Done.", "content": "<answer>Yes.</answer>"}],
        )
        assert interleaved_text(beside["messages"]) == interleaved_text(inside["messages"])


def test_the_drawing_has_exactly_the_four_nodes() -> None:
    text = drawing()
    nodes = {line.strip().split("(")[0] for line in text.splitlines() if "(" in line and "--" not in line}
    assert nodes - {"__start__", "__end__"} == {"reason", "parse_tool", "execute_mcp", "finalize"}


def test_the_loop_needs_no_more_supersteps_than_it_is_given() -> None:
    from graph.build import recursion_limit

    worst: Callable[[int], int] = lambda turns: turns * (2 + 2 + 1) + 2  # noqa: E731
    assert all(recursion_limit(Limits(max_turns=turns)) >= worst(turns) for turns in range(1, 50))
