"""What the three tools ask: PubMed, web pages, a web search; each live or from a corpus, behind a small interface."""

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from backends.errors import ToolFailed
from servers.tool_server.corpus import Corpus, paper_page, pmc_of, pmid_of

Answer = TypeVar("Answer")


class PubMed(Protocol):
    """Papers. Raises ToolFailed with what the model should read."""

    async def search(self, query: str, limit: int, offset: int) -> dict[str, Any]:
        """`{total, offset, next, data: [Paper…]}`."""

    async def page(self, url: str) -> str | None:
        """A PubMed or PMC address as Markdown; None for any other address."""

    async def problem(self) -> str | None:
        """Why it cannot answer now; None when it can."""

    async def aclose(self) -> None:
        """Close what it holds open."""


class WebPages(Protocol):
    """Web pages. Raises ToolFailed with what the model should read."""

    async def read(self, url: str) -> tuple[str, str]:
        """The address where the page was found, and its main content as Markdown."""


class WebSearch(Protocol):
    """A web search. Raises ToolFailed with what the model should read."""

    async def search(self, query: str, limit: int) -> dict[str, Any]:
        """`{organic: [{title, link, snippet, position}…]}`."""

    async def problem(self) -> str | None:
        """Why it cannot answer; None when it can."""


@dataclass(frozen=True)
class Sources:
    """What a tool server answers from."""

    pubmed: PubMed
    web: WebPages
    google: WebSearch

    async def aclose(self) -> None:
        """Close what they hold open."""
        await self.pubmed.aclose()

    @classmethod
    def offline(cls, corpus: Corpus) -> "Sources":
        """All three from a corpus: no network, no limit, the same answers next year."""
        return cls(CorpusPubMed(corpus), NoWeb(), CorpusLinks(corpus))


@dataclass(frozen=True)
class CorpusPubMed:
    """PubMed from an index; a search runs in a thread, so that none keeps the others waiting."""

    corpus: Corpus
    failures: list[str] = field(default_factory=list)
    """What kept a search from being answered: an index does not repair itself."""

    async def search(self, query: str, limit: int, offset: int) -> dict[str, Any]:
        try:
            return await _read(self.corpus.search, query, limit, offset)
        except ToolFailed as error:
            self.failures.append(str(error))
            raise

    async def page(self, url: str) -> str | None:
        if not is_paper_address(url):
            return None
        paper = await _read(self.corpus.paper_at, url)
        if paper is None:
            raise ToolFailed("this paper is not in the offline corpus")
        return paper_page(paper)

    async def problem(self) -> str | None:
        if self.failures:
            return self.failures[-1]
        return None if await asyncio.to_thread(self.corpus.answers) else "the corpus index cannot be read, or is empty"

    async def aclose(self) -> None:
        """Close the index."""
        self.corpus.close()


@dataclass(frozen=True)
class CorpusLinks:
    """A web search whose links lead into a corpus."""

    corpus: Corpus

    async def search(self, query: str, limit: int) -> dict[str, Any]:
        found = (await _read(self.corpus.search, query, limit))["data"]
        return {
            "searchParameters": {"q": query, "num": limit},
            "organic": [
                {"title": paper["title"], "link": paper["url"], "snippet": paper["abstract"][:200], "position": place}
                for place, paper in enumerate(found, start=1)
            ],
        }

    async def problem(self) -> str | None:
        return None


class NoWeb:
    """No web at all."""

    async def read(self, url: str) -> tuple[str, str]:
        raise ToolFailed("only PubMed pages can be opened offline")


async def _read(ask: Callable[..., Answer], *asked: Any) -> Answer:
    try:
        return await asyncio.to_thread(ask, *asked)
    except sqlite3.Error as error:
        raise ToolFailed(f"the corpus index cannot be read ({error})") from error


def is_paper_address(url: str) -> bool:
    """Whether an address shows one paper on PubMed or PMC."""
    return pmid_of(url) is not None or pmc_of(url) is not None
