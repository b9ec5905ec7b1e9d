"""What the model client keeps, and how failures of the server are told apart."""

import asyncio
import gzip
import socket

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from backends.errors import (
    BadRequest,
    ContextOverflow,
    InvalidResponse,
    ModelError,
    ModelTimeout,
    ModelUnreachable,
    ServerOverloaded,
    Unauthorized,
    UsageError,
)
from backends.model_client import ChatClient
from backends.model_info import ModelInfo, resolve_model
from tests.support.model_clients import KEY, PROMPT, ask, client
from tests.support.servers import ScriptedModel, completion, free_port


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize("streaming", [False, True])
async def test_reasoning_stop_string_and_usage_are_kept_streaming_or_not(
    scripted_model: ScriptedModel, field: str, streaming: bool
) -> None:
    said = {field: "I should search.", "content": "<call_tool>", "finish_reason": "stop", "stop_reason": "</call_tool>"}
    scripted_model.replies = [said]
    async with client(scripted_model) as chat:
        if streaming:
            chunks = [chunk async for chunk in chat.astream(PROMPT)]
            reply = chunks[0]
            for chunk in chunks[1:]:
                reply = reply + chunk
        else:
            reply = await chat.ainvoke(PROMPT)  # type: ignore[assignment]
    assert reply.additional_kwargs["reasoning_content"] == "I should search."
    assert reply.text == "<call_tool>"
    assert reply.response_metadata["finish_reason"] == "stop"
    assert reply.response_metadata["stop_reason"] == "</call_tool>"
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["output_tokens"] == 5


async def test_the_request_is_one_that_every_local_server_understands(scripted_model: ScriptedModel) -> None:
    scripted_model.replies = ["hi"]
    await ask(scripted_model)
    request = scripted_model.requests[0]
    assert request["max_tokens"] == 100
    assert "max_completion_tokens" not in request
    assert request["stop"] == ["</call_tool>"]
    assert request["include_stop_str_in_output"] is True
    assert request["temperature"] == 0.1
    assert scripted_model.headers[0]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("status", [400, 422])
async def test_a_server_that_refuses_unknown_fields_is_asked_without_them(
    scripted_model: ScriptedModel, status: int
) -> None:
    scripted_model.replies = [JSONResponse({"error": "extra fields"}, status), "hi", "again"]
    async with client(scripted_model) as chat:
        chat_client = ChatClient(chat, [])
        assert (await chat_client.ask(PROMPT, 10)).text == "hi"
        assert (await chat_client.ask(PROMPT, 10)).text == "again"
    assert ["no_stop_trim" in request for request in scripted_model.requests] == [True, False, False]


def packed(response: Response) -> Response:
    """The same, compressed, under a header that is no ASCII."""
    body = gzip.compress(bytes(response.body))
    kept = {name: response.headers[name] for name in ("content-type", "retry-after") if name in response.headers}
    whole = Response(body, response.status_code, headers={**kept, "content-encoding": "gzip"})
    whole.raw_headers.append((b"x-said", "模型".encode()))
    return whole


def error(status: int, message: str, **headers: str) -> Response:
    return JSONResponse({"error": {"message": message}}, status, headers=headers)


FAILURES: list[tuple[Response, type[ModelError]]] = [
    (error(429, "slow down", **{"retry-after": "7"}), ServerOverloaded),
    (error(503, "loading"), ServerOverloaded),
    (error(500, "oops"), ServerOverloaded),
    (error(400, "bad parameter"), BadRequest),
    (error(401, "who are you"), Unauthorized),
    (error(404, "no such model"), Unauthorized),
    (error(400, "This model's maximum context length is 4096 tokens."), ContextOverflow),
    (packed(error(400, "This model's maximum context length is 4096 tokens.")), ContextOverflow),
    (packed(error(401, "who are you")), Unauthorized),
    (packed(error(429, "slow down", **{"retry-after": "7"})), ServerOverloaded),
    (
        JSONResponse({"object": "error", "message": "The input (6008 tokens) is longer than the model's"}, 400),
        ContextOverflow,
    ),
    (error(400, "the request exceeds the available context size"), ContextOverflow),
    (PlainTextResponse("<html>proxy</html>"), InvalidResponse),
    (JSONResponse({"id": "x", "object": "chat.completion"}), InvalidResponse),
    (JSONResponse({"choices": None}), InvalidResponse),
    (JSONResponse({"choices": []}), InvalidResponse),
    (JSONResponse({"choices": ["x"]}), InvalidResponse),
    (JSONResponse({"choices": {"a": 1}}), InvalidResponse),
    (JSONResponse({"error": {"message": "exceeds the available context size", "n_ctx": 2500}}, 400), ContextOverflow),
    (completion({"content": "", "finish_reason": "stop"}), InvalidResponse),
    (completion({"content": "half a te", "finish_reason": "abort"}), InvalidResponse),
]


@pytest.mark.parametrize(("response", "expected"), FAILURES)
async def test_each_failure_of_the_server_has_its_type(
    scripted_model: ScriptedModel, response: Response, expected: type[ModelError]
) -> None:
    scripted_model.replies = [response, response]
    with pytest.raises(expected) as caught:
        await ask(scripted_model)
    if b"n_ctx" in bytes(response.body):
        assert caught.value.max_model_len == 2500  # type: ignore[attr-defined]
    if response.status_code == 429:
        assert caught.value.retry_after == 7


async def test_a_server_that_is_down_is_unreachable_and_one_that_is_silent_times_out(
    scripted_model: ScriptedModel,
) -> None:
    with pytest.raises(ModelUnreachable):
        await ask(ScriptedModel(url=f"http://127.0.0.1:{free_port()}/v1"))
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ModelTimeout):
        await ask(ScriptedModel(url=f"http://127.0.0.1:{silent.getsockname()[1]}/v1"), timeout=0.3)


@pytest.mark.parametrize(
    "sent",
    [
        b"", b"HTTP/1.1 200 OK\r\nContent-", b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"ch",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnothing\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nflat",
        b"HTTP/1.1 503 Busy\r\nContent-Length: 1000\r\n\r\n{",
    ],
)  # fmt: skip
async def test_a_connection_that_breaks_in_the_middle_is_unreachable(sent: bytes) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        with pytest.raises(ModelUnreachable):
            await ask(ScriptedModel(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"))


async def test_a_key_that_the_server_repeats_is_not_in_the_error(scripted_model: ScriptedModel) -> None:
    scripted_model.replies = [error(401, f"bad key: Bearer {KEY}")]
    with pytest.raises(BadRequest) as caught:
        await ask(scripted_model)
    assert KEY not in str(caught.value)


async def test_a_model_is_found_under_the_servers_own_name_or_the_served_ones_are_listed(
    scripted_model: ScriptedModel,
) -> None:
    assert await resolve_model(scripted_model.url, "Qwen3-8B") == ModelInfo("Qwen/Qwen3-8B")
    with pytest.raises(UsageError, match="it serves Qwen/Qwen3-8B"):
        await resolve_model(scripted_model.url, "Llama")
    for path in ("", "/other/v1", "/v1/chat/completions"):
        unlisted = await resolve_model(scripted_model.url.removesuffix("/v1") + path, "Qwen3-8B")
        assert unlisted.unlisted and f"did you mean {scripted_model.url}?" in unlisted.unlisted
    with pytest.raises(UsageError, match="no model server answers"):
        await resolve_model(f"http://127.0.0.1:{free_port()}/v1", "Qwen3-8B")
