"""Trajectories as texts, sound ones and what they are made of."""

from typing import Any

from langchain_core.messages import AIMessage, ToolMessage

from quality.verdict import judge
from serializers.record import QuestionRow, build_record
from serializers.tool_output import render

COUNT = 12
"""Rows with each defect."""


def snippet(pmid: int, text: str = "The hazard ratio was 0.74 in 4,744 patients (P < 0.001).") -> str:
    return f'<snippet id="{pmid}">Title: Trial {pmid}\nAuthors: A | Year: 2019 | Journal: B\nAbstract: {text}</snippet>'


def output(*pmids: int) -> str:
    shown = "\n".join(map(snippet, pmids))
    return f"<tool_output>\nFound {len(pmids)} results. Showing top {len(pmids)}:\n{shown}\n</tool_output>"


def call(query: str, limit: int = 5) -> str:
    return f'<call_tool name="pubmed_search" limit="{limit}">{query}</call_tool>'


def think(text: str) -> str:
    return f"<think>{text}</think>"


def sound(n: int) -> list[str]:
    """The pieces of a trajectory without a defect."""
    return [
        think(f"I look for trial {n}."), call(f"dapagliflozin {n}"), output(1000 + n, 2000 + n),
        think("One more."), call(f"heart failure {n}"), output(3000 + n), think("That is enough."),
        f'<answer>It helps (0.74). <cite id="{1000 + n}">hazard ratio 0.74</cite> <cite id="{3000 + n}">4,744 patients</cite></answer>',
    ]  # fmt: skip


def record(n: int, pieces: list[str], executed: int | None = None, **metadata: Any) -> dict[str, Any]:
    text = "\n".join(pieces)
    calls = text.count("<call_tool") if executed is None else executed
    return {
        "sample_id": f"qwen3_traj_{n:05d}", "question": f"Does it help, {n}?", "topic": "t", "question_type": "r",
        "trajectory": {"interleaved_text": text, "tool_calls": [{}] * calls, "final_answer": "x"},
        "metadata": metadata,
    }  # fmt: skip


def replaced(n: int, at: int, *pieces: str, **more: Any) -> dict[str, Any]:
    whole = sound(n)
    return record(n, [*whole[:at], *pieces, *whole[at + 1 :]], **more)


def record_of(tool: str, result: Any, answer: str) -> Any:
    output = render(tool, result)
    call = {"name": tool, "args": {"query": "q"}, "id": "call-1"}
    beside = {"snippet_ids": output.snippet_ids}
    messages: list[Any] = [
        AIMessage(f'<think>x</think>\n<call_tool name="{tool}">q</call_tool>', id="turn-1", tool_calls=[call]),
        ToolMessage(output.text, id="output-1", tool_call_id="call-1", name=tool, artifact=output.recorded, additional_kwargs=beside),
        AIMessage(f"<think>y</think>\n<answer>{answer}</answer>", id="turn-2"),
    ]  # fmt: skip
    row = QuestionRow(question="q", topic="", question_type="", expected_search_terms=[])
    return judge(
        build_record("x_traj_00001", row, {"messages": messages, "final_answer": answer, "stop_reason": "answer"}, {})
    )
