"""PubMed live: NCBI's E-utilities, at the pace that NCBI asks for, over all callers of this server.

Source: NCBI's E-utilities, esearch and efetch. 3 requests a second, 10 with a key; over the limit is a 429 with a JSON
body even where XML was asked for, and some failures are an `ERROR` inside a 200.
"""

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from backends.bounded import TooLong, read_bounded, redirection
from backends.errors import ToolFailed
from backends.secrets import Secrets
from servers.tool_server.corpus import paper_page, pmc_of, pmid_of
from servers.tool_server.jats import article_page
from servers.tool_server.markup import Element
from servers.tool_server.pubmed_xml import Paper, parsed, read_article
from servers.tool_server.retry import PASSING_STATUS, PassingFailure, ask_again

NCBI = "https://eutils.ncbi.nlm.nih.gov/entrez/eutils"
_ATTEMPTS, _FIRST_WAIT = 7, 0.5
_LAST_HIT = 9_999
_MAX_PAGE = 100
_HEALTH_SECONDS = 30.0
_MAX_ANSWER = 30_000_000
"""Bytes of an answer: a hundred long articles stay far below."""
_NOTICES = {
    "phrasesnotfound": "not found", "quotedphrasesnotfound": "phrase not found", "fieldsnotfound": "no such field",
    "phrasesignored": "ignored", "outputmessages": "",
}  # fmt: skip
"""What esearch says beside its results, and in which words the model reads it."""


class _Refused(Exception):
    """An answer that asking again would not fix."""


@dataclass(frozen=True)
class NcbiAddress:
    """Where E-utilities are and who asks; `email` and `api_key` are what NCBI knows you by."""

    url: str = NCBI
    email: str | None = None
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 30.0
    """Seconds that one request may take."""


class Pace:
    """At most `rate` requests in any one second, the others wait in line.

    A place is free again a second after its answer came, so that whatever time a request takes on its way, the server
    never sees more than `rate` of them within a second.
    """

    def __init__(self, rate: int) -> None:
        self._places = asyncio.Semaphore(rate)

    async def __aenter__(self) -> None:
        await self._places.acquire()

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().call_later(1.01, self._places.release)


class NcbiPubMed:
    """PubMed by E-utilities. Close it with `aclose`."""

    def __init__(self, address: NcbiAddress, attempts: int = _ATTEMPTS, first_wait: float = _FIRST_WAIT) -> None:
        self._address = address
        self._secrets = Secrets(address.api_key)
        self._attempts, self._first_wait = attempts, first_wait
        self._pace = Pace(10 if address.api_key else 3)
        self._session: aiohttp.ClientSession | None = None
        self._known: tuple[float, str | None] = (-_HEALTH_SECONDS, None)
        """When NCBI was last asked, and what came of it."""

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()

    async def search(self, query: str, limit: int, offset: int) -> dict[str, Any]:
        limit, offset = max(0, min(limit, _MAX_PAGE)), max(0, offset)
        if not query.strip():
            return {"total": 0, "offset": offset, "next": offset, "data": []}
        if offset + limit > _LAST_HIT:
            raise ToolFailed("PubMed shows no more than its first 9,999 results: narrow the query")
        page = {"term": query, "retstart": str(offset), "retmax": str(limit), "sort": "relevance", "retmode": "json"}
        found = await self._ask("esearch", page, _found)
        pmids = [str(pmid) for pmid in found["idlist"]]
        papers = await self._papers(pmids, all_exist=True) if pmids else {}
        data = [papers[pmid] for pmid in pmids if pmid in papers]  # efetch leaves out unknown ones without a word
        result = {"total": int(found["count"]), "offset": offset, "next": offset + len(pmids), "data": data}
        notices = [self._secrets.hidden(notice) for notice in _notices(found)]
        return {**result, "notices": notices} if notices else result

    async def page(self, url: str) -> str | None:
        if pmid := pmid_of(url):
            papers = await self._papers([pmid])
            if pmid not in papers:
                raise ToolFailed(f"PubMed has no paper {pmid}")
            return paper_page(papers[pmid])
        if pmc := pmc_of(url):
            root = await self._ask("efetch", {"db": "pmc", "id": pmc.removeprefix("PMC")}, _xml)
            page = article_page(root)
            if page is None:
                raise ToolFailed(f"PMC has no article {pmc}")
            return page
        return None

    async def problem(self) -> str | None:
        if time.monotonic() - self._known[0] > _HEALTH_SECONDS:  # else the last search says
            with contextlib.suppress(ToolFailed):
                await self._ask("einfo", {"retmode": "json"}, _json, attempts=1)
        return self._known[1]

    async def _papers(self, pmids: list[str], *, all_exist: bool = False) -> dict[str, Paper]:
        def read(body: bytes) -> dict[str, Paper]:
            root = _xml(body)
            if root.tag not in ("PubmedArticleSet", "PubmedBookArticleSet"):
                raise ValueError("an answer without papers")
            articles = filter(None, map(read_article, root.iter("PubmedArticle", "PubmedBookArticle")))
            papers = {article.paper["paperId"]: article.paper for article in articles}
            if all_exist and not papers.keys() & set(pmids):
                raise ValueError("an answer without the papers that were found")
            return papers

        papers: dict[str, Paper] = await self._ask("efetch", {"id": ",".join(pmids), "retmode": "xml"}, read)
        return papers

    async def _ask(self, utility: str, asked: dict[str, str], read: Any, attempts: int | None = None) -> Any:
        """What `read` makes of an answer; it raises ValueError for one that asking again may fix."""
        who = {"tool": "trajgraph", "email": self._address.email, "api_key": self._address.api_key}
        form = {"db": "pubmed", **asked, **{name: value for name, value in who.items() if value}}

        async def once() -> Any:
            try:
                async with self._pace:
                    status, retry_after, body = await self._post(f"{self._address.url}/{utility}.fcgi", form)
                if status == 200:
                    return read(body)
            except TimeoutError as error:
                raise PassingFailure("no answer in time") from error
            except aiohttp.ClientError as error:
                raise PassingFailure(f"no connection ({type(error).__name__})") from error
            except (ValueError, RecursionError) as error:
                raise PassingFailure(str(error)) from error
            why = f"status {status}{self._said(body)}"
            raise PassingFailure(why, retry_after) if status in PASSING_STATUS else _Refused(why)

        try:
            answer = await ask_again(once, attempts or self._attempts, self._first_wait)
        except (PassingFailure, TooLong, _Refused) as error:
            why = f"PubMed could not be asked: {self._secrets.hidden(str(error))[:300]}"
            self._known = (time.monotonic(), why)
            raise ToolFailed(why) from error
        self._known = (time.monotonic(), None)
        return answer

    def _said(self, body: bytes) -> str:
        """The error that a JSON body names, without the key."""
        try:
            said = str(json.loads(body)["error"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return ""
        return f" ({self._secrets.hidden(said)[:200]})"

    async def _post(self, url: str, form: dict[str, str]) -> tuple[int, float, bytes]:
        """Status, Retry-After in seconds, body. The form is posted: a key in an address would end up in logs."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._address.timeout))
        async with self._session.post(url, data=form, allow_redirects=False) as answer:
            if elsewhere := redirection(answer.status, answer.headers.get("location")):
                raise ToolFailed(f"PubMed could not be asked: {self._secrets.hidden(elsewhere)}")
            after = answer.headers.get("retry-after", "")
            body = await read_bounded(answer.content, _MAX_ANSWER)
            return answer.status, float(after) if after.isdigit() else 0.0, body


def _json(body: bytes) -> dict[str, Any]:
    answer = json.loads(body, strict=False)
    if not isinstance(answer, dict) or "error" in answer:
        raise ValueError(str(answer.get("error") if isinstance(answer, dict) else answer))
    return answer


def _found(body: bytes) -> dict[str, Any]:
    found = _json(body).get("esearchresult")
    if (
        not isinstance(found, dict)
        or not isinstance(found.get("idlist"), list)
        or not str(found.get("count")).isdigit()
    ):
        raise ValueError(str((found or {}).get("ERROR", "an answer without results")))
    return found


def _notices(found: dict[str, Any]) -> list[str]:
    """PubMed's own warnings of a search: what it did not find or understood otherwise."""
    notices = []
    for group in ("errorlist", "warninglist"):
        said = found.get(group)
        for name, meaning in _NOTICES.items():
            for text in (said.get(name) or ()) if isinstance(said, dict) else ():
                notices.append(f"{meaning}: {text}" if meaning else str(text))
    return list(dict.fromkeys(notices))[:10]


def _xml(body: bytes) -> Element:
    root = parsed(body)
    errors = [root] if root.tag == "ERROR" else root.findall("ERROR")
    if errors:
        raise ValueError(errors[0].text or "an error without words")
    return root
