"""Any model server: each manner is run over, looked at by doctor, and never taken for something else."""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from servers.demo_model.manners import MANNERS
from servers.demo_model.server import DemoModel
from tests.support.runs import counts, generate, generate_command, read_jsonl, trajgraph, write_questions
from tests.support.servers import ScriptedModel, demo_model, free_port, served


@pytest.mark.parametrize("name", MANNERS)
async def test_a_run_ends_well_with_the_manners_of_every_server(tmp_path: Path, tools_url: str, name: str) -> None:
    write_questions(tmp_path / "questions.jsonl", [f"Does semaglutide {n} help in obesity?" for n in range(6)])
    with demo_model(manners=MANNERS[name], max_model_len=16_384) as url:
        batch = await generate(tmp_path, url, tools_url)
    assert counts(batch) == [6, 0, 0, 0]
    for record in read_jsonl(batch.files.trajectories):
        text = record["trajectory"]["interleaved_text"]
        assert text.startswith("<think>The question is about")
        assert "stop_string_restored" in str(record["metadata"]["repairs"]) or MANNERS[name].stop != "cut"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("ollama", "prompt_cut"), ("lmstudio", "context_overflow"), ("tgi", "context_overflow"), ("sglang", None),
     ("llama.cpp", None), ("vllm", None)],
)  # fmt: skip
async def test_a_short_context_is_called_what_it_is(
    tmp_path: Path, tools_url: str, name: str, reason: str | None
) -> None:
    """Where the server says how long it is, outputs are shortened and it goes on."""
    write_questions(tmp_path / "questions.jsonl", ["Does semaglutide help in obesity?"])
    with demo_model(manners=MANNERS[name], max_model_len=1900) as url:
        batch = await generate(tmp_path, url, tools_url, max_tokens=400)
    reasons = [row["metadata"]["reject_reasons"][0] for row in read_jsonl(batch.files.rejected)]
    assert counts(batch)[2:] == [0, 0]
    assert set(reasons) <= {reason, "context_overflow"}
    assert reason != "prompt_cut" or reasons == ["prompt_cut"]


def looked(model_url: str, tools_url: str, *more: object) -> tuple[int, dict[str, tuple[str, str]], list[str]]:
    """What doctor says: exit code, `what` to (state, words), flags."""
    done = trajgraph("doctor", "--local-model-url", model_url, "--mcp-url", tools_url, "--model-name", "Qwen3-8B",
                     "--json", *more)  # fmt: skip
    told = json.loads(done.stdout)
    assert told["ok"] == (done.returncode == 0)
    return done.returncode, {row["what"]: (row["state"], row["said"]) for row in told["findings"]}, told["flags"]


EXPECTED: dict[str, dict[str, str]] = {
    "vllm": {"thought": "in the content", "stop strings": "stay at its end", "extra fields": "taken", "continuing": "is continued"},
    "vllm-parser": {"thought": "in `reasoning`", "stop strings": "stay at its end", "context": "32,768 tokens, as it says"},
    "sglang": {"thought": "in `reasoning_content`", "stop strings": "stay at its end"},
    "llama.cpp": {"thought": "in `reasoning_content`", "stop strings": "cut from its end", "context": "32,768 tokens"},
    "ollama": {"thought": "in `thinking`", "stop strings": "cut from its end", "context": "cuts prompts in silence"},
    "lmstudio": {"thought": "in `reasoning_content`", "context": "4,096 tokens, as its refusal says", "continuing": "not known"},
    "tgi": {"thought": "in the content", "stop strings": "stay at its end", "context": "32,768 tokens"},
    "transformers": {"extra fields": "refused", "stop strings": "stay at its end", "continuing": "refused"},
}  # fmt: skip


@pytest.mark.parametrize("name", MANNERS)
def test_doctor_says_what_each_server_does(tools_url: str, name: str) -> None:
    with demo_model(manners=MANNERS[name]) as url:
        code, found, flags = looked(url, tools_url)
    assert {what: said for what, said in EXPECTED[name].items() if said not in found[what][1]} == {}, found
    assert code == int(name == "ollama")
    if name == "lmstudio":
        assert "--max-model-len 4096" in flags
    assert found["pubmed_search"][0] == "ok"
    assert found["roles"][0] == "ok"


def test_doctor_needs_a_chat_template_and_says_so(tools_url: str) -> None:
    refusal = JSONResponse(
        {"error": {"message": "As of transformers v4.44, default chat template is no longer allowed"}}, 400
    )
    with ScriptedModel(script=lambda _: refusal).served() as model:
        code, found, _ = looked(model.url, tools_url)
    assert code == 1
    assert found["completion"][0] == "missing"
    assert "serve the model with a chat template" in found["completion"][1]


def test_doctor_finds_the_role_that_a_server_refuses_and_the_flag_that_mends_it(tools_url: str) -> None:
    def script(messages: list[dict[str, Any]]) -> Any:
        if any(message["role"] == "tool" for message in messages):
            return JSONResponse({"error": {"message": "unknown role: tool"}}, 400)
        return "<think>\nI know.\n</think>\n\n<answer>Yes.</answer>"

    async def chat(request: Any) -> Any:
        said = script((await request.json())["messages"])
        return said if isinstance(said, JSONResponse) else JSONResponse(
            {"choices": [{"index": 0, "message": {"content": said}, "finish_reason": "stop"}],
             "usage": {"prompt_tokens": 900, "completion_tokens": 20}}
        )  # fmt: skip

    routes = [Route("/v1/models", DemoModel("Qwen3-8B")._models), Route("/v1/chat/completions", chat, methods=["POST"])]
    with served(Starlette(routes=routes)) as base:
        code, found, flags = looked(f"{base}/v1", tools_url)
        assert found["roles"][0] == "missing"
        assert "--tool-role user" in flags
        assert found["stop strings"][1].startswith("ignored")
        code, found, flags = looked(f"{base}/v1", tools_url, "--tool-role", "user")
    assert (code, found["roles"][0]) == (0, "warning")


def test_doctor_names_a_tool_without_its_key_and_the_flag_that_does_without(folder: Path, model_url: str) -> None:
    from servers.tool_server.corpus import Corpus
    from servers.tool_server.google import SERPER, Serper
    from servers.tool_server.server import http_app
    from servers.tool_server.sources import Sources

    offline = Sources.offline(Corpus.bundled())
    with served(http_app(Sources(offline.pubmed, offline.web, Serper(None, SERPER)))) as base:
        code, found, flags = looked(model_url, f"{base}/mcp")
    assert code == 0
    assert found["google_search"] == ("warning", found["google_search"][1])
    assert "SERPER_API_KEY" in found["google_search"][1]
    assert "--tools pubmed_search,browse_webpage" in flags


def test_doctor_looks_at_what_is_there_when_one_service_is_not(model_url: str, tools_url: str) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    code, found, _ = looked(f"{nowhere}/v1", tools_url)
    assert (code, found["model"][0], found["pubmed_search"][0]) == (1, "missing", "ok")
    code, found, _ = looked(model_url, f"{nowhere}/mcp")
    assert (code, found["tools"][0], found["completion"][0]) == (1, "missing", "ok")


def test_a_dry_run_prints_settings_counts_prompt_and_the_first_request_and_asks_nobody(folder: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    command = generate_command(folder, f"{nowhere}/v1", f"{nowhere}/mcp")
    done = trajgraph(*command, "--dry-run", "--api-key", "s3cret-key-12")
    assert done.returncode == 0, done.stderr
    settings, _, rest = done.stdout.partition("# counts\n")
    assert json.loads(settings.removeprefix("# settings\n"))["concurrency"] == 5
    assert rest.startswith("6 questions, 0 unusable rows, 1 samples of each at most; 6 questions pending; a new run\n")
    request = json.loads(rest.partition("# first request")[2].partition("\n")[2])
    assert request["messages"][1] == {"role": "user", "content": "Question 1 about heart failure?"}
    assert request["stop"] == ["</call_tool>", "<tool_output>"]
    assert "s3cret" not in done.stdout
    assert not (folder / "out").exists()


def test_a_dry_run_sees_what_is_left_of_a_run(folder: Path, model_url: str, tools_url: str) -> None:
    command = generate_command(folder, model_url, tools_url)
    assert trajgraph(*command, "--limit", "2").returncode == 0
    done = trajgraph(*command, "--dry-run")
    assert "; 4 questions pending; the run that would be resumed" in done.stdout


def test_settings_come_from_the_environment_and_a_file_of_it(
    folder: Path, model_url: str, tools_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for name in ("OPENAI_BASE_URL", "MCP_URL", "EXTRA"):
        monkeypatch.delenv(name, raising=False)
    Path(".env").write_text(f"OPENAI_BASE_URL={model_url}\nMCP_URL={tools_url}\nEXTRA=s3cret-of-header\n")
    try:
        done = trajgraph(
            "generate", "--questions-file", "questions.jsonl", "--extra-header", "X-Org=EXTRA", "--limit", 1
        )
        wrong = trajgraph("generate", "--questions-file", "questions.jsonl", "--extra-header", "X-Org=NOT_SET")
    finally:
        for name in ("OPENAI_BASE_URL", "MCP_URL", "EXTRA"):  # as the command has set them in this process
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
    assert done.returncode == 0, done.stderr
    assert "NOT_SET is not set in the environment" in wrong.stderr
    assert "s3cret" not in "".join(
        path.read_text("utf-8", "replace") for path in Path("pubmed_training_data").glob("*.json*")
    )


async def test_an_extra_header_goes_with_every_request_and_is_never_repeated(
    folder: Path, scripted_model: ScriptedModel, tools_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXTRA", "s3cret-of-header-9")
    scripted_model.script = lambda _: JSONResponse({"error": {"message": "who is s3cret-of-header-9?"}}, 400)
    batch = await generate(folder, scripted_model, tools_url, extra_header=("X-Org-Key=EXTRA",), limit=1)
    assert {headers.get("x-org-key") for headers in scripted_model.headers} == {"s3cret-of-header-9"}
    (failed,) = read_jsonl(batch.files.failed)
    assert "who is ***?" in failed["message"]


def test_the_version_is_printed() -> None:
    assert trajgraph("--version").stdout.startswith("trajgraph 0.")
