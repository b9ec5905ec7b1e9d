"""The numbers of a claim, looked for in the text that it cites: leniently, since the rest is called missing."""

import re
from collections.abc import Sequence
from itertools import chain

_THIN = "\u00a0\u2007\u2009\u202f"
_NUMBER = rf"[0-9]{{1,3}}(?:[,{_THIN}][0-9]{{3}})+(?![0-9])(?:[.·][0-9]+)?|0,[0-9]+|[0-9]+(?:[.·][0-9]+)?|[.·][0-9]+"
_SAID = re.compile(rf"(?<![\w.·])(?<![A-Za-z][-‐‑–])(?:[0-9]{{1,3}}(?: [0-9]{{3}})+(?![0-9])|{_NUMBER})%?")
_HELD = re.compile(_NUMBER)
_SPACED = re.compile(r"(?<![0-9])[0-9]{1,3}(?: [0-9]{3})+(?![0-9])")
_LABEL = re.compile(
    r"\b(?:phase|type|grade|stage|class|table|fig(?:ure|\.)?|part|group|step|level|tier|line|question|option|PMID)s?[\s:#]{1,3}"
    r"[0-9]+[a-d]?(?:\s?[/–-]\s?[0-9]+[a-d]?)?|[(\[][0-9]{1,2}(?:\s?[,–-]\s?[0-9]{1,2}){0,5}[)\]]|^\s{0,8}[0-9]{1,2}[.)](?=\s)"
    r"|\b[0-9]+(?:st|nd|rd|th)\b",
    re.IGNORECASE | re.MULTILINE,
)
"""What names a thing, or counts off a list: no figure of the source."""
_ONES = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS = {
    **{word: value for value, word in enumerate(_ONES.split(), start=1)},
    **{word: 10 * value for value, word in enumerate(_TENS.split(), start=2)},
    **{word: value for value, word in enumerate(_ORDINALS.split(), start=1)},
    "half": 50, "twice": 2, "once": 1, "both": 2, "hundred": 100,
    "zero": 0, "none": 0, "no": 0, "thirds": 3, "quarter": 4, "quarters": 4,
}  # fmt: skip
_WORD = re.compile(
    rf"\b({_TENS.replace(' ', '|')})(?:[-\s]({'|'.join(_ONES.split()[:9])}))?\b|\b({'|'.join(_WORDS)})\b", re.IGNORECASE
)


def said_in(text: str) -> list[str]:
    """The numbers that a claim or its sentence gives, as written, each once; names such as `phase 3` are none."""
    return list(dict.fromkeys(_SAID.findall(_LABEL.sub(" ", text))))


def held_in(text: str) -> frozenset[str]:
    """All that a source can be read to give: `4,744`, `0·74`, `12%`, `q12h`, `twenty-four`, `12 345`."""
    spaced = (number.replace(" ", "") for number in _SPACED.findall(text))
    words = (
        str(_WORDS[tens.lower()] + (_WORDS[ones.lower()] if ones else 0) if tens else _WORDS[word.lower()])
        for tens, ones, word in _WORD.findall(text)
    )
    return frozenset(chain(map(_plain, _HELD.findall(text)), spaced, words))


def missing_from(held: Sequence[frozenset[str]], said: str) -> bool:
    """Whether a number stands in none of the sources."""
    forms = [[_plain(said)], *([said.split()] if " " in said else ())]
    return not any(all(any(one in source for source in held) for one in form) for form in forms)


def _plain(number: str) -> str:
    """`4,744`, `0·74`, `.74`, `0.740` and `12%` as the numbers that they are."""
    plain = number.rstrip("%").replace("·", ".")
    plain = f"0.{plain[2:]}" if plain.startswith("0,") else re.sub(rf"[, {_THIN}]", "", plain)
    whole, point, rest = plain.partition(".")
    return (whole.lstrip("0") or "0") + (f".{rest.rstrip('0')}" if point and rest.rstrip("0") else "")
