"""What a tool's answer amounts to: a failure, nothing, or something to rest on. The one judge of it: the status of a
call, the gates and the cassette ask here.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from serializers.wordings import BANNER, BEGINS_AS_ERROR, HINT, NO_PAGE, NOTHING

_FAILED_STATUS = frozenset(("error", "fail", "failed", "failure", "timeout", "exception"))
_CONTENT = (
    "data", "organic", "markdown", "results", "result", "papers", "articles", "items", "documents", "content", "text",
)  # fmt: skip
"""Under which names results carry what they found."""
_ABOUT = frozenset(
    ("total", "count", "offset", "next", "limit", "page", "searchparameters", "query", "q", "url", "success", "ok",
     "status", "credits", "took", "searchinformation", "notices", "warnings", "messages", "translationset",
     "querytranslation", "errorlist", "warninglist", "suggestions", "filters", "facets", "version", "header", "start")
)  # fmt: skip
"""What says something of the search, and nothing of what was found."""
_COUNT = re.compile(r"(?:total|num|n|hit|result)?_?(?:count|total|hits?|found|results)", re.IGNORECASE)
_DIGIT = re.compile(r"\d")
_SENTENCE = re.compile(r"(?<=[.!?…])\s+|\n+")
_NOTHING_FOUND_HEAD = re.compile(r"\s*Found \S+ results\. Showing top \d+[^\n]*:\s*")
_BLOCK_NAME = re.compile(r"\[(?:image|audio|resource|resource_link|blob|video|file)\]", re.IGNORECASE)
_FIELD_NAMES = re.compile(
    r"Title:\s*(?:No title|None)?|Authors:[^\n|]*|Year:\s*(?:N/A|None)?|Journal:\s*(?:N/A|None)?"
    r"|Abstract:\s*(?:No abstract|None)?|URL:\s*\S*"
)
_SHORT, _LONG, _HEAD = 400, 1500, 150
"""Characters below which a page with such words has nothing else in it; and a longer one that begins with them."""


def failed(result: Any) -> bool:
    """Whether a tool's result (a JSON value, or plain text) says that the call failed.

    It says the same of a result and of the text that the model reads of it (see `tool_output.render`).
    """
    if isinstance(result, str):
        return _failed_text(result)
    if isinstance(result, list):
        return bool(result) and all(isinstance(item, Mapping) and failed(item) for item in result)
    if not isinstance(result, Mapping):
        return False
    if any(is_set(result.get(name)) for name in ("error", "errors", "isError", "exception")):
        return True
    status = result.get("status", result.get("statusCode", result.get("status_code", result.get("code"))))
    return (
        _is_no(result.get("success"))
        or _is_no(result.get("ok"))
        or (isinstance(status, str) and status.strip().lower() in _FAILED_STATUS)
        or (isinstance(status, int | str) and re.fullmatch(r"[45]\d\d", str(status)) is not None)
    )


def output_failed(body: str) -> bool:
    """The same of a tool output's body, as the model read it."""
    return _failed_text(body)


def is_set(value: Any) -> bool:
    """Whether a field says something: a number that is none does not."""
    return bool(value) and not (isinstance(value, float) and not math.isfinite(value))


def says_nothing(body: str) -> bool:
    """Whether a tool output holds nothing that an answer could rest on: no result, an empty page, one that only says
    that it is not shown.
    """
    text = body.strip()
    if text.startswith("<webpage>"):
        page = text.removeprefix("<webpage>").removesuffix("</webpage>").strip()
        return _is_empty(page) or _is_no_page(page) or _is_nothing(page)
    if head := _NOTHING_FOUND_HEAD.match(text):
        text = text[head.end() :]
    if "<snippet" in text:
        shown = (one.partition(">")[2].partition("</snippet>")[0] for one in text.split("<snippet")[1:])
        return all(_is_empty(_FIELD_NAMES.sub("", one)) for one in shown)
    if _is_empty(_BLOCK_NAME.sub("", text)):
        return True
    if text[0] in "{[" and (value := _json(text)) is not _NOT_JSON:
        return not _holds_something(value) or (_counts_none(value) and not _holds_items(value))
    return _is_no_page(text) or _is_nothing(text)


_NOT_JSON = object()


def _failed_text(text: str) -> bool:
    if BEGINS_AS_ERROR.match(text):
        return True
    start = text.lstrip()[:1]
    return (
        start in ("{", "[") and (value := _json(text)) is not _NOT_JSON and not isinstance(value, str) and failed(value)
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _NOT_JSON


def _is_no(value: Any) -> bool:
    return value is False or (isinstance(value, str) and value.strip().lower() in ("false", "no"))


def _is_empty(text: str) -> bool:
    return not any(map(str.isalnum, text))


def _is_no_page(text: str) -> bool:
    """Whether a page is a wall, an error or a banner, with nothing behind it."""
    if len(text) < _SHORT:
        return (NO_PAGE.search(text) or BANNER.search(text)) is not None
    return len(text) < _LONG and NO_PAGE.search(text[:_HEAD]) is not None


def _is_nothing(text: str) -> bool:
    """Whether a text says that there is nothing, and no more than how to search better."""
    if len(text) >= _SHORT:
        return False
    first, *others = filter(str.strip, _SENTENCE.split(text.strip()))
    hints = all(HINT.match(one) and not _DIGIT.search(one) for one in others)
    return hints and NOTHING.fullmatch(first.strip(" .…!#*\"'")) is not None


def _holds_something(value: Any) -> bool:
    if isinstance(value, Mapping):
        found = [value[name] for name in _CONTENT if name in value]
        rest = found or [item for name, item in value.items() if name.lower() not in _ABOUT]
        return any(map(_holds_something, rest))
    if isinstance(value, list):
        return any(map(_holds_something, value))
    return not _is_empty(value) and not _is_nothing(value) if isinstance(value, str) else bool(value)


def _counts_none(value: Any) -> bool:
    """Whether a search result counts no hits, on whatever level."""
    if not isinstance(value, Mapping):
        return False
    counted = (number for name, number in value.items() if _COUNT.fullmatch(name) and not isinstance(number, bool))
    return any(number in (0, "0") for number in counted) or any(map(_counts_none, value.values()))


def _holds_items(value: Any) -> bool:
    """Whether there is a list with something in it, or a text, beside what is said of the search."""
    if isinstance(value, Mapping):
        if any(isinstance(value.get(name), str) and _holds_something(value[name]) for name in (*_CONTENT, "abstract")):
            return True
        return any(_holds_items(item) for name, item in value.items() if name.lower() not in _ABOUT)
    return isinstance(value, list) and any(map(_holds_something, value))
