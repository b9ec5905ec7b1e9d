"""Checkpoints in a real PostgreSQL: resumed after a kill, none asked twice, one bad thread alone, no password stored."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from graph.postgres import open_postgres
from tests.graph.test_group_saver import place, talking
from tests.support.postgres import PASSWORD, Postgres, postgres
from tests.support.runs import (
    ROOT,
    answer,
    call,
    counts,
    generate,
    read_jsonl,
    records,
    requests_so_far,
    trajgraph,
    write_questions,
)
from tests.support.servers import ScriptedModel, demo_model

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


def command(folder: Path, model: str, tools: str, database: Postgres, *more: object) -> list[object]:
    flags: list[object] = ["generate", "--questions-file", folder / "questions.jsonl", "--local-model-url", model]
    flags += ["--mcp-url", tools, "--output", folder / "out", "--concurrency", 4, "--checkpoints", database.address]
    return [*flags, *more]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_goes_on_from_the_database_and_asks_nothing_twice(
    tmp_path: Path, tools_url: str, database: Postgres, workers: int
) -> None:
    write_questions(tmp_path / "questions.jsonl", [f"Does semaglutide {n} help in obesity?" for n in range(12)])
    with demo_model(latency=0.15) as url:
        words = [str(word) for word in command(tmp_path, url, tools_url, database, "--workers", workers)]
        process = subprocess.Popen([sys.executable, "-m", "cli", *words], cwd=ROOT)
        while requests_so_far(url) < 12:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = requests_so_far(url)
        assert database.count("checkpoints") > 0
        done = trajgraph(*words)
        asked = requests_so_far(url)
    assert done.stdout.startswith("12 questions: 12 accepted, 0 rejected, 0 failed, 0 pending"), done.stderr
    assert len({row["sample_id"] for row in records(tmp_path)}) == 12
    needed = sum(row["trajectory"]["total_tool_calls"] + 1 for row in records(tmp_path))
    assert before < needed
    assert asked <= needed + 4 + 3 * workers, "those in flight, and what asks whether the model is there"
    assert [database.count(table) for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes")] == [0, 0, 0]
    assert not list((tmp_path / "out").glob("*.sqlite*"))
    stored = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert PASSWORD.encode() not in stored and database.address.encode() in stored


async def test_a_nul_in_a_text_is_stored_and_read_back(database: Postgres) -> None:
    async with open_postgres(database.address) as saver:
        graph = talking(2, saver)
        await asyncio.gather(
            graph.ainvoke({"question": "a NUL \0."}, place("nul")),
            *(graph.ainvoke({"question": f"plain {n}"}, place(f"plain-{n}")) for n in range(8)),
        )
        await saver.flush()
        state = await graph.aget_state(place("nul"))
        assert state.values["question"] == "a NUL \0."
        history = [one async for one in graph.aget_state_history(place("nul"))]
        assert len(history) > 3 and all("\0" in one.values["question"] for one in history if "question" in one.values)
        for thread in [name for name in saver.threads if name]:
            await saver.adelete_thread(thread)


async def test_rows_that_cannot_be_stored_fail_their_own_thread_and_no_other(database: Postgres) -> None:
    async with open_postgres(database.address) as saver:
        graph = talking(2, saver)
        bad = ("bad", "", "1", "t", "", 0, "reply", "a type with a NUL \0", b"x")
        group = saver._writer.put("bad", saver.INSERT_CHECKPOINT_WRITES_SQL, [bad])
        await graph.ainvoke({"question": "good"}, place("good"))
        await saver.flush(None)
        assert (await graph.aget_state(place("good"))).values["question"] == "good"
        with pytest.raises(psycopg.DataError):
            await saver._writer.flush(group, "bad")
        await saver.adelete_thread("bad")
        await saver.flush()
        await saver.adelete_thread("good")


async def test_a_database_that_is_restarted_under_a_run_costs_no_question_anything(
    folder: Path, scripted_model: ScriptedModel, tools_url: str, database: Postgres
) -> None:
    asked, restarted = 0, threading.Event()

    def script(messages: list[dict[str, str]]) -> str:
        nonlocal asked
        asked += 1
        time.sleep(0.05)
        if asked == 5:
            threading.Thread(target=restart).start()
        return answer() if len(messages) > 4 else call("pubmed_search", f"word{len(messages)}")

    def restart() -> None:
        database.stop()
        time.sleep(0.5)
        database.start()
        restarted.set()

    scripted_model.script = script
    result = await generate(folder, scripted_model, tools_url, checkpoints=database.address)
    assert restarted.wait(10)
    assert counts(result) == [6, 0, 0, 0]
    assert {row["metadata"]["attempts"] for row in read_jsonl(result.files.trajectories)} == {1}
    assert database.count("checkpoints") == 0


async def test_a_database_that_becomes_read_only_ends_the_run_and_fails_no_question(
    folder: Path, scripted_model: ScriptedModel, tools_url: str, database: Postgres
) -> None:
    asked = 0

    def script(messages: list[dict[str, str]]) -> str:
        nonlocal asked
        asked += 1
        if asked == 6:
            read_only("on")
        return answer() if len(messages) > 4 else call("pubmed_search", f"word{len(messages)}")

    def read_only(state: str) -> None:
        with psycopg.connect(database.address, autocommit=True, options="-c default_transaction_read_only=off") as own:
            own.execute(f"ALTER DATABASE postgres SET default_transaction_read_only = {state}")  # type: ignore[arg-type,unused-ignore]
            own.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = 'postgres'"
            )

    scripted_model.script = script
    with pytest.raises(OSError, match=r"the checkpoints' database refuses: .*read-only"):
        await generate(folder, scripted_model, tools_url, checkpoints=database.address)
    read_only("off")
    assert not list(folder.glob("*_failed.jsonl"))
    result = await generate(folder, scripted_model, tools_url, checkpoints=database.address)
    assert counts(result) == [6, 0, 0, 0]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("postgresql://me:secret@127.0.0.1/x", "no password in an address"),
        ("postgresql://127.0.0.1/x?password=secret", "no password in an address"),
        ("postgresql://tester:secret/pw9@127.0.0.1:1/db", "no place there"),
        ("postgresql://tester@127.0.0.1:1/db?PASSWORD=secret/pw9", "no password in an address"),
        ("postgresql://tester@127.0.0.1:1/db#secret", "no password in an address"),
        ("mysql://127.0.0.1/x", "an address begins with postgresql://"),
        ("checkpoints.sqlite", "an address begins with postgresql://"),
        ("postgresql://tester@127.0.0.1:1/x", "no PostgreSQL to be used there"),
    ],
)
def test_an_address_that_cannot_be_used_is_one_line(
    tmp_path: Path, model_url: str, tools_url: str, address: str, said: str
) -> None:
    write_questions(tmp_path / "questions.jsonl", ["Does it help?"])
    flags = ["generate", "--questions-file", tmp_path / "questions.jsonl", "--output", tmp_path / "out"]
    done = trajgraph(*flags, "--local-model-url", model_url, "--mcp-url", tools_url, "--checkpoints", address)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert "secret" not in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]
