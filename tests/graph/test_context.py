"""The context budget: the oldest tool outputs give way, visibly, in the prompt and in the record."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from graph.limits import Limits
from serializers.interleaved import interleaved_text
from serializers.record import QuestionRow, build_record
from tests.support.graphs import run
from tests.support.runs import answer, call, trajgraph, unbalanced, write_questions
from tests.support.servers import Reply, ScriptedModel, served

Messages = list[dict[str, Any]]
SEARCHES: list[Reply] = [call("pubmed_search", query) for query in ("heart failure", "obesity", "Covid-19")]
STATED = [
    "This model's maximum context length is 4000 tokens. However, you requested 9000 tokens.",
    "The input (6008 tokens) is longer than the model's context length (4000 tokens).",
    "Requested token count exceeds the model's maximum context length of 4000 tokens. You requested a total of 9000.",
    "the request exceeds the available context size (4000 tokens), try increasing it",
    "You passed 5000 input tokens and requested 900 output tokens. However, the model's context length is only 4000 tokens.",
    "The decoder prompt (length 6008) is longer than the maximum model length of 4000. Make sure max_model_len fits.",
]


def prompt_size(request: dict[str, Any]) -> int:
    return len(json.dumps(request["messages"]))


@pytest.mark.parametrize("stated", STATED)
async def test_a_context_that_the_server_states_in_its_refusal_is_kept_from_then_on(
    scripted_model: ScriptedModel, tools_url: str, stated: str
) -> None:
    limit = 12_000  # characters: what 4,000 tokens hold at the estimate's three bytes each

    def strict(messages: list[dict[str, Any]]) -> Reply:
        if sum(len(message["content"]) for message in messages) > limit:
            return JSONResponse({"error": {"message": stated}}, 400)
        turn = sum(message["role"] == "assistant" for message in messages)
        return SEARCHES[turn] if turn < 3 else answer()

    scripted_model.script = strict
    state = await run(scripted_model, tools_url, [])
    assert state["stop_reason"] == "answer"
    outputs = [message for message in state["messages"] if message.type == "tool"]
    shortened = [output for output in outputs if "shortened_from" in output.additional_kwargs]
    assert shortened and shortened[0] is outputs[0]
    assert "shortened to fit the context" in shortened[0].text
    last_prompt = [message["content"] for message in scripted_model.requests[-1]["messages"]]
    text = interleaved_text(state["messages"])
    assert all(output.text in last_prompt or f"{output.text}\n" in str(last_prompt) for output in outputs)
    assert shortened[0].text in text
    assert unbalanced(text) == []
    row = QuestionRow(question="q", topic="", question_type="", expected_search_terms=[])
    assert build_record("x", row, state, {})["metadata"]["shortened_outputs"][0] == 1  # type: ignore[arg-type]
    refused = [request for request in scripted_model.requests if prompt_size(request) > limit * 1.2]
    assert len(refused) <= 1


async def test_what_cannot_be_made_to_fit_ends_as_context_overflow(
    scripted_model: ScriptedModel, tools_url: str
) -> None:
    refusal = JSONResponse({"error": {"message": STATED[0].replace("4000", "40")}}, 400)
    scripted_model.script = lambda _: refusal
    state = await run(scripted_model, tools_url, [])
    assert state["stop_reason"] == "context_overflow"
    assert len(scripted_model.requests) == 1, "40 tokens hold no reply: nothing is asked again"


@contextmanager
def counting_model(reply: Callable[[Messages], str], max_model_len: int, asked: list[Messages]) -> Iterator[str]:
    """A server that can continue a reply and counts a token for every character; yields its address."""

    def length(messages: Messages) -> int:
        return sum(len(message["content"]) for message in messages)

    async def models(_: Request) -> JSONResponse:
        about = {"id": "Qwen3-8B", "object": "model", "owned_by": "vllm", "max_model_len": max_model_len}
        return JSONResponse({"object": "list", "data": [about]})

    async def tokenize(request: Request) -> JSONResponse:
        return JSONResponse({"count": length((await request.json())["messages"])})

    async def chat(request: Request) -> JSONResponse:
        body = await request.json()
        asked.append(body["messages"])
        prompt = length(asked[-1])
        if prompt + body["max_tokens"] > max_model_len:
            return JSONResponse({"error": {"message": STATED[0].replace("4000", str(max_model_len))}}, 400)
        whole = reply(asked[-1])
        said = whole[: body["max_tokens"]]
        choice = {"index": 0, "message": {"role": "assistant", "content": said}}
        usage = {"prompt_tokens": prompt, "completion_tokens": len(said), "total_tokens": 0}
        ended = "stop" if said == whole else "length"
        return JSONResponse({"choices": [{**choice, "finish_reason": ended}], "usage": usage})

    routes = [Route("/v1/models", models), Route("/tokenize", tokenize, methods=["POST"])]
    with served(Starlette(routes=[*routes, Route("/v1/chat/completions", chat, methods=["POST"])])) as base:
        yield f"{base}/v1"


def searching(messages: Messages, said: str = answer()) -> str:
    turn = sum(message["role"] == "assistant" for message in messages)
    return str(SEARCHES[turn]) if turn < 3 else said


def test_a_prompt_of_digits_does_not_outgrow_the_context_of_a_server_that_counts(
    tmp_path: Path, tools_url: str
) -> None:
    """A token for every character, as digits are: a guess by the letter would be wrong by a factor of three."""
    asked: list[Messages] = []
    questions = write_questions(tmp_path / "q.jsonl", ["Does it help? " + "0123456789 " * 300])
    with counting_model(searching, 16_000, asked) as url:
        done = trajgraph(
            "generate", "--questions-file", questions, "--local-model-url", url, "--mcp-url", tools_url,
            "--output", tmp_path / "out",
        )  # fmt: skip
    assert done.stdout.startswith("1 question: 1 accepted"), done
    assert len(asked) == 1 + 4, "the first token, and none was refused"


@pytest.mark.parametrize(("room", "continued"), [(1500, True), (600, True), (200, False), (20, False), (5, False)])
async def test_a_reply_is_continued_from_the_very_prompt_that_it_was_begun_from_or_asked_again(
    tools_url: str, room: int, continued: bool
) -> None:
    """Twice the budget may need the outputs shortened, which the first half of a reply has seen whole."""
    said = answer("It does. " * 150)

    def long_at_the_end(messages: Messages) -> str:
        return said[1000:] if messages[-1]["role"] == "assistant" else searching(messages, said)

    asked: list[Messages] = []
    with counting_model(searching, 40_000, asked) as url:
        await run(ScriptedModel(url=url), tools_url, [])
    whole = sum(len(message["content"]) for message in asked[-1])
    asked.clear()
    limits = Limits(max_tokens=1000)
    with counting_model(long_at_the_end, whole + 1000 + room, asked) as url:
        state = await run(ScriptedModel(url=url), tools_url, [], limits=limits)
    begun = next(prompt for prompt in asked if len(prompt) == 8)
    seen = [message["content"] for message in asked[-1]]
    assert (asked[-1] == [*begun, {"role": "assistant", "content": said[:1000]}]) == continued
    assert all(message.text in seen for message in state["messages"][:-1]), "what the record holds"
    assert state["messages"][-1].text == said
    assert state["stop_reason"] == "answer"
