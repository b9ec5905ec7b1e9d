"""No key of ours is kept or shown, however a server repeats it."""

import base64
import html
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from backends.errors import ToolFailed
from backends.mcp_servers import McpServer
from backends.secrets import Secrets, secret_values
from servers.tool_server.pubmed import NcbiAddress, NcbiPubMed
from tests.support.runs import answer, call, generate_command, trajgraph, write_questions
from tests.support.servers import ScriptedModel, completion, served
from tests.support.tool_clients import calling

KEY = "sk-S3cr3t/+&Key_0123456789"
WAYS = [
    KEY, KEY.upper(), quote(KEY), quote(KEY, safe=""), quote(KEY, safe="").lower(), html.escape(KEY), KEY.replace("/", "\\/"),
    json.dumps(KEY), base64.b64encode(KEY.encode()).decode(), f"{KEY[:9]}\n{KEY[9:]}", "".join(f"\\u{ord(letter):04x}" for letter in KEY),
]  # fmt: skip


@pytest.mark.parametrize("written", WAYS)
def test_a_key_is_found_however_it_is_written(written: str) -> None:
    hidden = Secrets(KEY).hidden(f"refused: Bearer {written} is wrong")
    assert "S3cr3t".lower() not in hidden.lower()
    assert hidden.replace('"', "").startswith("refused: Bearer ***")


@settings(max_examples=100)
@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=8, max_size=40), st.text(max_size=40))
def test_any_key_is_hidden_and_the_rest_stays(key: str, text: str) -> None:
    assume(key.lower() != "not-needed")
    assert key not in Secrets(key).hidden(f"{text}{key}{text}").replace("***", "")
    assert Secrets(None).hidden(text) == text
    assert Secrets(key).hidden_in(text.encode("utf-8", "replace")) is not None


@pytest.mark.parametrize("word", ["EMPTY", "ollama", "placeholder", "abc", "not-needed", "x", "0", "reply"])
def test_a_word_in_the_place_of_a_key_changes_no_text(word: str) -> None:
    text = f"an empty reply of ollama, {word}: abc is not-needed as a placeholder"
    assert Secrets(word).hidden_in(text.encode()) == text.encode()
    assert Secrets("x").hidden("maximum context length 4096") == "maximum context length 4096"
    assert Secrets("EMPTY").hidden("an empty reply") == "an empty reply"


def stored(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in (folder / "out").iterdir() if path.is_file())


@pytest.mark.parametrize("how", ["error", "redirect", "result"])
def test_a_tool_server_that_repeats_the_token_puts_it_nowhere(
    tmp_path: Path, scripted_model: ScriptedModel, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("MCP_TOKEN", KEY)
    scripted_model.script = lambda messages: call("pubmed_search", "x") if len(messages) == 2 else answer()
    write_questions(tmp_path / "questions.jsonl", ["Does it help?"])

    def reply(_: Request, identity: str) -> Response:
        told = f"upstream refused header Authorization: Bearer {KEY}"
        if how == "redirect":
            return Response(status_code=302, headers={"location": f"https://x.org/auth/{quote(KEY)}/mcp"})
        if how == "error":
            return JSONResponse({"jsonrpc": "2.0", "id": identity, "error": {"code": 1, "message": told}})
        return JSONResponse({"jsonrpc": "2.0", "id": identity, "result": {"content": [{"type": "text", "text": told}]}})

    with served(calling(reply)) as base:
        done = trajgraph(
            *generate_command(tmp_path, scripted_model.url, f"{base}/mcp"),
            "--keep-checkpoints",
            "--tools",
            "pubmed_search",
        )
    assert "1 question" in done.stdout, done.stderr
    assert b"S3cr3t" not in stored(tmp_path)
    assert "S3cr3t" not in done.stdout + done.stderr
    assert b"***" in stored(tmp_path)


@pytest.mark.parametrize("how", ["reply", "redirect", "refusal", "models"])
def test_a_model_server_that_repeats_the_key_puts_it_nowhere(tmp_path: Path, tools_url: str, how: str) -> None:
    async def chat(_: Request) -> Response:
        if how == "redirect":
            return Response(status_code=302, headers={"location": f"/login/{quote(KEY)}/v1"})
        if how == "refusal":
            return JSONResponse({"error": {"message": f"no: {html.escape(KEY)}"}}, 400)
        return completion(
            {"content": f"<think>My key is {KEY}.</think>\n<answer>{KEY}</answer>", "finish_reason": "stop"}
        )

    async def models(_: Request) -> Response:
        return JSONResponse({"data": [{"id": f"for {KEY}" if how == "models" else "Qwen3-8B"}]})

    write_questions(tmp_path / "questions.jsonl", ["Does it help?"])
    app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"]), Route("/v1/models", models)])
    with served(app) as base:
        done = trajgraph(*generate_command(tmp_path, f"{base}/v1", tools_url), "--api-key", KEY, "--keep-checkpoints")
    assert "S3cr3t" not in done.stdout + done.stderr
    if how == "models":
        assert done.returncode == 2
    else:
        assert b"S3cr3t" not in stored(tmp_path)
        assert b"***" in stored(tmp_path)


NCBI: list[Any] = [
    Response(json.dumps({"error": f"API key {KEY} is wrong"}), 400), Response(json.dumps({"error": f"{'x' * 190}{KEY}"}), 400),
    Response(json.dumps({"error": f"API key {KEY} is wrong"})), Response(json.dumps({"esearchresult": {"ERROR": f"key {KEY}"}})),
    Response(status_code=302, headers={"location": f"https://x.org/{quote(KEY)}"}),
]  # fmt: skip


@pytest.mark.parametrize("said", NCBI, ids=range(len(NCBI)))
async def test_ncbi_that_repeats_the_key_tells_it_nobody(said: Response) -> None:
    async def ask(_: Request) -> Response:
        return said

    with served(Starlette(routes=[Route("/{path:path}", ask, methods=["GET", "POST"])])) as base:
        pubmed = NcbiPubMed(NcbiAddress(base, api_key=KEY), attempts=1)
        with pytest.raises(ToolFailed) as failed:
            await pubmed.search("statins", 1, 0)
        await pubmed.aclose()
    assert "sk-S3" not in str(failed.value)


ORDINARY = {
    "TOKENIZERS_PARALLELISM": "false", "KEYBOARD": "us", "X-Api-Version": "2", "X-Org": "research", "LANG": "en_US.UTF-8",
    "KEY": "a", "HOME": "/root", "X-Team": "heart failure", "PATH": "/usr/local/bin:/usr/bin", "TOKEN": "none",
}  # fmt: skip


@given(st.text(max_size=60))
def test_ordinary_headers_and_variables_hide_no_word_of_a_result(text: str) -> None:
    said = f'{text} {{"exact": false}} version 2 of research in the us, a heart failure {text}'
    assert Secrets(*secret_values(ORDINARY)).hidden(said) == said


@pytest.mark.parametrize(
    "name", ["Authorization", "X-Api-Key", "exaApiKey", "SERPER_API_KEY", "GH_TOKEN", "Cookie", "DB_PASSWORD"]
)
def test_what_is_a_secret_by_its_name_is_hidden(name: str) -> None:
    assert Secrets(*secret_values({name: "Bearer hunter2-hunter2"})).hidden("it is hunter2-hunter2!") == "it is ***!"


def test_a_long_key_is_hidden_under_any_name() -> None:
    assert "sk-" not in Secrets(*secret_values({"X-Any": "sk-abcdefghij0123456789"})).hidden(
        "is sk-abcdefghij0123456789"
    )


@pytest.mark.parametrize(
    "value", ["correct-horse-battery", "ApiKey correct-horse-battery", "Bearer correct-horse-battery"]
)
def test_a_key_of_a_header_is_hidden_in_long_texts_too(value: str) -> None:
    secrets = Secrets(*secret_values({"X-Auth": value, "Content-Type": "application/json", "User-Agent": "a client"}))
    told = secrets.hidden_in(b"it says correct-horse-battery, application/json, to a client")
    assert told == b"it says ***, application/json, to a client"


@pytest.mark.parametrize("value", ["cardiovascular", "Qwen/Qwen3-8B", "heart trial", "internal-research-group"])
def test_the_value_of_any_header_is_in_no_message_and_no_word_of_a_reply_is_lost(value: str) -> None:
    server = McpServer("one", "streamable_http", "http://x/mcp", {"X-Team": value})
    assert value not in server.secrets.hidden(f"team {value} is unknown")
    said = f'{{"text": "the {value} of trial Qwen3-8B in heart"}}'.encode()
    assert server.secrets.hidden_in(said) == said


@given(
    st.sampled_from(["PWD", "OLDPWD", "HOME", "LESSKEY", "GOOGLE_APPLICATION_CREDENTIALS", "DB"]), st.text(max_size=20)
)
def test_where_a_run_stands_is_no_secret(name: str, text: str) -> None:
    folder = "/workspace/project-one/keys"
    server = McpServer("one", "stdio", command=("serve",), environment={name: folder})
    said = f"the file is at {folder}/trial.txt {text}"
    assert server.secrets.hidden(said) == said
    assert server.secrets.hidden_in(said.encode("utf-8", "replace")) == said.encode("utf-8", "replace")


@pytest.mark.parametrize(
    ("command", "key"), [(("serve", "--token", "correct-horse-battery"), "correct-horse-battery"),
                         (("serve", "--api-key=correct-horse-battery"), "correct-horse-battery"),
                         (("serve", "--header", "Authorization: Bearer correct-horse-battery"), "correct-horse-battery"),
                         (("serve", "--header", "Cookie: sid=correct-horse"), "sid=correct-horse"),
                         (("serve", "--token=c2VjcmV0LWtleQ==", "cardiovascular"), "c2VjcmV0LWtleQ=="),
                         (("serve", "--dsn", "postgres://u:correct-horse-staple@db/x"), "correct-horse-staple")],
)  # fmt: skip
def test_a_key_in_the_arguments_of_a_shared_file_is_a_secret(command: tuple[str, ...], key: str) -> None:
    server = McpServer("one", "stdio", command=command, environment={"DB": "postgres://u:correct-staple@db/x"})
    said = "a cardiovascular death, they serve, --token, --dsn"
    assert server.secrets.hidden(f"{key}, correct-staple, {said}") == f"***, ***, {said}"
