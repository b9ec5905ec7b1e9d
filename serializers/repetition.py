"""Text that goes round in circles: a small model's endless reply."""

import re
import zlib
from collections import Counter
from collections.abc import Iterator

_MARKS = re.compile(r"[\W_]+")
_SHORTEST = 600
"""Characters below which nothing has gone round for long."""
_LONGEST = 40_000
"""Characters of its end that are looked at."""
_LOOSE = 0.33
"""Prose packs to more of its length than this; only what packs better is looked at closely."""
_WINDOW, _TIMES = 100, 4
"""The same so many characters, letters and digits alone, so often."""

_CIRCLE = 3000
"""Letters at the end of a reply that must hold a third of that in new ones, else it would go on without end."""


def is_endless(text: str) -> bool:
    """Whether a reply that was cut off had been going round at its end for a long while."""
    plain = _MARKS.sub(" ", text[-2 * _CIRCLE :])[-_CIRCLE:]
    return len(plain) == _CIRCLE and len(set(_windows(plain))) <= _CIRCLE // 3


def repeats_itself(text: str) -> bool:
    """Whether the same hundred letters come four times. Lines, tables and other marks do not count."""
    if len(text) < _SHORTEST:
        return False
    text = text[-_LONGEST:]
    packed = text.encode("utf-8", "replace")
    if len(zlib.compress(packed, 1)) > _LOOSE * len(packed):
        return False
    windows = Counter(_windows(_MARKS.sub(" ", text).strip()))
    return any(times >= _TIMES for times in windows.values())


def _windows(plain: str) -> Iterator[str]:
    return (plain[at : at + _WINDOW] for at in range(len(plain) - _WINDOW + 1))
