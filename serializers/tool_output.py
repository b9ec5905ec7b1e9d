"""A tool's result as the model reads it, byte for byte as the earlier scripts wrote it; and as the record keeps it."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serializers.escaping import escape_attribute, escape_tags
from serializers.evidence import failed, is_set

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
_MAX_LEVELS = 40
_PAPER_KEYS = ("paperId", "title", "abstract", "year", "venue")
_LINK_KEYS = ("title", "snippet", "link", "url")
_WRAPPERS = (
    "data",
    "result",
    "results",
    "papers",
    "articles",
    "response",
    "output",
    "items",
    "documents",
    "hits",
    "organic",
)
_HALF_ENTITY = re.compile(r"&[#\w]{0,6}\Z")


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
        said = storable(_text(result["error"]))[:MAX_JSON]
        return Rendered(_output(f"Error: {escape_tags(said)}"), _bounded({"error": storable(result["error"])}))
    if failed(result):
        return _json(result, "Error: ")
    if tool_name == "pubmed_search" and (found := _listed(result, _is_paper)):
        return _papers(*found)
    if tool_name == "browse_webpage" and (page := _page(result)):
        markdown = storable(_text(page["markdown"]))[:MAX_MARKDOWN]
        kept = {name: storable(page[name]) for name in ("url", "success") if name in page}
        return Rendered(
            _output(f"<webpage>{escape_tags(markdown)}</webpage>"), _bounded({**kept, "markdown": markdown})
        )
    if tool_name == "google_search" and (found := _listed(result, _is_link)):
        return _links(found[0])
    return _json(result)


def render_tool_output(tool_name: str, result: Any) -> str:
    """The text of `render`."""
    return render(tool_name, result).text


def render_error(message: str) -> str:
    """The `<tool_output>` of an expected failure, which the model reads and works around."""
    return _output(f"Error: {escape_tags(storable(message[:MAX_JSON]))}")


def storable(value: Any, levels: int = _MAX_LEVELS) -> Any:
    """A JSON value as every reader and a checkpoint can hold it: no NaN, no integer beyond 64 bits, no lone surrogate,
    and what lies too deep as text.
    """
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value) if value.bit_length() < 14_000 else "…"
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if levels == 0:
        return "…"
    if isinstance(value, Mapping):
        return {storable(str(key)): storable(item, levels - 1) for key, item in value.items()}
    return [storable(item, levels - 1) for item in value] if isinstance(value, list) else str(value)


def shortened(text: str, length: int) -> str:
    """A text cut to about `length` characters, with a note that says so."""
    if len(text) <= length:
        return text
    kept = _HALF_ENTITY.sub("", text[: max(length, 0)])
    return f"{kept} {_note(len(text) - len(kept), len(text))}"


def _note(left_out: int, of: int) -> str:
    return f"[shortened: {left_out} of {of} characters left out]"


def _output(body: str) -> str:
    return f"<tool_output>{body}</tool_output>"


def _plain_text(text: str) -> Rendered:
    if len(text) <= MAX_BODY:
        return Rendered(_output(escape_tags(text)), _bounded(text))
    kept = text[: MAX_BODY - 100]
    body = f"{escape_tags(kept)}\n{_note(len(text) - len(kept), len(text))}"
    return Rendered(_output(body), _bounded(text), shortened=["output"])


def _json(result: Any, when_cut: str = "") -> Rendered:
    """Any other result as JSON; `when_cut` stands before one whose end is cut off."""
    text = json.dumps(storable(result), ensure_ascii=False)
    kept = storable(result) if len(text) <= MAX_JSON else {"truncated": True, "preview": text[:MAX_JSON]}
    body = text if len(text) <= MAX_JSON else f"{when_cut}{text[:MAX_JSON]}"
    return Rendered(_output(escape_tags(body)), kept)


def _bounded(value: Any) -> Any:
    text = json.dumps(value, ensure_ascii=False)
    return value if len(text) <= MAX_RESULT else {"truncated": True, "preview": text[:MAX_RESULT]}


def _listed(
    result: Any, fits: Callable[[Any], bool], about: Mapping[str, Any] | None = None, levels: int = 4
) -> tuple[list[Any], Mapping[str, Any]] | None:
    """The list of what was found, however it is wrapped, and the object that says more of it (`total`, `notices`)."""
    if isinstance(result, list):
        return (result, about or {}) if any(map(fits, result)) else None
    if not isinstance(result, Mapping) or levels == 0:
        return None
    if fits(result):
        return [result], about or {}
    for name in ("organic", "data") if fits is _is_link else ("data",):
        if isinstance(listed := result.get(name), list) and (fits is _is_paper or listed):
            return listed, result
    inner = (result[name] for name in _WRAPPERS if name in result)
    found = (_listed(_opened(value), fits, {**(about or {}), **result}, levels - 1) for value in inner)
    return next(filter(None, found), None)


def _opened(value: Any) -> Any:
    """A value, read where it is JSON in a text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _is_paper(value: Any) -> bool:
    return (
        isinstance(value, Mapping) and any(name in value for name in ("paperId", "pmid", "PMID")) and "title" in value
    )


def _is_link(value: Any) -> bool:
    return isinstance(value, Mapping) and any(name in value for name in ("link", "url")) and "title" in value


def _page(result: Any, levels: int = 3) -> Mapping[str, Any] | None:
    if not isinstance(result, Mapping) or levels == 0:
        return None
    if result.get("markdown"):
        return result
    inner = (
        _page(_opened(result[name]), levels - 1) for name in ("result", "data", "response", "output") if name in result
    )
    return next(filter(None, inner), None)


def _papers(listed: list[Any], about: Mapping[str, Any]) -> Rendered:
    papers = [paper for paper in listed if isinstance(paper, Mapping)][:MAX_PAPERS]
    total = escape_tags(_shown(about.get("total", len(listed)), _MAX_ID))
    notices = about.get("notices")
    noted = (
        f" ({escape_tags(_shown('; '.join(map(_text, notices)), MAX_FIELD))})"
        if isinstance(notices, list) and notices
        else ""
    )
    heads = [_head(paper) for paper in papers]
    abstracts = [escape_tags(_shown(paper.get("abstract", "No abstract"), None)) for paper in papers]
    room = MAX_BODY - 200 - sum(len(head) + 40 for head, _, _ in heads) - len(noted)
    longest = _even_share([len(text) for text in abstracts], room)
    kept = [shortened(text, longest) for text in abstracts]
    cut = [identity for (_, identity, whole), text, all_of_it in zip(heads, kept, abstracts, strict=True)
           if text != all_of_it or not whole]  # fmt: skip
    snippets = [f"{head}Abstract: {text}</snippet>" for (head, _, _), text in zip(heads, kept, strict=True)]
    body = f"\nFound {total} results. Showing top {len(snippets)}{noted}:\n" + "\n".join(snippets) + "\n"
    return Rendered(
        _output(body),
        {
            "total": storable(about.get("total", len(papers))),
            "data": [
                _recorded(paper, text if text != all_of_it else None)
                for paper, text, all_of_it in zip(papers[:MAX_RECORDED_PAPERS], kept, abstracts, strict=False)
            ],
            **({"notices": storable(notices)} if noted else {}),
        },
        [identity for _, identity, _ in heads],
        cut,
    )


def _head(paper: Mapping[str, Any]) -> tuple[str, str, bool]:
    """A snippet up to its abstract, its id as written, and whether all of its fields are whole."""
    authors = paper.get("authors")
    names = [_author(author) for author in authors] if isinstance(authors, list) else []
    identity = paper.get("paperId", paper.get("pmid", paper.get("PMID", "unknown")))
    fields = [
        paper.get("title", "No title"), ", ".join(names[:3]), paper.get("year", "N/A"),
        paper.get("venue", paper.get("journal", "N/A")),
    ]  # fmt: skip
    title, listed, year, venue = (escape_tags(_shown(value, MAX_FIELD)) for value in fields)
    written = escape_attribute(escape_tags(_shown(identity, None)[:_MAX_ID]))
    others = " et al." if len(names) > 3 else ""
    text = f'<snippet id="{written}">Title: {title}\nAuthors: {listed}{others} | Year: {year} | Journal: {venue}\n'
    return text, written, all(len(_shown(value, None)) <= MAX_FIELD for value in fields)


def _recorded(paper: Mapping[str, Any], abstract: str | None) -> dict[str, Any]:
    kept = {key: storable(paper.get(key)) for key in _PAPER_KEYS}
    for key, value in kept.items():
        if key != "abstract" and isinstance(value, str):
            kept[key] = shortened(value, MAX_FIELD)
    return kept if abstract is None else {**kept, "abstract": abstract}


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


def _links(listed: list[Any]) -> Rendered:
    links = [link for link in listed if isinstance(link, Mapping)][:MAX_LINKS]
    shown = [
        f'<snippet id="G{place}">Title: {_part(link.get("title", "No title"))}\n{_part(link.get("snippet", ""))}\n'
        f"URL: {_part(link.get('link') or link.get('url') or '')}</snippet>"
        for place, link in enumerate(links, start=1)
    ]
    kept = [{key: storable(link[key]) for key in _LINK_KEYS if key in link} for link in links]
    ids = [f"G{place}" for place in range(1, len(links) + 1)]
    return Rendered(_output("\n" + "\n".join(shown) + "\n"), _bounded({"organic": kept}), ids)


def _part(value: Any) -> str:
    return escape_tags(_shown(value, 10 * MAX_FIELD))


def _shown(value: Any, length: int | None) -> str:
    """A field as text; what is no text as the earlier scripts printed it."""
    text = f"{storable(value)}"
    return text if length is None else shortened(text, length)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(storable(value), ensure_ascii=False)
