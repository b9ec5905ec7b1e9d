"""Servers that are at work and say odd things: they end no run, and are believed in nothing that cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest
from mcp.server.fastmcp import FastMCP
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from backends.errors import UsageError
from servers.demo_model.manners import MANNERS
from tests.support.runs import Messages, answer, counts, generate, trajgraph, two_turns, write_questions
from tests.support.servers import Reply, ScriptedModel, completion, demo_model, served
from tests.support.tool_clients import tools_at


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_a_list_of_models_that_always_fails_is_no_outage(folder: Path, tools_url: str, status: int) -> None:
    asked: list[Any] = []

    async def chat(request: Request) -> Response:
        asked.append(body := await request.json())
        if len(asked) == 4:
            return Response("a passing error", 500)
        said = two_turns(body["messages"])
        assert isinstance(said, str)
        return completion({"content": said, "finish_reason": "stop"}, prompt_tokens=900 * len(body["messages"]))

    routes = [
        Route("/v1/models", lambda _: Response("", status)),
        Route("/v1/chat/completions", chat, methods=["POST"]),
    ]
    with served(Starlette(routes=routes)) as base:
        batch = await generate(folder, f"{base}/v1", tools_url, model_name="Qwen3-8B", max_downtime=20)
    assert counts(batch) == [6, 0, 0, 0]


async def test_one_prompt_that_a_firewall_forbids_fails_alone(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    def behind_a_firewall(messages: Messages) -> Reply:
        forbidden = "Question 5" in messages[1]["content"]
        return HTMLResponse("<html>Request blocked</html>", 403) if forbidden else two_turns(messages)

    scripted_model.script = behind_a_firewall
    for _ in range(2):  # the same command again asks for it alone
        assert counts(await generate(folder, scripted_model, tools_url, concurrency=1)) == [5, 0, 1, 0]


async def test_the_first_prompt_forbidden_keeps_no_other_from_being_asked(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    def behind_a_firewall(messages: Messages) -> Reply:
        forbidden = len(messages) > 1 and "Question 1" in messages[1]["content"]
        return HTMLResponse("<html>Request blocked</html>", 403) if forbidden else two_turns(messages)

    scripted_model.script = behind_a_firewall
    assert counts(await generate(folder, scripted_model, tools_url, concurrency=1)) == [5, 0, 1, 0]


async def test_a_key_that_is_revoked_in_the_middle_ends_the_run(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    write_questions(folder / "questions.jsonl", [f"Does drug {number} help?" for number in range(40)])

    def revoked(messages: Messages) -> Reply:
        used_up = len(scripted_model.requests) > 9
        return JSONResponse({"error": {"message": "key revoked"}}, 403) if used_up else two_turns(messages)

    scripted_model.script = revoked
    with pytest.raises(UsageError, match=r"in a row were forbidden, and no other was answered: .*key revoked"):
        await generate(folder, scripted_model, tools_url)
    assert len(scripted_model.requests) < 30


async def test_a_passing_error_in_a_reply_of_status_200_ends_no_run(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    write_questions(folder / "questions.jsonl", [f"Does drug {number} help?" for number in range(20)])

    def overloaded(messages: Messages) -> Reply:
        busy = len(scripted_model.requests) < 50
        return JSONResponse({"error": "Upstream is overloaded, try again"}) if busy else two_turns(messages)

    scripted_model.script = overloaded
    accepted, rejected, failed, pending = counts(await generate(folder, scripted_model, tools_url))
    assert (accepted > 0, rejected, accepted + failed, pending) == (True, 0, 20, 0)


@pytest.mark.parametrize(
    "refusal",
    [
        {"detail": [{"msg": "value error", "input": {"content": "a BERT with a context window of 512 tokens"}}]},
        {"error": {"message": "the context window is 150 tokens too small"}},
    ],
)
@pytest.mark.parametrize("refused", [1, 2])
async def test_a_number_that_is_no_context_shortens_nothing_but_the_next_reply(
    folder: Path, scripted_model: ScriptedModel, tools_url: str, refusal: dict[str, Any], refused: int
) -> None:
    def picky(messages: Messages) -> Reply:
        if f"Question {refused}" in messages[1]["content"]:
            return JSONResponse(refusal, 422)
        said = two_turns(messages)
        return completion({"content": said, "finish_reason": "stop"}, prompt_tokens=900 * len(messages))

    scripted_model.script = picky
    batch = await generate(folder, scripted_model, tools_url, concurrency=1)
    assert counts(batch)[0] == 5
    asked = [request["max_tokens"] for request in scripted_model.requests]
    assert sum(tokens not in (1, 4096) for tokens in asked) <= (2 if refused == 1 else 0)


async def test_a_web_page_for_every_reply_ends_the_run(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    write_questions(folder / "questions.jsonl", [f"Does drug {number} help?" for number in range(20)])
    scripted_model.script = lambda _: HTMLResponse("<html><body>Welcome to nginx</body></html>")
    with pytest.raises(UsageError, match=r"were all refused in the same way: .* a web page: is --local-model-url"):
        await generate(folder, scripted_model, tools_url)


async def test_a_tool_that_is_described_wrongly_keeps_no_other_from_being_called() -> None:
    good = {"name": "pubmed_search", "inputSchema": {"properties": {"query": {"anyOf": 5}}, "required": True}}
    results: dict[str, Any] = {
        "initialize": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                       "serverInfo": {"name": "odd", "version": "1"}},
        "tools/list": {"tools": [{"name": "no_schema"}, 7, good]},
        "tools/call": {"content": [{"type": "text", "text": "fine"}]},
    }  # fmt: skip

    async def mcp(request: Request) -> Response:
        asked = await request.json() if request.method == "POST" else {}
        if "id" not in asked:
            return Response(status_code=202 if asked else 405)
        return JSONResponse({"jsonrpc": "2.0", "id": asked["id"], "result": results[asked["method"]]})

    with served(Starlette(routes=[Route("/mcp", mcp, methods=["GET", "POST", "DELETE"])])) as base:
        async with tools_at(f"{base}/mcp", concurrency=1) as client:
            assert [tool.name for tool in client.served] == ["pubmed_search"]


def looked(model: str, tools: str, *more: object) -> tuple[int, str]:
    done = trajgraph("doctor", "--local-model-url", model, "--mcp-url", tools, "--model-name", "Qwen3-8B", *more)
    return done.returncode, done.stdout + done.stderr


def test_doctor_takes_every_flag_of_generate_and_refuses_what_it_refuses(
    folder: Path, model_url: str, tools_url: str
) -> None:
    flags = ("--questions-file", folder / "questions.jsonl", "--max-turns", 5, "--fresh", "--workers", 2, "--limit", 3)
    assert looked(model_url, tools_url, *flags)[0] == 0
    assert looked(model_url, tools_url, "--concurrency", 0)[0] == 2
    code, said = looked(model_url, tools_url, "--output", "/proc/nothing")
    assert (code, "cannot be written" in said) == (1, True)


def test_doctor_says_when_no_tool_output_can_fit(tools_url: str) -> None:
    with demo_model(manners=MANNERS["llama.cpp"], max_model_len=1000) as url:
        code, said = looked(url, tools_url)
    assert code == 1
    assert "too short for the prompt" in said


def test_doctor_tells_your_length_from_the_servers(tools_url: str) -> None:
    with demo_model(manners=MANNERS["vllm"], max_model_len=32_768) as url:
        assert (
            "ok       context         20,000 tokens, as you say" in looked(url, tools_url, "--max-model-len", 20_000)[1]
        )
        assert "32,768 tokens, as it says, and not the 99,999" in looked(url, tools_url, "--max-model-len", 99_999)[1]


def test_doctor_asks_every_tool_and_tells_what_one_that_it_does_not_know_says(model_url: str) -> None:
    server = FastMCP("theirs", log_level="CRITICAL", stateless_http=True)

    @server.tool()
    def semantic_search(query: str) -> str:
        raise ValueError("S2_API_KEY is not set")

    @server.tool()
    def echo(text: str) -> str:
        return f"you said {text}"

    with served(server.streamable_http_app()) as base:
        code, said = looked(model_url, f"{base}/mcp", "--tools", "semantic_search,echo")
    assert code == 0
    assert "warning  semantic_search" in said and "S2_API_KEY is not set" in said
    assert "ok       echo" in said


def test_doctor_sees_a_prompt_cut_in_silence_wherever_the_end_is(tools_url: str, tmp_path: Path) -> None:
    own = tmp_path / "prompt.txt"
    own.write_text("Call <call_tool>, then <answer>. " + "Search with care. " * 3000)
    for size, more in ((1500, ()), (4096, ()), (10_240, ()), (4096, ("--system-prompt-file", own)),
                       (4096, ("--max-model-len", 32_768))):  # fmt: skip
        with demo_model(manners=MANNERS["ollama"], max_model_len=size) as url:
            code, said = looked(url, tools_url, *more)
        assert (code, "cuts prompts in silence" in said) == (1, True), (size, more, said)


def test_doctor_advises_no_length_with_which_nothing_fits(tools_url: str) -> None:
    with demo_model(manners=MANNERS["vllm"], max_model_len=1000) as url:
        code, said = looked(url, tools_url, "--max-model-len", 99_999)
    assert code == 1
    assert "and not the 99,999 that you say: too short for the prompt" in said


def test_doctor_believes_no_count_that_cannot_be_one(tools_url: str) -> None:
    constant = completion({"content": answer(), "finish_reason": "stop"}, prompt_tokens=10)
    with ScriptedModel(script=lambda _: constant).served() as model:
        code, said = looked(model.url, tools_url)
    assert "cuts prompts in silence" not in said
    assert "drops the thoughts" not in said
    assert code == 0, json.dumps(said)
