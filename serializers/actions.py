"""Where in a reply the call or the answer begins that is meant: not within a whole thought, and not where an open
one only speaks of it.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from backends.config import QUERY_NAMES
from serializers.respelling import known_name
from serializers.tags import TAG, Call, read_attributes

_QUOTES = frozenset("`'\"“”‘’")
"""In which something may stand that is only spoken of: they open it where a blank is before them."""
_OPENING = frozenset("«「『")
_PLACEHOLDERS = frozenset(
    ("", "query", "keywords", "your query", "search terms", "search query", "url", "text", "your keywords", "search")
)
_MOST_QUOTES = 20


@dataclass(frozen=True)
class Reading:
    """How a reply is to be read. `stopped`: the model ended it (`finish_reason: stop`), and only then may a missing
    `</call_tool>` or `</answer>` be restored. `tools` are the names that calls may mean, `examples` the calls that the
    prompt itself shows. `ran_on` says that no stop string ended it: a thought that speaks of them is whole.
    """

    stopped: bool = True
    tools: Sequence[str] = ()
    examples: frozenset[tuple[str, str]] = frozenset()
    ran_on: bool = False


def calls_in(text: str) -> frozenset[tuple[str, str]]:
    """The calls that a prompt shows: their names and queries."""
    tags = list(TAG.finditer(text))
    shown = (
        call_at(text, tag, following.start())[0]
        for tag, following in pairwise(tags)
        if tag["name"] == following["name"] == "call_tool" and not tag["close"] and following["close"]
    )
    return frozenset((call.name, call.query) for call in shown)


def _closed_thoughts(
    tags: list[re.Match[str]], forged: re.Match[str] | None
) -> tuple[list[tuple[int, int]], int | None]:
    """Spans of complete thoughts, and where one begins that is not closed. A `</think>` that nothing opened closes a
    thought from the start of the text.
    """
    spans: list[tuple[int, int]] = []
    opened: int | None = None
    call_closed = False
    for tag in tags:
        if forged and tag.start() >= forged.start():
            break
        if tag["name"] == "think" and not tag["close"]:
            opened = tag.start() if opened is None else opened
        elif tag["name"] == "think":
            if opened is not None:
                spans.append((opened, tag.end()))
            elif not spans and not call_closed:
                spans.append((0, tag.end()))
            opened = None
        elif tag["close"] and tag["name"] == "call_tool" and opened is None:
            call_closed = True  # a server that honours the stop strings would have stopped here
    return spans, opened


def forged_output(tags: list[re.Match[str]], how: Reading) -> re.Match[str] | None:
    """Where the model begins to write a tool's output itself."""
    thoughts = _closed_thoughts(tags, None)[0] if how.ran_on else []
    for tag in tags:
        while thoughts and tag.start() >= thoughts[0][1]:
            thoughts.pop(0)
        if tag["name"] == "tool_output" and not (thoughts and tag.start() >= thoughts[0][0]):
            return tag
    return None


def first_action(
    text: str, tags: list[re.Match[str]], forged: re.Match[str] | None, how: Reading
) -> tuple[re.Match[str] | None, bool]:
    """The first call or answer that is meant, and, where there is none, whether the text ends within a thought."""
    thoughts, opened = _closed_thoughts(tags, forged)
    begins = len(text) - len(text.lstrip())
    quoted = False
    for number, action in enumerate(_actions(tags, thoughts)):
        in_open_one = opened is not None and opened < action.start()
        thought_over = any(end <= action.start() for _, end in thoughts[:1])
        unclosed = in_open_one or (not thought_over and begins < action.start())
        if not (unclosed and _only_spoken_of(text, action, tags, how)):
            return action, False
        quoted = True
        if number == _MOST_QUOTES:
            break
    return None, quoted or opened is not None


def _actions(tags: list[re.Match[str]], thoughts: list[tuple[int, int]]) -> Iterator[re.Match[str]]:
    """Where calls and answers begin, outside of whole thoughts."""
    spans = iter(thoughts)
    span = next(spans, None)
    for tag in tags:
        while span and tag.start() >= span[1]:
            span = next(spans, None)
        inside = span is not None and tag.start() >= span[0]
        if not inside and not tag["close"] and tag["name"] in ("call_tool", "answer"):
            yield tag


def _only_spoken_of(text: str, action: re.Match[str], tags: list[re.Match[str]], how: Reading) -> bool:
    """Whether a call or answer in an unclosed thought is not meant: it stands in quotes; something follows the answer;
    the call is the prompt's own example, or names no tool or no words.
    """
    before = text[max(action.start() - 2, 0) : action.start()]
    if before[-1:] in _OPENING or (before[-1:] in _QUOTES and not before[:-1].strip("([ ")):
        return True
    if action["name"] == "answer":
        following = [tag for tag in tags if tag.start() >= action.end()]
        end = next((tag.end() for tag in following if tag["close"] and tag["name"] == "answer"), None)
        calls = any(not tag["close"] and tag["name"] == "call_tool" for tag in following)
        return calls or (end is not None and bool(text[end:].strip()))
    end = next((tag.start() for tag in tags if tag.start() >= action.end()), len(text))
    call = call_at(text, action, end)[0]
    named = not how.tools or known_name(call.name, how.tools) in how.tools
    query = _without_cut_tags(call.query)
    placeholder = not named or not any(map(str.isalnum, query)) or query.strip("<>[]{}().… ").lower() in _PLACEHOLDERS
    return placeholder or (not how.ran_on and (call.name, call.query) in how.examples)


def end_of(action: re.Match[str], tags: list[re.Match[str]], text: str) -> int:
    """Where a complete action ends; beyond the text when it is not complete."""
    for tag in tags:
        if tag.start() >= action.end():
            if tag["close"] and tag["name"] == action["name"]:
                return tag.end()
            if tag["name"] == "tool_output" or action["name"] == "call_tool":
                break
    return len(text) + 1


def call_at(text: str, action: re.Match[str], end: int) -> tuple[Call, str]:
    """The call that begins with a tag, and the text between its tags."""
    inner = text[action.end() : end]
    attributes = read_attributes(action["attributes"].removesuffix("/"))
    beside = [str(attributes.pop(name)) for name in QUERY_NAMES if name in attributes]
    if not inner.strip() and beside:
        inner = beside[0]
    return Call(str(attributes.pop("name", "")), inner.strip(), attributes), inner


def _without_cut_tags(query: str) -> str:
    """A query without all that its repairs may yet cut off its end, so that it is judged alike before and after."""
    end, tag = len(query), "</call_tool>"
    while size := next((size for size in range(len(tag) - 1, 1, -1) if query.endswith(tag[:size], 0, end)), 0):
        end -= size
        while end and query[end - 1].isspace():
            end -= 1
    return query[:end]


def without_cut_tag(text: str, tag: str) -> str:
    """Drop a closing tag that was cut off in its middle."""
    cut: Iterable[int] = range(len(tag) - 1, 1, -1)
    return next((text[:-size] for size in cut if text.endswith(tag[:size])), text)
