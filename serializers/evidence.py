"""What a tool's answer amounts to: a failure, nothing, or something to rest on. The one judge of it: the status of a
call, the gates and the cassette ask here.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

_ERROR_TEXT = re.compile(
    r"\s*(?:"
    r"\[?(?:(?:MCP|tool|HTTP|API|server) )?error"
    r"(?:\]|\s*[:(]|\s*\Z|\s+(?:executing|calling|fetching|in|code|while|from|-?\d{3}))"
    r"|[A-Z]\w*(?:Error|Exception):|Traceback \("
    r"|(?:tool|search|request|call|fetch|query)(?: \w+)? (?:failed|timed out)\b"
    r"|(?:HTTP |status )(?:error )?[45]\d\d\b"
    r"|(?:failed|unable) to (?:fetch|search|load|connect|execute|call|read|open|get|retrieve)\b"
    r"|(?:rate limit exceeded|too many requests|internal server error|service unavailable|bad gateway)\b"
    r"|(?:gateway timeout|connection (?:refused|reset|timed out)|timed? ?out)\b"
    r"|\{\s*\"error\"\s*:(?!\s*(?:null|false|0|\"\"|\[\]|\{\}))"
    r"|\{\s*\"(?:success|ok)\"\s*:\s*false|\{\s*\"status\"\s*:\s*\"(?:error|fail)"
    r")",
    re.IGNORECASE,
)
_FAILED_STATUS = frozenset(("error", "fail", "failed", "failure", "timeout", "exception"))
_CONTENT = (
    "data",
    "organic",
    "markdown",
    "results",
    "result",
    "papers",
    "articles",
    "items",
    "documents",
    "content",
    "text",
)
"""Under which names results carry what they found."""
_ABOUT = frozenset(
    ("total", "count", "offset", "next", "limit", "page", "searchParameters", "query", "q", "url", "success", "ok",
     "status", "credits", "took", "searchInformation")
)  # fmt: skip
"""What says something of the search, and nothing of what was found."""
_NOTHING = re.compile(
    r"[^.!?]{0,80}?\b(?:no|0|zero|not any|(?:did|does) not (?:match|find|return) any)\s(?:\w+\s){0,2}?"
    r"(?:results?|matches|match|papers?|articles?|documents?|items?|records?|hits?|entries|data|content)\b[^.!?]{0,150}"
    r"|(?:nothing|none|not)(?: was)? found\b[^.!?]{0,40}|no (?:output|response|answer)"
    r"|none|null|nil|n/a|undefined|empty",
    re.IGNORECASE,
)
_NOTHING_FOUND_HEAD = re.compile(r"\s*Found \S+ results\. Showing top \d+[^\n]*:\s*")
_BLOCK_NAME = re.compile(r"\[(?:image|audio|resource|resource_link|blob|video|file)\]", re.IGNORECASE)
_SNIPPET = re.compile(r"<snippet\b[^>]*>(.*?)</snippet>", re.DOTALL)
_FIELD_NAMES = re.compile(
    r"Title:\s*(?:No title|None)?|Authors:[^\n|]*|Year:\s*(?:N/A|None)?|Journal:\s*(?:N/A|None)?"
    r"|Abstract:\s*(?:No abstract|None)?|URL:\s*\S*"
)
_NO_PAGE = re.compile(
    r"(?:complete|solve|enter|pass)\b.{0,40}captcha|captcha.{0,40}(?:required|verification|challenge|check)"
    r"|are you (?:a )?(?:human|robot)|not a (?:ro)?bot|just a moment|attention required|ray id"
    r"|(?:verify|confirm|prove)\b.{0,30}\b(?:you are|you're|human)|unusual (?:traffic|activity)"
    r"|checking (?:your browser|if the site)|enable (?:javascript|js|cookies)|requires? javascript|turn on javascript"
    r"|(?:javascript|cookies?) (?:is|are|must be) (?:disabled|required|enabled|blocked|turned off)"
    r"|access (?:to this page )?(?:has been |is )?(?:denied|blocked|restricted)"
    r"|\b(?:403|404|410|429|50[0234])\b\W{0,4}(?:forbidden|not found|gone|error|page|too many|service|bad|internal)"
    r"|page (?:you (?:are|were) looking for|not found|does(?: not|n't) exist|is missing)"
    r"|page (?:was |is |could |can )?(?:not|n't) ?(?:be )?(?:found|exist)|not found\W*\Z"
    r"|(?:we|this (?:web)?site) uses? cookies|accept (?:all )?cookies|cookie (?:settings|preferences|consent|policy)"
    r"|(?:sign|log) in to (?:continue|view|access)|please wait while|redirecting|under maintenance",
    re.IGNORECASE,
)
_SHORT_PAGE = 1500
"""Characters below which a page with such words has nothing else in it."""


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
    if any(result.get(name) for name in ("error", "errors", "isError", "exception")):
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


def says_nothing(body: str) -> bool:
    """Whether a tool output holds nothing that an answer could rest on: no result, an empty page, one that only says
    that it is not shown.
    """
    text = body.strip()
    if text.startswith("<webpage>"):
        page = text.removeprefix("<webpage>").removesuffix("</webpage>").strip()
        return _is_empty(page) or (len(page) < _SHORT_PAGE and _NO_PAGE.search(page) is not None)
    if head := _NOTHING_FOUND_HEAD.match(text):
        text = text[head.end() :]
    if "<snippet" in text:
        return all(_is_empty(_FIELD_NAMES.sub("", shown)) for shown in _SNIPPET.findall(text))
    if _is_empty(_BLOCK_NAME.sub("", text)):
        return True
    if text[0] in "{[" and (value := _json(text)) is not _NOT_JSON:
        return not _holds_something(value)
    if len(text) < _SHORT_PAGE and _NO_PAGE.search(text):
        return True
    return len(text) < 400 and _NOTHING.fullmatch(text.strip(" .!\"'")) is not None


_NOT_JSON = object()


def _failed_text(text: str) -> bool:
    if _ERROR_TEXT.match(text):
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


def _holds_something(value: Any) -> bool:
    if isinstance(value, Mapping):
        found = [value[name] for name in _CONTENT if name in value]
        rest = found or [item for name, item in value.items() if name not in _ABOUT]
        return any(map(_holds_something, rest))
    if isinstance(value, list):
        return any(map(_holds_something, value))
    return (
        not _is_empty(value) and _NOTHING.fullmatch(value.strip(" .!")) is None
        if isinstance(value, str)
        else bool(value)
    )
