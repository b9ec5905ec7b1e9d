"""What a run says at its start and its end, what it waits for, and the mistake that every request would make."""

import logging
from pathlib import Path
from typing import Any

import pytest
from mcp.server.fastmcp import FastMCP
from mcp.types import CallToolResult, TextContent
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from backends.errors import UsageError
from servers.demo_model.server import DemoModel
from tests.support.runs import (
    QUESTIONS,
    Messages,
    answer,
    call,
    counts,
    generate,
    trajgraph,
    two_turns,
    write_questions,
)
from tests.support.servers import Reply, ScriptedModel, served


def refusing(status: int, message: str) -> Any:
    return lambda _: JSONResponse({"error": {"message": message}}, status)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A folder with forty questions."""
    write_questions(tmp_path / "questions.jsonl", [f"Does drug {number} help?" for number in range(40)])
    return tmp_path


@pytest.mark.parametrize(
    ("status", "message"),
    [(400, "this model has no chat template"), (422, "unexpected field: tool_call_id"), (405, "Method Not Allowed")],
)
async def test_a_refusal_of_every_request_ends_the_run_with_the_servers_own_words(
    many: Path, scripted_model: ScriptedModel, tools_url: str, status: int, message: str
) -> None:
    scripted_model.script = refusing(status, message)
    with pytest.raises(UsageError, match=f"the first 1. questions were all refused in the same way: .*{message}"):
        await generate(many, scripted_model, tools_url)


async def test_a_run_that_is_shorter_than_its_concurrency_ends_so_too(
    many: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = refusing(400, "this model has no chat template")
    with pytest.raises(UsageError, match="the first 40 questions"):
        await generate(many, scripted_model, tools_url, concurrency=64)


async def test_a_refusal_at_the_second_turn_of_every_question_ends_the_run_too(
    many: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    def no_tool_role(messages: Messages) -> Reply:
        if messages[-1]["role"] == "tool":
            return JSONResponse({"error": {"message": f"role tool in message {len(messages)}"}}, 400)
        return call("pubmed_search", "DAPA-HF")

    scripted_model.script = no_tool_role
    with pytest.raises(UsageError, match="role tool"):
        await generate(many, scripted_model, tools_url)


async def test_refusals_of_some_questions_fail_those_alone(
    many: Path, scripted_model: ScriptedModel, tools_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def filtered(messages: Messages) -> Reply:
        if any(f"drug {number} " in messages[1]["content"] for number in (1, *range(10, 40))):
            return JSONResponse({"error": {"message": "content filter 7f"}}, 400)
        return two_turns(messages)

    scripted_model.script = filtered
    with caplog.at_level(logging.INFO, "trajgraph"):
        assert counts(await generate(many, scripted_model, tools_url)) == [9, 0, 31, 0]
    said = [
        one.getMessage() for one in caplog.records if one.name == "trajgraph" and "content filter" in one.getMessage()
    ]
    assert [text.partition(": ")[0] for text in said] == ["failed, the first", "failed, 10 so far"]


async def test_a_prompt_that_no_context_holds_ends_the_run(
    many: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = refusing(400, "This model's maximum context length is 512 tokens.")
    with pytest.raises(UsageError, match="longer than the model's context"):
        await generate(many, scripted_model, tools_url)


def test_the_end_tells_what_failed_and_what_was_rejected_by_reason(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    def mixed(messages: Messages) -> Reply:
        number = QUESTIONS.index(messages[1]["content"]) + 1
        if number <= 2:
            return JSONResponse({"error": {"message": f"policy {number}00"}}, 400)
        return answer() if number == 3 else "I cannot help with that."

    scripted_model.script = mixed
    done = trajgraph(
        "generate", "--questions-file", folder / "questions.jsonl", "--output", folder / "out",
        "--local-model-url", scripted_model.url, "--mcp-url", tools_url,
    )  # fmt: skip
    assert done.returncode == 1
    assert "\nrejected for no_answer 3\n" in done.stdout
    assert "\n2 failed: BadRequest: the model server refused the request (#): policy #\n" in done.stdout


async def test_a_tool_that_only_ever_says_the_same_error_is_named(
    folder: Path, scripted_model: ScriptedModel, caplog: pytest.LogCaptureFixture
) -> None:
    server = FastMCP("keyless", log_level="CRITICAL", stateless_http=True)

    async def google_search(query: str) -> CallToolResult:
        return CallToolResult(content=[TextContent(type="text", text="SERPER_API_KEY is not set")], isError=True)

    async def pubmed_search(query: str) -> dict[str, Any]:
        return {"total": 1, "data": [{"paperId": "1", "title": query}]}

    server.add_tool(google_search)
    server.add_tool(pubmed_search)

    def search(messages: Messages) -> Reply:
        names = ["google_search", "pubmed_search"]
        turn = sum(message["role"] == "assistant" for message in messages)
        return call(names[turn], "DAPA-HF") if turn < 2 else answer()

    scripted_model.script = search
    with served(server.streamable_http_app()) as base:
        await generate(folder, scripted_model, f"{base}/mcp", tools=("pubmed_search", "google_search"))
    named = [text for text in caplog.messages if "nothing but" in text]
    assert named == ["google_search has answered nothing but this so far: SERPER_API_KEY is not set"]


@pytest.mark.parametrize(
    "listing",
    [PlainTextResponse("Not Found", 404), PlainTextResponse("", 405), JSONResponse({"detail": "no"}, 403),
     HTMLResponse("<html>"), JSONResponse({"data": "none"}), JSONResponse({"error": "x"}, 500)],
)  # fmt: skip
def test_a_server_without_a_list_of_models_is_used_with_a_warning(
    folder: Path, tools_url: str, listing: Response
) -> None:
    model = DemoModel("Qwen3-8B")
    routes = [Route("/v1/models", lambda _: listing), Route("/v1/chat/completions", model._chat, methods=["POST"])]
    with served(Starlette(routes=routes)) as base:
        done = trajgraph(
            "generate", "--questions-file", folder / "questions.jsonl", "--output", folder / "out",
            "--local-model-url", f"{base}/v1", "--mcp-url", tools_url,
        )  # fmt: skip
    assert done.stdout.startswith("6 questions: 6 accepted, 0 rejected, 0 failed, 0 pending"), done
    assert done.stderr.count("Qwen3-8B is asked for all the same") == 1


async def test_a_model_that_is_no_longer_served_is_told_with_those_that_are(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = refusing(404, "The model `Qwen/Qwen3-8B` does not exist.")
    with pytest.raises(UsageError, match=r"does not exist.*; it serves Qwen/Qwen3-8B"):
        await generate(folder, scripted_model, tools_url)


async def test_a_server_that_is_still_loading_is_waited_for(
    folder: Path, tools_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, asked = DemoModel("Qwen3-8B").app(), 0

    async def loading(scope: Any, receive: Any, send: Any) -> None:
        nonlocal asked
        asked += scope["path"] == "/v1/models"
        await (PlainTextResponse("Loading model", 503) if asked < 3 else model)(scope, receive, send)

    with served(loading) as base, caplog.at_level(logging.INFO, "trajgraph"):
        assert counts(await generate(folder, f"{base}/v1", tools_url)) == [6, 0, 0, 0]
    assert sum("it is not ready: waiting for it" in text for text in caplog.messages) == 1


async def test_bad_questions_among_good_ones_that_take_their_time_end_no_run(
    many: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    """Refusals come at once, trajectories in their time: what counts is that others were answered at that turn."""

    def mixed(messages: Messages) -> Reply:
        if int(messages[1]["content"].split()[2]) % 3:
            return JSONResponse({"error": {"message": "content filter"}}, 400)
        return two_turns(messages)

    scripted_model.script = mixed
    assert counts(await generate(many, scripted_model, tools_url, concurrency=40)) == [14, 0, 26, 0]
    assert counts(await generate(many, scripted_model, tools_url, concurrency=40)) == [14, 0, 26, 0], "nor the next one"


async def test_questions_that_no_context_held_are_asked_again_when_it_is_longer(
    many: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = refusing(400, "This model's maximum context length is 512 tokens.")
    with pytest.raises(UsageError, match="longer than the model's context"):
        await generate(many, scripted_model, tools_url)
    scripted_model.script = two_turns
    assert counts(await generate(many, scripted_model, tools_url)) == [40, 0, 0, 0]


async def test_a_question_that_alone_is_too_long_is_rejected_among_the_others(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    def script(messages: Messages) -> Reply:
        if "Question 1 " in messages[1]["content"]:
            return JSONResponse({"error": {"message": "This model's maximum context length is 512 tokens."}}, 400)
        return two_turns(messages)

    scripted_model.script = script
    assert counts(await generate(folder, scripted_model, tools_url, concurrency=1)) == [5, 1, 0, 0]


async def test_a_web_page_in_the_place_of_the_model_is_one_clear_mistake(folder: Path, tools_url: str) -> None:
    page = Starlette(routes=[Route("/{path:path}", lambda _: HTMLResponse("<html>"), methods=["GET", "POST"])])
    with served(page) as base, pytest.raises(UsageError, match=r"is no list of models, and .*: change --local-model"):
        await generate(folder, f"{base}/v1", tools_url)
    assert not list(folder.glob("*_run.json"))
