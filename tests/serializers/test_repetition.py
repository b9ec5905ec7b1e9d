"""Text that goes round in circles is told from text that is only long."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serializers.repetition import is_endless, repeats_itself

WORDS = [
    f"{a}{b}{c}" for a in ("tri", "dos", "pla", "coh", "mor") for b in ("al", "ce", "ort", "um") for c in ("", "s")
]
PHRASE = st.lists(st.sampled_from(WORDS), min_size=1, max_size=120).map(" ".join)


def prose(seed: int, words: int) -> str:
    """Words in no order: no phrase comes twice."""
    chance = random.Random(seed)
    return " ".join(f"{chance.choice(WORDS)}{chance.randrange(1000)}" for _ in range(words))


@given(PHRASE, st.integers(0, 1000))
def test_any_phrase_that_comes_again_and_again_is_found_wherever_it_begins(phrase: str, seed: int) -> None:
    loop = f"{phrase}. " * (1 + 6000 // len(phrase))
    said = f"{prose(seed, 200)} {loop}"
    assert repeats_itself(said)
    assert is_endless(said)
    assert repeats_itself(f"{said} {prose(seed + 1, 100)}")


@given(st.integers(0, 10_000), st.integers(1, 3000))
def test_long_text_that_goes_on_is_not(seed: int, words: int) -> None:
    said = prose(seed, words)
    assert not repeats_itself(said)
    assert not is_endless(said)


@pytest.mark.parametrize(
    "said",
    [
        "", "word " * 50, "| a | b |\n|---|---|\n" + "\n".join(f"| {n} | {n * 7919} |" for n in range(300)), "-" * 5000,
        "Randomized, double-blind, placebo-controlled trial. " * 3 + prose(1, 400),
    ],
)  # fmt: skip
def test_tables_rules_and_a_title_named_three_times_are_no_circles(said: str) -> None:
    assert not repeats_itself(said)


def test_a_text_of_any_size_is_looked_at_in_its_end_alone() -> None:
    assert repeats_itself("0" * 20_000_000)
    assert not is_endless("again and again, " * 100), "a short one may still come to an end"
