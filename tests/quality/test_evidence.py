"""One judge says whether a tool failed, of a result and of the text that was read of it alike."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.cassette import open_cassette
from quality.gates import failed_gate_names, is_error, parse_trajectory
from serializers.evidence import failed, output_failed, says_nothing
from serializers.tool_output import render
from tests.support.runs import answer, call
from tests.support.servers import ScriptedModel
from tests.support.trajectories import record, record_of, sound

KEYS = st.sampled_from(
    ["error", "errors", "success", "ok", "status", "code", "data", "markdown", "organic", "message", "x"]
)
WORDS = st.sampled_from(
    [
        "",
        "Error: timeout",
        "HTTP 500 from upstream",
        "error",
        "failed",
        "ok",
        "false",
        "200",
        "404",
        "text",
        "None",
        "[Error] x",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.sampled_from([0, 1, 200, 404, 500, 1.5, -0.0, float("nan"), float("inf")]) | WORDS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8,
)  # fmt: skip
TOOLS = st.sampled_from(["pubmed_search", "browse_webpage", "google_search", "other"])


@given(TOOLS, VALUES, st.booleans())
def test_a_result_and_the_text_of_it_are_judged_alike(tool: str, value: Any, padded: bool) -> None:
    if padded and isinstance(value, dict):
        value = {**value, "html": "x" * 3000}
    body = render(tool, value).text.removeprefix("<tool_output>").removesuffix("</tool_output>")
    assert failed(value) == output_failed(body), body[:200]
    says_nothing(body)


FAILED: list[Any] = [
    {"success": False}, {"success": False, "error": ""}, {"error": {"code": 1}}, "Error: timeout", "HTTP 500 from upstream",
    {"status": "error"}, {"success": "false"}, {"ok": False}, {"isError": True}, {"status": 503}, {"statusCode": 404},
    [{"error": "x"}, {"error": "y"}], {"errors": ["x"]}, "Traceback (most recent call last):", "Failed to fetch the page",
    "429: Too Many Requests"[5:], {"success": False, "html": "x" * 3000},
]  # fmt: skip
HELD: list[Any] = [
    {"error": None, "data": []},
    {"success": True},
    "Errors of refraction",
    [],
    [{"error": "x"}, {"title": "y"}],
    {"status": "ok"},
]


@pytest.mark.parametrize("result", FAILED)
async def test_a_failure_is_one_for_the_status_the_gate_and_the_cassette(
    result: Any, scripted_model: ScriptedModel, tmp_path: Path
) -> None:
    scripted_model.replies = [call("pubmed_search", "x"), answer()]
    record = record_of("pubmed_search", result, "So.")
    assert failed(result)
    assert [is_error(piece) for piece in parse_trajectory(record).of("tool_output")] == [True]
    asked = 0

    async def ask() -> Any:
        nonlocal asked
        asked += 1
        return result

    for _ in range(2):
        async with open_cassette(tmp_path / "tape", "auto", failed) as cassette:
            await cassette.result("t", {}, ask)
    assert asked == 2, "a failure is not kept for good"


@pytest.mark.parametrize("result", HELD)
def test_what_only_looks_like_a_failure_is_none(result: Any) -> None:
    assert not failed(result)


async def test_a_failure_that_was_kept_as_a_result_is_asked_again(tmp_path: Path) -> None:
    async def ask(answers: list[Any]) -> Any:
        return answers.pop(0)

    answers = ["Error: timeout", {"total": 1}]
    async with open_cassette(tmp_path / "tape", "auto", lambda _: False) as cassette:
        assert await cassette.result("t", {}, lambda: ask(answers)) == ("Error: timeout", False)
    async with open_cassette(tmp_path / "tape", "auto", failed) as cassette:
        assert await cassette.result("t", {}, lambda: ask(answers)) == ({"total": 1}, False)


SAYS_SOMETHING = [
    "No difference in mortality was found between groups (HR 0.98, P = 0.7). The trial was large.",
    "Dapagliflozin 10 mg once daily.", '{"answer": "yes"}', "<webpage># Trial\n\nPatients were not found to differ in outcome.</webpage>",
    '\nFound 1 results. Showing top 1:\n<snippet id="1">Title: T\nAuthors:  | Year: N/A | Journal: N/A\nAbstract: No abstract</snippet>\n',
    "No trials found a benefit of the drug.", "No data were available for mortality; the trial went on. Of 340, 12 died.",
    "<webpage># X-ray identification of fractures. Redirecting blood flow; patients under maintenance therapy confirm that they are well.</webpage>",
    "<webpage>We use cookies.\n\n# Trial\n\n" + "Dapagliflozin lowered the risk. " * 20 + "</webpage>", "In 500 patients no bad errors of 404 pages of notes.",
    '{"count": 0, "items": [{"title": "x"}]}', '{"deaths": 0, "text": "No deaths in 340 patients."}', "Timeout procedures in surgery: a review", "Time out of hospital was longer.",
    "Could not find any effect on mortality.", '{"total": 3, "data": [{"title": "x"}]}',
    "No trials were found for drug A. Use of drug B reduced mortality by 20%.", "No data. Different doses of B lowered LDL by 30%.",
    "<webpage>Hospital admissions for acute myocardial infarction (ICD-9 code 410) and hypertension (ICD code 401) were studied.</webpage>",
    "<webpage>The gene product is not available in the plasma of patients; document review showed no harm. Site reactions could not be found.</webpage>",
    '{"hits": 0, "markdown": "real text about aspirin"}', '{"found": 0, "abstract": "Statins lower LDL."}',
    "None of the 340 patients died.", "Not found in nature, the compound was synthesised in 1998 and tested in mice.",
]  # fmt: skip


SAYS_NOTHING = [
    "", "No results found.", "No results found for 'GLP-1'. Try other keywords.", "0 results (0.21 seconds)", "We couldn't find any articles matching your search.",
    "No trials found", "Your search - abc def - did not match any documents.\nSuggestions:\nTry different keywords.", "Results: 0", "Found 0 papers", "[image]", "None", "Loading…",
    "\nFound 0 results. Showing top 0:\n\n", "<webpage></webpage>", "<webpage>Loading...</webpage>", "<webpage># Just a moment...\nRay ID: 8f2</webpage>",
    "<webpage>Please turn JavaScript on and reload the page.</webpage>", "<webpage>This page can’t be found</webpage>", "<webpage>404 Not Found\n\nnginx</webpage>",
    "<webpage>Verify you are human by completing the action below. " + "Links. " * 100 + "</webpage>", "<webpage>The site is under maintenance.</webpage>",
    "<webpage>Redirecting to https://x.org</webpage>", "<webpage>We use cookies. Accept all cookies.</webpage>", "<webpage>Error 503: Service unavailable</webpage>",
    '{"esearchresult": {"count": "0", "retmax": "0", "idlist": [], "warninglist": {"outputmessages": ["No items found."]}}}',
    '{"version": "6.9", "hitCount": 0, "resultList": {"result": []}}', '{"numFound": 0, "start": 0, "docs": [], "maxScore": null}', "[]", "{}", '{"message": "No results found"}',
]  # fmt: skip


@pytest.mark.parametrize("body", SAYS_SOMETHING)
def test_what_says_something_is_not_taken_for_nothing(body: str) -> None:
    assert not says_nothing(body)


def test_a_result_that_only_speaks_of_failure_is_no_error() -> None:
    for said in (
        "Failed: the trial of X.",
        "Why it failed: lessons",
        '{"error": null, "data": [1]}',
        "Errors of refraction",
        "<webpage>404 patients took part in a trial of CAPTCHA-like tasks. No results differed between groups.</webpage>",
    ):
        row = record(
            1, [*sound(1)[:2], f"<tool_output>{said}</tool_output>", *sound(1)[6:7], "<answer>It helps.</answer>"]
        )
        assert not {"tool_error_share"} & set(failed_gate_names(parse_trajectory(row))), said


@pytest.mark.parametrize("body", SAYS_NOTHING)
def test_what_says_nothing_is_taken_for_nothing(body: str) -> None:
    assert says_nothing(body)


ERRORS = ["Error: x", "error", "[Error] x", "Error while fetching the page", "Timed out after 30 s", "Search failed: 500", "Status code: 503", "Failed to open the page", "timeout"]  # fmt: skip
NO_ERRORS = ["Error in diagnosis: a review", "Errors while driving", "Time out of hospital", "Search strategies failed to agree", "Unable to read or write: a study", "Call centres failed patients", "Error from the mean", "Terror: mental health after attacks", "Error (type I) is controlled"]  # fmt: skip


@pytest.mark.parametrize("body", ERRORS)
def test_a_text_that_begins_as_an_error_is_one(body: str) -> None:
    assert output_failed(body)


@pytest.mark.parametrize("body", NO_ERRORS)
def test_a_text_that_begins_with_the_word_is_none(body: str) -> None:
    assert not output_failed(body)


@pytest.mark.parametrize("piece", ["<snippet ", "{", "[", " ", "No ", "page ", "<snippet>", "captcha "])
def test_a_long_output_is_judged_in_time_that_grows_with_its_length(piece: str) -> None:
    for text in (piece * (400_000 // len(piece)), f"<webpage>{piece * (400_000 // len(piece))}</webpage>"):
        output_failed(text)  # were it the square of the length, this would not end
        says_nothing(text)
