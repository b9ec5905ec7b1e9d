"""A run on a real Ray cluster: an actor, a node and the driver are lost, and nothing else is."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import pytest

from tests.support.ray_cluster import RayCluster, actors, ray_cluster
from tests.support.runs import ROOT, answer, call, records, requests_so_far, trajgraph_process, write_questions
from tests.support.servers import ScriptedModel, demo_model

pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("ray")]
KEY = "s3cr3t-k3y-of-the-model"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    os.environ["TRAJGRAPH_SCRATCH"] = str(tmp_path_factory.mktemp("scratch"))
    with ray_cluster(3) as running:
        yield running
    del os.environ["TRAJGRAPH_SCRATCH"]


def command(folder: Path, model: str, tools: str, *more: object) -> list[str]:
    flags: list[object] = ["generate", "--questions-file", folder / "questions.jsonl", "--local-model-url", model]
    return [str(word) for word in (*flags, "--mcp-url", tools, "--output", folder / "out", *more)]


def test_an_actor_a_node_and_the_driver_are_lost_and_no_question_is(
    tmp_path: Path, tools_url: str, cluster: RayCluster
) -> None:
    write_questions(tmp_path / "questions.jsonl", [f"Does semaglutide {n} help in obesity?" for n in range(60)])
    with demo_model(latency=0.25) as url:
        words = command(tmp_path, url, tools_url, "--ray", cluster.address, "--concurrency", 12)
        with (tmp_path / "log").open("w") as log:
            driver = subprocess.Popen([sys.executable, "-m", "cli", *words], cwd=ROOT, stderr=log)
        written(tmp_path, 6, driver)
        assert len(actors()) == 3, "one a CPU"
        os.kill(actors()[0], signal.SIGKILL)
        written(tmp_path, 18, driver)
        cluster.tell("remove")
        written(tmp_path, 30, driver)
        driver.kill()
        driver.wait()
        cluster.tell("add")
        done = trajgraph_process(*words)
        asked = requests_so_far(url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("60 questions: 60 accepted, 0 rejected, 0 failed, 0 pending"), done.stderr
    rows = records(tmp_path)
    assert len(rows) == len({row["sample_id"] for row in rows}) == 60
    needed = sum(row["trajectory"]["total_tool_calls"] + 1 for row in rows)
    assert asked <= needed + 3 * 12 * 3, "what was in flight at a lost node is asked again, at most"
    said = (tmp_path / "log").read_text()
    assert "its questions are asked again" in said


def written(folder: Path, count: int, driver: "subprocess.Popen[bytes]") -> None:
    while sum(path.read_bytes().count(b"\n") for path in (folder / "out").glob("*_incremental.jsonl")) < count:
        assert driver.poll() is None, (folder / "log").read_text()
        time.sleep(0.05)


def test_an_interrupted_run_ends_its_steps_and_asks_nothing_twice_and_its_key_is_in_no_file(
    tmp_path: Path, tools_url: str, cluster: RayCluster, scripted_model: ScriptedModel
) -> None:
    write_questions(tmp_path / "questions.jsonl", [f"Does drug {n} help?" for n in range(12)])

    def script(messages: list[dict[str, str]]) -> str:
        time.sleep(0.1)
        return answer() if len(messages) > 5 else call("pubmed_search", f"word{len(messages)}")

    scripted_model.script = script
    more = ("--ray", cluster.address, "--concurrency", 6, "--api-key", KEY, "--keep-token-ids")
    words = command(tmp_path, scripted_model.url, tools_url, *more, "-v")
    driver = subprocess.Popen([sys.executable, "-m", "cli", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while len(scripted_model.requests) < 9:
        assert driver.poll() is None
        time.sleep(0.02)
    driver.send_signal(signal.SIGINT)
    said = driver.communicate(timeout=60)[1]
    assert driver.returncode == 130, said
    done = trajgraph_process(*words)
    assert done.stdout.startswith("12 questions: 12 accepted"), done.stderr
    assert len(scripted_model.requests) == 12 * 3, "each turn was asked once"
    tokens = (tmp_path / "out").glob("*_tokens_part*.parquet")
    assert sum(pyarrow.parquet.read_table(one).num_rows for one in tokens) == 12 * 3
    (log,) = (tmp_path / "out").glob("*_run.log")
    assert log.read_text().count("reply of Qwen/Qwen3-8B: ") == 12 * 3, "-v writes each request, once"
    assert {headers["authorization"] for headers in scripted_model.headers} == {f"Bearer {KEY}"}
    assert KEY.encode() not in b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    left = [
        path for path in Path(os.environ["TRAJGRAPH_SCRATCH"]).rglob("*.sqlite") if b"Does drug" in path.read_bytes()
    ]
    assert left == [], "the steps of what is written are deleted on their node"


def test_rejected_samples_are_sampled_anew_also_where_their_steps_were_left_on_a_node(
    tmp_path: Path, tools_url: str, cluster: RayCluster, scripted_model: ScriptedModel
) -> None:
    write_questions(tmp_path / "questions.jsonl", [f"Does drug {n} help?" for n in range(4)])
    scripted_model.script = lambda _: call("pubmed_search", "x")
    words = command(
        tmp_path, scripted_model.url, tools_url, "--ray", cluster.address, "--max-turns", 1, "--keep-checkpoints"
    )
    done = trajgraph_process(*words)
    assert done.stdout.startswith("4 questions: 0 accepted, 4 rejected"), done.stderr
    before = len(scripted_model.requests)
    done = trajgraph_process(*words, "--redo", "rejected")
    assert "4 rejected are sampled anew" in done.stderr
    assert len(scripted_model.requests) == 2 * before


def test_a_node_where_nothing_can_begin_is_one_line(
    tmp_path: Path, tools_url: str, model_url: str, cluster: RayCluster
) -> None:
    write_questions(tmp_path / "questions.jsonl", ["Does it help?"])
    scratch = Path(os.environ["TRAJGRAPH_SCRATCH"])
    kept = scratch.rename(scratch.with_name("kept"))
    scratch.write_text("a file")
    try:
        done = trajgraph_process(*command(tmp_path, model_url, tools_url, "--ray", cluster.address))
    finally:
        scratch.unlink()
        kept.rename(scratch)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "no actor can begin" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("mistake", ["10.0.0.1", "ray://127.0.0.1:10001", "closed"])
def test_an_address_that_is_none_ends_the_command_at_once(
    tmp_path: Path, model_url: str, tools_url: str, mistake: str
) -> None:
    write_questions(tmp_path / "questions.jsonl", ["Does it help?"])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}" if mistake == "closed" else mistake
        done = trajgraph_process(*command(tmp_path, model_url, tools_url, "--ray", address))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"trajgraph: --ray {address}: ")
