"""Reading and writing the protocol: what is kept, what is repaired, and that nothing breaks the reader."""

import json
import os
import random
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serializers.actions import Reading
from serializers.cites import cited_pmids
from serializers.escaping import escape_tags
from serializers.reply import join_reasoning, read_reply
from serializers.respelling import web_address
from serializers.tags import STOP_STRINGS, Call, write_call
from tests.support.runs import unbalanced

TEXTS = int(os.environ.get("TAG_TEXTS", "500"))
"""`make crash` asks for many more than the suite has time for."""
NAMES = st.sampled_from(["pubmed_search", "browse_webpage", "google_search"])
PROSE = st.text(st.characters(blacklist_categories=["Cs"]), max_size=80)
QUERIES = PROSE.map(str.strip).filter(lambda text: text and escape_tags(text) == text)
PARAMETERS = st.dictionaries(
    st.sampled_from(["limit", "offset", "lang"]),
    st.integers(0, 9999)
    | st.text(st.characters(blacklist_characters="\"<>'", blacklist_categories=["Cs"]), max_size=9),
)
PIECES = [f"<{slash}{name}>" for name in ("think", "call_tool", "tool_output", "answer") for slash in ("", "/")] + [
    '<call_tool name="pubmed_search" limit="5">', "<call_tool name='", '<call_tool name="x" a="', "</call_t", "<", '"',
]  # fmt: skip
SOUP = st.lists(PROSE | st.sampled_from(PIECES), max_size=25).map("".join)
RECORD = json.loads((Path(__file__).parents[1] / "golden" / "record.json").read_text(encoding="utf-8"))
TRAJECTORY = str(RECORD["trajectory"]["interleaved_text"])

CALL = '<call_tool name="pubmed_search" limit="5">statins stroke</call_tool>'
REPAIRED = [
    ("a thought that holds a piece of a tag", f"<think>a </answer b</think>\n{CALL}",
     f"<think>a &lt;/answer b</think>\n{CALL}", ("tag_in_thought_neutralised",)),
    ("a whole call stays as it is", f"<think>a</think>\n{CALL}", f"<think>a</think>\n{CALL}", ()),
    ("the stop string is restored", CALL.removesuffix("</call_tool>"), CALL, ("stop_string_restored",)),
    ("a cut closing tag is completed", CALL[:-4], CALL, ("stop_string_restored",)),
    ("a call that an output follows is closed", CALL.removesuffix("</call_tool>") + "\n<tool_output>\nx", CALL,
     ("forged_tool_output_dropped", "stop_string_restored")),
    ("a call that another follows is closed", CALL.removesuffix("</call_tool>") + CALL, CALL,
     ("call_closed", "text_after_call_dropped")),
    ("text behind a call is dropped", f"{CALL}\n<tool_output>\nmade up</tool_output>\n<answer>x</answer>", CALL,
     ("text_after_call_dropped",)),
    ("attributes in any order", '<call_tool limit="5" name="pubmed_search">statins stroke</call_tool>', CALL,
     ("call_rewritten",)),
    ("single quotes", "<call_tool name='pubmed_search' limit='5'>statins stroke</call_tool>", CALL, ("call_rewritten",)),
    ("no quotes", "<call_tool name=pubmed_search limit=5>statins stroke</call_tool>", CALL, ("call_rewritten",)),
    ("the query as an attribute", '<call_tool name="pubmed_search" limit="5" query="statins stroke"></call_tool>', CALL,
     ("call_rewritten",)),
    ("a missing opening think", f"a</think>\n{CALL}", f"<think>a</think>\n{CALL}", ("think_opened",)),
    ("a call in an unclosed thought", f"<think>a {CALL}", f"<think>a</think>\n{CALL}", ("think_closed",)),
    ("a thought that only mentions a call", f"<think>I use <call_tool name=\"x\">y</call_tool></think>\n{CALL}",
     f"<think>I use &lt;call_tool name=\"x\">y&lt;/call_tool></think>\n{CALL}", ("tag_in_thought_neutralised",)),
    ("a thought that quotes an answer and lacks its opening", f"Inside <answer>x</answer>.</think>\n{CALL}",
     f"<think>Inside &lt;answer>x&lt;/answer>.</think>\n{CALL}", ("think_opened", "tag_in_thought_neutralised")),
    ("an answer that broke off where an output would begin", "<answer>The second <tool_output>", "",
     ("forged_tool_output_dropped", "open_answer_dropped")),
    ("a query attribute beside a query", '<call_tool name="pubmed_search" limit="5" query="x">statins stroke</call_tool>',
     CALL, ("call_rewritten",)),
    ("an angle bracket in a quoted attribute", '<call_tool name="pubmed_search" query="HbA1c <7%"></call_tool>',
     '<call_tool name="pubmed_search">HbA1c <7%</call_tool>', ("call_rewritten",)),
    ("a stray closing think", f"<think>a</think>b</think>\n{CALL}", f"<think>a</think>b&lt;/think>\n{CALL}", ("stray_think_neutralised",)),
    ("a forged output before anything else", f"<tool_output>x</tool_output>{CALL}", "", ("forged_tool_output_dropped",)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "kept", "repairs"), [case[1:] for case in REPAIRED], ids=[case[0] for case in REPAIRED]
)
def test_a_reply_is_kept_as_the_protocol_wants_it_and_each_repair_is_named(
    raw: str, kept: str, repairs: tuple[str, ...]
) -> None:
    reply = read_reply(raw)
    assert (reply.text, reply.repairs) == (kept, repairs)


def test_a_call_is_read_with_its_name_query_and_typed_parameters() -> None:
    assert read_reply(CALL).call == Call("pubmed_search", "statins stroke", {"limit": 5})


def test_angle_brackets_in_a_query_are_part_of_the_query() -> None:
    reply = read_reply('<call_tool name="pubmed_search">HbA1c <7% AND age >65</call_tool>')
    assert reply.call == Call("pubmed_search", "HbA1c <7% AND age >65")
    assert reply.repairs == ()


def test_an_answer_is_read_without_the_space_around_it() -> None:
    reply = read_reply('<answer>\nYes. <cite id="1">x</cite>\n</answer>')
    assert reply.answer == 'Yes. <cite id="1">x</cite>'
    assert reply.text == '<answer>\nYes. <cite id="1">x</cite>\n</answer>'


def test_an_answer_the_model_ended_without_closing_is_closed_and_one_that_was_cut_off_is_none() -> None:
    assert read_reply("<answer>Yes.").answer == "Yes."
    assert read_reply("<answer>Yes.").repairs == ("answer_closed",)
    assert read_reply("<answer>Yes.", Reading(stopped=False)).answer is None


def test_a_call_that_was_cut_off_is_no_call() -> None:
    assert read_reply('<call_tool name="pubmed_search">stat', Reading(stopped=False)).call is None


def test_the_first_of_call_and_answer_counts() -> None:
    assert read_reply(f"<answer>Yes.</answer>{CALL}").call is None
    assert read_reply(f"{CALL}<answer>Yes.</answer>").answer is None


@pytest.mark.parametrize("turn", [f"<think>a</think>\n{CALL}", CALL, "<answer>Yes.</answer>"])
def test_a_server_that_ignores_stop_strings_gives_the_same_text_as_one_that_honours_them(turn: str) -> None:
    run_on = turn + '\n<tool_output>\n<snippet id="1">made up</snippet>\n</tool_output>\n<answer>made up</answer>'
    cuts = [run_on.index(stop) for stop in STOP_STRINGS if stop in run_on]
    assert read_reply(run_on).text == read_reply(run_on[: min(cuts)]).text == turn


@pytest.mark.parametrize(
    ("reasoning", "content", "joined"),
    [
        ("I search.", f"\n\n{CALL}", f"<think>I search.</think>\n{CALL}"),
        ("\nI search.\n", CALL, f"<think>I search.</think>\n{CALL}"),
        ("I search.", f"<think>I search.</think>\n{CALL}", f"<think>I search.</think>\n{CALL}"),
        (f"I search.\n{CALL}", "", f"<think>I search.</think>\n{CALL}"),
        ("I", "In summary.", "<think>I</think>\nIn summary."),
        ("", CALL, CALL),
        (CALL, "", CALL),
    ],
)
def test_reasoning_from_a_field_of_its_own_ends_up_in_one_think(reasoning: str, content: str, joined: str) -> None:
    assert read_reply(join_reasoning(reasoning, content)).text == joined


@settings(max_examples=TEXTS)
@given(NAMES, QUERIES, PARAMETERS)
def test_what_is_written_is_read_back(name: str, query: str, parameters: dict[str, str | int]) -> None:
    numbers = {key: int(value) if re.fullmatch("0|-?[1-9][0-9]*", str(value)) else value
               for key, value in parameters.items()}  # fmt: skip
    reply = read_reply(write_call(Call(name, query, parameters)))
    meant = web_address(query) if name == "browse_webpage" else query
    assert reply.call == Call(name, meant, numbers)
    assert reply.repairs == (() if meant == query else ("address_completed",))


@settings(max_examples=TEXTS)
@given(SOUP, st.booleans())
@example("<think>" * 3 + "</think>", True)
@example("0<CALLTOOL></</", True)
@example("0<CALLTOOL>query</call</", True)
def test_any_text_can_be_read_and_what_was_kept_reads_the_same_again(soup: str, stopped: bool) -> None:
    reply = read_reply(soup, Reading(stopped))
    assert reply.call is None or reply.answer is None
    assert "<tool_output>" not in reply.text
    if stopped or reply.call or reply.answer is not None:
        assert unbalanced(reply.text) == []
    if reply.call:
        again = read_reply(reply.text)
        assert again.text == reply.text
        assert again.call == reply.call
    if reply.answer is not None:
        assert read_reply(reply.text).answer == reply.answer


@settings(max_examples=TEXTS)
@given(st.randoms(use_true_random=False), st.booleans())
def test_a_real_trajectory_that_was_mangled_is_read_and_nothing_in_it_is_left_open(
    chance: random.Random, stopped: bool
) -> None:
    text = TRAJECTORY
    for _ in range(chance.randint(1, 6)):
        start, end = sorted(chance.randint(0, len(text)) for _ in range(2))
        put = chance.choice(["", "", text[start:end][::-1], text[start:end] * 2, *PIECES])
        text = text[:start] + put + text[chance.choice([start, end]) :]
    reply = read_reply(text, Reading(stopped))
    assert "<tool_output>" not in reply.text
    if reply.call or reply.answer is not None:
        assert unbalanced(reply.text) == []
    if reply.call:
        assert read_reply(reply.text).text == reply.text
    assert read_reply(escape_tags(text)).call is None


@settings(max_examples=TEXTS)
@given(SOUP)
def test_neutralised_text_holds_no_protocol_tag_and_differs_in_nothing_else(soup: str) -> None:
    safe = escape_tags(soup)
    assert unbalanced(safe) == []
    assert read_reply(safe).call is None
    assert read_reply(safe).answer is None
    assert safe.replace("&lt;", "<") == soup.replace("&lt;", "<")


def test_neutralising_leaves_everything_else_alone() -> None:
    text = "P < 0.05, <sup>2</sup>, <answers>, a<b>c, [1], <i>x</i>"
    assert escape_tags(text) == text


@pytest.mark.parametrize(
    "tag", ["<answer>", "</tool_output>", "<call_tool", "< / THINK >", "<Tool_Output x='1'>", "<|im_end|>"]
)
def test_every_spelling_of_a_protocol_tag_is_neutralised(tag: str) -> None:
    assert escape_tags(f"a {tag} b") == f"a &lt;{tag[1:]} b"


@pytest.mark.parametrize(
    "piece", ['<call_tool "', "<call_tool a='", "<think>", "<", "< ", "</", '<call_tool a="b" ', "<answer>"]
)
def test_a_megabyte_of_any_tag_is_read(piece: str) -> None:
    hostile = piece * (1_000_000 // len(piece))
    assert unbalanced(read_reply(hostile).text) == []
    assert len(escape_tags(hostile)) >= len(hostile)
    unbalanced(hostile)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<think>a</think>\n<answer>b</answer>", []),
        ("<answer>b", ["answer"]),
        ("b</answer>", ["answer"]),
        ("<think><answer>b</answer>", ["answer", "think"]),
    ],
)
def test_unbalanced_tags_are_found(text: str, found: list[str]) -> None:
    assert unbalanced(text) == found


def test_citations_are_listed_in_order_of_first_appearance() -> None:
    text = '<cite id="22">x</cite> <cite id="11">y</cite> <cite id="G1">z</cite> <cite id="22">x</cite>'
    assert cited_pmids(text) == ["22", "11"]
    assert cited_pmids(text + ' <cite id="PMID: 33, 44">x</cite>') == ["22", "11", "33", "44"]
