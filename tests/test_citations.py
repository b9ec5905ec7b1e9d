"""Citations lead to their very snippet, and say which of their numbers do not stand there."""

from serializers.gates import taken_apart
from tests.test_gates import record, sound


def test_a_citation_leads_to_its_call_and_place_and_says_which_numbers_are_not_there() -> None:
    pieces = sound(5)
    pieces[7] = (
        '<answer><cite id="2005">ratio 0.74, 95% CI 0.65</cite> <cite id="PMID: 3005">4744 patients</cite> '
        '<cite id=9>none</cite></answer>'
    )  # fmt: skip
    first, second, third = taken_apart(record(5, pieces)).cited
    assert (first.verdict, first.call, first.place, first.numbers_missing) == ("grounded", 1, 2, ("95%", "0.65"))
    assert (second.identity, second.call, second.place, second.numbers_missing) == ("3005", 2, 1, ())
    assert (third.identity, third.verdict, third.call) == ("9", "never_retrieved", 0)


def test_the_numbers_of_a_cited_sentence_are_looked_for_in_what_is_cited_behind_it() -> None:
    pieces = sound(5)
    pieces[7] = (
        "<answer>Nothing is cited for 12%. The ratio was 0.74 in 4,744 patients, not 0.99. "
        '<cite id="1005">hazard ratio</cite>, <cite id="3005">P of 0.002</cite>\nTwice 8 [<cite id="2005">x</cite>].</answer>'
    )
    first, second, third = taken_apart(record(5, pieces)).cited
    assert (first.numbers, first.numbers_missing) == (("0.74", "4,744", "0.99"), ("0.99",))
    assert second.numbers_missing == ("0.99", "0.002")
    assert third.numbers_missing == ("8",)


def test_an_id_may_be_written_in_many_ways_and_counts_once() -> None:
    for written in ("[1001]", "1001 3001", "1001|3001", "PMID: 1001; PMID 3001", "1001, 1001, 1001"):
        pieces = [*sound(1)[:7], f'<answer>It helps. <cite id="{written}">hazard ratio 0.740</cite></answer>']
        cited = taken_apart(record(1, pieces)).cited
        assert {citation.verdict for citation in cited} == {"grounded"}, written
        assert len(cited) == len({citation.identity for citation in cited})
        assert not any(citation.numbers_missing for citation in cited)
