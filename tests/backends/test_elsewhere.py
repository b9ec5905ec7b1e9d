"""Configured servers are followed nowhere and read up to a bound; no address holds a secret; no text rules a terminal."""

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from backends.bounded import MAX_REPLY, check_address, without_secrets
from backends.config import ModelConfig, ToolsConfig
from backends.errors import BadRequest, InvalidResponse, ToolFailed, ToolRejected, UsageError
from backends.model_info import resolve_model
from backends.printable import one_line, printable
from servers.tool_server.pubmed import NcbiAddress, NcbiPubMed
from tests.support.model_clients import ask
from tests.support.runs import trajgraph, write_questions
from tests.support.servers import ScriptedModel, served, with_message
from tests.support.tool_clients import connected, counting_server, tools_at
from tests.support.trajectories import record, sound

STATUSES = (301, 302, 303, 307, 308)


class Private:
    """A server that nobody is to be sent to; `asked` is what came there."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def app(self) -> Starlette:
        async def answer(request: Request) -> Response:
            self.asked.append(request.url.path)
            return JSONResponse(
                {"choices": [{"message": {"role": "assistant", "content": "<answer>from inside</answer>"}}]}
            )

        return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])


@pytest.mark.parametrize("status", STATUSES)
async def test_a_model_server_that_sends_elsewhere_is_followed_nowhere(
    scripted_model: ScriptedModel, status: int
) -> None:
    private = Private()
    with served(private.app()) as elsewhere:
        location = f"{elsewhere}/private?key=s3cr3t"
        scripted_model.replies = [Response(status_code=status, headers={"location": location})]
        with pytest.raises(
            BadRequest, match=rf"answers {status} and sends requests to {elsewhere}/private; none"
        ) as failed:
            await ask(scripted_model)
        assert "s3cr3t" not in str(failed.value)
        moved = Starlette(
            routes=[Route("/v1/models", lambda _: Response(status_code=status, headers={"location": location}))]
        )
        with served(moved) as base, pytest.raises(UsageError, match=f"sends requests to {elsewhere}/private"):
            await resolve_model(f"{base}/v1", "x")
    assert private.asked == []


@pytest.mark.parametrize("status", STATUSES)
async def test_a_tool_server_that_sends_elsewhere_is_followed_nowhere(status: int) -> None:
    private = Private()
    app = counting_server(stateless=True)[0].streamable_http_app()
    with served(private.app()) as elsewhere:

        async def moving(scope: Any, receive: Any, send: Any) -> None:
            message = await receive()
            if b'"tools/call"' in message.get("body", b""):
                await Response(status_code=status, headers={"location": f"{elsewhere}/private"})(scope, receive, send)
                return
            await app(scope, with_message(message, receive), send)

        with served(moving) as base:
            async with tools_at(f"{base}/mcp", concurrency=1) as client:
                await connected(client)
                with pytest.raises(ToolRejected, match=f"sends requests to {elsewhere}/private; none was sent there"):
                    await client.call("pubmed_search", "x", {})
        moved = Starlette(
            routes=[
                Route("/mcp", lambda _: Response(status_code=status, headers={"location": elsewhere}), methods=["POST"])
            ]
        )
        with served(moved) as base, pytest.raises(UsageError, match="the tool server is not at"):
            async with tools_at(f"{base}/mcp", concurrency=1):
                pass
    assert private.asked == []


@pytest.mark.parametrize("status", STATUSES)
async def test_ncbi_is_followed_nowhere_with_the_key(status: int) -> None:
    private = Private()
    with served(private.app()) as elsewhere:
        moved = Starlette(
            routes=[
                Route(
                    "/{path:path}",
                    lambda _: Response(status_code=status, headers={"location": elsewhere}),
                    methods=["POST"],
                )
            ]
        )
        with served(moved) as base:
            ncbi = NcbiPubMed(NcbiAddress(base, api_key="s3cr3t"), 1)
            with pytest.raises(ToolFailed, match="none was sent there"):
                await ncbi.search("statins", 1, 0)
            await ncbi.aclose()
    assert private.asked == []


def endless() -> Response:
    async def spaces() -> Any:
        while True:
            yield b" " * 1_000_000
            await asyncio.sleep(0)

    return StreamingResponse(spaces(), media_type="application/json")


def bomb() -> Response:
    return Response(
        gzip.compress(b" " * 5 * MAX_REPLY, 1), headers={"content-encoding": "gzip", "content-type": "application/json"}
    )


@pytest.mark.parametrize("body", [endless, bomb])
async def test_a_body_that_never_ends_is_read_up_to_a_bound(scripted_model: ScriptedModel, body: Any) -> None:
    scripted_model.replies = [body()]
    with pytest.raises(InvalidResponse, match="longer than 8 MB"):
        await ask(scripted_model, timeout=60)
    with served(Starlette(routes=[Route("/{path:path}", lambda _: body(), methods=["GET", "POST"])])) as base:
        assert (await resolve_model(f"{base}/v1", "x", timeout=60)).unlisted
        ncbi = NcbiPubMed(NcbiAddress(base), 1)
        with pytest.raises(ToolFailed, match="longer than 30 MB"):
            await ncbi.search("statins", 1, 0)
        await ncbi.aclose()


SECRET = ["http://h/v1?apiKey=x", "http://h/v1?api_key=x", "http://h/v1?a=1&access_token=x", "http://u:p@h/v1", "http://h/v1?Authorization=x",
          "http://h/v1?sig=x", "http://h/v1?token", "https://h/mcp?exaApiKey=x&b=2", "http://h/v1?client_secret=x"]  # fmt: skip


@pytest.mark.parametrize("address", SECRET)
def test_an_address_with_a_secret_is_refused_wherever_it_is_given(address: str) -> None:
    for make in (lambda: ModelConfig((address,)), lambda: ToolsConfig(address), lambda: check_address("--x", address)):
        with pytest.raises(UsageError) as refused:
            make()
        assert "=x" not in str(refused.value)
    assert "x" not in without_secrets(address).removeprefix("https://").removeprefix("http://")
    assert trajgraph("doctor", "--local-model-url", address).returncode == 2
    assert trajgraph("doctor", "--mcp-url", address).returncode == 2


def test_no_command_takes_an_address_with_a_secret(folder: Path, model_url: str) -> None:
    command = ["generate", "--questions-file", folder / "questions.jsonl", "--output", folder / "out"]
    for flags in (["--local-model-url", SECRET[0]], ["--local-model-url", model_url, "--mcp-url", SECRET[0]]):
        refused = trajgraph(*command, *flags)
        assert refused.returncode == 2
        assert "no key in an address" in refused.stderr
    assert not list((folder / "out").glob("*_run.json"))


@pytest.mark.parametrize("address", ["http://h/v1", "http://h:8000/v1?version=2", "https://[::1]:8000/v1"])
def test_any_other_address_is_taken(address: str) -> None:
    check_address("--x", address)


@given(st.text())
def test_what_is_shown_in_a_terminal_cannot_rule_it(text: str) -> None:
    assert all(letter.isprintable() for letter in one_line(text))
    assert all(letter.isprintable() or letter == "\n" for letter in printable(text))
    assert len(printable(text)) == len(text)


EVIL = "red \x1b[31m, \u202e back, \x9b clear, \x07 bell, \r over"


def test_no_command_shows_foreign_text_raw(tmp_path: Path) -> None:
    pieces = [piece.replace("That is enough.", f"Enough {EVIL}") for piece in sound(1)]
    row = {**record(1, pieces), "question": f"Q {EVIL}?"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    told = [
        trajgraph("show", "qwen3_traj_00001", tmp_path / "rows.jsonl"),
        trajgraph("audit", tmp_path / "rows.jsonl", "--explain", "qwen3_traj_00001"),
    ]
    refusing = Starlette(routes=[
        Route("/v1/models", lambda _: JSONResponse({"data": [{"id": "Qwen3-8B"}]})),
        Route("/v1/chat/completions", lambda _: JSONResponse({"error": {"message": f"no {EVIL}\nsecond line"}}, 401), methods=["POST"]),
    ])  # fmt: skip
    questions = write_questions(tmp_path / "questions.jsonl", ["Does it help?"])
    app = counting_server(stateless=True)[0].streamable_http_app()
    with served(refusing) as base, served(app) as tools:
        told.append(trajgraph("generate", "--questions-file", questions, "--output", tmp_path / "out", "--local-model-url", f"{base}/v1",
                              "--mcp-url", f"{tools}/mcp", "--tools", "pubmed_search"))  # fmt: skip
    assert "denies the key or the model (401)" in told[-1].stderr
    assert told[-1].stderr.count("\n") == 2  # what it does, and this
    for shown in told:
        text = shown.stdout + shown.stderr
        assert "red" in text
        assert all(letter.isprintable() or letter == "\n" for letter in text)
