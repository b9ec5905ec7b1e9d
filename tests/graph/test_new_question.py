"""A second question in the same thread begins a transcript of its own."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from graph.checkpoints import open_checkpoints
from serializers.record import build_record
from tests.support.graphs import open_graph
from tests.support.runs import answer, call
from tests.support.servers import ScriptedModel

CONFIG: Any = {"configurable": {"thread_id": "2f0c8d2e-3f3b-5a43-a01c-0b6c9a9f5b11"}}
ROW: Any = {"question": "B?", "topic": "", "question_type": "", "expected_search_terms": []}


@pytest.mark.parametrize("second", ["A?", "B?"])
async def test_a_thread_that_is_finished_answers_another_question_from_the_start(
    tmp_path: Path, scripted_model: ScriptedModel, tools_url: str, second: str
) -> None:
    scripted_model.replies = [
        call("pubmed_search", "one"),
        answer("First."),
        call("pubmed_search", "two"),
        answer("Second."),
    ]
    async with AsyncExitStack() as stack:
        saver = await stack.enter_async_context(open_checkpoints(tmp_path / "checkpoints.sqlite"))
        graph = await open_graph(stack, scripted_model, tools_url, checkpointer=saver)
        first = await graph.ainvoke({"question": "A?"}, CONFIG)
        again = await graph.ainvoke({"question": second}, CONFIG)
        stored = (await graph.aget_state(CONFIG)).values
    assert first["final_answer"] == "First."
    assert again["final_answer"] == stored["final_answer"] == "Second."
    assert [message.type for message in stored["messages"]] == ["ai", "tool", "ai"]
    assert [request["messages"][1]["content"] for request in scripted_model.requests] == ["A?", "A?", second, second]
    assert [len(request["messages"]) for request in scripted_model.requests] == [2, 4, 2, 4]
    state: Any = stored
    record = build_record("x_traj_00001", ROW, state, {})
    assert record["trajectory"]["total_tool_calls"] == 1
    assert "First." not in record["trajectory"]["interleaved_text"]


async def test_a_question_that_is_changed_on_its_way_begins_anew(
    tmp_path: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.replies = [
        call("pubmed_search", "one"),
        answer("First."),
        call("pubmed_search", "two"),
        answer("Second."),
    ]
    async with AsyncExitStack() as stack:
        saver = await stack.enter_async_context(open_checkpoints(tmp_path / "checkpoints.sqlite"))
        graph = await open_graph(stack, scripted_model, tools_url, checkpointer=saver)
        await graph.ainvoke({"question": "A?"}, CONFIG)
        history = [step async for step in graph.aget_state_history(CONFIG)]
        midway = next(step for step in history if step.next == ("reason",) and step.values.get("messages"))
        forked = await graph.aupdate_state(midway.config, {"question": "B?"}, as_node="execute_mcp")
        state = await graph.ainvoke(None, forked)
    assert state["final_answer"] == "Second."
    assert len(scripted_model.requests[2]["messages"]) == 2


async def test_a_result_that_is_edited_on_the_way_is_read_by_the_same_transcript(
    tmp_path: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.replies = [call("pubmed_search", "one"), answer("First."), answer("Second.")]
    async with AsyncExitStack() as stack:
        saver = await stack.enter_async_context(open_checkpoints(tmp_path / "checkpoints.sqlite"))
        graph = await open_graph(stack, scripted_model, tools_url, checkpointer=saver)
        await graph.ainvoke({"question": "A?"}, CONFIG)
        history = [step async for step in graph.aget_state_history(CONFIG)]
        midway = next(step for step in history if step.next == ("reason",) and step.values.get("messages"))
        edited = midway.values["messages"][-1].model_copy(update={"content": "<tool_output>edited</tool_output>"})
        forked = await graph.aupdate_state(midway.config, {"messages": [edited]}, as_node="execute_mcp")
        state = await graph.ainvoke(None, forked)
    assert state["final_answer"] == "Second."
    assert scripted_model.requests[2]["messages"][-1]["content"].startswith("<tool_output>edited</tool_output>")
