"""A web page's main content as Markdown: HTML by trafilatura, PDF by pypdf, plain text as it is."""

import asyncio
import io
import resource
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.to_process

from backends.errors import ToolFailed
from servers.tool_server.fetch import Fetched, Fetcher

MAX_CHARACTERS = 200_000
_MEMORY = 2_000_000_000
"""Bytes of address space in which a page is read."""
_MAX_PAGES = 60
_HTML = ("text/html", "application/xhtml+xml", "")
_TEXT = ("application/json", "application/xml", "application/octet-stream")


@dataclass(frozen=True)
class LivePages:
    """Pages from the internet, each read in a process that is killed when it takes too long or too much: no page can
    hold the server up.
    """

    fetcher: Fetcher
    seconds: float = 20.0
    """How long reading a fetched page may take."""
    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    """As many processes as read at a time."""

    async def read(self, url: str) -> tuple[str, str]:
        """The page's final address, and its content as Markdown."""
        fetched = await self.fetcher.fetch(url)
        return fetched.url, await self.markdown(fetched)

    async def markdown(self, fetched: Fetched) -> str:
        """The main content. Raises ToolFailed when there is none, or it takes longer than `seconds`."""
        try:
            async with self.places, asyncio.timeout(self.seconds):  # waiting in line costs a page none of its time
                return await anyio.to_process.run_sync(_bounded_markdown, fetched, cancellable=True)
        except TimeoutError as error:
            raise ToolFailed(f"the page could not be read within {self.seconds:g} s") from error
        except anyio.BrokenWorkerProcess as error:
            raise ToolFailed("the page is too much to read") from error


def _bounded_markdown(fetched: Fetched) -> str:
    """`as_markdown` within a bound of memory, any failure as one of the tool."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    try:
        return as_markdown(fetched)[:MAX_CHARACTERS]
    except ToolFailed:
        raise
    except Exception as error:
        raise ToolFailed(f"the page cannot be read ({type(error).__name__})") from None


def as_markdown(fetched: Fetched) -> str:
    """The content that a reader came for. Raises ToolFailed when there is none, or the kind is not known."""
    kind = fetched.content_type.lower()
    if fetched.body.startswith(b"%PDF-") or kind == "application/pdf":
        text = _pdf(fetched.body)
    elif kind in _HTML:
        text = _html(fetched)
    elif kind.startswith("text/") or (kind in _TEXT and b"\0" not in fetched.body[:4096]):
        text = _decoded(fetched)
    else:
        raise ToolFailed(f"a page of type {kind} cannot be read")
    if not text.strip():
        raise ToolFailed("the page has no text that could be read")
    return text


def _html(fetched: Fetched) -> str:
    import trafilatura

    source: Any = _decoded(fetched) if fetched.charset else fetched.body  # else the page itself says
    text = trafilatura.extract(
        source, url=fetched.url, output_format="markdown", include_comments=False, favor_recall=True
    )
    text = text or trafilatura.html2txt(source)
    about = trafilatura.extract_metadata(source, default_url=fetched.url)
    title = (about.title or "").strip() if about else ""
    return f"# {title}\n\n{text}" if title and text and title not in text[: len(title) + 10] else text


def _pdf(body: bytes) -> str:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    pages: list[str] = []
    try:
        for page in PdfReader(io.BytesIO(body)).pages[:_MAX_PAGES]:
            pages.append(page.extract_text())
            if sum(map(len, pages)) > MAX_CHARACTERS:
                break
    except (PyPdfError, ValueError, KeyError, TypeError, RecursionError) as error:
        if not pages:
            raise ToolFailed("this PDF cannot be read") from error
    return "\n\n".join(pages)


def _decoded(fetched: Fetched) -> str:
    try:
        return fetched.body.decode(fetched.charset or "utf-8", errors="replace")
    except (LookupError, UnicodeError):
        return fetched.body.decode("utf-8", errors="replace")
