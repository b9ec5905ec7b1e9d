"""Two real model servers in one run, one of which is killed and started again: no question pays for it."""

import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.real.parts import LLAMA, MODEL, process, tools_for
from tests.support.runs import ROOT, read_jsonl, trajgraph_process
from tests.support.servers import free_port

_QUESTIONS = 16


def test_a_server_that_is_killed_and_started_again_costs_no_question_an_attempt(
    model_folder: Path, tmp_path: Path
) -> None:
    (gguf,) = MODEL.glob("*.gguf")
    questions, output = tmp_path / "questions.jsonl", tmp_path / "out"
    lines = (model_folder / "questions.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    questions.write_text("".join(lines[:_QUESTIONS]), encoding="utf-8")
    ports = [free_port(), free_port()]
    commands = [[sys.executable, LLAMA, port, gguf, "Qwen3-8B", 2, 16384] for port in ports]
    urls = [f"http://127.0.0.1:{port}/v1" for port in ports]

    def killed() -> None:
        running = subprocess.Popen(list(map(str, commands[1])), cwd=ROOT, stderr=subprocess.DEVNULL)
        stop.wait_for_records(output, 3)
        running.kill()
        running.wait()
        time.sleep(2)
        again = subprocess.Popen(list(map(str, commands[1])), cwd=ROOT, stderr=subprocess.DEVNULL)
        stop.ended.wait(300)
        again.kill()
        again.wait()

    stop = _Stop()
    dying = threading.Thread(target=killed, daemon=True)
    with process(*commands[0], ready=f"{urls[0]}/models"), tools_for(questions, tmp_path) as tools:
        dying.start()
        run = trajgraph_process(
            "generate", "--questions-file", questions, "--output", output, "--local-model-url", urls[0], "--local-model-url", urls[1], "--mcp-url", tools, "--max-tokens",
            512, "--concurrency", 4, "--accept", 1, "--max-samples", 4, "--temperature", 0.3,
        )  # fmt: skip
        stop.ended.set()
        dying.join(10)
    assert run.returncode == 0, run.stderr
    assert f"{urls[1]} is left out: " in run.stderr
    assert f"{urls[1]} answers again after" in run.stderr
    rows = [
        row
        for name in ("incremental", "rejected")
        for path in output.glob(f"*_{name}.jsonl")
        for row in read_jsonl(path)
    ]
    assert {row["metadata"]["attempts"] for row in rows} == {1}
    assert {row["metadata"]["endpoint"] for row in rows} == set(urls)


class _Stop:
    def __init__(self) -> None:
        self.ended = threading.Event()

    def wait_for_records(self, folder: Path, count: int) -> None:
        while not self.ended.is_set():
            if sum(path.read_bytes().count(b"\n") for path in folder.glob("*_*.jsonl")) >= count:
                return
            time.sleep(0.1)
