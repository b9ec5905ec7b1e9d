"""The bundled servers: a demo model with vLLM's manners, and a corpus that answers like PubMed."""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from batch.questions import check_questions
from servers.demo_model.policy import keywords, reply
from servers.serving import DEMO_QUESTIONS
from servers.tool_server.corpus import Corpus
from servers.tool_server.corpus_format import BUNDLED
from tests.support.runs import read_jsonl
from tests.support.servers import demo_model

CHAT: dict[str, Any] = {
    "model": "Qwen3-8B",
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "What did DAPA-HF show?"}],
}


def ask(url: str, **more: Any) -> Any:
    body = json.dumps({**CHAT, **more}).encode()
    with urlopen(Request(f"{url}/chat/completions", body, {"content-type": "application/json"})) as response:
        text = response.read().decode()
    return json.loads(text) if not more.get("stream") else text


def test_stop_strings_are_cut_or_kept_on_request_and_named(model_url: str) -> None:
    cut = ask(model_url, stop=["</call_tool>"])["choices"][0]
    kept = ask(model_url, stop=["</call_tool>"], include_stop_str_in_output=True)["choices"][0]
    assert kept["message"]["content"] == cut["message"]["content"] + "</call_tool>"
    assert (cut["finish_reason"], cut["stop_reason"]) == ("stop", "</call_tool>")


def test_without_stop_strings_it_runs_on_and_makes_up_a_result_as_real_models_do(model_url: str) -> None:
    assert "made up by the model" in ask(model_url)["choices"][0]["message"]["content"]


def test_a_reply_over_its_budget_is_cut_off_by_length(model_url: str) -> None:
    answered = ask(model_url, max_tokens=7)
    assert answered["choices"][0]["finish_reason"] == "length"
    assert answered["usage"]["completion_tokens"] == 7


def test_streaming_gives_the_same_text_and_usage(model_url: str) -> None:
    whole = ask(model_url, stop=["</call_tool>"])
    events = ask(model_url, stop=["</call_tool>"], stream=True, stream_options={"include_usage": True}).split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events if event.startswith("data: {")]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"] == whole["usage"]
    assert events[-2] == "data: [DONE]"


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_it_can_put_its_thoughts_into_a_field_of_their_own(field: str) -> None:
    with demo_model(think_in=field) as url:
        message = ask(url, stop=["</call_tool>"])["choices"][0]["message"]
    assert message[field].startswith("The question is about")
    assert message["content"].startswith("<call_tool")


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ({"model": "other"}, 404, "does not exist"),
        ({"messages": [{"role": "user", "content": "word " * 40_000}]}, 400, "maximum context length is 32768 tokens"),
        ({"messages": None}, 400, "not a chat completion request"),
    ],
)
def test_it_refuses_as_vllm_does(model_url: str, more: dict[str, Any], status: int, said: str) -> None:
    with pytest.raises(HTTPError) as caught:
        ask(model_url, **more)
    assert caught.value.code == status
    assert said in json.load(caught.value)["error"]["message"]


@pytest.fixture(scope="module")
def bundled() -> Iterator[Corpus]:
    with Corpus.bundled() as corpus:
        yield corpus


def test_it_reads_the_conversation_refines_a_search_and_cites_only_what_it_was_shown(bundled: Corpus) -> None:
    for _, row in check_questions(DEMO_QUESTIONS).stream():
        messages = [{"role": "system", "content": ""}, {"role": "user", "content": row["question"]}]
        for _turn in range(6):
            text = reply(messages)
            messages.append({"role": "assistant", "content": text})
            if "<answer>" in text:
                break
            name, query = re.findall(r'<call_tool name="(\w+)"[^>]*>(.*)</call_tool>', text)[0]
            papers = bundled.search(query, 5)["data"] if name == "pubmed_search" else []
            shown = [
                f'<snippet id="{p["paperId"]}">Title: {p["title"]}\nAuthors:\nAbstract: {p["abstract"]}</snippet>'
                for p in papers
            ]
            messages.append({"role": "tool", "content": "\n".join(shown)})
        final = messages[-1]["content"]
        cited = re.findall(r'<cite id="(\d+)">', final)
        assert cited, row["question"]
        assert all(f'<snippet id="{pmid}">' in str(messages[:-1]) for pmid in cited)


def test_keywords_are_the_questions_own_words_names_first() -> None:
    assert keywords("How does dapagliflozin compare with placebo in DAPA-HF?")[0] == "DAPA-HF"
    assert keywords("What did PMID: 31535829 show?")[0] == "31535829"


def test_the_bundled_questions_are_a_valid_questions_file() -> None:
    assert check_questions(DEMO_QUESTIONS).rows >= 12


def test_the_corpus_holds_each_paper_once_with_all_that_a_snippet_shows() -> None:
    papers = read_jsonl(BUNDLED)
    assert len({paper["paperId"] for paper in papers}) == len(papers) >= 60
    for paper in papers:
        assert re.fullmatch(r"\d{7,8}", paper["paperId"])
        assert re.fullmatch(r"(19|20)\d\d", paper["year"])
        assert paper["title"] and paper["venue"] and paper["authors"]
        assert len(paper["abstract"]) > 200


def test_a_search_answers_in_the_shape_of_the_real_one(bundled: Corpus) -> None:
    found = bundled.search("heart failure empagliflozin", limit=2)
    assert found.keys() == {"total", "offset", "next", "data"}
    assert (found["offset"], found["next"], len(found["data"])) == (0, 2, 2)
    expected = "paperId url externalIds title authors abstract year venue publicationDate citationCount"
    assert list(found["data"][0]) == expected.split()
    rest = bundled.search("heart failure empagliflozin", limit=2, offset=2)
    assert rest["offset"] == 2
    assert rest["data"][:1] != found["data"][:1]


@pytest.mark.parametrize(
    "query", ["", "   ", '"', "a AND (", "NEAR(", "*", "title:x", "-", "ä\x00", "'; DROP TABLE papers"]
)
def test_no_query_breaks_the_search(bundled: Corpus, query: str) -> None:
    assert bundled.search(query)["total"] >= 0


def test_the_tool_server_says_that_it_is_well(tools_url: str) -> None:
    with urlopen(f"{tools_url}/health") as response:
        assert response.status == 200
