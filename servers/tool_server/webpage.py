"""A web page's main content as Markdown: HTML by trafilatura, PDF by pypdf, plain text as it is."""

import asyncio
import io
import re
import resource
import unicodedata
from dataclasses import dataclass, field

import anyio
import anyio.to_process

from backends.errors import ToolFailed
from servers.tool_server.encodings import decoded
from servers.tool_server.fetch import Fetched, Fetcher

MAX_CHARACTERS = 200_000
_MEMORY = 2_000_000_000
"""Bytes of address space in which a page is read."""
_MAX_PAGES = 60
_HTML = ("text/html", "application/xhtml+xml", "")
_TEXT = ("application/json", "application/xml", "application/octet-stream")
_LIGATURES = {code: unicodedata.normalize("NFKD", chr(code)) for code in range(0xFB00, 0xFB07)}
_ESCAPED = re.compile(r"\\([<>~=|*_#+-])(?=\s?[\d.])|(?<=\d)\\([<>~|*_#+-])")
"""A Markdown escape beside a number: `p \\< 0.001` is one that nobody needs."""


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
        text = _pdf(fetched.body)
    elif kind in _HTML:
        text = _html(fetched)
    elif kind.startswith("text/") or (_is_text(kind) and b"\0" not in fetched.body[:4096]):
        text = decoded(fetched.body, fetched.charset)
    else:
        raise ToolFailed(f"a page of type {kind} cannot be read")
    if not text.strip():
        raise ToolFailed("the page has no text that could be read")
    return text


def _is_text(kind: str) -> bool:
    return kind in _TEXT or kind.endswith(("+xml", "+json"))


def _html(fetched: Fetched) -> str:
    import trafilatura

    source = decoded(fetched.body, fetched.charset, is_html=True)
    text = trafilatura.extract(
        source, url=fetched.url, output_format="markdown", include_comments=False, favor_recall=True
    )
    text = text or trafilatura.html2txt(source)
    about = trafilatura.extract_metadata(source, default_url=fetched.url)
    text = _ESCAPED.sub(lambda match: match[1] or match[2], text or "")
    title = (about.title or "").strip() if about else ""
    return f"# {title}\n\n{text}" if title and text and title not in text[: len(title) + 10] else text


def _pdf(body: bytes) -> str:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    pages: list[str] = []
    count = 0
    try:
        reader = PdfReader(io.BytesIO(body))
        count = len(reader.pages)
        for page in reader.pages[:_MAX_PAGES]:
            pages.append(page.extract_text().translate(_LIGATURES))
            if sum(map(len, pages)) > MAX_CHARACTERS:
                break
    except (PyPdfError, ValueError, KeyError, TypeError, RecursionError) as error:
        if not pages:
            raise ToolFailed("this PDF cannot be read") from error
    if count > len(pages):
        pages.append(f"[cut here: {len(pages)} of {count} pages were read]")
    return "\n\n".join(pages)
