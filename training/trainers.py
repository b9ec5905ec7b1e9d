"""What a trainer really trains on: its template, its mask and its cutting, restated, over a model's own tokenizer.

TRL's and LLaMA-Factory's are compared with the trainers in `tests/real/test_trainers.py`: same tokens, same mask.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from backends.errors import UsageError
from training.chat_template import ChatTemplate
from training.messages import Message, masked_by_tags
from training.tokens import Tokenizer

_QWEN3 = "a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8"
"""The hash of Qwen3's own template, in the place of which TRL trains with one of its own."""
_TRL_FOR_QWEN3 = """\
{%- for said in messages %}
{%- if said.role == 'assistant' %}
{%- set parts = said.content.split('</think>') %}
{%- set thought = parts[0].rstrip('\\n').split('<think>')[-1].strip('\\n') if parts | length > 1 else '' %}
{{- '<|im_start|>assistant\\n' }}
{%- generation %}{{- '<think>\\n' + thought + '\\n</think>\\n\\n' + parts[-1].lstrip('\\n') + '<|im_end|>\\n' }}
{%- endgeneration %}
{%- elif said.role == 'tool' %}
{{- '<|im_start|>user' if loop.first or loop.previtem.role != 'tool' }}
{{- '\\n<tool_response>\\n' + said.content + '\\n</tool_response>' }}
{{- '<|im_end|>\\n' if loop.last or loop.nextitem.role != 'tool' }}
{%- else %}
{{- '<|im_start|>' + said.role + '\\n' + said.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}"""
_NO_THOUGHT = "<think>\n\n</think>\n\n"


@dataclass(frozen=True)
class Trained:
    """A row as a trainer takes it: its text, where each token stands in it, and whether it counts."""

    text: str
    places: Sequence[tuple[int, int]]
    counts: Sequence[bool]

    def parts(self, special: frozenset[str]) -> Iterator[str]:
        """The stretches of text that are trained on, without special tokens."""
        start = end = 0  # a character of several tokens is there once
        for (begins, ends), counts in zip(self.places, self.counts, strict=True):
            if counts and ends > end and self.text[begins:ends] not in special:
                if begins > end:
                    yield from filter(None, [self.text[start:end]])
                    start = begins
                end = ends
            elif not counts and begins >= end:
                yield from filter(None, [self.text[start:end]])
                start = end = begins
        yield from filter(None, [self.text[start:end]])


@dataclass(frozen=True)
class Trainer:
    """A trainer: the format that it reads, the length at which it cuts where nothing is said, and what it does."""

    format_name: str
    default_length: int
    length_flag: str
    trains: Callable[[Sequence[Message], Tokenizer, ChatTemplate], Trained]
    needs_template: bool = True


def trainer_template(name: str, template: ChatTemplate | None) -> ChatTemplate:
    """The template that a trainer renders rows with, given a model's own. Raises UsageError where that is not known."""
    if not TRAINERS[name].needs_template:
        return ChatTemplate("its own", "")
    if template is None:
        raise UsageError(f"--verify {name}: give the model's folder as --tokenizer, or --verify-template")
    if name != "trl" or template.marks:
        return template
    if hashlib.sha256(template.source.encode()).hexdigest() == _QWEN3:
        return ChatTemplate("TRL's template for Qwen3", _TRL_FOR_QWEN3)
    raise UsageError(
        f"--verify trl: {template.name} does not say what the model writes, and TRL's own one for it is not known "
        "here: give --verify-template one with {% generation %} around it, and TRL the same as chat_template_path"
    )


def _trl(chat: Sequence[Message], tokenizer: Tokenizer, template: ChatTemplate) -> Trained:
    text, marked = template.marked(chat)
    return _by_ranges(text, marked, tokenizer)


def _open_instruct(chat: Sequence[Message], tokenizer: Tokenizer, template: ChatTemplate) -> Trained:
    """What each reply adds to the conversation before it, be it in letters, else in tokens."""
    text = template.text(chat)
    replies = [at for at, said in enumerate(chat) if said["role"] == "assistant"]
    heads = [template.text(chat[:at], asking=True) if at else "" for at in replies]
    ends = [template.text(chat[: at + 1]) for at in replies]
    if all(text.startswith(head) and text.startswith(end) for head, end in zip(heads, ends, strict=True)):
        return _by_ranges(text, [(len(head), len(end)) for head, end in zip(heads, ends, strict=True)], tokenizer)
    places = tokenizer.places(text)
    counts = [False] * len(places)
    for at, head, end in zip(replies, heads, ends, strict=True):
        first, last = min(tokenizer.count(head), len(places)), min(tokenizer.count(end), len(places))
        counts[first:last] = [True] * (last - first)
        shown = text[places[first][0] : places[last - 1][1]].lstrip() if first < last else ""
        own, later = str(chat[at]["content"]), [str(said["content"]) for said in chat[at + 1 :] if said["content"]]
        runs_on = any(one in shown[len(own) :] for one in later)
        if own in text and (runs_on or not shown.startswith(own)):
            return Trained(text, places, [False] * len(places))  # such a row is dropped
    return Trained(text, places, counts)


def _by_ranges(text: str, ranges: Sequence[tuple[int, int]], tokenizer: Tokenizer) -> Trained:
    """A token counts that has a letter in one of the ranges, which are in order."""
    places, left, counts = tokenizer.places(text), list(reversed(ranges)), list[bool]()
    for start, end in places:
        while left and left[-1][1] <= start:
            left.pop()
        counts.append(bool(left) and start < end and left[-1][0] < end)
    return Trained(text, places, counts)


def _llamafactory(chat: Sequence[Message], tokenizer: Tokenizer, _: ChatTemplate) -> Trained:
    """`template: qwen3`, thinking on: a turn at a time, each piece encoded apart."""
    text, places, counts = "", list[tuple[int, int]](), list[bool]()
    for pieces in _turns_of_qwen3(chat):
        for is_reply, piece in pieces:
            found = tokenizer.places(piece)
            places += [(len(text) + start, len(text) + end) for start, end in found]
            counts += [is_reply] * len(found)
            text += piece
    return Trained(text, places, counts)


def _turns_of_qwen3(chat: Sequence[Message]) -> Iterator[list[tuple[bool, str]]]:
    """Each message in the pieces that are encoded apart, and whether they are the model's. A reply without a thought
    gets an empty one.
    """
    for said in chat:
        content = str(said["content"])
        if said["role"] == "system":
            yield [(False, f"<|im_start|>system\n{content}<|im_end|>\n")] if content else []
        elif said["role"] == "assistant":
            thoughtless = "<think>" not in content and "</think>" not in content
            yield [*([(True, _NO_THOUGHT)] if thoughtless else []), (True, f"{content}<|im_end|>\n")]
        else:
            shown = f"<tool_response>\n{content}\n</tool_response>" if said["role"] == "tool" else content
            yield [(False, f"<|im_start|>user\n{shown}<|im_end|>\n<|im_start|>assistant\n")]


def _drtulu(chat: Sequence[Message], tokenizer: Tokenizer, template: ChatTemplate) -> Trained:
    """LLaMA-Factory's, and from each `<tool_output` to the next `</tool_output>` of the whole text nothing counts."""
    whole = _llamafactory(chat, tokenizer, template)
    masked, counts = list(reversed(masked_by_tags(whole.text))), list[bool]()
    for (start, stop), counted in zip(whole.places, whole.counts, strict=True):
        while masked and masked[-1][1] <= start:
            masked.pop()
        counts.append(counted and not (masked and masked[-1][0] < stop))
    return Trained(whole.text, whole.places, counts)


TRAINERS = {
    "trl": Trainer("messages", 1024, "max_length", _trl),
    "llamafactory": Trainer("sharegpt", 2048, "cutoff_len", _llamafactory, needs_template=False),
    "drtulu": Trainer("drtulu", 2048, "cutoff_len", _drtulu, needs_template=False),
    "open-instruct": Trainer("messages", 4096, "max_seq_length", _open_instruct),
}
