"""The loop with a real server and a real model: what was seen is what is stored."""

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from tests.real.conftest import QUESTIONS, RealRun
from tests.real.parts import llama, tools_for
from tests.support.runs import trajgraph_process, write_questions

Messages = list[dict[str, Any]]


def test_every_question_ends_accepted(real_run: RealRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert len({row["question"] for row in real_run.accepted}) == len(real_run.accepted) == QUESTIONS
    cited = [cite for row in real_run.accepted for cite in cited_sentences(row)]
    with capsys.disabled():
        rejected, standing = len(real_run.records) - QUESTIONS, sum(stands for _, stands in cited)
        print(f"\naccepted {QUESTIONS} of {QUESTIONS} questions, {rejected} samples rejected")
        print(f"cited sentences that stand in the cited snippet: {standing} of {len(cited)}")


def cited_sentences(row: dict[str, Any]) -> list[tuple[str, bool]]:
    """Each cited sentence of an answer, and whether it stands in the cited snippet."""
    text = row["trajectory"]["interleaved_text"]
    shown = dict(re.findall(r'<snippet id="(\d+)">(.*?)</snippet>', text, re.DOTALL))
    cites = re.findall(r'<cite id="(\d+)">(.*?)</cite>', row["trajectory"]["final_answer"], re.DOTALL)
    return [(sentence, sentence in shown.get(identity, "")) for identity, sentence in cites]


def chains(run: RealRun) -> list[list[tuple[Messages, str]]]:
    """The requests of each sample, in order: the messages, and the reply as it came."""
    by_sample: dict[tuple[str, object], list[tuple[Messages, str]]] = {}
    for asked, said in run.seen:
        messages, message = asked["messages"], said["choices"][0]["message"]
        if messages[0]["role"] == "system":  # else it was only asked whether it is there
            text = (message.get("reasoning_content") or "") + (message.get("content") or "")
            by_sample.setdefault((messages[1]["content"], asked.get("seed")), []).append((messages, text))
    return list(by_sample.values())


def bare(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_each_prompt_and_its_reply_begin_the_next_prompt(
    real_run: RealRun, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((model_folder / "hf" / "chat_template.jinja").read_text(encoding="utf-8"))
    pairs = 0
    for chain in chains(real_run):
        for (before, reply), (after, _) in pairwise(chain):
            if after == before:  # asked again
                continue
            assert after[: len(before)] == before
            rendered = template.render(messages=before, add_generation_prompt=True)
            following = template.render(messages=after, add_generation_prompt=False)
            assert following.startswith(rendered.removesuffix("<think>\n"))
            kept = after[len(before)]["content"]
            assert bare(kept).startswith(bare(reply).removesuffix("</call_tool>")[:60])
            pairs += 1
    with capsys.disabled():
        print(f"\nprompt and reply are the beginning of the next prompt: {pairs} of {pairs} requests")
    assert pairs > QUESTIONS


def test_what_is_stored_is_what_was_asked_and_said(real_run: RealRun) -> None:
    last = {(chain[-1][0][1]["content"]): chain[-1] for chain in chains(real_run)}
    checked = 0
    for row in real_run.accepted:
        messages, reply = last[row["question"]]
        text = row["trajectory"]["interleaved_text"]
        told = [message["content"] for message in messages[2:]]
        if row["metadata"]["nudges"] or row["metadata"]["reminders"]:
            continue
        assert text.startswith("\n".join(told))
        assert bare(text).endswith(bare(reply)) or row["metadata"]["repairs"]
        checked += 1
    assert checked >= QUESTIONS // 2


def test_tokens_as_the_server_made_them_are_the_text_of_the_record(
    real_run: RealRun, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = Tokenizer.from_file(str(model_folder / "hf" / "tokenizer.json"))
    rows = [row for part in real_run.folder.glob("*.parquet") for row in pyarrow.parquet.read_table(part).to_pylist()]
    records = {(row["sample_id"], row["metadata"]["generation_time"]): row for row in real_run.records}
    kept = [row for row in rows if row["left_out"] is None]
    for row in kept:
        record = records[row["sample_id"], row["generation_time"]]
        text = tokenizer.decode(row["ids"], skip_special_tokens=True)
        assert row["repairs"] or bare(text) in bare(record["trajectory"]["interleaved_text"])
        assert len(row["logprobs"]) == len(row["ids"]) and all(one is None or one <= 0 for one in row["logprobs"])
        assert row["logprobs"].count(None) <= len(tokenizer.encode("</call_tool>").ids) + 1
    assert len(rows) == sum(row["metadata"]["turns"] for row in real_run.records)
    with capsys.disabled():
        print(f"\ntoken ids of {len(kept)} of {len(rows)} replies are kept: {Counter(r['left_out'] for r in rows)}")
    assert len(kept) > 0.9 * len(rows)


def test_a_context_that_is_too_small_is_known_and_fails_no_question(model_folder: Path, tmp_path: Path) -> None:
    questions = write_questions(
        tmp_path / "questions.jsonl", ["Does proukiotraevir reduce bleeding in chiafoparosis?"] * 4
    )
    lines = [line.replace('"expected_search_terms": []', '"expected_search_terms": ["proukiotraevir", "chiafoparosis"]')
             for line in questions.read_text(encoding="utf-8").splitlines(keepends=True)]  # fmt: skip
    questions.write_text("".join(lines).replace('"topic": "t"', '"topic": "chiafoparosis"'), encoding="utf-8")
    with llama(slots=1, context=1536) as model, tools_for(questions, tmp_path) as tools:
        done = trajgraph_process(
            "generate", "--questions-file", questions, "--output", tmp_path / "out", "--model-name", "Qwen3-8B",
            "--local-model-url", model, "--mcp-url", tools, "--max-tokens", 256, "--concurrency", 4,
        )  # fmt: skip
    assert " 0 failed, 0 pending" in done.stdout, done.stderr
    assert "is down" not in done.stderr
