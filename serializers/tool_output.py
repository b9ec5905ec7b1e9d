"""A tool's result as the model reads it, byte for byte as the earlier scripts wrote it."""

import json
from typing import Any

from serializers.tags import neutralise

MAX_PAPERS = 10
MAX_LINKS = 5
MAX_MARKDOWN = 8000
MAX_JSON = 2000
MAX_BODY = 60_000
"""No output is longer than this, whatever a server sends; ten real abstracts stay well below it."""


def render_tool_output(tool_name: str, result: Any) -> str:
    """`<tool_output>…</tool_output>` for a result: a JSON value, or a string when the tool answered in plain text.

    Text from outside is neutralised: no page can end its own output or forge a call or an answer.
    """
    body = _body(tool_name, result)[:MAX_BODY].encode("utf-8", "replace").decode()  # no lone surrogate can be stored
    return f"<tool_output>{neutralise(body)}</tool_output>"


def render_error(message: str) -> str:
    """The `<tool_output>` of an expected failure, which the model reads and works around."""
    return f"<tool_output>Error: {neutralise(message[:MAX_JSON])}</tool_output>"


def _body(tool_name: str, result: Any) -> str:
    if isinstance(result, str):
        return result
    if isinstance(result, dict):
        if result.get("error"):
            return f"Error: {_text(result['error'])[:MAX_JSON]}"
        if tool_name == "pubmed_search" and isinstance(result.get("data"), list):
            return _papers(result["data"], result.get("total", len(result["data"])))
        if tool_name == "browse_webpage" and result.get("markdown"):
            return f"<webpage>{_text(result['markdown'])[:MAX_MARKDOWN]}</webpage>"
        links = result.get("organic") or result.get("data")
        if tool_name == "google_search" and isinstance(links, list):
            return _links(links)
    return json.dumps(result, ensure_ascii=False)[:MAX_JSON]


def _papers(papers: list[Any], total: Any) -> str:
    shown = [_paper(paper) for paper in papers[:MAX_PAPERS] if isinstance(paper, dict)]
    return f"\nFound {total} results. Showing top {len(shown)}:\n" + "\n".join(shown) + "\n"


def _paper(paper: dict[str, Any]) -> str:
    authors = paper.get("authors")
    names = [_author(author) for author in authors] if isinstance(authors, list) else []
    listed = ", ".join(names[:3]) + (" et al." if len(names) > 3 else "")
    return (
        f'<snippet id="{paper.get("paperId", "unknown")}">Title: {paper.get("title", "No title")}\n'
        f"Authors: {listed} | Year: {paper.get('year', 'N/A')} | Journal: {paper.get('venue', 'N/A')}\n"
        f"Abstract: {paper.get('abstract', 'No abstract')}</snippet>"
    )


def _author(author: Any) -> str:
    return _text(author.get("name", "")) if isinstance(author, dict) else _text(author)


def _links(links: list[Any]) -> str:
    shown = [
        f'<snippet id="G{place}">Title: {link.get("title", "No title")}\n{link.get("snippet", "")}\n'
        f"URL: {link.get('link') or link.get('url') or ''}</snippet>"
        for place, link in enumerate((link for link in links[:MAX_LINKS] if isinstance(link, dict)), start=1)
    ]
    return "\n" + "\n".join(shown) + "\n"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
