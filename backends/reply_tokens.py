"""The tokens of a reply as its server made them: their ids and log probabilities, checked against the reply's text.

vLLM and SGLang name the ids when asked for them, llama.cpp in what it says when it is to be verbose. It gives no
logprobs of the stop string that it cut, and none of its own for a letter that is made of several tokens.
"""

import math
import re
from array import array
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import TypedDict

from backends.completion import choice_of, without_end_token

ASKED: dict[str, Any] = {
    "return_token_ids": True, "logprobs": True, "top_logprobs": 1, "return_tokens": True, "verbose": True,
}  # fmt: skip
"""What a request says to have them: vLLM and SGLang know the first, llama.cpp the last two. It gives none without
alternatives, and twenty of these where nothing is said of them.
"""
NONE, REFUSED = "the server gives no token ids", "the server refuses to give token ids"
STREAMED = "the reply was streamed"
_TAGS = re.compile(r"\s*</?think>\s*")
_MOST, _LEAST_LOGPROB = 2**31, -3.5e38
_LONGEST_REST = 16
"""Letters that may be left of a token whose other letters begin a stop string."""


class ReplyTokens(TypedDict, total=False):
    """One of the `logprobs` for each of the `ids`, NaN where the server gives none; `prompt_ids` are the request's, or
    None where it does not tell them. Or `left_out`: why there is nothing. They are packed: as lists they would cost
    more than the rest of a trajectory.
    """

    prompt_ids: str | None
    ids: str
    logprobs: str
    left_out: str


def packed(numbers: Sequence[int] | Sequence[float], kind: str) -> str:
    """Whole numbers (`i`) or others (`f`) of 32 bits, as base64."""
    return b64encode(array(kind, numbers).tobytes()).decode()


def tokens_of(answer: Any, message: Mapping[str, str], stop: Sequence[str]) -> ReplyTokens:
    """The tokens of a chat completion whose `message` has `content`, and perhaps `reasoning_content`."""
    try:
        return _checked(answer, message, stop)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError):
        return {"left_out": "the server gives token ids in a form that is not known"}


def _checked(answer: Any, message: Mapping[str, str], stop: Sequence[str]) -> ReplyTokens:
    choice, usage = choice_of(answer), answer.get("usage") or {}
    given = (choice.get("logprobs") or {}).get("content") or []
    named = [one["id"] for one in given if "id" in one]
    ids = choice.get("token_ids") or choice.get("response_token_ids")
    ids = list(ids or (answer.get("__verbose") or {}).get("tokens") or named)
    prompt_ids = list(answer.get("prompt_token_ids") or choice.get("prompt_token_ids") or ())
    if not ids:
        return {"left_out": NONE}
    if not given:
        return {"left_out": "the server gives no logprobs"}
    missing = len(ids) - len(given)
    if missing < 0 or len(named) not in (0, len(given)) or (missing and not named):
        return {"left_out": "the server gives logprobs of other than its tokens"}
    if not all(type(one) is int and 0 <= one < _MOST for one in [*ids, *prompt_ids]):
        return {"left_out": "the server gives token ids that are no numbers"}
    logprobs = [None if "id" in one and not one.get("top_logprobs") else float(one["logprob"]) for one in given]
    if not all(one is None or _LEAST_LOGPROB < one < 1 for one in logprobs):
        return {"left_out": "the server gives logprobs that are none"}
    if len(ids) != usage.get("completion_tokens") or (prompt_ids and len(prompt_ids) != usage.get("prompt_tokens")):
        return {"left_out": "the server gives other tokens than it counts"}
    aligned = _aligned(logprobs, named or ids, ids)
    if aligned is None:
        return {"left_out": "the server gives logprobs of other than its tokens"}
    is_cut = missing > 0 and named[-1:] != ids[-1:]
    if is_cut and missing > max((len(one.encode()) for one in stop), default=0):
        return {"left_out": "the server gives no logprobs of too many tokens"}
    if not _are_of([_bytes(one) for one in given], is_cut, message, stop):
        return {"left_out": "the tokens are not those of the reply's text"}
    known = [math.nan if one is None else one for one in aligned]
    return {
        "prompt_ids": packed(prompt_ids, "i") if prompt_ids else None, "ids": packed(ids, "i"),
        "logprobs": packed(known, "f"),
    }  # fmt: skip


def joined(first: ReplyTokens | None, second: ReplyTokens | None) -> ReplyTokens | None:
    """The tokens of a reply in two pieces, if the second was asked for behind the very tokens of the first."""
    if first is None or second is None:
        return None
    if "left_out" in first or "left_out" in second:
        return {"left_out": first.get("left_out") or second["left_out"]}
    if not first["prompt_ids"] or second["prompt_ids"] != _both(first["prompt_ids"], first["ids"]):
        return {"left_out": "a reply that was cut off was continued behind other tokens"}
    return {
        "prompt_ids": first["prompt_ids"], "ids": _both(first["ids"], second["ids"]),
        "logprobs": _both(first["logprobs"], second["logprobs"]),
    }  # fmt: skip


def _both(first: str, second: str) -> str:
    return b64encode(b64decode(first) + b64decode(second)).decode()


def _bytes(token: Mapping[str, Any]) -> bytes:
    """A token's text; of one that is only a part of a letter, as far as the server shows it."""
    said = token.get("bytes")
    return bytes(said) if isinstance(said, list) else str(token["token"]).encode()


def _aligned(logprobs: Sequence[float | None], named: Sequence[int], ids: Sequence[int]) -> list[float | None] | None:
    """A logprob for each of the `ids`, None where it cannot be known which of the `named` it is, or it is none of them.
    None when these are other tokens.
    """
    if list(ids[: len(named)]) == list(named):
        return [*logprobs, *[None] * (len(ids) - len(named))]
    first, last = _places(named, ids), _places(named[::-1], ids[::-1])
    if first is None or last is None:
        return None
    aligned: list[float | None] = [None] * len(ids)
    for at, other, logprob in zip(first, reversed(last), logprobs, strict=True):
        if at == len(ids) - 1 - other:
            aligned[at] = logprob
    return aligned


def _places(named: Sequence[int], ids: Sequence[int]) -> list[int] | None:
    """The first places at which these are found, in order; None where they are not."""
    places, at = list[int](), 0
    for one in named:
        while at < len(ids) and ids[at] != one:
            at += 1
        if at == len(ids):
            return None
        places.append(at)
        at += 1
    return places


def _are_of(pieces: Sequence[bytes], is_cut: bool, message: Mapping[str, str], stop: Sequence[str]) -> bool:
    """Whether the tokens are those of a message. A thought in a field of its own has lost its tags, and the white space
    around them. Behind the text there may be the stop string, the rest of the last token, and what ends a turn; where
    the last pieces are cut off, more of the text.
    """
    said, last = (without_end_token(b"".join(some).decode("utf-8", "replace")) for some in (pieces, pieces[-1:]))
    text, thought = (without_end_token(message.get(name, "")).strip() for name in ("content", "reasoning_content"))
    if thought or ("</think>" in said and "</think>" not in text):
        said, text = _TAGS.sub("", said), thought + text
    said, last = said.strip(), last.strip()
    if is_cut:
        return text.startswith(said) and len(text) - len(said) <= _LONGEST_REST
    if not said.startswith(text):
        return False
    tail = said.removeprefix(text).strip()
    tail = next((tail.removeprefix(one).strip() for one in stop if tail.startswith(one)), tail)
    return not tail or (last.endswith(tail) and tail != last)
