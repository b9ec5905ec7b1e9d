"""A model's raw reply, read: what of it is kept, and the call or answer in it.

A server that honours the stop strings ends a reply at `</call_tool>` or before `<tool_output>`. One that does not
runs on; reading cuts such a reply at the same places, so the kept text does not depend on the server.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from serializers.actions import Reading, call_at, end_of, first_action, forged_output, without_cut_tag
from serializers.escaping import escape_own, escape_tokens
from serializers.respelling import call_from_json, known_name, respelled, web_address
from serializers.tags import TAG, Call, write_call

COMPLETE_FINISH_REASONS = (
    "stop", "eos", "eos_token", "stop_sequence", "end_turn", "end", "complete", "completed", "tool_calls", "tool_use",
    "function_call", "", None,
)  # fmt: skip
"""Reasons with which the model itself ended its reply; with any other (`length`, `content_filter`) it was cut off."""


@dataclass(frozen=True)
class Reply:
    """What a reply says: at most one of `call` and `answer`.

    `text` is what is kept and shown to the model again; `prefix` is the part of it before the call or answer (its
    thoughts). `repairs` names every change made to the model's own characters; empty when there was none.
    `thought_open` says that it ended within a thought, without a call or an answer: such a thought is not whole.
    """

    text: str
    prefix: str
    call: Call | None = None
    answer: str | None = None
    repairs: tuple[str, ...] = ()
    thought_open: bool = False


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


def read_reply(raw: str, how: Reading | None = None) -> Reply:
    """Read a model's raw reply. Never raises; linear in its length.

    The first call counts, and what follows it is dropped; calls and answers that a thought only talks about do not
    count; an unclosed thought ends where the call or answer in it begins.
    """
    how = how or Reading()
    text, repairs = respelled(raw.strip())
    text = text.strip()
    tags = list(TAG.finditer(text))
    forged = forged_output(tags, how)
    action, talks = first_action(text, tags, forged, how)
    if forged and not (action and end_of(action, tags, text) <= forged.start()):
        text, tags = text[: forged.start()].rstrip(), [tag for tag in tags if tag.start() < forged.start()]
        action, talks = first_action(text, tags, None, how)
        repairs.append("forged_tool_output_dropped")
    if action is None:
        kept = _close_thought(text, repairs, last=True) if how.stopped else escape_tokens(text)
        return Reply(text=kept, prefix=kept, repairs=tuple(repairs), thought_open=talks)
    prefix = _close_thought(text[: action.start()], repairs, last=False)
    if forged and action["name"] == "answer" and end_of(action, tags, text) > len(text):
        repairs.append("open_answer_dropped")  # it ended where a tool's output would begin: it was not one
        return Reply(text=prefix.rstrip(), prefix=prefix.rstrip(), repairs=tuple(repairs))
    if action["name"] == "call_tool":
        return _read_call(text, prefix, action, tags, repairs, how)
    return _read_answer(text, prefix, action, tags, repairs, how.stopped)


def _close_thought(prefix: str, repairs: list[str], *, last: bool) -> str:
    """What precedes the action, with whole thoughts and no other tag: a first thought is opened, a last one closed, a
    stray tag and one that a thought only talks about are escaped, so that no reader takes it for one.
    """
    pieces: list[str] = []
    at, open_thought, seen = 0, False, False
    talked_of = False

    def escaped(piece: str) -> str:
        nonlocal talked_of
        safe = escape_own(piece)
        talked_of |= safe != piece
        return safe

    for tag in TAG.finditer(prefix):
        if tag["name"] != "think":
            continue
        pieces.append(escaped(prefix[at : tag.start()]))
        at = tag.end()
        if tag["close"] and not open_thought and not seen:
            pieces = ["<think>", *pieces, "</think>"]
            repairs.append("think_opened")
        elif bool(tag["close"]) == open_thought:
            pieces.append("</think>" if tag["close"] else "<think>")
            open_thought = not open_thought
        else:  # dropped, it could make a tag of what stands around it
            pieces.append(escape_own(tag[0]))
            repairs.append("stray_think_neutralised")
        seen = True
    text = "".join([*pieces, escaped(prefix[at:])])
    if talked_of:
        repairs.append("tag_in_thought_neutralised")
    if open_thought:
        repairs.append("think_closed")
        text = without_cut_tag(text.rstrip(), "</think>").rstrip() + ("</think>" if last else "</think>\n")
    return text


def _read_call(
    text: str, prefix: str, action: re.Match[str], tags: list[re.Match[str]], repairs: list[str], how: Reading
) -> Reply:
    following = next((tag for tag in tags if tag.start() >= action.end()), None)
    closed = following is not None and bool(following["close"]) and following["name"] == "call_tool"
    written, inner = call_at(text, action, following.start() if following else len(text))
    if not closed:
        if following is None and not how.stopped:
            return Reply(text=escape_tokens(text), prefix=prefix, repairs=tuple(repairs))
        inner = without_cut_tag(inner.rstrip(), "</call_tool>").rstrip()
        written = replace(written, query=inner.strip())
        repairs.append("call_closed" if following else "stop_string_restored")
    call = _meant(written, how.tools, repairs)
    canonical = write_call(replace(call, query=inner) if call.query == written.query else call)
    if call == written and not canonical.startswith(text[action.start() : action.end()] + inner):
        repairs.append("call_rewritten")
    end = following.end() if closed and following else len(text)
    if text[end:].strip() or (following and not closed):
        repairs.append("text_after_call_dropped")
    return Reply(text=prefix + canonical, prefix=prefix.rstrip(), call=call, repairs=tuple(repairs))


def _meant(call: Call, tools: Sequence[str], repairs: list[str]) -> Call:
    """The call that one in another form stands for, each change named."""
    if call.query.startswith(("{", "[")) and (inside := call_from_json(call.query, call.name)):
        call = replace(inside, parameters={**call.parameters, **inside.parameters})
        repairs.append("json_call_read")
    if (name := known_name(call.name, tools)) != call.name:
        call = replace(call, name=name)
        repairs.append("tool_name_respelled")
    if call.name == "browse_webpage" and (address := web_address(call.query)) != call.query:
        call = replace(call, query=address)
        repairs.append("address_completed")
    parameters = {
        escape_own(name): escape_own(value) if isinstance(value, str) else value
        for name, value in call.parameters.items()
    }
    safe = Call(escape_own(call.name), escape_own(call.query), parameters)
    if safe != call:
        repairs.append("tag_in_call_neutralised")
    return safe


def _read_answer(
    text: str, prefix: str, action: re.Match[str], tags: list[re.Match[str]], repairs: list[str], stopped: bool
) -> Reply:
    closing = next(
        (tag for tag in tags if tag.start() >= action.end() and tag["close"] and tag["name"] == "answer"), None
    )
    if closing is None and not stopped:
        return Reply(text=escape_tokens(text), prefix=prefix, repairs=tuple(repairs))
    inner = text[action.end() : closing.start() if closing else len(text)]
    if closing is None:
        inner = without_cut_tag(inner.rstrip(), "</answer>").rstrip()
        repairs.append("answer_closed")
    elif text[closing.end() :].strip():
        repairs.append("text_after_answer_dropped")
    safe = escape_own(inner)
    if safe != inner:
        repairs.append("tag_in_answer_neutralised")
    kept = f"{prefix}<answer>{safe}</answer>"
    return Reply(text=kept, prefix=prefix.rstrip(), answer=safe.strip(), repairs=tuple(repairs))


def model_ended(finish_reason: object) -> bool:
    """Whether the model itself ended a reply."""
    return (finish_reason.lower() if isinstance(finish_reason, str) else finish_reason) in COMPLETE_FINISH_REASONS
