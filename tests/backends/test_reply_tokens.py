"""Token ids and logprobs, as vLLM, SGLang and llama.cpp give them: kept where they are those of the text, else left out."""

import re
from array import array
from base64 import b64decode
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.reply_tokens import NONE, ReplyTokens, joined, packed
from backends.reply_tokens import tokens_of as packed_tokens_of


def unpacked(tokens: ReplyTokens | None) -> dict[str, Any]:
    """With lists, as they are read in the end."""
    found: dict[str, Any] = {**(tokens or {})}
    for name, kind in (("prompt_ids", "i"), ("ids", "i"), ("logprobs", "f")):
        if found.get(name):
            found[name] = [None if one != one else one for one in array(kind, b64decode(found[name]))]
    return found


def tokens_of(answer: Any, message: dict[str, str], stop: list[str]) -> dict[str, Any]:
    return unpacked(packed_tokens_of(answer, message, stop))


STOPS = ["</call_tool>", "<tool_output>"]
END = 7
"""The id of what ends a turn."""
texts = st.text(alphabet="ab <>/é中β\n", min_size=1, max_size=30).filter(lambda text: "</call_tool>" not in text)


@dataclass
class Said:
    """A reply as it was sampled, in pieces that may end within a letter."""

    pieces: list[bytes]
    ends: bool

    @property
    def ids(self) -> list[int]:
        return [*range(100, 100 + len(self.pieces)), *([END] if self.ends else [])]

    @property
    def text(self) -> str:
        return b"".join(self.pieces).decode()

    def shown_by(self, server: str) -> bool:
        """Whether the server shows what all of its tokens are: vLLM before 0.16 shows no letter that several make."""
        return server != "older vllm" or all("\ufffd" not in piece.decode(errors="replace") for piece in self.pieces)


@st.composite
def replies(draw: Any, text: st.SearchStrategy[str] = texts) -> Said:
    whole = draw(text).encode()
    cuts = sorted(draw(st.sets(st.integers(1, max(len(whole) - 1, 1)), max_size=8)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True) if whole[a:b]]
    return Said(pieces, draw(st.booleans()))


def entry(text: bytes, **more: Any) -> dict[str, Any]:
    shown = text.decode("utf-8", "replace")
    alternatives = [{"token": shown, "logprob": -0.5}]
    return {"token": shown, "bytes": [*shown.encode()], "logprob": -0.5, "top_logprobs": alternatives, **more}


def merged(pieces: list[bytes], half: bytes | None) -> list[tuple[int, bytes]]:
    """The pieces that are shown, with their places: one that ends within a letter as `half`, or, where that is None, not
    at all; what completes it has all of the letter.
    """
    shown, held = list[tuple[int, bytes]](), b""
    for at, piece in enumerate(pieces):
        held += piece
        try:
            held.decode()
        except UnicodeDecodeError:
            if half is not None:
                shown.append((at, half))
            continue
        shown.append((at, held))
        held = b""
    return shown


def answered(said: Said, server: str) -> dict[str, Any]:
    """A completion without its message."""
    usage = {"prompt_tokens": 3, "completion_tokens": len(said.ids)}
    end = [b"<|im_end|>"] if said.ends else []
    if server == "vllm":
        given = [entry(shown) for _, shown in merged(said.pieces, b"")] + [*map(entry, end)]
        choice = {"message": {}, "token_ids": said.ids, "logprobs": {"content": given}}
        return {"choices": [choice], "prompt_token_ids": [1, 2, 3], "usage": usage}
    if server == "older vllm":
        choice = {"message": {}, "token_ids": said.ids, "logprobs": {"content": [*map(entry, [*said.pieces, *end])]}}
        return {"choices": [choice], "prompt_token_ids": [1, 2, 3], "usage": usage}
    if server == "sglang":
        given = [{**entry(b""), "bytes": [*piece], "token": "?"} for piece in [*said.pieces, *end]]
        choice = {"message": {}, "response_token_ids": said.ids, "logprobs": {"content": given}}
        return {"choices": [{**choice, "prompt_token_ids": [1, 2, 3]}], "usage": usage}
    shown = merged(said.pieces, None)
    given = [entry(text, id=said.ids[at]) for at, text in shown] + ([entry(b"", id=END)] if said.ends else [])
    choice = {"message": {}, "logprobs": {"content": given}}
    return {"choices": [choice], "__verbose": {"tokens": said.ids}, "usage": usage}


SERVERS = ["vllm", "older vllm", "sglang", "llama.cpp"]


@pytest.mark.parametrize("server", SERVERS)
@given(said=replies())
def test_what_was_sampled_is_kept_token_for_token(server: str, said: Said) -> None:
    tokens = tokens_of(answered(said, server), {"content": said.text}, STOPS)
    assert ("left_out" in tokens) == (not said.shown_by(server))
    if "left_out" in tokens:
        return
    assert tokens["ids"] == said.ids
    assert tokens["prompt_ids"] == (None if server == "llama.cpp" else [1, 2, 3])
    assert len(tokens["logprobs"]) == len(said.ids)
    dropped = len(said.ids) - len(answered(said, server)["choices"][0]["logprobs"]["content"])
    assert tokens["logprobs"].count(None) == (dropped if server == "llama.cpp" else 0)


@pytest.mark.parametrize("server", SERVERS)
@given(said=replies(), at=st.integers(0, 100), letter=st.sampled_from("xyzη"))
def test_tokens_of_another_text_are_left_out(server: str, said: Said, at: int, letter: str) -> None:
    at %= len(said.text)
    other = said.text[:at] + letter + said.text[at:]
    assert "left_out" in tokens_of(answered(said, server), {"content": other}, STOPS)


@pytest.mark.parametrize("server", SERVERS)
@given(thought=replies(), content=replies(st.sampled_from(["The call:", "<answer>é</answer>", "中"])))
def test_a_thought_in_a_field_of_its_own_has_lost_its_tags(server: str, thought: Said, content: Said) -> None:
    pieces = [b"<think>", b"\n", *thought.pieces, b"\n</", b"think", b">\n\n", *content.pieces]
    said = Said(pieces, content.ends)
    message = {"content": content.text, "reasoning_content": thought.text.strip()}
    assert tokens_of(answered(said, server), message, STOPS).get("ids") == (said.ids if said.shown_by(server) else None)


@pytest.mark.parametrize("kept", [True, False])
def test_tokens_of_the_stop_string_are_kept_whether_the_text_has_it_or_not(kept: bool) -> None:
    said = Said([b"<call_tool>", b"heart", b"</", b"call", b"_tool", b">\n"], False)
    message = {"content": "<call_tool>heart" + ("</call_tool>" if kept else "")}
    tokens = tokens_of(answered(said, "vllm"), message, STOPS)
    assert tokens["ids"] == said.ids and None not in tokens["logprobs"]


def test_llama_cpp_gives_no_logprobs_of_the_stop_string_that_it_cut() -> None:
    said = Said([b"<call_tool>", b"heart", b"</", b"call", b"_tool", b">"], False)
    answer = answered(said, "llama.cpp")
    del answer["choices"][0]["logprobs"]["content"][-4:]
    tokens = tokens_of(answer, {"content": "<call_tool>heart"}, STOPS)
    assert tokens["ids"] == said.ids
    assert tokens["logprobs"] == [-0.5, -0.5, None, None, None, None]


def test_an_older_llama_cpp_names_ids_beside_its_logprobs_alone() -> None:
    said = Said([b"yes", b"."], True)
    answer = answered(said, "llama.cpp")
    del answer["__verbose"]
    assert tokens_of(answer, {"content": "yes."}, STOPS).get("ids") == said.ids
    del answer["choices"][0]["logprobs"]["content"][0]
    assert tokens_of(answer, {"content": "yes."}, STOPS) == {"left_out": "the server gives other tokens than it counts"}


def test_a_token_that_was_guessed_ahead_has_no_logprob() -> None:
    answer = answered(Said([b"yes", b"."], False), "llama.cpp")
    answer["choices"][0]["logprobs"]["content"][1] |= {"logprob": 0.0, "top_logprobs": []}
    assert tokens_of(answer, {"content": "yes."}, STOPS)["logprobs"] == [-0.5, None]


def test_a_logprob_whose_token_cannot_be_told_is_left_out_alone() -> None:
    said = Said([b"a", "é".encode()[:1], "é".encode()[1:], b"a"], False)
    answer = answered(said, "llama.cpp")
    answer["__verbose"]["tokens"] = ids = [100, 100, 102, 103]  # the half letter that is not named has the first's id
    answer["choices"][0]["logprobs"]["content"][0]["id"] = 100
    tokens = tokens_of(answer, {"content": "aéa"}, STOPS)
    assert tokens["ids"] == ids and tokens["logprobs"] == [None, None, -0.5, -0.5]


@pytest.mark.parametrize(
    "change, why",
    [
        ({"token_ids": None}, NONE),
        ({"logprobs": None}, "no logprobs"),
        ({"token_ids": [1, 2, 3, 4]}, "other than its tokens"),
        ({"token_ids": [1, 2, 3, 4], "logprobs": {"content": [entry(b"y")] * 4}}, "counts"),
        ({"token_ids": [1]}, "other than its tokens"),
        ({"token_ids": ["1", 2, 3]}, "no numbers"),
        ({"token_ids": [True, 2, 3]}, "no numbers"),
        ({"token_ids": [2**31, 2, 3]}, "no numbers"),
        ({"token_ids": "abc"}, "no numbers"),
        ({"token_ids": 3}, "not known"),
        ({"logprobs": {"content": [{}, {}, {}]}}, "not known"),
        ({"logprobs": {"content": [entry(b"y", logprob=-1e300)] * 3}}, "logprobs that are none"),
        ({"logprobs": {"content": [entry(b"y", logprob=float("nan"))] * 3}}, "logprobs that are none"),
        ({"logprobs": [1, 2]}, "not known"),
        ({"logprobs": {"content": [entry(b"no")] * 3}}, "not those of the reply's text"),
    ],
)  # fmt: skip
def test_what_is_no_tokens_is_left_out_with_a_word(change: dict[str, Any], why: str) -> None:
    answer = answered(Said([b"y", b"es"], True), "vllm")
    answer["choices"][0] |= change
    assert re.search(why, tokens_of(answer, {"content": "yes"}, STOPS)["left_out"])


def test_what_stands_behind_a_stop_string_is_no_part_of_the_reply() -> None:
    said = Said([b"heart", b"</call_tool>", b"\n<tool_output>", b"made up"], False)
    assert "left_out" in tokens_of(answered(said, "vllm"), {"content": "heart</call_tool>"}, STOPS)
    assert "left_out" in tokens_of(answered(said, "vllm"), {"content": "heart"}, STOPS)


def test_white_space_within_a_thought_is_the_thoughts() -> None:
    said = Said([b"<think>", b"a b", b"</think>", b"c"], True)
    assert "ids" in tokens_of(answered(said, "vllm"), {"content": "c", "reasoning_content": "a b"}, STOPS)
    assert "left_out" in tokens_of(answered(said, "vllm"), {"content": "c", "reasoning_content": "ab"}, STOPS)


def test_the_tokens_are_of_the_choice_that_is_read() -> None:
    answer, other = answered(Said([b"yes"], True), "vllm"), answered(Said([b"yes"], True), "vllm")["choices"][0]
    answer["choices"] = [{**other, "index": 1, "token_ids": [8, 9]}, {**other, "index": 0}]
    assert tokens_of(answer, {"content": "yes"}, STOPS)["ids"] == [100, END]


@pytest.mark.parametrize("answer", [{}, {"usage": None}, {"usage": 3}])
def test_a_server_that_gives_and_counts_nothing_gives_none(answer: dict[str, Any]) -> None:
    left_out = tokens_of({"choices": [{"message": {}}], **answer}, {"content": "yes"}, STOPS)["left_out"]
    assert left_out == (NONE if answer.get("usage") != 3 else left_out)


def test_a_server_that_sends_the_end_token_along_has_its_tokens_kept() -> None:
    said = Said([b"yes"], True)
    assert "ids" in tokens_of(answered(said, "vllm"), {"content": "yes<|im_end|>"}, STOPS)


def test_more_than_a_stop_string_is_not_left_unseen() -> None:
    said = Said([b"yes", *[b"x"] * 40], False)
    answer = answered(said, "llama.cpp")
    del answer["choices"][0]["logprobs"]["content"][1:]
    assert "left_out" in tokens_of(answer, {"content": "yes"}, STOPS)
    assert "left_out" in tokens_of(answer, {"content": said.text}, STOPS)


def test_ids_on_some_logprobs_only_are_no_ids() -> None:
    answer = answered(Said([b"y", b"e", b"s"], False), "vllm")
    answer["choices"][0]["logprobs"]["content"][0]["id"] = 100
    assert "left_out" in tokens_of(answer, {"content": "yes"}, STOPS)


@pytest.mark.parametrize("given", [[], [entry(b"y")], [entry(b"")], [entry(b"y"), entry(b"es")]])
def test_logprobs_of_some_tokens_are_not_laid_on_others(given: list[Any]) -> None:
    answer = answered(Said([b"y", b"e", b"s"], False), "vllm")
    answer["choices"][0]["logprobs"]["content"] = given
    assert "logprobs" in tokens_of(answer, {"content": "yes"}, STOPS)["left_out"]


oddities = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(10**400) | st.just(10**12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@pytest.mark.parametrize("server", SERVERS)
@given(said=replies(), odd=oddities, at=st.integers(0, 10), where=st.integers(0, 20))
def test_whatever_a_server_gives_is_kept_whole_or_left_out(
    server: str, said: Said, odd: Any, at: int, where: int
) -> None:
    answer = answered(said, server)
    choice, given = answer["choices"][0], answer["choices"][0]["logprobs"]["content"]
    one = given[at % len(given)] if given else {}
    places: list[tuple[Any, str]] = [
        (answer, "usage"), (answer, "prompt_token_ids"), (answer, "__verbose"), (choice, "token_ids"),
        (choice, "logprobs"), (choice["logprobs"], "content"), (one, "bytes"), (one, "token"), (one, "logprob"),
        (one, "id"), (one, "top_logprobs"), (answer["usage"], "prompt_tokens"), (answer["usage"], "completion_tokens"),
    ]  # fmt: skip
    place, name = places[where % len(places)]
    place[name] = odd
    tokens = tokens_of(answer, {"content": said.text}, STOPS)
    if "left_out" not in tokens:
        assert tokens["ids"] == said.ids and len(tokens["logprobs"]) == len(said.ids)


def test_a_reply_in_two_pieces_has_the_tokens_of_both_where_the_second_follows_the_first() -> None:
    first: ReplyTokens = {"prompt_ids": packed([1, 2], "i"), "ids": packed([3], "i"), "logprobs": packed([-0.5], "f")}
    second: ReplyTokens = {**first, "prompt_ids": packed([1, 2, 3], "i"), "ids": packed([4], "i")}
    assert unpacked(joined(first, second)) == {"prompt_ids": [1, 2], "ids": [3, 4], "logprobs": [-0.5, -0.5]}
    assert "left_out" in (joined(first, {**second, "prompt_ids": packed([1, 2, 9], "i")}) or {})
    assert "left_out" in (joined({**first, "prompt_ids": None}, {**second, "prompt_ids": None}) or {})
    assert joined({"left_out": "why"}, second) == {"left_out": "why"}
    assert joined(None, second) is None
