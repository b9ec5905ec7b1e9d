"""The grammar of a trajectory's text: the only place that knows how the protocol's tags are read and written.

    <think>…</think>
    <call_tool name="pubmed_search" limit="5">three to six keywords</call_tool>
    <answer>… <cite id="12345678">…</cite> …</answer>

A server that honours the stop strings ends a reply at `</call_tool>` or before `<tool_output>`. One that does not
runs on; reading cuts such a reply at the same places, so the kept text does not depend on the server.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

STOP_STRINGS = ("</call_tool>", "<tool_output>")

_NAMES = "think|call_tool|tool_output|answer"
# Quoted values may hold "<" and ">", but no tag of ours; every repeat is bounded, which keeps reading linear.
_INSIDE = rf"<(?!/?(?:{_NAMES})\b)"
_QUOTED = rf"""(?:"(?:[^"<]|{_INSIDE}){{0,500}}"|'(?:[^'<]|{_INSIDE}){{0,500}}')"""
_ATTRIBUTES = rf"""(?:\s(?:[^<>"']{{0,60}}{_QUOTED}){{0,8}}[^<>"']{{0,60}})?"""
TAG = re.compile(rf"<(?P<close>/?)(?P<name>{_NAMES})(?P<attributes>{_ATTRIBUTES})>")
_ATTRIBUTE = re.compile(r"""([A-Za-z_][\w-]{0,40})\s{0,8}=\s{0,8}("[^"]*"|'[^']*'|[^\s"'=<>]+)""")
_TEMPLATE = r"\|[\w-]{1,40}\|>"  # <|im_end|>: a server that reads it as its template's own would end the message there
_NEUTRAL = re.compile(rf"<(?=/?(?:{_NAMES})\b|\s{{0,8}}/?\s{{0,8}}(?:{_NAMES})\s{{0,8}}>|{_TEMPLATE})", re.IGNORECASE)
_CITATION = re.compile(r"""<cite\s{1,8}id\s{0,4}=\s{0,4}["']?([^"'<>]{1,200})["']?\s{0,4}>""")
_PMID = re.compile(r"(?:PMID)?[:\s]*(\d{1,9})", re.IGNORECASE)
_INTEGER = re.compile(r"0|-?[1-9]\d{0,8}")
_QUERY_ATTRIBUTES = ("query", "url", "q")


@dataclass(frozen=True)
class Call:
    """One tool call as the model wrote it: `limit="5"` arrives as the integer 5."""

    name: str
    query: str
    parameters: dict[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What a reply says: at most one of `call` and `answer`.

    `text` is what is kept and shown to the model again; `head` is the part of it before the call or answer (its
    thoughts). `repairs` names every change made to the model's own characters; empty when there was none.
    """

    text: str
    head: str
    call: Call | None = None
    answer: str | None = None
    repairs: tuple[str, ...] = ()


def write_call(call: Call) -> str:
    """The canonical text of a call, name first, values in double quotes."""
    parameters = "".join(f" {name}={_quoted(str(value))}" for name, value in call.parameters.items())
    return f"<call_tool name={_quoted(call.name)}{parameters}>{call.query}</call_tool>"


def join_reasoning(reasoning: str, content: str) -> str:
    """One text from a reply whose reasoning arrived in a field of its own; its thought is not repeated."""
    thought, body = reasoning.strip(), content.strip()
    said = body.removeprefix("<think>").partition("</think>")
    if not thought or (said[1] and said[0].strip() == thought):
        return body
    if not body and thought.startswith(("<call_tool", "<answer")):
        return thought
    if not body:  # the call may sit inside the reasoning: leave the thought open and let `read_reply` close it
        return f"<think>{thought}"
    if thought.startswith("<think>"):
        thought = thought.removeprefix("<think>").removesuffix("</think>").strip()
    return f"<think>{thought}</think>\n{body}"


def read_reply(raw: str, *, stopped: bool = True) -> Reply:
    """Read a model's raw reply. Never raises; linear in its length.

    `stopped` says that the model ended it (`finish_reason: stop`): only then may a missing `</call_tool>` or
    `</answer>` be restored. The first call counts, and what follows it is dropped; calls and answers that a closed
    thought only talks about do not count; an unclosed thought ends where the call or answer in it begins.
    """
    repairs: list[str] = []
    text = raw.strip()
    tags = list(TAG.finditer(text))
    forged = next((tag for tag in tags if tag["name"] == "tool_output"), None)
    thoughts = _closed_thoughts(tags, forged)
    action = _first_action(tags, thoughts)
    if forged and not (action and _end_of(action, tags, text) <= forged.start()):
        text, tags = text[: forged.start()].rstrip(), [tag for tag in tags if tag.start() < forged.start()]
        thoughts = _closed_thoughts(tags, None)
        action = _first_action(tags, thoughts)
        repairs.append("forged_tool_output_dropped")
    if action is None:
        kept = _close_thought(text, repairs, last=True) if stopped else text
        return Reply(text=kept, head=kept, repairs=tuple(repairs))
    head = _close_thought(text[: action.start()], repairs, last=False)
    if forged and action["name"] == "answer" and _end_of(action, tags, text) > len(text):
        repairs.append("open_answer_dropped")  # it ended where a tool's output would begin: it was not one
        return Reply(text=head.rstrip(), head=head.rstrip(), repairs=tuple(repairs))
    if action["name"] == "call_tool":
        return _read_call(text, head, action, tags, repairs, stopped)
    return _read_answer(text, head, action, tags, repairs, stopped)


def neutralise(text: str) -> str:
    """Make protocol tags and a chat template's own tokens in foreign text harmless (`<answer>` becomes `&lt;answer>`,
    `<|im_end|>` becomes `&lt;|im_end|>`); all other text stays.
    """
    return _NEUTRAL.sub("&lt;", text)


def cited_ids(text: str) -> list[str]:
    """The `id`s of `<cite id="…">`, as written, in order of first appearance."""
    return list(dict.fromkeys(match[1].strip() for match in _CITATION.finditer(text)))


def cited_pmids(text: str) -> list[str]:
    """PMIDs cited in a text, in order of first appearance; `PMID: 123` and `123, 456` are read, `G1` is not one."""
    parts = (part.strip() for cited in cited_ids(text) for part in re.split(r"[,;]", cited))
    return list(dict.fromkeys(match[1] for part in parts if (match := _PMID.fullmatch(part))))


def _closed_thoughts(tags: list[re.Match[str]], forged: re.Match[str] | None) -> list[tuple[int, int]]:
    """Spans of complete thoughts. A `</think>` that nothing opened closes a thought from the start of the text."""
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
    return spans


def _first_action(tags: list[re.Match[str]], thoughts: list[tuple[int, int]]) -> re.Match[str] | None:
    spans = iter(thoughts)
    span = next(spans, None)
    for tag in tags:
        while span and tag.start() >= span[1]:
            span = next(spans, None)
        inside = span is not None and tag.start() >= span[0]
        if not inside and not tag["close"] and tag["name"] in ("call_tool", "answer"):
            return tag
    return None


def _end_of(action: re.Match[str], tags: list[re.Match[str]], text: str) -> int:
    """Where a complete action ends; beyond the text when it is not complete."""
    for tag in tags:
        if tag.start() >= action.end():
            if tag["close"] and tag["name"] == action["name"]:
                return tag.end()
            if tag["name"] == "tool_output" or action["name"] == "call_tool":
                break
    return len(text) + 1


def _close_thought(head: str, repairs: list[str], *, last: bool) -> str:
    """What precedes the action, with whole thoughts and no other tag: a first thought is opened, a last one closed, a
    stray tag and one that a thought only talks about are made harmless, so that no reader takes it for one.
    """
    pieces: list[str] = []
    at, open_thought, seen = 0, False, False
    talked_of = False

    def harmless(piece: str) -> str:
        nonlocal talked_of
        safe = neutralise(piece)
        talked_of |= safe != piece
        return safe

    for tag in TAG.finditer(head):
        if tag["name"] != "think":
            continue
        pieces.append(harmless(head[at : tag.start()]))
        at = tag.end()
        if tag["close"] and not open_thought and not seen:
            pieces = ["<think>", *pieces, "</think>"]
            repairs.append("think_opened")
        elif bool(tag["close"]) == open_thought:
            pieces.append("</think>" if tag["close"] else "<think>")
            open_thought = not open_thought
        else:  # dropped, it could make a tag of what stands around it
            pieces.append(neutralise(tag[0]))
            repairs.append("stray_think_neutralised")
        seen = True
    text = "".join([*pieces, harmless(head[at:])])
    if talked_of:
        repairs.append("tag_in_thought_neutralised")
    if open_thought:
        repairs.append("think_closed")
        text = _without_cut_tag(text.rstrip(), "</think>").rstrip() + ("</think>" if last else "</think>\n")
    return text


def _read_call(
    text: str, head: str, action: re.Match[str], tags: list[re.Match[str]], repairs: list[str], stopped: bool
) -> Reply:
    following = next((tag for tag in tags if tag.start() >= action.end()), None)
    closed = following is not None and bool(following["close"]) and following["name"] == "call_tool"
    inner = text[action.end() : following.start() if following else len(text)]
    attributes = _attributes(action["attributes"].removesuffix("/"))
    if not closed:
        if following is None and not stopped:
            return Reply(text=text, head=head, repairs=tuple(repairs))
        inner = _without_cut_tag(inner.rstrip(), "</call_tool>").rstrip()
        repairs.append("call_closed" if following else "stop_string_restored")
    beside = [str(attributes.pop(name)) for name in _QUERY_ATTRIBUTES if name in attributes]
    inner = inner if inner.strip() or not beside else beside[0]
    call = Call(name=str(attributes.pop("name", "")), query=inner.strip(), parameters=attributes)
    canonical = write_call(Call(call.name, inner, attributes))
    if not canonical.startswith(text[action.start() : action.end()] + inner):
        repairs.append("call_rewritten")
    end = following.end() if closed and following else len(text)
    if text[end:].strip() or (following and not closed):
        repairs.append("text_after_call_dropped")
    return Reply(text=head + canonical, head=head.rstrip(), call=call, repairs=tuple(repairs))


def _read_answer(
    text: str, head: str, action: re.Match[str], tags: list[re.Match[str]], repairs: list[str], stopped: bool
) -> Reply:
    closing = next(
        (tag for tag in tags if tag.start() >= action.end() and tag["close"] and tag["name"] == "answer"), None
    )
    if closing is None and not stopped:
        return Reply(text=text, head=head, repairs=tuple(repairs))
    inner = text[action.end() : closing.start() if closing else len(text)]
    if closing is None:
        inner = _without_cut_tag(inner.rstrip(), "</answer>").rstrip()
        repairs.append("answer_closed")
    elif text[closing.end() :].strip():
        repairs.append("text_after_answer_dropped")
    safe = neutralise(inner)
    if safe != inner:
        repairs.append("tag_in_answer_neutralised")
    kept = f"{head}<answer>{safe}</answer>"
    return Reply(text=kept, head=head.rstrip(), answer=safe.strip(), repairs=tuple(repairs))


def _attributes(text: str) -> dict[str, str | int]:
    values = {match[1]: match[2][1:-1] if match[2][0] in "\"'" else match[2] for match in _ATTRIBUTE.finditer(text)}
    return {
        name: int(value) if name != "name" and name not in _QUERY_ATTRIBUTES and _INTEGER.fullmatch(value) else value
        for name, value in values.items()
    }


def _quoted(value: str) -> str:
    return f"'{value}'" if '"' in value else f'"{value}"'


def _without_cut_tag(text: str, tag: str) -> str:
    """Drop a closing tag that was cut off in its middle."""
    cut: Iterable[int] = range(len(tag) - 1, 1, -1)
    return next((text[:-size] for size in cut if text.endswith(tag[:size])), text)
