"""A web page's main content as Markdown: HTML by trafilatura, PDF by pypdf, plain text as it is."""

import asyncio
import resource
from dataclasses import dataclass, field

import anyio
import anyio.to_process

from backends.errors import ToolFailed
from servers.tool_server.encodings import decoded
from servers.tool_server.fetch import Fetched, Fetcher
from servers.tool_server.html_page import html_page
from servers.tool_server.pdf_page import pdf_page

MAX_CHARACTERS = 200_000
_MEMORY = 2_000_000_000
"""Bytes of address space in which a page is read."""
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
        return _shortened(as_markdown(fetched))
    except ToolFailed:
        raise
    except Exception as error:
        raise ToolFailed(f"the page cannot be read ({type(error).__name__})") from None


def _shortened(text: str) -> str:
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]}\n\n[cut here: {MAX_CHARACTERS:,} of {len(text):,} characters were read]"


def as_markdown(fetched: Fetched) -> str:
    """The content that a reader came for. Raises ToolFailed when there is none, or the kind is not known."""
    kind = fetched.content_type.lower()
    if fetched.body.startswith(b"%PDF-") or kind == "application/pdf":
        text = pdf_page(fetched.body, MAX_CHARACTERS)
    elif kind in _HTML:
        text = html_page(decoded(fetched.body, fetched.charset, is_html=True), fetched.url)
    elif kind.startswith("text/") or (_is_text(kind) and b"\0" not in fetched.body[:4096]):
        text = decoded(fetched.body, fetched.charset)
    else:
        raise ToolFailed(f"a page of type {kind} cannot be read")
    if not text.strip():
        raise ToolFailed("the page has no text that could be read")
    return text


def _is_text(kind: str) -> bool:
    return kind in _TEXT or kind.endswith(("+xml", "+json"))
