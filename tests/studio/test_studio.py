"""LangGraph Studio over its HTTP API: the drawing, a run step by step, a batch run opened, forked, and left untouched."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langgraph_sdk import get_client
from starlette.responses import JSONResponse

from tests.support.postgres import postgres
from tests.support.runs import ROOT, read_jsonl, requests_so_far, trajgraph_process, two_turns, write_questions
from tests.support.servers import Reply, ScriptedModel, demo_model, free_port

pytestmark = pytest.mark.long


@contextmanager
def process(*command: str, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A command in a process group of its own, ended as a whole."""
    quiet = subprocess.DEVNULL
    running = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=ROOT, env={**os.environ, **environment}, stdout=quiet, stderr=quiet,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()


@asynccontextmanager
async def api(port: int, threads: int = 0) -> AsyncIterator[Any]:
    """The server's client, once it answers and knows of so many threads of a batch run."""
    async with get_client(url=f"http://127.0.0.1:{port}") as client:
        for _ in range(100):
            try:
                found = await client.threads.search(limit=100)
                if sum("sample_id" in (thread["metadata"] or {}) for thread in found) >= threads:
                    break
            except Exception:
                pass
            await asyncio.sleep(0.3)
        yield client


async def test_the_development_server_draws_the_graph_and_runs_a_question_step_by_step(
    model_url: str, tools_url: str
) -> None:
    port = free_port()
    services = {"LOCAL_MODEL_URL": model_url, "MODEL_NAME": "Qwen3-8B", "MCP_URL": tools_url}
    with process("langgraph_cli", "dev", "--no-browser", "--no-reload", "--port", str(port), **services):
        async with api(port) as client:
            (assistant,) = await client.assistants.search(graph_id="trajectory")
            graph = await client.assistants.get_graph(assistant["assistant_id"])
            names = {node["id"] for node in graph["nodes"]} - {"__start__", "__end__"}
            assert names == {"reason", "parse_tool", "execute_mcp", "finalize"}
            schemas = await client.assistants.get_schemas(assistant["assistant_id"])
            assert list(schemas["input_schema"]["properties"]) == ["question"]
            thread = (await client.threads.create())["thread_id"]
            question = {"question": "What did PARADIGM-HF show?"}
            steps = [next(iter(part.data)) async for part in client.runs.stream(thread, "trajectory", input=question, stream_mode="updates")
                     if part.event == "updates"]  # fmt: skip
            assert steps[:4] == ["reason", "parse_tool", "execute_mcp", "reason"]
            assert steps[-1] == "finalize"
            state = await client.threads.get_state(thread)
            assert 'cite id="25176015"' in state["values"]["final_answer"]
            assert len(await client.threads.get_history(thread, limit=50)) == len(steps) + 2


async def test_studio_answers_a_second_question_drops_end_tokens_and_says_what_failed(tools_url: str) -> None:
    def script(messages: list[dict[str, Any]]) -> Reply:
        if "refused" in messages[1]["content"]:
            return JSONResponse({"error": {"message": "this model has no chat template"}}, 400)
        said = two_turns(messages)
        return f"{said}<|im_end|>"  # as vLLM's stream ends when the stop string is kept

    port = free_port()
    with ScriptedModel(script=script).served() as model:
        services = {"LOCAL_MODEL_URL": model.url, "MODEL_NAME": "Qwen3-8B", "MCP_URL": tools_url}
        with process("langgraph_cli", "dev", "--no-browser", "--no-reload", "--port", str(port), **services):
            async with api(port) as client:
                thread = (await client.threads.create())["thread_id"]
                for question in ("What did PARADIGM-HF show?", "What did DAPA-HF show?"):
                    given = {"question": question}
                    async for _ in client.runs.stream(thread, "trajectory", input=given, stream_mode="messages-tuple"):
                        pass
                    final = (await client.threads.get_state(thread))["values"]
                    assert final["stop_reason"] == "answer"
                    assert [message["type"] for message in final["messages"]] == ["ai", "tool", "ai"]
                    assert final["messages"][-1]["content"].endswith("</answer>")
                    assert "im_end" not in str(final)
                failed = await client.runs.wait(thread, "trajectory", input={"question": "refused"}, raise_error=False)
    asked = [body["messages"][1]["content"] for body in model.requests if len(body["messages"]) > 2]
    assert asked == ["What did PARADIGM-HF show?", "What did DAPA-HF show?"]
    assert all(body.get("stream") for body in model.requests if len(body["messages"]) > 2)
    assert "this model has no chat template" in str(failed)


async def test_a_killed_batch_run_is_opened_forked_at_an_edited_call_and_left_untouched(
    tmp_path: Path, tools_url: str
) -> None:
    write_questions(tmp_path / "questions.jsonl", [f"Does semaglutide {n} help in obesity?" for n in range(6)])
    out, port = tmp_path / "out", free_port()
    with demo_model(latency=0.4) as url:
        command = ["generate", "--questions-file", str(tmp_path / "questions.jsonl"), "--output", str(out)]
        command += ["--local-model-url", url, "--mcp-url", tools_url, "--concurrency", "3"]
        command += ["--cassette", str(tmp_path / "tape")]
        with subprocess.Popen([sys.executable, "-m", "cli", *command], cwd=ROOT) as batch:
            while not list(out.glob("*_checkpoints.sqlite")):
                time.sleep(0.05)
            time.sleep(1.2)
            batch.kill()
        before = next(out.glob("*_checkpoints.sqlite")).read_bytes()
        with process("cli", "studio", str(out), "--port", str(port), "--no-browser"):
            async with api(port, threads=3) as client:
                threads = [
                    thread for thread in await client.threads.search(limit=50) if "sample_id" in thread["metadata"]
                ]
                assert {thread["metadata"]["sample_id"] for thread in threads} == {
                    f"qwen3_traj_{n:05d}" for n in (1, 2, 3)
                }
                thread = threads[0]["thread_id"]
                history = await client.threads.get_history(thread, limit=50)
                called = next(step for step in reversed(history) if step["next"] == ["execute_mcp"])
                message = called["values"]["messages"][-1]
                message["tool_calls"][0]["args"]["query"] = "tirzepatide"
                fork = await client.threads.update_state(
                    thread, {"messages": [message]}, checkpoint=called["checkpoint"]
                )
                final = await client.runs.wait(thread, "trajectory", input=None, checkpoint=fork["checkpoint"])
                assert final["stop_reason"] == "answer"
                assert ">tirzepatide</call_tool>" in final["messages"][0]["content"]
                assert "Tirzepatide" in final["messages"][1]["content"]
        assert next(out.glob("*_checkpoints.sqlite")).read_bytes() == before
        finished = await asyncio.to_thread(trajgraph_process, *command)
    assert finished.stdout.startswith("6 questions: 6 accepted, 0 rejected, 0 failed, 0 pending")
    assert all("tirzepatide" not in str(record) for record in read_jsonl(next(out.glob("*_incremental.jsonl"))))


async def test_a_live_run_in_postgres_is_opened_stepped_back_and_forked_and_goes_on_untouched(
    tmp_path: Path, tools_url: str
) -> None:
    write_questions(tmp_path / "questions.jsonl", [f"Does semaglutide {n} help in obesity?" for n in range(60)])
    out, port = tmp_path / "out", free_port()
    with postgres() as database, demo_model(latency=3.0) as url, demo_model() as quick:
        command = ["generate", "--questions-file", str(tmp_path / "questions.jsonl"), "--output", str(out)]
        command += ["--local-model-url", url, "--mcp-url", tools_url, "--concurrency", "6"]
        command += ["--checkpoints", database.address]
        with subprocess.Popen([sys.executable, "-m", "cli", *command], cwd=ROOT) as batch:
            while requests_so_far(url) < 13:  # two turns of each are under way
                time.sleep(0.05)
            for _ in range(5):  # it shows what was there when it began: perhaps new questions alone
                with process("cli", "studio", str(out), "--port", str(port), "--no-browser"):
                    async with api(port, threads=1) as client:
                        assert batch.poll() is None, "the run is alive while it is looked at"
                        if await forked(client):
                            break
                port = free_port()
            else:
                pytest.fail("no question showed a call")
            batch.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(batch.wait, 60) == 130
        ended = await asyncio.to_thread(trajgraph_process, *(quick if word == url else word for word in command))
        assert ended.stdout.startswith("60 questions: 60 accepted"), ended.stderr
        with psycopg.connect(database.address) as connection:
            left = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'trajgraph%'").fetchall()
        assert left == [], "the copy is gone"
    rows = read_jsonl(next(out.glob("*_incremental.jsonl")))
    assert len(rows) == 60 and "tirzepatide" not in str(rows)


async def forked(client: Any) -> bool:
    """Step a question back to a call, and change the call; False where no question shows one."""
    for one in await client.threads.search(limit=50):
        if "sample_id" in one["metadata"]:
            thread = one["thread_id"]
            history = await client.threads.get_history(thread, limit=50)
            if called := next((step for step in reversed(history) if step["next"] == ["execute_mcp"]), None):
                message = called["values"]["messages"][-1]
                message["tool_calls"][0]["args"]["query"] = "tirzepatide"
                checkpoint = called["checkpoint"]
                fork = await client.threads.update_state(thread, {"messages": [message]}, checkpoint=checkpoint)
                state = await client.threads.get_state(thread, checkpoint=fork["checkpoint"])
                assert "tirzepatide" in str(state["values"]["messages"][-1]["tool_calls"])
                return True
    return False
