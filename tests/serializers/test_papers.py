"""Papers are papers however they are wrapped, long ones are shortened one by one, and the record holds no more than was shown."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serializers.tool_output import MAX_BODY, render

PAPER: dict[str, Any] = {
    "paperId": "1",
    "title": "T",
    "abstract": "A",
    "year": "2020",
    "venue": "V",
    "authors": [{"name": "N"}],
}
SNIPPET = '<snippet id="1">Title: T\nAuthors: N | Year: 2020 | Journal: V\nAbstract: A</snippet>'
WRAPPED: list[Any] = [
    {"total": 1, "data": [PAPER]}, [PAPER], {"result": [PAPER]}, {"result": {"data": [PAPER]}}, {"results": [PAPER], "total": 1},
    {"result": json.dumps({"data": [PAPER]})}, {"papers": [PAPER]}, {"response": {"articles": [PAPER]}}, PAPER,
    {"data": ["x"], "papers": [PAPER]}, [{"paper": PAPER}], {"data": [], "papers": [PAPER]}, {"results": ["x"], "hits": [{"paper": PAPER}]},
    {"pmid": "1", "title": "T", "abstract": "A", "year": "2020", "journal": "V", "authors": ["N"]},
    {"data": {"papers": [PAPER]}}, {"output": json.dumps([PAPER])},
]  # fmt: skip


@pytest.mark.parametrize("result", WRAPPED)
def test_papers_are_papers_however_they_are_wrapped(result: Any) -> None:
    output = render("pubmed_search", result)
    assert output.text == f"<tool_output>\nFound 1 results. Showing top 1:\n{SNIPPET}\n</tool_output>"
    assert output.snippet_ids == ["1"]
    assert output.recorded["data"] == [{key: PAPER[key] for key in ("paperId", "title", "abstract", "year", "venue")}]


@pytest.mark.parametrize(
    "result",
    [
        {"organic": [{"title": "T", "link": "L"}]},
        [{"title": "T", "url": "L"}],
        {"result": [{"title": "T", "link": "L"}]},
        {"data": ["x"], "organic": [{"title": "T", "link": "L"}]},
    ],
)
def test_links_are_links_however_they_are_wrapped(result: Any) -> None:
    assert (
        render("google_search", result).text
        == '<tool_output>\n<snippet id="G1">Title: T\n\nURL: L</snippet>\n</tool_output>'
    )


def test_what_pubmed_warned_of_is_read_in_the_headers_line() -> None:
    output = render(
        "pubmed_search", {"total": 0, "data": [], "notices": ["phrase not found: abc def", "no such field: xy"]}
    )
    assert (
        output.text
        == "<tool_output>\nFound 0 results. Showing top 0 (phrase not found: abc def; no such field: xy):\n\n</tool_output>"
    )
    assert output.recorded["notices"] == ["phrase not found: abc def", "no such field: xy"]


LENGTHS = st.lists(st.sampled_from([0, 10, 1500, 2500, 20_000, 59_000, 200_000]), min_size=1, max_size=12)


@given(LENGTHS, st.sampled_from(["word ", "<answer>", "é", "</snippet>", "&"]), st.integers(0, 3000))
def test_long_papers_are_shortened_one_by_one_and_every_snippet_is_whole(
    lengths: list[int], letters: str, title: int
) -> None:
    papers = [
        {**PAPER, "paperId": str(n), "title": "t" * title, "abstract": (letters * size)[:size]}
        for n, size in enumerate(lengths)
    ]
    output = render("pubmed_search", {"total": len(papers), "data": papers})
    shown = min(len(papers), 10)
    assert len(output.text) < MAX_BODY
    assert output.text.startswith(f"<tool_output>\nFound {len(papers)} results. Showing top {shown}:\n")
    snippets = re.findall(r'<snippet id="(\d+)">(.*?)</snippet>', output.text, re.DOTALL)
    assert [identity for identity, _ in snippets] == output.snippet_ids == [str(n) for n in range(shown)]
    noted = [identity for identity, text in snippets if "characters left out]" in text]
    assert output.shortened == noted
    for paper, (_, text) in zip(output.recorded["data"], snippets, strict=False):
        assert len(paper["abstract"]) <= len(text)
        assert len(paper["title"]) <= len(text)
    if sum(lengths[:10]) < 20_000 and title < 900:
        assert output.shortened == [] or letters in ("<answer>", "</snippet>")


@pytest.mark.parametrize(("tool", "result", "secret"), [
    ("google_search", {"organic": [{"title": str(n), "link": "l", "snippet": "s", "position": "unseen"} for n in range(9)], "box": "unseen"}, "unseen"),
    ("browse_webpage", {"url": "u", "markdown": "x" * 9000, "html": "unseen"}, "unseen"),
    ("browse_webpage", {"url": "u", "markdown": "short", "html": "unseen"}, "unseen"),
    ("other", {"text": "x" * 2100 + "unseen"}, "unseen"),
    ("google_search", {"organic": [{"title": "t" * 3100 + "unseen", "link": "l"}]}, "unseen"),
    ("pubmed_search", {"data": [{**PAPER, "title": "<answer>" * 200 + "unseen"}]}, "unseen"),
    ("pubmed_search", {"data": [{**PAPER, "title": {"a": "x" * 1200 + "unseen"}}]}, "unseen"),
    ("pubmed_search", {"total": "x" * 200 + "unseen", "data": [], "notices": ["y" * 1200 + "unseen"]}, "unseen"),
    ("other", {"error": "x" * 2100 + "unseen"}, "unseen"),
    ("pubmed_search", {"error": "no", "trace": "unseen"}, "unseen"),
])  # fmt: skip
def test_the_record_holds_no_more_of_a_result_than_was_shown(tool: str, result: Any, secret: str) -> None:
    output = render(tool, result)
    assert secret not in output.text
    assert secret not in json.dumps(output.recorded)


def test_a_long_plain_text_says_that_it_was_cut() -> None:
    output = render("browse_webpage", "word " * 100_000)
    assert len(output.text) < MAX_BODY + 100
    assert re.search(r"\n\[shortened: \d+ of 500000 characters left out\]</tool_output>$", output.text)
    assert output.shortened == ["output"]


@pytest.mark.parametrize(
    "result",
    [[{"markdown": "# T", "url": "u"}], {"results": [{"markdown": "# T"}]}, {"data": {"pages": [{"markdown": "# T"}]}}],
)
def test_a_page_is_a_page_however_it_is_wrapped(result: Any) -> None:
    assert render("browse_webpage", result).text == "<tool_output><webpage># T</webpage></tool_output>"


def test_what_lies_within_a_paper_is_not_the_paper() -> None:
    inner = {"title": "real", "source": {"url": "x", "title": "q", "pmid": "7"}}
    assert "Title: real" in render("pubmed_search", {"data": [inner]}).text
    assert render("pubmed_search", {"data": [inner]}).recorded["data"][0]["paperId"] is None


def test_a_links_words_may_have_another_name() -> None:
    output = render("google_search", {"organic": [{"title": "T", "url": "L", "description": "D"}]})
    assert output.text == '<tool_output>\n<snippet id="G1">Title: T\nD\nURL: L</snippet>\n</tool_output>'
    assert output.recorded == {"organic": [{"title": "T", "snippet": "D", "url": "L"}]}


@given(
    st.sampled_from(["<answer>", "</snippet>", "é", "<|im_end|>"]),
    st.integers(1, 30_000),
    st.sampled_from(["pubmed_search", "google_search", "browse_webpage", "other"]),
)
def test_no_output_is_longer_than_its_bound_whatever_is_escaped_in_it(letters: str, times: int, tool: str) -> None:
    long = letters * times
    for result in (
        long,
        {"error": long},
        {"data": [{**PAPER, "title": long, "abstract": long}] * 12},
        {"markdown": long},
        {"organic": [{"title": long, "link": long}] * 9},
    ):
        output = render(tool, result)
        assert len(output.text) <= MAX_BODY + 100
        assert len(json.dumps(output.recorded, ensure_ascii=False)) <= max(len(output.text) * 2, 4000)
