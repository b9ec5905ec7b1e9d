"""`--keep-token-ids`: each reply's tokens, as its server made them, in Parquet beside the records."""

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, StreamingResponse

from backends.errors import BadRequest, ModelError, ServerOverloaded, Unauthorized
from backends.model_client import ChatClient
from backends.reply_tokens import REFUSED
from batch.jsonl import encoded
from batch.parts import part_at
from tests.support.model_clients import PROMPT, client
from tests.support.runs import (
    answer,
    call,
    counts,
    generate,
    generate_command,
    read_jsonl,
    trajgraph,
    two_turns,
    write_questions,
)
from tests.support.servers import Reply, ScriptedModel, completion
from tests.support.token_lines import line, rows_in


def as_vllm(messages: list[dict[str, Any]], said: str, **more: Any) -> JSONResponse:
    """A completion as vLLM gives it that was asked for tokens; each letter is one, with its code point as its id."""
    prompt = [ord(letter) for letter in json.dumps(messages)]
    given = [
        {"token": one, "bytes": [*one.encode()], "logprob": -0.25, "top_logprobs": [{"token": one, "logprob": -0.25}]}
        for one in said
    ]
    choice = {
        "index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop",
        "logprobs": {"content": given}, "token_ids": [ord(one) for one in said], **more,
    }  # fmt: skip
    usage = {"prompt_tokens": len(prompt), "completion_tokens": len(said), "total_tokens": len(prompt) + len(said)}
    return JSONResponse({"choices": [choice], "usage": usage, "prompt_token_ids": prompt})


def spoken(ids: list[int]) -> str:
    return "".join(map(chr, ids))


@pytest.fixture
def two(tmp_path: Path) -> Path:
    write_questions(tmp_path / "questions.jsonl", ["Does it help?", "Does it harm?"])
    return tmp_path


async def test_tokens_are_those_of_the_record_and_prompts_those_that_the_model_read(
    two: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = lambda messages: as_vllm(messages, str(two_turns(messages)))
    done = await generate(two, scripted_model, tools_url, keep_token_ids=True)
    assert counts(done) == [2, 0, 0, 0]
    assert not done.files.tokens.exists()
    rows = rows_in(two)
    for record in read_jsonl(done.files.trajectories):
        about, text = record["metadata"], record["trajectory"]["interleaved_text"]
        own = [row for row in rows if row["sample_id"] == record["sample_id"]]
        assert [row["turn"] for row in own] == [1, 2]
        assert {row["generation_time"] for row in own} == {about["generation_time"]}
        assert text.startswith(spoken(own[0]["ids"])) and text.endswith(spoken(own[1]["ids"]))
        assert all(row["logprobs"] == [-0.25] * len(row["ids"]) and not row["repairs"] for row in own)
        asked = [json.loads(spoken(row["prompt_ids"])) for row in own]
        assert all(one in [request["messages"] for request in scripted_model.requests] for one in asked)
        for before, after in pairwise(asked):
            assert after[: len(before)] == before


async def test_without_the_flag_nothing_is_asked_for_and_nothing_kept(
    two: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = two_turns
    await generate(two, scripted_model, tools_url)
    assert not any("logprobs" in request or "return_token_ids" in request for request in scripted_model.requests)
    assert not [path for path in two.iterdir() if "tokens" in path.name]


async def test_a_server_that_has_none_is_named_once_and_costs_nothing_else(
    two: Path, scripted_model: ScriptedModel, tools_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    scripted_model.script = two_turns
    done = await generate(two, scripted_model, tools_url, keep_token_ids=True)
    assert counts(done) == [2, 0, 0, 0]
    assert [record.message for record in caplog.records if "left out" in record.message] == [
        "tokens of a reply are left out: the server gives no token ids"
    ]
    rows = rows_in(two)
    assert [row["left_out"] for row in rows] == ["the server gives no token ids"] * 4
    assert [row["ids"] for row in rows] == [None] * 4


async def test_a_server_that_refuses_to_give_them_is_asked_without(scripted_model: ScriptedModel) -> None:
    scripted_model.replies = [JSONResponse({"error": {"message": "logprobs are not allowed"}}, 400), "hi", "again"]
    async with client(scripted_model) as chat:
        asking = ChatClient(chat, [], keep_token_ids=True)
        replies = [await asking.ask(PROMPT, 10) for _ in range(2)]
    assert [reply.text for reply in replies] == ["hi", "again"]
    assert [reply.response_metadata["tokens"] for reply in replies] == [{"left_out": REFUSED}] * 2
    assert ["logprobs" in one for one in scripted_model.requests] == [True, False, False]
    assert all(one["include_stop_str_in_output"] for one in scripted_model.requests), "what it takes is asked for"


@pytest.mark.parametrize("status", [302, 401, 404, 413])
async def test_what_is_no_refusal_of_tokens_is_asked_once(scripted_model: ScriptedModel, status: int) -> None:
    scripted_model.replies = [JSONResponse({"error": {"message": "no"}}, status, {"location": "http://127.0.0.1:9"})]
    async with client(scripted_model) as chat:
        with pytest.raises(ModelError):
            await ChatClient(chat, [], keep_token_ids=True).ask(PROMPT, 10)
    assert len(scripted_model.requests) == 1


async def test_a_key_that_may_ask_but_not_for_tokens_is_asked_without_and_one_that_may_not_ask_is_denied(
    scripted_model: ScriptedModel,
) -> None:
    denied = JSONResponse({"error": {"message": "forbidden"}}, 403)
    async with client(scripted_model) as chat:
        asking = ChatClient(chat, [], keep_token_ids=True)
        scripted_model.replies = [denied, denied]
        with pytest.raises(Unauthorized):
            await asking.ask(PROMPT, 10)
        scripted_model.replies = [denied, "hi", "again"]
        assert [(await asking.ask(PROMPT, 10)).text for _ in range(2)] == ["hi", "again"]
    assert ["logprobs" in one for one in scripted_model.requests] == [True, False, True, False, False]


async def test_a_server_that_refuses_in_every_way_is_quoted_on_the_plainest_request(
    scripted_model: ScriptedModel,
) -> None:
    said = ["logprobs are not allowed", "extra fields are not allowed", "no such role"]
    scripted_model.replies = [JSONResponse({"error": {"message": one}}, 400) for one in said]
    async with client(scripted_model) as chat:
        with pytest.raises(BadRequest, match="no such role"):
            await ChatClient(chat, [], keep_token_ids=True).ask(PROMPT, 10)


async def test_one_request_that_is_refused_takes_no_tokens_from_the_others(scripted_model: ScriptedModel) -> None:
    released = list[bool]()

    async def late() -> AsyncIterator[bytes]:
        while not released:
            await asyncio.sleep(0.01)
        yield bytes(completion({"content": "late"}).body)

    def script(messages: list[dict[str, Any]]) -> Reply:
        body = scripted_model.requests[-1]
        if "odd" not in messages[-1]["content"]:
            return as_vllm(messages, "hi")
        if "logprobs" in body:
            return JSONResponse({"error": {"message": "no"}}, 400)
        return StreamingResponse(late(), media_type="application/json")

    scripted_model.script = script
    async with client(scripted_model) as chat:
        asking = ChatClient(chat, [], keep_token_ids=True)
        odd = asyncio.create_task(asking.ask([{"role": "user", "content": "odd"}], 10))
        while len(scripted_model.requests) < 2:
            await asyncio.sleep(0.01)
        replies = [await asking.ask(PROMPT, 10)]
        released.append(True)
        assert (await odd).text == "late"
        replies.append(await asking.ask(PROMPT, 10))
    assert all("ids" in reply.response_metadata["tokens"] for reply in replies)


async def test_a_server_that_is_busy_when_it_is_asked_without_is_busy_and_refuses_nothing(
    scripted_model: ScriptedModel,
) -> None:
    refused = JSONResponse({"error": {"message": "logprobs are not allowed"}}, 403)
    scripted_model.replies = [refused, JSONResponse({"error": {"message": "busy"}}, 429), "hi"]
    async with client(scripted_model) as chat:
        asking = ChatClient(chat, [], keep_token_ids=True)
        with pytest.raises(ServerOverloaded):
            await asking.ask(PROMPT, 10)
        assert (await asking.ask(PROMPT, 10)).text == "hi"


async def test_replies_of_before_an_interruption_have_their_tokens(
    two: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    broken = [True]

    def script(messages: list[dict[str, Any]]) -> Reply:
        if broken and len(messages) > 2:
            return JSONResponse({"error": {"message": "no"}}, 400)
        return as_vllm(messages, str(two_turns(messages)))

    scripted_model.script = script
    assert counts(await generate(two, scripted_model, tools_url, keep_token_ids=True)) == [0, 0, 2, 0]
    assert rows_in(two) == []
    broken.clear()
    first = len(scripted_model.requests)
    done = await generate(two, scripted_model, tools_url, keep_token_ids=True)
    assert counts(done) == [2, 0, 0, 0]
    assert len(scripted_model.requests) == first + 2, "no first reply is asked for again"
    assert all(row["ids"] for row in rows_in(two)) and len(rows_in(two)) == 4


async def test_what_was_dropped_behind_a_call_is_in_its_tokens_and_named(
    two: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    def runs_on(messages: list[dict[str, Any]]) -> Reply:
        said = call("pubmed_search", "heart") + "\n<tool_output>made up" if len(messages) == 2 else answer()
        return as_vllm(messages, said)

    scripted_model.script = runs_on
    done = await generate(two, scripted_model, tools_url, keep_token_ids=True)
    repairs = {record["sample_id"]: record["metadata"]["repairs"] for record in read_jsonl(done.files.trajectories)}
    assert len(rows_in(two)) == 4
    for row in rows_in(two):
        assert row["repairs"] == [one["repair"] for one in repairs[row["sample_id"]] if one["turn"] == row["turn"]]
        assert ("made up" in spoken(row["ids"])) == (row["turn"] == 1) == bool(row["repairs"])


@pytest.mark.parametrize("kept_before", [True, False])
async def test_a_reply_that_was_cut_off_and_continued_has_the_tokens_of_both_pieces_or_none(
    two: Path, scripted_model: ScriptedModel, tools_url: str, kept_before: bool
) -> None:
    scripted_model.owned_by, scripted_model.max_model_len = "vllm", 32_768
    first = "<think>I know.</think>\n<answer>It"

    def in_two(messages: list[dict[str, Any]]) -> Reply:
        if not scripted_model.requests[-1].get("continue_final_message"):
            return as_vllm(messages, first, finish_reason="length")
        if broken:
            return JSONResponse({"error": {"message": "no"}}, 500)
        asked = [ord(one) for one in json.dumps(messages[:-1]) + first]
        said = json.loads(bytes(as_vllm(messages, " helps.</answer>").body))
        said["prompt_token_ids"], said["usage"]["prompt_tokens"] = asked, len(asked)
        return JSONResponse(said)

    broken = [not kept_before]
    scripted_model.script = in_two
    if broken[0]:
        assert counts(await generate(two, scripted_model, tools_url)) == [0, 0, 2, 0]
    broken.clear()
    done = await generate(two, scripted_model, tools_url, keep_token_ids=True)
    assert counts(done)[0] == 2
    assert len(rows_in(two)) == 2
    for row in rows_in(two):
        assert (row["left_out"] is None) == kept_before
        if not kept_before:
            continue
        assert spoken(row["ids"]) == f"{first} helps.</answer>"
        assert len(row["logprobs"]) == len(row["ids"])


def test_a_run_that_was_killed_at_its_very_end_gets_its_rows_by_the_same_command_and_nobody_reads_the_rest(
    two: Path, model_url: str, tools_url: str
) -> None:
    words = [*generate_command(two, model_url, tools_url), "--keep-token-ids"]
    assert trajgraph(*words).returncode == 0
    (made,) = (two / "out").glob("*_tokens_part00001.parquet")
    spool = made.with_name(made.name.replace("_part00001.parquet", ".jsonl"))
    for left in (spool, part_at(spool, 3)):
        left.write_bytes(encoded(line(7)) + b"\n")
        audit = json.loads(trajgraph("audit", two / "out", "--json").stdout)
        assert [one["rows"] for one in audit] == [2], audit
        done = trajgraph(*words)
        assert done.returncode == 0 and "already complete" in done.stderr
        assert not left.exists() and not spool.exists()
    assert [row["sample_id"] for row in rows_in(two / "out")].count(line(7)["sample_id"]) == 2


async def test_a_run_that_goes_on_without_keeping_tokens_says_so(
    two: Path, scripted_model: ScriptedModel, tools_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    scripted_model.script = two_turns
    await generate(two, scripted_model, tools_url, keep_token_ids=True, limit=1)
    await generate(two, scripted_model, tools_url)
    assert any("those to come are not" in record.message for record in caplog.records)


async def test_a_sample_whose_record_was_lost_has_rows_of_both_times_and_its_record_says_which(
    two: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    scripted_model.script = lambda messages: as_vllm(messages, str(two_turns(messages)))
    done = await generate(two, scripted_model, tools_url, keep_token_ids=True)
    first, _ = done.files.trajectories.read_bytes().splitlines(keepends=True)
    done.files.trajectories.write_bytes(first)  # as if the process had been killed between the tokens and the record
    done.files.index.unlink()
    done = await generate(two, scripted_model, tools_url, keep_token_ids=True)
    assert counts(done) == [2, 0, 0, 0]
    assert len(rows_in(two)) == 6
    for record in read_jsonl(done.files.trajectories):
        key = record["sample_id"], record["metadata"]["generation_time"]
        assert [row["turn"] for row in rows_in(two) if (row["sample_id"], row["generation_time"]) == key] == [1, 2]
