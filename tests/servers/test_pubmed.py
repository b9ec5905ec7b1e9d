"""PubMed live, against a stand-in NCBI on a socket: its pace, its failures inside a 200, its silences."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from backends.errors import ToolFailed
from serializers.tool_output import render
from servers.tool_server.google import Serper
from servers.tool_server.pubmed import NcbiAddress, NcbiPubMed
from tests.support.papers import xml
from tests.support.servers import served

OVER_LIMIT = JSONResponse({"error": "API rate limit exceeded", "count": "11"}, status_code=429)
ERROR_IN_XML = Response(
    '<?xml version="1.0"?><eFetchResult><ERROR>UID=1: cannot get document summary</ERROR></eFetchResult>'
)
ERROR_IN_JSON = JSONResponse({"esearchresult": {"ERROR": "Search Backend failed: try again"}})
JATS = """<pmc-articleset><article><front><journal-meta><journal-title-group><journal-title>Gut</journal-title>
</journal-title-group></journal-meta><article-meta><title-group><article-title>Telomeres and <i>TERT</i></article-title>
</title-group><contrib-group><contrib contrib-type="author"><name><surname>Bao</surname><given-names>Ying</given-names>
</name></contrib></contrib-group><pub-date><year>2017</year></pub-date><abstract><sec><title>Objective</title><p>Why.</p>
</sec></abstract></article-meta></front><body><sec><title>Methods</title><p>We measured<xref>1</xref> length.</p><sec>
<title>Patients</title><p>386 cases.</p></sec></sec></body></article></pmc-articleset>"""


@dataclass
class Ncbi:
    """E-utilities: every search finds PMIDs 1 and 2, of which 2 is unknown to efetch. `failures` are answered first."""

    failures: list[Response] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: Request) -> Response:
        self.arrivals.append(time.monotonic())
        asked = {name: str(value) for name, value in (await request.form()).items()}
        self.asked.append(asked)
        self.urls.append(str(request.url))
        if self.failures:
            return self.failures.pop(0)
        utility = request.path_params["utility"]
        if utility == "esearch.fcgi":
            return JSONResponse({"esearchresult": {"count": "34", "idlist": ["2", "1"]}})
        if utility == "einfo.fcgi":
            return JSONResponse({"einforesult": {}})
        return Response(JATS if asked["db"] == "pmc" else f"<PubmedArticleSet>{xml()}</PubmedArticleSet>")


@asynccontextmanager
async def ncbi(*failures: Response, key: str | None = None, attempts: int = 6) -> AsyncIterator[Any]:
    stand_in = Ncbi(list(failures))
    with served(Starlette(routes=[Route("/{utility}", stand_in.answer, methods=["POST"])])) as stand_in.url:
        pubmed = NcbiPubMed(NcbiAddress(stand_in.url, "me@example.org", key), attempts, 0.01)
        try:
            yield stand_in, pubmed
        finally:
            await pubmed.aclose()


async def test_a_search_asks_for_numbers_then_papers_and_says_who_asks() -> None:
    async with ncbi(key="k3y") as (stand_in, pubmed):
        found = await pubmed.search("statins", 2, 4)
    assert (found["total"], found["offset"], found["next"]) == (34, 4, 6)
    assert [paper["paperId"] for paper in found["data"]] == ["1"]
    search, fetch = stand_in.asked
    who = {"tool": "trajgraph", "email": "me@example.org", "api_key": "k3y"}
    assert search == {"db": "pubmed", "term": "statins", "retstart": "4", "retmax": "2", "sort": "relevance",
                      "retmode": "json", **who}  # fmt: skip
    assert fetch == {"db": "pubmed", "id": "2,1", "retmode": "xml", **who}
    assert "k3y" not in "".join(stand_in.urls)


async def test_pubmeds_own_warnings_come_with_the_result() -> None:
    warned = {"count": "0", "idlist": [], "errorlist": {"phrasesnotfound": ["xyzzy"], "fieldsnotfound": ["foo"]},
              "warninglist": {"quotedphrasesnotfound": ['"a b"'], "outputmessages": ["No items found."]}}  # fmt: skip
    async with ncbi(JSONResponse({"esearchresult": warned}), key="k3y") as (_, pubmed):
        found = await pubmed.search("xyzzy[foo]", 2, 0)
    assert found["notices"] == ["not found: xyzzy", "no such field: foo", 'phrase not found: "a b"', "No items found."]
    header = 'Found 0 results. Showing top 0 (not found: xyzzy; no such field: foo; phrase not found: "a b"; No items found.):'
    assert header in render("pubmed_search", found).text
    async with ncbi(key="k3y") as (_, pubmed):
        assert "notices" not in await pubmed.search("statins", 2, 0)


@pytest.mark.parametrize(("key", "rate", "callers"), [(None, 3, 6), ("k3y", 10, 64)])
async def test_ncbi_never_sees_more_than_its_limit_within_a_second_and_nobody_is_refused(
    key: str | None, rate: int, callers: int
) -> None:
    async with ncbi(key=key) as (stand_in, pubmed):
        answers = await asyncio.gather(*(pubmed.search(f"query {n}", 2, 0) for n in range(callers)))
    assert all(answer["total"] == 34 for answer in answers)
    assert len(stand_in.arrivals) == 2 * callers
    times = sorted(stand_in.arrivals)
    assert all(later - earlier > 1.0 for earlier, later in zip(times, times[rate:], strict=False))


@pytest.mark.parametrize("failure", [OVER_LIMIT, Response(status_code=500), ERROR_IN_JSON, Response("<html>502")])
async def test_a_burst_of_failures_costs_no_result(failure: Response) -> None:
    async with ncbi(*[failure] * 4, key="k3y") as (stand_in, pubmed):
        assert (await pubmed.search("statins", 2, 0))["total"] == 34
    assert len(stand_in.asked) == 6


async def test_an_error_inside_xml_is_asked_again() -> None:
    async with ncbi(ERROR_IN_XML, OVER_LIMIT, key="k3y") as (_, pubmed):
        page = await pubmed.page("https://pubmed.ncbi.nlm.nih.gov/1/")
    assert page.startswith("# A trial.")


async def test_what_ncbi_will_not_do_is_said_to_the_model() -> None:
    async with ncbi(*[OVER_LIMIT] * 9, key="k3y") as (_, pubmed):
        with pytest.raises(ToolFailed, match="PubMed could not be asked: status 429"):
            await pubmed.search("statins", 2, 0)
        assert "429" in await pubmed.problem()
        with pytest.raises(ToolFailed, match="first 9,999 results"):
            await pubmed.search("statins", 10, 9_999)
        assert (await pubmed.search("  ", 10, 0))["data"] == []
    away = NcbiPubMed(NcbiAddress("http://127.0.0.1:9"), 1)
    with pytest.raises(ToolFailed, match="no connection"):
        await away.search("statins", 1, 0)
    await away.aclose()


async def test_a_pmc_address_is_read_as_its_full_text() -> None:
    async with ncbi(key="k3y") as (stand_in, pubmed):
        page = await pubmed.page("https://pmc.ncbi.nlm.nih.gov/articles/PMC5442267/")
        assert await pubmed.page("https://example.org/") is None
        with pytest.raises(ToolFailed, match="no paper 2"):
            await pubmed.page("https://pubmed.ncbi.nlm.nih.gov/2/")
    assert stand_in.asked[0]["id"] == "5442267"
    assert page.startswith("# Telomeres and TERT\n\nYing Bao\n\n*Gut*, 2017\n\n## Abstract")
    assert "## Methods\n\nWe measured[1] length.\n\n### Patients\n\n386 cases." in page


async def test_google_is_asked_with_the_key_and_says_what_is_missing() -> None:
    seen: list[tuple[str | None, Any]] = []
    answers = [
        Response(status_code=500),
        JSONResponse({"organic": [{"title": "t", "link": "l", "snippet": "s", "position": 1}]}),
    ]

    async def search(request: Request) -> Response:
        seen.append((request.headers.get("x-api-key"), await request.json()))
        return answers.pop(0) if answers else Response(status_code=403)

    with served(Starlette(routes=[Route("/search", search, methods=["POST"])])) as base:
        found = await Serper("k3y", base).search("statins", 5)
        assert found["organic"][0]["title"] == "t"
        with pytest.raises(ToolFailed, match="refuses the key in SERPER_API_KEY"):
            await Serper("wrong", base).search("statins", 5)
    assert seen[0] == ("k3y", {"q": "statins", "num": 5})
    with pytest.raises(ToolFailed, match="set SERPER_API_KEY"):
        await Serper(None).search("statins", 5)


@pytest.mark.parametrize(
    "failure",
    [
        Response("<html><body>temporarily unavailable</body></html>", media_type="text/html"),
        Response("<PubmedArticleSet></PubmedArticleSet>", media_type="text/xml"),
    ],
)
async def test_an_answer_without_the_papers_that_were_found_is_asked_again(failure: Response) -> None:
    """The second request of a search is for the papers."""
    async with ncbi() as (stand_in, pubmed):
        stand_in.failures = [JSONResponse({"esearchresult": {"count": "34", "idlist": ["2", "1"]}}), failure]
        assert [paper["paperId"] for paper in (await pubmed.search("again", 2, 0))["data"]] == ["1"]
        assert len(stand_in.arrivals) == 3


async def test_health_is_told_by_the_last_search_and_does_not_wait_in_line() -> None:
    async with ncbi() as (_, pubmed):
        await pubmed.search("first", 1, 0)
        waiting = [asyncio.create_task(pubmed.search(f"query {n}", 1, 0)) for n in range(20)]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(pubmed.problem(), 0.5) is None
        for task in waiting:
            task.cancel()


async def test_a_wrong_key_is_named_as_ncbi_names_it() -> None:
    async with ncbi() as (stand_in, pubmed):
        stand_in.failures = [JSONResponse({"error": "API key invalid", "api-key": "x"}, 400)]
        with pytest.raises(ToolFailed, match=r"status 400 \(API key invalid\)"):
            await pubmed.search("x", 1, 0)
