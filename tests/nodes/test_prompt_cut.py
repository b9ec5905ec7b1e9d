"""A prompt that a server cuts in silence, a thought that a stop string ended, a prompt that shows no loose tag."""

from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, ToolMessage

from backends.config import TOOL_NAMES
from graph.limits import Limits
from nodes.context_budget import prompt_was_cut
from nodes.prompts import NUDGE_ANSWER, NUDGE_FORMAT, prompt_messages, system_prompt
from serializers.escaping import balanced
from servers.demo_model.server import count_tokens
from tests.support.graphs import run
from tests.support.runs import answer, call, generate_command, read_jsonl, trajgraph, write_questions
from tests.support.servers import Reply, ScriptedModel, completion

Messages = list[dict[str, Any]]
SEARCHES = [call("pubmed_search", query) for query in ("heart failure", "obesity", "Covid-19")]


def counted(most: int) -> Any:
    """A model whose server keeps only so many tokens of a prompt, and says no word of it but in its counts."""

    def script(messages: Messages) -> Reply:
        turn = sum(message["role"] == "assistant" for message in messages)
        text = SEARCHES[turn] if turn < 3 else answer()
        tokens = count_tokens("\n".join(message["content"] for message in messages))
        return completion({"content": text, "finish_reason": "stop"}, prompt_tokens=min(tokens, most))

    return script


def test_a_trajectory_of_a_server_that_cuts_prompts_is_rejected_and_the_mend_is_said_once(
    tmp_path: Path, tools_url: str
) -> None:
    write_questions(tmp_path / "questions.jsonl", [f"Does it help, {n}?" for n in range(5)])
    with ScriptedModel(script=counted(2500)).served() as model:
        done = trajgraph(*generate_command(tmp_path, model.url, tools_url))
    assert done.stdout.startswith("5 questions: 0 accepted, 5 rejected, 0 failed, 0 pending"), done.stdout
    assert "rejected for prompt_cut 5" in done.stdout
    assert done.stderr.count("cuts prompts in silence") == 1
    assert "num_ctx" in done.stderr
    (records,) = (read_jsonl(path) for path in (tmp_path / "out").glob("*_rejected.jsonl"))
    assert all(record["metadata"]["reject_reasons"][0] == "prompt_cut" for record in records)
    assert all(record["trajectory"]["final_answer"] == "" for record in records)


@pytest.mark.parametrize("most", [10**9, 3, 0])
async def test_a_server_that_cuts_nothing_or_counts_no_prompts_is_not_judged(tools_url: str, most: int) -> None:
    with ScriptedModel(script=counted(most)).served() as model:
        state = await run(model, tools_url, [])
    assert state["stop_reason"] == "answer"


def history(counts: list[int], thought: str = "I look.") -> list[Any]:
    messages: list[Any] = []
    for turn, count in enumerate(counts, start=1):
        messages += [
            AIMessage(f"<think>{thought}</think><call_tool>x</call_tool>", response_metadata={"prompt_tokens": count}),
            ToolMessage("<tool_output>" + "word " * 1000 + "</tool_output>", tool_call_id=str(turn)),
        ]
    return messages


@pytest.mark.parametrize(("counts", "now", "thought", "cut"), [
    ([900, 2000], 4096, "I look.", False), ([900, 3500], 4096, "I look.", True), ([900, 3500], 3100, "I look.", True),
    ([900, 3500], 4240, "I look.", False), ([900, 3500], 3800, "long thought " * 40, False), ([900, 3500], 2000, "long thought " * 40, True),
    ([900, 2000], 2100, "long thought " * 400, True), ([900, 2000], 3400, "long thought " * 400, False),
    ([9, 9], 9, "I look.", False), ([900, 3500], 0, "I look.", False),
])  # fmt: skip
def test_a_prompt_must_grow_by_what_was_appended_less_the_thoughts_that_a_template_drops(
    counts: list[int], now: int, thought: str, cut: bool
) -> None:
    messages = history(counts, thought)
    prompt = prompt_messages(system_prompt(Limits()), "Does it help?", messages)
    usage: Any = {"input_tokens": now, "output_tokens": 5, "total_tokens": now + 5}
    assert prompt_was_cut(prompt, messages, AIMessage("x", usage_metadata=usage)) is cut
    assert not prompt_was_cut(prompt, messages, AIMessage("x"))


STOPPED = [
    {"content": "<think>Results come in `", "finish_reason": "stop"},
    {"content": "<think>Results come in <tool_output>", "finish_reason": "stop", "stop_reason": "<tool_output>"},
    {"content": 'I write `<call_tool name="TOOL">keywords', "finish_reason": "stop"},
    {"content": '<think>As in <call_tool name="pubmed_search" limit="5">DAPA-HF dapagliflozin heart failure</call_tool>', "finish_reason": "stop"},
]  # fmt: skip


@pytest.mark.parametrize("stopped", STOPPED)
async def test_a_thought_that_a_stop_string_ended_is_asked_again_without_them(
    scripted_model: ScriptedModel, tools_url: str, stopped: Reply
) -> None:
    whole = (
        "<think>Results come in <tool_output>, so I search.</think>\n" + call("pubmed_search", "DAPA-HF").split("\n")[1]
    )
    run_on = whole + "\n<tool_output>made up</tool_output>\n<answer>made up</answer>"
    state = await run(scripted_model, tools_url, [stopped, run_on, answer("It does.")])
    assert [bool(request.get("stop")) for request in scripted_model.requests] == [True, False, True]
    assert state["messages"][0].text == whole.replace("<tool_output>", "&lt;tool_output>")
    assert state["messages"][1].artifact["data"][0]["paperId"] == "31535829"
    assert state["final_answer"] == "It does."


async def test_no_open_thought_is_continued_as_templates_would_put_an_empty_one_before_it(tools_url: str) -> None:
    begun = {"content": "<think>Results come in <tool_output>", "finish_reason": "stop", "stop_reason": "<tool_output>"}
    with ScriptedModel(owned_by="vllm").served() as model:
        state = await run(model, tools_url, [begun, call("pubmed_search", "DAPA-HF"), answer()])
        assert model.requests[1]["messages"] == model.requests[0]["messages"]
    assert "stop" not in model.requests[1]
    assert state["final_answer"] == "It works."


async def test_one_that_never_ends_is_context_of_a_nudge_and_no_whole_thought(
    scripted_model: ScriptedModel, tools_url: str
) -> None:
    state = await run(scripted_model, tools_url, ["<think>So far", "<think>So far", answer("It does.")])
    assert state["final_answer"] == "It does."
    assert state["messages"][0].additional_kwargs["repairs"] == ["think_closed"]
    assert state["messages"][1].text == NUDGE_FORMAT


@pytest.mark.parametrize("tools", [TOOL_NAMES, TOOL_NAMES[:1], ("fetch",)])
def test_what_the_model_is_told_holds_no_tag_without_its_other_half(tools: tuple[str, ...]) -> None:
    for text in (system_prompt(Limits(), tools), NUDGE_ANSWER, NUDGE_FORMAT):
        assert balanced(text) == (text, [])
    assert "<tool_output" not in system_prompt(Limits(), tools)
    assert "<call_tool" not in NUDGE_FORMAT + NUDGE_ANSWER


def test_a_prompt_of_ones_own_is_balanced_before_the_model_gets_it(tmp_path: Path, tools_url: str) -> None:
    write_questions(tmp_path / "questions.jsonl", ["Does semaglutide help?"])
    (tmp_path / "prompt.txt").write_text(
        "Never write <tool_output> yourself, stop after </call_tool>; <think>so</think>."
    )
    with ScriptedModel(script=counted(10**9)).served() as model:
        done = trajgraph(
            *generate_command(tmp_path, model.url, tools_url), "--system-prompt-file", tmp_path / "prompt.txt"
        )
        told = model.requests[0]["messages"][0]["content"]
    assert told == "Never write &lt;tool_output> yourself, stop after &lt;/call_tool>; <think>so</think>."
    assert "has <tool_output>, </call_tool> without its other half" in done.stderr
    assert trajgraph("export", tmp_path / "out", "--format", "drtulu", "--output", tmp_path / "set").returncode == 0
    assert read_jsonl(tmp_path / "set" / "train.jsonl")[0]["conversations"][0]["content"] == told
