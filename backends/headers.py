"""Headers of one's own, by the names of the variables that hold them: no value is stored or logged."""

import os
import re
from collections.abc import Sequence

from backends.errors import UsageError

_HEADER = re.compile(r"([\w!#$%&'*+.^`|~-]+)=([A-Za-z_]\w*)")


def header_values(given: Sequence[str], flag: str) -> dict[str, str]:
    """Headers from `NAME=ENV_VAR`, so that no value is stored. Raises UsageError when a variable is not set."""
    found: dict[str, str] = {}
    for one in given:
        match = _HEADER.fullmatch(one)
        if not match:
            name = re.split("[=:]", one)[0]  # behind it stands the value, perhaps
            shown = f" {name}" if name != one else ""
            raise UsageError(f"{flag}{shown}: write NAME=ENV_VAR, the variable that holds its value")
        value = os.environ.get(match[2])
        if not value:
            variable = match[2] if match[2].isupper() else "what is behind ="  # which may be the value itself
            raise UsageError(f"{flag} {match[1]}=…: {variable} is not set in the environment")
        if not value.isascii() or not value.isprintable():
            raise UsageError(f"{flag} {match[1]}: {match[2]} holds a character that cannot be sent")
        found[match[1]] = value
    return found
