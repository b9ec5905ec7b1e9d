"""`--sampling`: any field of the request, stored with the run, compared on resume, sent with every request."""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse

from backends.config import Sampling
from backends.errors import UsageError
from batch.run_files import read_run
from tests.support.runs import answer, generate, generate_command, read_jsonl, trajgraph, two_turns
from tests.support.servers import ScriptedModel, demo_model

FIELDS = {"top_p": 0.9, "top_k": 20, "chat_template_kwargs": {"enable_thinking": False}, "seed": 7}


async def test_its_fields_are_in_every_request(folder: Path, scripted_model: ScriptedModel, tools_url: str) -> None:
    scripted_model.script = two_turns
    await generate(folder, scripted_model, tools_url, sampling=FIELDS, limit=1)
    assert len(scripted_model.requests) == 2
    for request in scripted_model.requests:
        assert {name: request[name] for name in FIELDS} == FIELDS
        assert request["temperature"] == 0.1
        assert "extra_body" not in request


async def test_several_samples_count_on_from_its_seed_and_the_record_names_it(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = lambda _: answer()
    done = await generate(folder, scripted_model, tools_url, sampling={"seed": 7}, limit=1, samples_per_question=2)
    assert [request["seed"] for request in scripted_model.requests] == [7, 8]
    assert [row["metadata"]["seed"] for row in read_jsonl(done.files.trajectories)] == [7, 8]
    assert all(row["metadata"]["sampling"] == {"seed": 7} for row in read_jsonl(done.files.trajectories))


async def test_it_is_stored_and_another_one_is_another_setting(
    folder: Path, scripted_model: ScriptedModel, tools_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    scripted_model.script = lambda _: JSONResponse({"error": {"message": "no"}}, 400)
    first = await generate(folder, scripted_model, tools_url, limit=1)
    content = read_run(first.files.run)[1]
    assert content["settings"]["sampling"] == content["options"]["sampling"] == {}
    with caplog.at_level("INFO", "trajgraph"):
        other = await generate(folder, scripted_model, tools_url, sampling={"top_p": 0.5}, limit=1)
    assert "sampling: {} -> {'top_p': 0.5}" in caplog.text
    other.files.run.unlink()
    for name in ("settings", "options"):  # as a run that was started before there was such a setting
        del content[name]["sampling"]
    first.files.run.write_text(json.dumps(content))
    scripted_model.script = lambda _: answer()
    again = await generate(folder, scripted_model, tools_url)
    assert again.files == first.files


def test_the_flag_takes_an_object_and_says_what_else_is_wrong_with_it(folder: Path, tools_url: str) -> None:
    with demo_model() as url:
        command = [*generate_command(folder, url, tools_url), "--limit", "1", "--sampling"]
        done = trajgraph(*command, '{"top_p": 0.8}')
        assert done.returncode == 0, done.stderr
        assert read_run(folder / "out")[1]["options"]["sampling"] == {"top_p": 0.8}
        resumed = trajgraph("resume", folder / "out")
        assert resumed.returncode == 0, resumed.stderr
        for wrong, why in (
            ("[1]", "no JSON object"),
            ("{", "is not JSON"),
            ('{"x": 1e999}', "not JSON"),
            ('{"x": "\\ud800"}', "not JSON"),
            ('{"api_key": "x"}', "api_key"),
            ('{"top_p": NaN}', "not JSON"),
            ('{"seed": "x"}', "whole number"),
            ('{"messages": []}', "messages"),
        ):
            refused = trajgraph(*command, wrong)
            assert refused.returncode == 2, refused
            assert why in refused.stderr
            assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["model", "messages", "temperature", "max_tokens", "stop", "stream", "n"])
def test_what_has_a_flag_or_is_the_protocols_own_is_refused(name: str) -> None:
    value: Any = {name: 1}
    with pytest.raises(UsageError, match=name):
        Sampling(sampling=value)
