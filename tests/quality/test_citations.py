"""Citations lead to their very snippet, and say which of their numbers do not stand there."""

import pytest

from quality.gates import parse_trajectory
from quality.numbers import held_in, missing_from, said_in
from tests.support.trajectories import record, sound


def test_a_citation_leads_to_its_call_and_place_and_says_which_numbers_are_not_there() -> None:
    segments = sound(5)
    segments[7] = (
        '<answer><cite id="2005">ratio 0.74, 95% CI 0.65</cite> <cite id="PMID: 3005">4744 patients</cite> '
        '<cite id=9>none</cite></answer>'
    )  # fmt: skip
    first, second, third = parse_trajectory(record(5, segments)).cited
    assert (first.verdict, first.call, first.place, first.numbers_missing) == ("grounded", 1, 2, ("95%", "0.65"))
    assert (second.paper_id, second.call, second.place, second.numbers_missing) == ("3005", 2, 1, ())
    assert (third.paper_id, third.verdict, third.call) == ("9", "never_retrieved", 0)


def test_the_numbers_of_a_cited_sentence_are_looked_for_in_what_is_cited_behind_it() -> None:
    segments = sound(5)
    segments[7] = (
        "<answer>Nothing is cited for 12%. The ratio was 0.74 in 4,744 patients, not 0.99. "
        '<cite id="1005">hazard ratio</cite>, <cite id="3005">P of 0.002</cite>\nTwice 8 [<cite id="2005">x</cite>].</answer>'
    )
    first, second, third = parse_trajectory(record(5, segments)).cited
    assert (first.numbers, first.numbers_missing) == (("0.74", "4,744", "0.99"), ("0.99",))
    assert second.numbers_missing == ("0.99", "0.002")
    assert third.numbers_missing == ("8",)


def test_an_id_may_be_written_in_many_ways_and_counts_once() -> None:
    for written in (
        "[1001]",
        "1001.",
        "#1001",
        "pubmed:1001",
        "https://pubmed.ncbi.nlm.nih.gov/1001/",
        "“1001”",
        "1001/3001",
        "1001 and 3001",
        "1001 3001",
        "1001|3001",
        "PMID: 1001; PMID 3001",
        "1001, 1001, 1001",
    ):
        segments = [*sound(1)[:7], f'<answer>It helps. <cite id="{written}">hazard ratio 0.740</cite></answer>']
        cited = parse_trajectory(record(1, segments)).cited
        assert {citation.verdict for citation in cited} == {"grounded"}, written
        assert len(cited) == len({citation.paper_id for citation in cited})
        assert not any(citation.numbers_missing for citation in cited)


THERE = [
    ("P of .74", "P = 0.740"), ("hazard ratio 0·74", "HR .74"), ("4,744 patients", "4744 patients"), ("12\u202f345", "12,345 in all"), ("12 345", "12,345 in all"),
    ("twelve weeks", "12 weeks"), ("twenty-four hours", "24 hours"), ("10 mg q12h", "every 12 hours"), ("5, 10 and 15 mg", "5,10,15 mg"),
    ("COVID\u201119", "COVID\u201119 in IL-6, SGLT2 and H1N1"), ("a trial", "a phase 3 trial of type 2 diabetes, grade III–4"), ("it helps", "it helps (1) [2, 3]"),
    ("aged 65–85", "65 to 85 years"), ("0,74", "0.74"), ("half of them", "50%"), ("a 95% CI", "95 % of them"), ("in 2019 345 died", "345 in 2019"),
]  # fmt: skip
NOT_THERE = [
    ("0.74", "0.47", ["0.47"]), ("12%", "21% and 12", ["21%"]), ("phase 3 of 40", "phase 3 of 41", ["41"]), ("1,234", "1,235", ["1,235"]),
    ("5 mg", "5,10 mg", ["10"]), ("10", ".1", [".1"]), ("100", "10", ["10"]),
]  # fmt: skip


@pytest.mark.parametrize(("source", "claim"), THERE)
def test_a_number_is_found_however_it_is_written(source: str, claim: str) -> None:
    assert [number for number in said_in(claim) if missing_from([held_in(source)], number)] == []


@pytest.mark.parametrize(("source", "claim", "missing"), NOT_THERE)
def test_a_number_that_is_another_is_missing(source: str, claim: str, missing: list[str]) -> None:
    assert [number for number in said_in(claim) if missing_from([held_in(source)], number)] == missing


def test_a_number_may_stand_in_an_earlier_result_of_the_same_paper_or_on_its_page_and_an_id_is_no_number() -> None:
    call, again = '<call_tool name="pubmed_search">a</call_tool>', '<call_tool name="pubmed_search">b</call_tool>'
    row = record(1, [
        "<think>So.</think>", call, '<tool_output><snippet id="31535829">Title: T. 4744 patients</snippet></tool_output>',
        again, '<tool_output><snippet id="31535829">Title: T</snippet></tool_output>',
        '<call_tool name="browse_webpage">https://pubmed.ncbi.nlm.nih.gov/31535829/</call_tool>', "<tool_output><webpage>ratio 0.74</webpage></tool_output>",
        '<answer>PMID 31535829 (31535829) says 0.74 of 4,744, not 99: <cite id="31535829">so</cite>.</answer>',
    ])  # fmt: skip
    (cited,) = parse_trajectory(row).cited
    assert (cited.call, cited.numbers_missing) == (2, ("99",))
