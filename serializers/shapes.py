"""Papers, links and pages found in a tool's result, however they are wrapped."""

import json
from collections.abc import Callable, Mapping
from typing import Any

Fits = Callable[[Any], bool]
Found = tuple[list[Mapping[str, Any]], Mapping[str, Any]]
"""What was found, and the object that says more of it (`total`, `notices`)."""
_WRAPPERS = (
    "data", "result", "results", "papers", "articles", "response", "output", "items", "documents", "hits", "organic",
)  # fmt: skip
_PAGE_WRAPPERS = ("result", "data", "response", "output", "results", "pages")
_MOST_LEVELS = 4


def papers_in(result: Any) -> Found | None:
    """The papers of a search."""
    return _listed(result, _is_paper, {}, _MOST_LEVELS) or _assumed(result, "data", {}, _MOST_LEVELS)


def links_in(result: Any) -> Found | None:
    """The links of a web search."""
    found = _listed(result, _is_link, {}, _MOST_LEVELS) or _assumed(result, "organic", {}, _MOST_LEVELS)
    return found if found and found[0] else None


def page_in(result: Any, levels: int = _MOST_LEVELS) -> Mapping[str, Any] | None:
    """The page, with its `markdown`."""
    if levels == 0:
        return None
    if isinstance(result, list):
        return next(filter(None, (page_in(item, levels - 1) for item in result[:3])), None)
    if not isinstance(result, Mapping):
        return None
    if result.get("markdown"):
        return result
    inner = (page_in(_opened(result[name]), levels - 1) for name in _PAGE_WRAPPERS if name in result)
    return next(filter(None, inner), None)


def _listed(result: Any, fits: Fits, about: Mapping[str, Any], levels: int) -> Found | None:
    """What is of the shape that is looked for."""
    if isinstance(result, list):
        found = [_unwrapped(item, fits) for item in result if isinstance(item, Mapping)]
        return (found, about) if any(map(fits, found)) else None
    if not isinstance(result, Mapping) or levels == 0:
        return None
    if fits(result):
        return [result], about
    inner = (_listed(_opened(value), fits, {**about, **result}, levels - 1) for value in _wrapped(result))
    return next(filter(None, inner), None)


def _assumed(result: Any, name: str, about: Mapping[str, Any], levels: int) -> Found | None:
    """A list where those that we know have it, though nothing in it is of the shape; also an empty one."""
    if not isinstance(result, Mapping) or levels == 0:
        return None
    listed = result.get(name)
    if isinstance(listed, list) and all(isinstance(item, Mapping) for item in listed):
        return listed, {**about, **result}
    inner = (_assumed(_opened(value), name, {**about, **result}, levels - 1) for value in _wrapped(result))
    return next(filter(None, inner), None)


def _wrapped(result: Mapping[str, Any]) -> list[Any]:
    return [result[name] for name in _WRAPPERS if name in result]


def _unwrapped(item: Mapping[str, Any], fits: Fits) -> Mapping[str, Any]:
    """`{"paper": {…}}` as the paper."""
    return item if "title" in item or len(item) > 5 else next(filter(fits, item.values()), item)


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
