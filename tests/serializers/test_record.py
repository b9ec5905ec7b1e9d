"""The record, key for key."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from batch.stats import Stats
from graph.state import State
from quality.verdict import judge
from serializers.record import QuestionRow, build_record, family, sample_id
from serializers.tool_output import render

GOLDEN = Path(__file__).parents[1] / "golden"
PAPERS = [
    {"paperId": str(n), "title": f"T{n}", "abstract": "A", "year": "2020", "venue": "V", "url": "u"} for n in range(7)
]


def finished() -> State:
    """A state as the graph leaves it: one search, one nudge, an answer."""
    result = {"total": 7, "data": PAPERS}
    asked = '<think>I search.</think>\n<call_tool name="pubmed_search" limit="5">statins</call_tool>'
    final = '<think>Enough.</think>\n<answer>\nYes. <cite id="3">T3</cite> <cite id="1">T1</cite>\n</answer>'
    beside = {
        "timestamp": "2026-01-01T00:00:00.000+00:00",
        "seconds": 0.5,
        "reminder": "not in the text",
        "snippet_ids": [paper["paperId"] for paper in PAPERS],
    }
    usage: Any = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    about = {"finish_reason": "stop", "seconds": 1.0}
    return State(
        question="Do statins help?",
        messages=[
            AIMessage(asked, tool_calls=[{"name": "pubmed_search", "args": {"query": "statins", "limit": 5}, "id": "call-1"}],
                      additional_kwargs={"repairs": ["stop_string_restored"]}, usage_metadata=usage, response_metadata=about),
            ToolMessage(render("pubmed_search", result).text, name="pubmed_search", tool_call_id="call-1",
                        artifact=render("pubmed_search", result).recorded, additional_kwargs=beside),
            AIMessage("Hm.", usage_metadata=usage, response_metadata=about),
            HumanMessage("a nudge"),
            AIMessage(final, usage_metadata=usage, response_metadata=about),
        ],
        final_answer='Yes. <cite id="3">T3</cite> <cite id="1">T1</cite>',
        stop_reason="answer",
    )  # fmt: skip


ROW = QuestionRow(
    question="Do statins help?", topic="Lipids", question_type="review", expected_search_terms=["statins"]
)
ABOUT = {"generation_time": "2026-01-01T00:00:00", "model": "Qwen3-8B", "source_file": "questions.jsonl"}


def test_a_record_is_the_golden_one_and_valid() -> None:
    record = judge(build_record("qwen3_traj_00001", ROW, finished(), dict(ABOUT)))
    assert record == json.loads((GOLDEN / "record.json").read_text(encoding="utf-8"))
    assert next(iter(record)) == "sample_id"
    jsonschema.validate(record, json.loads((GOLDEN / "record.schema.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({"stop_reason": "truncated"}, ["truncated"]),
        ({"stop_reason": "max_turns"}, ["max_turns"]),
        ({"final_answer": "  "}, ["no_answer"]),
    ],
)
def test_what_has_no_answer_is_rejected_with_its_reason(change: dict[str, str], reasons: list[str]) -> None:
    state: Any = {**finished(), **change}
    assert judge(build_record("x", ROW, state, {}))["metadata"]["reject_reasons"] == reasons


def test_unbalanced_tags_reject_a_record() -> None:
    state = finished()
    state["messages"][-1].content = "<answer><answer>Yes.</answer>"
    assert judge(build_record("x", ROW, state, {}))["metadata"]["reject_reasons"] == ["unbalanced_tags"]


def test_results_are_kept_bounded() -> None:
    kept = render("pubmed_search", {"total": 7, "data": PAPERS}).recorded
    assert [paper["paperId"] for paper in kept["data"]] == ["0", "1", "2", "3", "4"]
    assert list(kept["data"][0]) == ["paperId", "title", "abstract", "year", "venue"]
    assert render("browse_webpage", {"markdown": "x" * 9000}).recorded.keys() == {"truncated", "preview"}
    assert len(render("browse_webpage", {"markdown": "x" * 9000}).recorded["preview"]) == 3000
    state = finished()
    state["messages"][1].artifact = render("browse_webpage", {"markdown": "x" * 9000}).recorded  # type: ignore[union-attr]
    record = judge(build_record("x", ROW, state, {}))
    assert record["trajectory"]["tool_calls"][0]["result"]["preview"].startswith('{"markdown": "xxx')
    assert render("browse_webpage", {"markdown": "x"}).recorded == {"markdown": "x"}


@pytest.mark.parametrize(
    ("model", "identity"),
    [
        ("Qwen3-8B", "qwen3_traj_00007"),
        ("Qwen/Qwen3-8B", "qwen3_traj_00007"),
        ("llama3.1:8b", "llama3.1_traj_00007"),
        ("demo", "demo_traj_00007"),
    ],
)
def test_a_sample_is_named_after_the_models_family_and_the_questions_place(model: str, identity: str) -> None:
    assert sample_id(family(model), 7) == identity


def test_the_counts_of_the_statistics_add_up() -> None:
    record = judge(build_record("qwen3_traj_00001", ROW, finished(), dict(ABOUT)))
    truncated = finished()
    truncated["stop_reason"] = "truncated"
    rejected = judge(build_record("qwen3_traj_00002", ROW, truncated, dict(ABOUT)))
    sums = Stats()
    sums.add("accepted", record)
    sums.add("rejected", rejected)
    sums.counts["failed"] += 1
    stats = sums.content(questions=5, asked=5, bad_rows=2, about=ABOUT)
    assert [stats[name] for name in ("accepted", "rejected", "failed", "pending")] == [1, 1, 1, 2]
    assert stats["total_samples"] == 1
    assert stats["avg_tool_calls"] == 1
    assert stats["topics"] == {"Lipids": 1}
    assert stats["stop_reasons"] == {"answer": 1, "truncated": 1}
    assert stats["tokens"] == {"input": 60, "output": 30}
