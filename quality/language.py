"""Is a text English? By its letters and its commonest words; a text that is too short to judge passes."""

import re
import unicodedata
from collections import Counter

_WORD = re.compile(r"[^\W\d_]+")
_SPACED = {code: " " for code in range(128) if not chr(code).isalpha()}
"""The same for plain ASCII, eight times as fast."""
_OTHER_SCRIPT = re.compile(
    r"[^\W\d_A-Za-z\u00aa-\u02ff\u0370-\u03ff\u1d00-\u1fff\u2071-\u218b\uff21-\uff5a\U0001d400-\U0001d7ff]"
)
"""A letter of neither the Latin nor the Greek script, nor of the phonetic and mathematical ones made of them."""
_GREEK_WORD = re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]{4,}")
_ENGLISH = frozenset(
    "a about an and are as at be been but by can do for from has have i if in is it its may more my need next no not "
    "of on or should so than that the their there these they this to up was we were what which will with would "
    "you".split()
)
_OTHERS = tuple(
    frozenset(words.split()) - _ENGLISH
    for words in (
        "aber als auch auf aus bei das dass dem durch ein eine einen einer es für ich im ist mit muss nach nicht noch "
        "nun oder sich sie sind suche um und wie wird zu zum zur über",
        "con del desde donde entre es esta este las los más muy para pero por que según sin sobre son sus una",
        "au aux avec ces cette dans elle est il je mais ou par pas plus pour que qui sont sur une",
        "che con della delle gli lo nel nella più quale sono su una",
        "ao com como em foi mais na nas nos não os para pela por que são um uma",
        "aan bij dat deze een het ik maar moet naar niet ook op te tot uit voor worden zijn",
        "att av den det ett för från han hon inte jag kan med men och på som till var är",
        "af at den der det en er for fra har ikke jeg kan med men og på som til var være",
        "ale badania czy dla jako jest jego które mogą może nie oraz po przez są się ten to tym według został za że",
        "bir bu da daha gibi için ile olan olarak ve veya çok",
        "cho các có của không là này những trong và với được",
        "adalah dalam dan dari dengan ini itu karena lebih oleh pada tidak untuk yang",
    )
)
"""Without the words that English prose has in its Latin phrases and in names: de novo, in vitro, van der."""
_FOREIGN_WORDS = 3
"""Different words of a language's commonest, found more often than English ones, that make a text that language's."""

_FEW_LETTERS = (1, 60)
"""Letters of another script that say nothing, in a text of any length and in a long one."""


def is_english(text: str, *, prose: bool = True) -> bool:
    """Whether a text is English, as far as can be known; names, symbols, acronyms and single Greek letters say nothing.
    What is no `prose` (keywords) is judged by its letters alone.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)  # ligatures and circled digits are what they stand for
        foreign = len(_OTHER_SCRIPT.findall(text)) + sum(map(len, _GREEK_WORD.findall(text)))
        if foreign > _FEW_LETTERS[1] or (foreign > _FEW_LETTERS[0] and foreign > 0.3 * sum(map(str.isalpha, text))):
            return False
    if not prose:
        return True
    counted = Counter(text.translate(_SPACED).split() if text.isascii() else _WORD.findall(text))
    english = sum(counted[word] for word in _ENGLISH & counted.keys())
    for common in _OTHERS:
        found = common & counted.keys()
        if len(found) >= _FOREIGN_WORDS and sum(counted[word] for word in found) > english:
            return False
    return True
