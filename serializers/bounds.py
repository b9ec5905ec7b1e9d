"""JSON values as every reader and a checkpoint can hold them; texts cut to a length, with a note that says so."""

import math
import re
from collections.abc import Mapping
from typing import Any

from backends.json_codec import sound

_MAX_LEVELS = 40
_HALF_ENTITY = re.compile(r"&[#\w]{0,6}\Z")


def storable(value: Any, levels: int = _MAX_LEVELS) -> Any:
    """A JSON value as every reader and a checkpoint can hold it: no NaN, no integer beyond 64 bits, no lone surrogate,
    and what lies too deep as text.
    """
    if isinstance(value, str):
        return sound(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value) if value.bit_length() < 14_000 else "…"
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if levels == 0:
        return "…"
    if isinstance(value, Mapping):
        return {storable(str(key)): storable(item, levels - 1) for key, item in value.items()}
    return [storable(item, levels - 1) for item in value] if isinstance(value, list) else str(value)


def shortened(text: str, length: int, before_note: str = " ") -> str:
    """A text cut to about `length` characters, with a note that says so."""
    if len(text) <= length:
        return text
    kept = _HALF_ENTITY.sub("", text[: max(length, 0)])
    return f"{kept}{before_note}[shortened: {len(text) - len(kept)} of {len(text)} characters left out]"
