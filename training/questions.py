"""Questions that ask the same in almost the same words: kept on one side of a split, or out of a training set."""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

import Stemmer

_WORD = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+(?:[+\-\u2212](?!\w))?|[<>\u2264\u2265]")
_POSSESSIVE = re.compile(r"['\u2019]s\b", re.IGNORECASE)
_SMALL = frozenset(
    "a about among an and any are as at be been being by can could describe did do does explain for from give had has "
    "have how i in into is it its know known may me might must my of on or our please regarding shall should show some "
    "such tell than that the their them there these they this those to upon us was we were what when where which who "
    "whose why will with within would you your vs versus".split()
)
_ALIKE = 0.8
"""Share of the words of both that two questions have in common to be called the same."""
_stemmer = Stemmer.Stemmer("english")


def content_words(question: str) -> frozenset[str]:
    """What a question is about: its words without small ones and endings, whatever their order and case."""
    said = _WORD.findall(_POSSESSIVE.sub("", unicodedata.normalize("NFKC", question)))
    named = [bool(at) and _is_name(word, said[at - 1]) and not question.isupper() for at, word in enumerate(said)]
    words = [word.casefold() for word in said] or [question.strip()]
    about = [word for word, is_name in zip(words, named, strict=False) if is_name or word not in _SMALL]
    return frozenset(_stemmer.stemWords(about or words))


def _is_name(word: str, before: str) -> bool:
    """WHO, vitamin A, type I; not the I of "can I"."""
    return word.isupper() and (word != "I" or before.casefold() not in _SMALL)


def split_of(question: str, test_share: float) -> str:
    """`train` or `test`, by what a question is about alone: all its trajectories, and those of questions that ask the
    same in other words, go the same way, in every export.
    """
    about = " ".join(sorted(content_words(question)))
    place = int.from_bytes(hashlib.sha256(about.encode("utf-8", "replace")).digest()[:8]) / 2**64
    return "test" if place < test_share else "train"


class KnownQuestions:
    """Questions by which others are told: the same ones, and those that share nearly all words with one."""

    def __init__(self, questions: Iterable[str]) -> None:
        self._words = [content_words(question) for question in questions]
        self._with: dict[str, list[int]] = defaultdict(list)
        for at, words in enumerate(self._words):
            for word in words:
                self._with[word].append(at)

    def holds(self, question: str) -> bool:
        """Whether one of them asks the same."""
        words = content_words(question)
        shared: dict[int, int] = defaultdict(int)
        for word in words:
            for at in self._with.get(word, ()):
                shared[at] += 1
        return any(many >= _ALIKE * len(words | self._words[at]) for at, many in shared.items())
