"""Questions from a store, and a run that is copied to one: another machine goes on with it, and asks nothing twice."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet
import pytest
from starlette.responses import JSONResponse

from tests.batch.test_parts import in_files
from tests.batch.test_redo import half
from tests.batch.test_workers import COUNT, asked
from tests.support.runs import ROOT, command, counts, generate, requests_so_far, two_turns
from tests.support.servers import ScriptedModel, demo_model, free_port
from tests.support.stores import hub, s3_server

pytestmark = pytest.mark.long

BUCKET, COPY = "trajectories", "s3://trajectories/runs"


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    with s3_server(BUCKET) as environment:
        yield environment


def client(environment: dict[str, str]) -> Any:
    return boto3.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"], region_name="us-east-1",
                        aws_access_key_id="a", aws_secret_access_key="b")  # fmt: skip


def stored(environment: dict[str, str]) -> dict[str, bytes]:
    """What the bucket holds, by another client."""
    bucket = client(environment)
    found = bucket.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return {one["Key"]: bucket.get_object(Bucket=BUCKET, Key=one["Key"])["Body"].read() for one in found}


def started(environment: dict[str, str], *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-m", "cli", *map(str, arguments)], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment})  # fmt: skip


def ended(environment: dict[str, str], *arguments: object) -> "subprocess.CompletedProcess[str]":
    process = started(environment, *arguments)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(list(map(str, arguments)), process.returncode, out, err)


def questions(many: int, first: int = 0) -> bytes:
    return b"".join(json.dumps({"question": f"Does drug {n} help?"}).encode() + b"\n" for n in range(first, many))


def asking(folder: Path, url: str, tools_url: str, place: str) -> list[str]:
    words = command(folder, url, tools_url)
    words[words.index("--questions-file") + 1] = place
    return words


def test_questions_are_streamed_from_s3_and_a_change_there_is_seen(
    tmp_path: Path, tools_url: str, s3: dict[str, str]
) -> None:
    bucket = client(s3)
    bucket.put_object(Bucket=BUCKET, Key="q/1.jsonl", Body=questions(3))
    bucket.put_object(Bucket=BUCKET, Key="q/2.jsonl.gz", Body=gzip.compress(questions(5, 3)))
    bucket.put_object(Bucket=BUCKET, Key="q/notes.txt", Body=b"none")
    with demo_model() as url:
        words = asking(tmp_path, url, tools_url, f"s3://{BUCKET}/q")
        assert ended(s3, *words, "--limit", 4).stdout.startswith("4 questions: 4 accepted")
        done = ended(s3, *words)
        assert done.stdout.startswith("5 questions: 5 accepted") and "goes on with" in done.stderr, done
        (run,) = (tmp_path / "out").glob("*_run.json")
        assert "already complete" in ended(s3, "resume", run).stderr
        bucket.put_object(Bucket=BUCKET, Key="q/1.jsonl", Body=questions(3).replace(b"drug 1", b"drug 9"))
        changed = ended(s3, "resume", run)
        assert changed.returncode == 2 and "another content of the questions file" in changed.stderr, changed
        none = ended(s3, *asking(tmp_path, url, tools_url, f"s3://{BUCKET}/none.jsonl"))
    assert none.returncode == 2 and f"s3://{BUCKET}/none.jsonl: there is nothing" in none.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cr3t" in path.read_bytes()]


def test_questions_are_streamed_from_the_hub(tmp_path: Path, tools_url: str) -> None:
    with demo_model() as url, hub({"README.md": b"#", "data/train.jsonl": questions(3)}) as environment:
        for place in ("hf://datasets/me/questions/data/train.jsonl", "hf://datasets/me/questions/data"):
            done = ended(environment, *asking(tmp_path, url, tools_url, place))
            assert done.stdout.startswith("3 questions: 3 accepted"), done


@pytest.mark.parametrize(
    ("place", "said"),
    [("https://me:secret@host/q.jsonl?sig=secret", "fetch it first"), ("s3://", "give s3://NAME"),
     ("s3://key:secret@bucket/q.jsonl", "keys come from the environment"), ("s3://b//q.jsonl", "give s3://NAME"),
     ("s3://b/q.jsonl?sig=secret", "give s3://NAME"), ("hf://me:secret@x/y", "give hf://NAME")],
)  # fmt: skip
def test_an_address_that_cannot_be_read_or_holds_a_key_is_refused(tmp_path: Path, place: str, said: str) -> None:
    done = ended({}, "generate", "--questions-file", place, "--output", tmp_path / "out")
    assert done.returncode == 2 and said in done.stderr and "secret" not in done.stderr


def test_another_machine_goes_on_from_the_copy_and_the_first_may_no_more(
    tmp_path: Path, tools_url: str, s3: dict[str, str]
) -> None:
    first, second = asked(tmp_path, "first"), asked(tmp_path, "second")
    copied = ("--upload-to", COPY, "--records-per-file", "3", "--zstd", "--keep-token-ids")
    with demo_model(latency=0.1) as url:
        process = started(s3, *command(first, url, tools_url), *copied)
        while process.poll() is None and requests_so_far(url) < 40:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, (out, err)
        local = {f"runs/{name}" for name in in_files(first)}
        there = stored(s3)
        assert local == {key for key in there if "_incremental" in key and ".jsonl" in key} and local
        known = {name for ids in in_files(first).values() for name in ids}
        before = requests_so_far(url)
        done = ended(s3, *command(second, url, tools_url), *copied, "--workers", "2")
        assert done.stdout.startswith(f"{COUNT} questions: {COUNT} accepted, 0 rejected, 0 failed, 0 pending"), done
        assert "read anew" not in done.stderr
        assert requests_so_far(url) - before <= 3 * (COUNT - len(known)) + 6
        files = in_files(second)
        assert len({name for ids in files.values() for name in ids}) == sum(map(len, files.values())) == COUNT
        assert {f"runs/{path.name}": path.read_bytes() for path in (second / "out").glob("*_part*")} == {
            key: content for key, content in stored(s3).items() if "_part" in key
        }
        tokens = [row["sample_id"] for part in (second / "out").glob("*_tokens_part*.parquet")
                  for row in pyarrow.parquet.read_table(part).to_pylist()]  # fmt: skip
        assert set(tokens) == {name for ids in files.values() for name in ids}, "those of before are here, too"
        back = ended(s3, *command(first, url, tools_url), *copied)
    assert back.returncode == 2 and "another machine has gone on with this run" in back.stderr, back


def test_a_store_that_is_gone_at_the_end_is_said_and_the_same_command_completes_the_copy(
    tmp_path: Path, tools_url: str
) -> None:
    folder = asked(tmp_path, "run")
    port, copied = free_port(), ("--upload-to", COPY)
    with demo_model(latency=0.05) as url:
        with s3_server(BUCKET, port) as environment:
            process = started(environment, *command(folder, url, tools_url), *copied)
            while process.poll() is None and requests_so_far(url) < 20:
                time.sleep(0.02)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 1 and f"{COUNT} accepted" in out, (out, err)
        assert "the copy is not whole" in err
        with s3_server(BUCKET, port) as environment:
            done = ended(environment, *command(folder, url, tools_url), *copied)
            assert done.returncode == 0, done
            assert [key for key in stored(environment) if key.endswith("_part00001.jsonl")]
    nowhere = ended({**environment, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}, *command(folder, url, tools_url),
                    "--upload-to", COPY)  # fmt: skip
    assert nowhere.returncode == 2 and f"{COPY}: " in nowhere.stderr


def test_a_copy_is_whole_at_each_address_and_never_replaced_by_another_machines(
    tmp_path: Path, tools_url: str, s3: dict[str, str]
) -> None:
    one, two, three = (asked(tmp_path, name) for name in ("one", "two", "three"))
    address = f"s3://{BUCKET}/whole"
    with demo_model() as url:

        def done(folder: Path, to: str, *more: object) -> "subprocess.CompletedProcess[str]":
            return ended(s3, *command(folder, url, tools_url), "--records-per-file", 5, "--upload-to", to, *more)

        def there(to: str) -> dict[str, bytes]:
            keys = {key: content for key, content in stored(s3).items() if key.startswith(f"{to}/")}
            return {key.rpartition("/")[2]: content for key, content in keys.items()}

        assert done(one, address, "--limit", 12).returncode == 0
        assert done(one, f"s3://{BUCKET}/again", "--limit", 12).returncode == 0
        first = there("whole")
        assert set(first) - {next(name for name in first if name.endswith("_run.log"))} <= set(there("again"))
        for key in first:  # emptied by hand
            client(s3).delete_object(Bucket=BUCKET, Key=f"whole/{key}")
        assert done(one, address, "--limit", 12).returncode == 0
        assert {name for name in there("whole") if "_part" in name} == {name for name in first if "_part" in name}
        client(s3).put_object(Bucket=BUCKET, Key="whole/x_run.json", Body=b"{}")
        assert done(two, address, "--limit", 17).returncode == 0  # another machine goes on
        now = there("whole")
        back = done(one, address, "--limit", 20)
        assert back.returncode == 2 and "another machine has gone on with this run" in back.stderr, back
        part = next(name for name in now if name.endswith("_part00003.jsonl"))
        (two / "out" / part).rename(tmp_path / part)  # the disk is full
        moved = done(two, address)
        assert moved.returncode == 2 and f"it holds {part}, which is gone from" in moved.stderr, moved
        assert there("whole") == now
        assert done(three, address, "--limit", 17).returncode == 0
    assert sorted(map(len, in_files(three).values())) == [2, 5, 5, 5]


def test_a_run_that_fell_behind_holds_up_no_other_run_of_its_folder(
    tmp_path: Path, tools_url: str, s3: dict[str, str]
) -> None:
    one, two = asked(tmp_path, "one"), asked(tmp_path, "two")
    (one / "other.jsonl").write_bytes(questions(2))
    copied = ("--records-per-file", 2, "--upload-to", f"s3://{BUCKET}/aside")
    with demo_model() as url:
        words = command(one, url, tools_url)
        assert ended(s3, *words, *copied, "--limit", 4).returncode == 0
        assert ended(s3, *command(two, url, tools_url), *copied, "--limit", 7).returncode == 0
        assert ended(s3, *words, *copied, "--limit", 9).returncode == 2
        other = asking(one, url, tools_url, str(one / "other.jsonl"))
        assert ended(s3, *other, *copied).returncode == 0


def test_runs_begun_in_the_same_second_do_not_share_a_name_in_the_store(
    tmp_path: Path, tools_url: str, s3: dict[str, str]
) -> None:
    with demo_model() as url:
        runs = []
        for name in ("a", "b", "c"):
            folder = asked(tmp_path, name)
            (folder / "questions.jsonl").rename(folder / f"{name}.jsonl")
            words = asking(folder, url, tools_url, str(folder / f"{name}.jsonl"))
            runs.append(started(s3, *words, "--limit", 1, "--upload-to", f"s3://{BUCKET}/pair"))
        assert [run.communicate(timeout=120) and run.returncode for run in runs] == [0, 0, 0]
    assert len([key for key in stored(s3) if key.startswith("pair/") and key.endswith("_run.json")]) == 3


async def test_what_is_set_aside_or_failed_is_in_the_store_as_it_is_here(
    folder: Path, scripted_model: ScriptedModel, tools_url: str, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    more: dict[str, Any] = {"upload_to": f"s3://{BUCKET}/aside2", "records_per_file": 2, "hard_gates": ("no_tool_use",)}

    def rows(kind: str) -> list[str]:
        found = [content for key, content in stored(s3).items() if key.startswith("aside2/") and kind in key]
        return [line for content in found for line in content.decode().splitlines() if '"sample_id"' in line[:40]]

    scripted_model.script = lambda messages: (
        JSONResponse({"error": {"message": "no"}}, 400) if "Question 1" in messages[1]["content"] else half(messages)
    )
    first = await generate(folder, scripted_model, tools_url, **more)
    assert counts(first)[2] == 1 and len(rows("_failed")) == 1
    scripted_model.script = half
    second = await generate(folder, scripted_model, tools_url, **more)
    assert counts(second) == [3, 3, 0, 0] and rows("_failed") == []
    assert len(rows("_rejected_part")) == 3
    scripted_model.script = two_turns
    third = await generate(folder, scripted_model, tools_url, **more, temperature=0.9, redo="no_tool_use")
    assert counts(third) == [6, 0, 0, 0]
    assert len(rows("_superseded")) == 3 and rows("_rejected_part") == [] and len(rows("_incremental_part")) == 6
