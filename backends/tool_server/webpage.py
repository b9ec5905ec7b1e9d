"""A web page's main content as Markdown: HTML by trafilatura, PDF by pypdf, plain text as it is."""

import io
from dataclasses import dataclass, field
from typing import Any

from backends.errors import ToolFailed
from backends.tool_server.extractor import Extractor
from backends.tool_server.fetch import Fetched, Fetcher

MAX_CHARACTERS = 200_000
_MAX_PAGES = 60
_HTML = ("text/html", "application/xhtml+xml", "")
_TEXT = ("application/json", "application/xml", "application/octet-stream")


@dataclass(frozen=True)
class LivePages:
    """Pages from the internet."""

    fetcher: Fetcher
    extractor: Extractor = field(default_factory=Extractor)

    async def read(self, url: str) -> tuple[str, str]:
        fetched = await self.fetcher.fetch(url)
        return fetched.url, await self.extractor.markdown(fetched)

    async def aclose(self) -> None:
        await self.extractor.aclose()


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
