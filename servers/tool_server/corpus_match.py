"""Terms of a query in the language of SQLite FTS5: an empty one is none."""

import calendar
import re
from collections.abc import Iterable, Sequence

YEARS = range(1500, 2100)
"""Years that a date can be of."""


def phrase_in(columns: Sequence[str], found: Sequence[str], star: str = "") -> str:
    """Words side by side in one of the columns; the last begins so where there is a `star`."""
    return f'{{{" ".join(columns)}}} : "{" ".join(found)}"{star}' if found else ""


def near(columns: Sequence[str], found: Sequence[str], most: int) -> str:
    """Words in any order with `most` others between two of them."""
    each = " ".join(f'"{word}"' for word in found)
    return f"{{{' '.join(columns)}}} : NEAR({each}, {most + max(len(found) - 2, 0)})" if found else ""


def fact(token: str, end: str = "") -> str:
    """A token, or with `*` all that begin with it, with `_*` with it as a whole word."""
    return f'facts : "{token}{end.rstrip("*")}"{"*" if end else ""}'


def any_of(terms: Iterable[str]) -> str:
    """At least one of the terms."""
    found = list(filter(None, terms))
    return found[0] if len(found) == 1 else f"({' OR '.join(found)})" if found else ""


def all_of(terms: Iterable[str]) -> str:
    """Each of the terms."""
    found = list(filter(None, terms))
    return f"({' AND '.join(found)})" if found else ""


def days(first: str, last: str) -> list[str]:
    """Tokens for every day between two dates (`2019`, `2019/11`, `2019/11/21`), whole years and months in one."""
    low, high = _bound(first, end=False), _bound(last, end=True)
    tokens: list[str] = []
    for year in range(max(low[0], YEARS.start), min(high[0] + 1, YEARS.stop)):
        if low <= (year, 1, 1) and (year, 12, 31) <= high:
            tokens.append(f"_y{year}")
            continue
        for month in range(1, 13):
            length = calendar.monthrange(year, month)[1]
            if low <= (year, month, 1) and (year, month, length) <= high:
                tokens.append(f"_m{year}{month:02d}")
                continue
            days = (day for day in range(1, length + 1) if low <= (year, month, day) <= high)
            tokens += [f"_d{year}{month:02d}{day:02d}" for day in days]
    return tokens


def _bound(date: str, *, end: bool) -> tuple[int, int, int]:
    """The first day of a date, or its last."""
    parts = [int(part) for part in re.split("[/-]", date)]
    return (*parts, *((12, 31) if end else (1, 1))[len(parts) - 1 :])  # type: ignore[return-value]
