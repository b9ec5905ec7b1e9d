"""A tool's result as the model reads it, byte for byte as the earlier scripts wrote it; and as the record keeps it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serializers.bounds import shortened, storable
from serializers.escaping import escape_attribute, escape_tags
from serializers.evidence import failed, is_set
from serializers.shapes import links_in, page_in, papers_in

MAX_PAPERS = 10
MAX_LINKS = 5
MAX_MARKDOWN = 8000
MAX_JSON = 2000
MAX_BODY = 60_000
"""No output is longer than this, whatever a server sends; ten real abstracts stay well below it."""
MAX_FIELD = 1000
"""Characters of a title, a journal, an author's name."""
MAX_RESULT = 3000
MAX_RECORDED_PAPERS = 5
_MAX_ID = 100
_PAPER_KEYS = ("paperId", "title", "abstract", "year", "venue")
_LINK_TEXTS = ("snippet", "description", "content", "text")


@dataclass(frozen=True)
class Rendered:
    """A result as the model reads it (`text`, with its tags) and as the record keeps it: no more than was shown.

    `snippet_ids` are the ids of the snippets in it, as written there; `shortened` names the papers (or `output`) of
    which text was left out, each with a note that the model reads.
    """

    text: str
    recorded: Any
    snippet_ids: list[str] = field(default_factory=list)
    shortened: list[str] = field(default_factory=list)


def render(tool_name: str, result: Any) -> Rendered:
    """A result: a JSON value, or a string when the tool answered in plain text.

    Text from outside is escaped: no page can end its own output, forge a call, an answer or a source.
    """
    if isinstance(result, str):
        return _plain_text(storable(result))
    if isinstance(result, Mapping) and is_set(result.get("error")):
        return _error(result["error"])
    if failed(result):
        return _json(result, "Error: ")
    if tool_name == "pubmed_search" and (papers := papers_in(result)):
        return _papers(*papers)
    if tool_name == "browse_webpage" and (page := page_in(result)):
        return _page(page)
    if tool_name == "google_search" and (links := links_in(result)):
        return _links(links[0])
    return _json(result)


def render_error(message: str) -> str:
    """The `<tool_output>` of an expected failure, which the model reads and works around."""
    return _output(f"Error: {escape_tags(storable(message[:MAX_JSON]))}")


def _output(body: str) -> str:
    return f"<tool_output>{body}</tool_output>"


def _plain_text(text: str) -> Rendered:
    escaped = escape_tags(text)
    if len(escaped) <= MAX_BODY:
        return Rendered(_output(escaped), _bounded(text))
    return Rendered(_output(shortened(escaped, MAX_BODY - 100, "\n")), _bounded(text), shortened=["output"])


def _error(error: Any) -> Rendered:
    said = storable(_text(error))
    kept = storable(error) if len(said) <= MAX_JSON else said[:MAX_JSON]
    return Rendered(_output(f"Error: {escape_tags(said[:MAX_JSON])}"), {"error": kept})


def _page(page: Mapping[str, Any]) -> Rendered:
    whole = storable(_text(page["markdown"]))
    markdown = whole[:MAX_MARKDOWN]
    kept = {name: storable(page[name]) for name in ("url", "success") if name in page}
    cut = _cut_note(page, len(markdown), len(whole)) if markdown != whole else ""
    text = _output(f"<webpage>{escape_tags(markdown)}</webpage>{cut}")
    return Rendered(text, _bounded({**kept, "markdown": markdown}), shortened=["output"] if cut else [])


def _cut_note(page: Mapping[str, Any], shown: int, there: int) -> str:
    """What is said of a page that is longer than what is shown; a server that told where its text begins can go on."""
    begun, total = page.get("offset"), page.get("total")
    if type(begun) is not int or type(total) is not int or total < begun + there:  # of something else than characters
        return f"\n[cut here: {shown:,} of {there:,} characters are shown]"
    end = begun + shown
    return f'\n[cut here: characters {begun:,} to {end:,} of {total:,} are shown; offset="{end}" shows what follows]'


def _json(result: Any, when_cut: str = "") -> Rendered:
    """Any other result as JSON; `when_cut` stands before one whose end is cut off."""
    text = json.dumps(storable(result), ensure_ascii=False)
    if len(text) <= MAX_JSON:
        return Rendered(_output(escape_tags(text)), storable(result))
    kept = text[:MAX_JSON]
    return Rendered(_output(escape_tags(f"{when_cut}{kept}")), {"truncated": True, "preview": kept}, [], ["output"])


def _bounded(value: Any) -> Any:
    text = json.dumps(value, ensure_ascii=False)
    return value if len(text) <= MAX_RESULT else {"truncated": True, "preview": text[:MAX_RESULT]}


def _papers(listed: list[Mapping[str, Any]], about: Mapping[str, Any]) -> Rendered:
    papers = listed[:MAX_PAPERS]
    total = _field(about.get("total", len(listed)), _MAX_ID)
    notices = about.get("notices")
    said = _field("; ".join(map(_text, notices)), MAX_FIELD) if isinstance(notices, list) and notices else None
    heads = [_head(paper) for paper in papers]
    abstracts = [_field(paper.get("abstract", "No abstract")) for paper in papers]
    room = MAX_BODY - 200 - sum(len(head.text) + 40 for head in heads) - (len(said.shown) if said else 0)
    longest = _even_share([len(abstract.shown) for abstract in abstracts], room)
    kept = [_cut(abstract, longest) for abstract in abstracts]
    snippets = [f"{head.text}Abstract: {abstract.shown}</snippet>" for head, abstract in zip(heads, kept, strict=True)]
    noted = f" ({said.shown})" if said else ""
    body = f"\nFound {total.shown} results. Showing top {len(snippets)}{noted}:\n" + "\n".join(snippets) + "\n"
    data = [
        {key: head.recorded.get(key, paper.get("abstract") and abstract.recorded) for key in _PAPER_KEYS}
        for paper, head, abstract in zip(papers[:MAX_RECORDED_PAPERS], heads, kept, strict=False)
    ]
    warned = {"notices": storable(notices) if said.whole else [said.shown]} if said else {}
    return Rendered(
        _output(body), {"total": total.recorded if "total" in about else len(papers), "data": data, **warned},
        [head.identity for head in heads],
        [head.identity for head, abstract in zip(heads, kept, strict=True) if not (head.whole and abstract.whole)],
    )  # fmt: skip


@dataclass(frozen=True)
class _Head:
    """A snippet up to its abstract, its id as written, its fields as recorded, and whether all of them are whole."""

    text: str
    identity: str
    recorded: dict[str, Any]
    whole: bool


def _head(paper: Mapping[str, Any]) -> _Head:
    authors = paper.get("authors")
    names = [_author(author) for author in authors] if isinstance(authors, list) else []
    title = _field(paper.get("title", "No title"), MAX_FIELD)
    listed = _field(", ".join(names[:3]), MAX_FIELD)
    year = _field(paper.get("year", "N/A"), MAX_FIELD)
    venue = _field(paper.get("venue", paper.get("journal", "N/A")), MAX_FIELD)
    named = storable(paper.get("paperId", paper.get("pmid", paper.get("PMID", "unknown"))))
    identity = escape_attribute(escape_tags(f"{named}"[:_MAX_ID]))
    others = " et al." if len(names) > 3 else ""
    text = (
        f'<snippet id="{identity}">Title: {title.shown}\nAuthors: {listed.shown}{others} | Year: {year.shown} | '
        f"Journal: {venue.shown}\n"
    )
    recorded = {
        "paperId": None if named == "unknown" else named if len(f"{named}") <= _MAX_ID else f"{named}"[:_MAX_ID],
        "title": title.recorded if "title" in paper else None,
        "year": year.recorded if "year" in paper else None,
        "venue": venue.recorded if "venue" in paper or "journal" in paper else None,
    }
    return _Head(text, identity, recorded, all(field.whole for field in (title, listed, year, venue)))


@dataclass(frozen=True)
class _Field:
    """A field as it is shown, escaped, and as it is recorded: what is cut here is cut there."""

    shown: str
    recorded: Any
    whole: bool = True


def _field(value: Any, length: int | None = None) -> _Field:
    """What is no text is shown as the earlier scripts printed it."""
    kept = storable(value)
    whole = _Field(escape_tags(f"{kept}"), kept)
    return whole if length is None else _cut(whole, length)


def _cut(field: _Field, length: int) -> _Field:
    if len(field.shown) <= length:
        return field
    cut = shortened(field.shown, length)
    return _Field(cut, cut, whole=False)


def _even_share(lengths: Sequence[int], room: int) -> int:
    """The length to which the longest are cut, so that all fit into `room`; the shorter ones stay whole."""
    if sum(lengths) <= room:
        return max(lengths, default=0)
    left, rest = room, len(lengths)
    for length in sorted(lengths):
        if (length + 80) * rest > left:
            break
        left, rest = left - length, rest - 1
    return max(left // max(rest, 1) - 80, 0)


def _author(author: Any) -> str:
    return _text(author.get("name", "")) if isinstance(author, Mapping) else _text(author)


def _links(listed: list[Mapping[str, Any]]) -> Rendered:
    shown, kept, cut = [], [], []
    for place, link in enumerate(listed[:MAX_LINKS], start=1):
        said = next((link[name] for name in _LINK_TEXTS if link.get(name)), link.get("snippet", ""))
        address = link.get("link") or link.get("url") or ""
        title, text, url = (_field(value, MAX_RESULT) for value in (link.get("title", "No title"), said, address))
        shown.append(f'<snippet id="G{place}">Title: {title.shown}\n{text.shown}\nURL: {url.shown}</snippet>')
        parts = {"title": title, "snippet": text, "link": url, "url": url}
        kept.append(
            {name: part.recorded for name, part in parts.items() if name in link or (name == "snippet" and said)}
        )
        if not (title.whole and text.whole and url.whole):
            cut.append(f"G{place}")
    ids = [f"G{place}" for place in range(1, len(shown) + 1)]
    return Rendered(_output("\n" + "\n".join(shown) + "\n"), _bounded({"organic": kept}), ids, cut)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(storable(value), ensure_ascii=False)
