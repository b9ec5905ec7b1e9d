"""The command as a user runs it: each mistake is one clear line and exit 2, before the model is asked anything."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.support.runs import ROOT, read_jsonl, trajgraph, trajgraph_process, write_questions, written_bytes
from tests.support.servers import demo_model, free_port, served


def generate(
    folder: Path, model_url: str, tools_url: str, *more: object, **settings: Any
) -> "subprocess.CompletedProcess[str]":
    return trajgraph(
        "generate", "--questions-file", folder / "questions.jsonl", "--local-model-url", model_url, "--mcp-url", tools_url,
        "--output", folder / "out", *more,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_questions(tmp_path / "questions.jsonl", [f"Does drug {n} help in heart failure?" for n in range(10)])
    return tmp_path


def test_every_mistake_is_one_line_that_names_the_mend(folder: Path, model_url: str, tools_url: str) -> None:
    (folder / "empty.jsonl").write_text("")
    (folder / "torn.jsonl").write_text('{"question": "a"}\n{"question": \n')
    (folder / "other.jsonl").write_text('{"text": "a"}\n')
    (folder / "file").write_text("")
    ok = ("--local-model-url", model_url, "--mcp-url", tools_url)
    questions = ("--questions-file", folder / "questions.jsonl")
    mistakes: list[tuple[str, tuple[object, ...]]] = [
        ("missing.jsonl: No such file", ("--questions-file", folder / "missing.jsonl", *ok)),
        ("empty.jsonl: no question in it", ("--questions-file", folder / "empty.jsonl", *ok)),
        ("torn.jsonl, line 2: not JSON", ("--questions-file", folder / "torn.jsonl", *ok)),
        ('other.jsonl, line 1: no "question" in it', ("--questions-file", folder / "other.jsonl", *ok)),
        ("no model 'Llama'; it serves Qwen3-8B", (*questions, *ok, "--model-name", "Llama")),
        ("no tool for arxiv; it has browse_webpage, ", (*questions, *ok, "--tools", "arxiv")),
        ("file: cannot be written", (*questions, *ok, "--output", folder / "file")),
        ("--concurrency 0: give a number above 0", (*questions, *ok, "--concurrency", 0)),
        ("--limit is given 2 times: give it once", (*questions, *ok, "--limit", 1, "--limit", 2)),
        ("--fresh is given 2 times: give it once", (*questions, *ok, "--fresh", "--fresh")),
        ("--limit 0: give a number above 0", (*questions, *ok, "--limit", 0)),
        ("--system-prompt-file", (*questions, *ok, "--system-prompt-file", folder / "no-prompt.txt")),
    ]
    mistakes += [
        ("No such option: --nonsense", (*questions, "--nonsense")),
        ("Invalid value for '--concurrency'", (*questions, "--concurrency", "abc")),
        ("an address begins with http://", (*questions, *ok[:2], "--mcp-url", "notaurl")),
        ("did you mean", (*questions, *ok[2:], "--local-model-url", model_url.removesuffix("/v1"))),
        ("--tools: name at least one tool", (*questions, *ok, "--tools", "")),
        ("no password in an address", (*questions, *ok[2:], "--local-model-url", "http://me:secret@127.0.0.1/v1")),
    ]
    for line, arguments in mistakes:
        output = () if "--output" in arguments else ("--output", folder / "out")
        result = trajgraph("generate", *output, *arguments)
        assert result.returncode == 2, result.stderr
        assert line in result.stderr
        *before, last = result.stderr.splitlines()
        assert line in last
        assert [one.startswith("trajgraph: begins a run") for one in before] in ([], [True])
        assert result.stdout == ""
    assert not list((folder / "out").glob("*_run.json"))


@pytest.mark.parametrize(("flag", "path"), [("--local-model-url", "/v1"), ("--mcp-url", "/mcp")])
def test_a_server_that_does_not_answer_yet_is_waited_for_with_a_word(
    folder: Path, model_url: str, tools_url: str, flag: str, path: str
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}{path}"
    urls = {"--local-model-url": model_url, "--mcp-url": tools_url, flag: nowhere}
    result = generate(folder, urls["--local-model-url"], urls["--mcp-url"], "--max-downtime", 0.6)
    assert result.returncode == 2
    _, waiting, given_up = result.stderr.splitlines()
    assert nowhere in waiting
    assert waiting.endswith(": waiting for it, 0.6 s at most")
    assert given_up + ": waiting for it, 0.6 s at most" == waiting
    assert not list((folder / "out").glob("*_run.json"))


def test_a_run_ends_with_its_counts_and_files_and_is_quiet_without_a_terminal(
    folder: Path, model_url: str, tools_url: str
) -> None:
    result = generate(folder, model_url, tools_url, "--limit", 3)
    assert result.returncode == 0
    assert re.fullmatch(
        r"trajgraph: begins a run: 3 questions of \S+, model Qwen3-8B at http://\S+, tools [\w, ]+ at http://\S+\n"
        r"trajgraph: model Qwen3-8B: answers in \d\.\d s, first prompt [\d,]+ tokens, context 32,768 tokens; "
        r"tools: pubmed_search, browse_webpage, google_search\n"
        r"trajgraph: begins \S+_run\.json: 0 accepted, 0 rejected, 3 to do\n",
        result.stderr,
    )
    lines = result.stdout.splitlines()
    assert lines[0] == "3 questions: 3 accepted, 0 rejected, 0 failed, 0 pending"
    assert lines[1] == "3 of 3 pass every gate (100 %)"
    paths, after = [line.strip() for line in lines[2:] if line.startswith("  ")], lines[-3:]
    assert [Path(path).exists() for path in paths] == [True] * 4
    assert [line.split()[:3] for line in after] == [
        ["next:", "trajgraph", name] for name in ("export", "audit", "report")
    ]


def test_the_key_is_sent_but_never_written(folder: Path, tools_url: str) -> None:
    key = "s3cr3t-of-mine"
    with demo_model(api_key=key) as url:
        refused = generate(folder, url, tools_url)
        result = generate(folder, url, tools_url, "--api-key", key, "--limit", 2, "--keep-checkpoints")
    assert refused.returncode == 2
    assert "denies the key or the model (401)" in refused.stderr
    assert result.returncode == 0
    written = written_bytes(folder / "out")
    assert key.encode() not in written
    assert key not in result.stdout + result.stderr


@pytest.mark.long
def test_ctrl_c_saves_what_is_in_flight_and_prints_the_command_that_continues(folder: Path, tools_url: str) -> None:
    with demo_model(latency=0.15) as url:
        command = [sys.executable, "-m", "cli", "generate", "--questions-file", str(folder / "questions.jsonl")]
        command += [
            "--local-model-url",
            url,
            "--mcp-url",
            tools_url,
            "--output",
            str(folder / "out"),
            "--concurrency",
            "2",
        ]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            while not list((folder / "out").glob("*_incremental.jsonl")):
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        assert process.returncode == 130
        last = errors.strip().splitlines()[-1]
        assert last.startswith("trajgraph: stopped; to resume: trajgraph resume ")
        resumed = trajgraph("resume", last.rsplit(" ", 1)[1])
    assert resumed.returncode == 0
    assert resumed.stdout.startswith("10 questions: 10 accepted, 0 rejected, 0 failed, 0 pending")
    (records,) = (folder / "out").glob("*_incremental.jsonl")
    assert len({record["sample_id"] for record in read_jsonl(records)}) == 10


def test_a_failed_question_makes_the_exit_code_1(folder: Path, tools_url: str) -> None:
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def models(_: Any) -> JSONResponse:
        return JSONResponse({"data": [{"id": "Qwen3-8B"}]})

    async def refuse(_: Any) -> JSONResponse:
        return JSONResponse({"error": {"message": "no"}}, 400)

    app = Starlette(routes=[Route("/v1/models", models), Route("/v1/chat/completions", refuse, methods=["POST"])])
    with served(app) as base:
        result = generate(folder, f"{base}/v1", tools_url, "--limit", 2)
    assert result.returncode == 1
    assert "run the same command again to retry the 2 failed" in result.stdout


@pytest.mark.long
def test_the_earlier_launcher_takes_its_four_arguments_and_the_newest_questions(tmp_path: Path, tools_url: str) -> None:
    output = tmp_path / "pubmed_training_data"
    output.mkdir()
    write_questions(output / "questions_1.jsonl", ["An old question about obesity?"])
    os.utime(output / "questions_1.jsonl", (1, 1))
    write_questions(output / "questions_2.jsonl", ["A new question about obesity?"])
    environment = {**os.environ, "MCP_URL": tools_url, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with demo_model() as url:
        arguments = ["bash", str(ROOT / "run_local_model_generation.sh"), "", url, "Qwen3-8B", "3"]
        result = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (record,) = read_jsonl(next(output.glob("*_incremental.jsonl")))
    assert record["question"] == "A new question about obesity?"
    assert json.loads(next(output.glob("*_run.json")).read_text())["options"]["concurrency"] == 3


@pytest.mark.long
def test_the_commands_of_the_earlier_document_work_from_their_own_folder(tmp_path: Path, tools_url: str) -> None:
    """`cd scripts/pubmed_data_generator`, then the script, the launcher, each with what they took, and a look at health."""
    below, output = tmp_path / "scripts" / "pubmed_data_generator", tmp_path / "pubmed_training_data"
    below.mkdir(parents=True)
    output.mkdir()
    for name in ("generate_trajectory_from_questions.py", "run_local_model_generation.sh"):
        assert (ROOT / "scripts" / "pubmed_data_generator" / name).resolve() == ROOT / name
        (below / name).symlink_to(ROOT / name)
    write_questions(
        output / "questions.jsonl", ["Does semaglutide help?", "Does olaparib help?", "Does dapagliflozin help?"]
    )
    environment = {**os.environ, "MCP_URL": tools_url, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = [sys.executable, "generate_trajectory_from_questions.py", "--questions-file", "../../pubmed_training_data/questions.jsonl",
              "--output", "../../pubmed_training_data", "--model-name", "Qwen3-8B"]  # fmt: skip
    with demo_model() as url:
        for command in (
            [*script, "--local-model-url", url, "--limit", "1"], [*script, "--local-model-url", url, "--limit", "2", "--concurrency", "2"],
            [*script, "--local-model-url", url, "--no-incremental", "--instance-id", "gpu0"],
            ["bash", "run_local_model_generation.sh", "", url], ["bash", "run_local_model_generation.sh", "", url, "Qwen3-8B", "3", "--limit", "3"],
            ["bash", "run_local_model_generation.sh", "../../pubmed_training_data/questions.jsonl", url, "Qwen3-8B", "2", "--fresh", "--limit", "1"],
        ):  # fmt: skip
            done = subprocess.run(command, cwd=below, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
    rows = sorted(len(read_jsonl(path)) for path in output.glob("*_incremental.jsonl"))
    assert rows == [1, 3, 3], (
        "the limits and the launcher went on with one run; the instance and --fresh have their own"
    )
    with urlopen(tools_url.replace("/mcp", "/health")) as health:
        assert health.status == 200


def test_the_diagram_is_mermaid() -> None:
    result = trajgraph("diagram")
    assert result.returncode == 0
    assert "reason --> parse_tool" in result.stdout
    assert "execute_mcp --> reason" in result.stdout


def test_every_flag_of_the_earlier_script_is_there() -> None:
    flags = (
        "--questions-file --local-model-url --model-name --output --concurrency --limit --no-incremental --instance-id"
    )
    result = trajgraph_process("generate", "--help", env={**os.environ, "COLUMNS": "200"})
    assert all(f"{flag} " in result.stdout for flag in flags.split())


def test_where_nobody_can_read_the_error_the_exit_code_still_tells(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli", "generate", "--questions-file", str(tmp_path / "none.jsonl")]
    with Path("/dev/full").open("w") as full:
        assert subprocess.run(command, cwd=ROOT, stderr=full, timeout=60, check=False).returncode == 2
