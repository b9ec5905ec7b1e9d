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

from backends.completion import without_end_token

ASKED: dict[str, Any] = {
    "return_token_ids": True, "logprobs": True, "top_logprobs": 1, "return_tokens": True, "verbose": True,
}  # fmt: skip
"""What a request says to have them: vLLM and SGLang know the first, llama.cpp the last two. It gives none without
alternatives, and twenty of these where nothing is said of them.
"""
NONE = "the server gives no token ids"
_TAGS = re.compile(r"\s+|</?think>")
_HALF = "\ufffd"
"""What some servers write for a token that is only a part of a letter."""
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_MOST = 2**31


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


def tokens_of(answer: Mapping[str, Any], message: Mapping[str, str], stop: Sequence[str]) -> ReplyTokens:
    """The tokens of a chat completion whose `message` has `content`, and perhaps `reasoning_content`."""
    try:
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        given = (choice.get("logprobs") or {}).get("content") or []
        named = [one["id"] for one in given if "id" in one]
        ids = choice.get("token_ids") or choice.get("response_token_ids")
        ids = list(ids or (answer.get("__verbose") or {}).get("tokens") or named)
        prompt_ids = answer.get("prompt_token_ids") or choice.get("prompt_token_ids")
        if not ids:
            return {"left_out": NONE}
        if not given or len(given) > len(ids):
            return {"left_out": f"the server gives {len(given) or 'no'} logprobs of {len(ids)} tokens"}
        logprobs = [float(one["logprob"]) if one.get("top_logprobs") else None for one in given]
        pieces = [_bytes(one) for one in given]
        counted = [int(usage.get(name, -1)) for name in ("prompt_tokens", "completion_tokens")]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return {"left_out": "the server gives token ids in a form that is not known"}
    if not all(type(one) is int and 0 <= one < _MOST for one in [*ids, *(prompt_ids or ())]):
        return {"left_out": "the server gives token ids that are no numbers"}
    if not all(map(math.isfinite, filter(None, logprobs))):
        return {"left_out": "the server gives logprobs that are no numbers"}
    if counted[1] not in (-1, len(ids)) or (prompt_ids and counted[0] not in (-1, len(prompt_ids))):
        return {"left_out": "the server gives other tokens than it counts"}
    aligned = _aligned(logprobs, named or ids[: len(given)], ids)
    if aligned is None:
        return {"left_out": "the server gives the logprobs of other tokens"}
    is_cut = len(ids) > len(given) and named[-1:] != ids[-1:]
    if not _are_of(pieces, is_cut, message, stop):
        return {"left_out": "the tokens are not those of the reply's text"}
    known = [math.nan if one is None else one for one in aligned]
    told = packed(prompt_ids, "i") if prompt_ids else None
    return {"prompt_ids": told, "ids": packed(ids, "i"), "logprobs": packed(known, "f")}


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
    """A token's text, of which llama.cpp gives the bytes where it is only a part of a letter."""
    said = token.get("bytes")
    return bytes(said) if said is not None else str(token["token"]).encode("utf-8", "replace")


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
    around it. Behind the text there may be the stop string, the rest of the last token, and what ends a turn; where the
    last pieces are cut off, more of the text.
    """
    said, last = (b"".join(some).decode("utf-8", "replace") for some in (pieces, pieces[-1:]))
    said, text = without_end_token(said), message["content"].rstrip()
    thought = message.get("reasoning_content", "")
    if thought or ("</think>" in said and "</think>" not in text):
        said, last, text = (_TAGS.sub("", one) for one in (said, last, thought + text))
    if halves := said.count(_HALF):  # two at least for each letter that is made of several tokens
        known, letters = [one for one in said if not one.isascii() and one != _HALF], iter(text)
        if sum(not one.isascii() for one in text) > len(known) + halves // 2 or not all(
            one in letters for one in known
        ):
            return False
        said, last, text = (_NOT_ASCII.sub("", one) for one in (said, last, text))
    if is_cut:
        return text.startswith(said.rstrip())
    tail, last = said.removeprefix(text).strip(), last.strip()
    is_rest = tail.startswith(tuple(stop)) or (last.endswith(tail) and tail != last)
    return said.startswith(text) and (not tail or is_rest)
