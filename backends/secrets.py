"""Our own keys, hidden wherever a server repeats them: nothing that is kept or shown may hold one."""

import base64
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote, quote_plus

HIDDEN = "***"
_KEY_LIKE = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z]).{12,}", re.DOTALL)
_IN_LONG = re.compile(r"\S{12,}")
"""What is also looked for in long texts, where anything shorter may be a word."""
_LONG = 8
"""Characters from which a key is looked for in all its forms."""
_NO_SECRETS = frozenset(
    ("none", "empty", "dummy", "test", "ollama", "lm-studio", "not-needed", "no-key", "sk-no-key-required")
)
"""Given as keys where a server wants none."""


_SECRET_NAME = re.compile(
    r"(?:key|token|secret|password|passwd|(?<!^)(?<!^OLD)pwd|_pat|auth|authorization|cookie|session|signature|credentials?)"
    r"(?:_?\d+)?$",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"(?:bearer|basic|token|digest|api-?key|key)\s+(?=\S+$)", re.IGNORECASE)
_PLAIN_HEADER = re.compile(r"accept|content-|user-agent|host$|connection|x-stainless|x-request|date$", re.IGNORECASE)
_IN_ADDRESS = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")
_SURELY = 20
"""Characters from which a value that looks like a key is one, whatever its name."""


def secret_values(named: Mapping[str, str], *, by_looks: bool = True) -> list[str]:
    """What of headers or of an environment no record may hold, by its name, or `by_looks` too. `LANG=en`, a path or the
    name of a team is no secret, and hiding it would falsify what a model or a tool says.
    """
    values = {name: without_scheme(value) for name, value in named.items() if not value.startswith("/")}
    found = [
        value
        for name, value in values.items()
        if (_SECRET_NAME.search(name) and len(value) >= _LONG)
        or (by_looks and len(value) >= _SURELY and _KEY_LIKE.fullmatch(value))
    ]
    return [*found, *(password for value in named.values() for password in passwords_in(value))]


def header_secrets(headers: Mapping[str, str]) -> list[str]:
    """The values of headers, which no message shows, whatever their names. Not those of every request."""
    return [without_scheme(value) for name, value in headers.items() if not _PLAIN_HEADER.match(name)]


def without_scheme(value: str) -> str:
    """The value of a header without `Bearer` in front."""
    return _SCHEME.sub("", value, count=1)


def passwords_in(text: str) -> list[str]:
    """Passwords of addresses in a text."""
    return _IN_ADDRESS.findall(text)


class Secrets:
    """What must not be shown: `keys` nowhere, `told` in no message (a model or a tool may say such a word)."""

    def __init__(self, *keys: str | None, told: Iterable[str] = ()) -> None:
        given = [key for key in keys if key and key.lower() not in _NO_SECRETS]
        self._in_long = {form.encode() for key in given if _IN_LONG.fullmatch(key) for form in _forms(key)}
        self._anywhere = _pattern(given)
        self._in_messages = _pattern([*given, *(value for value in told if value and value.lower() not in _NO_SECRETS)])

    def hidden(self, text: str) -> str:
        """A server's own words without any key: as it is, quoted for JSON, HTML or an address, in other case, in
        base64, broken over lines.
        """
        return self._in_messages.sub(HIDDEN, text) if self._in_messages else text

    def hidden_in(self, body: bytes) -> bytes:
        """The same of a reply or a result, in which a long key is looked for as it is and quoted."""
        if self._anywhere is None or not any(form in body for form in self._in_long):
            return body
        return self._anywhere.sub(HIDDEN, body.decode("utf-8", "replace")).encode()


def _pattern(given: Sequence[str]) -> re.Pattern[str] | None:
    long = [key for key in given if len(key) >= _LONG]
    loose = [r"\s?".join(rf"(?:{re.escape(letter)}|\\u{ord(letter):04x})" for letter in key) for key in long]
    exact = [rf"(?-i:(?<!\w){re.escape(key)}(?!\w))" for key in given if key not in long]  # else words would go
    forms = {re.escape(form) for key in long for form in _forms(key)}
    longest_first = sorted([*forms, *loose, *exact], key=len, reverse=True)
    return re.compile("|".join(longest_first), re.IGNORECASE) if given else None


def _forms(key: str) -> set[str]:
    address = {quote(key), quote(key, safe=""), quote_plus(key)}
    in_base64 = base64.b64encode(key.encode()).decode().rstrip("=")
    as_json = {json.dumps(key)[1:-1], key.replace("/", "\\/"), repr(key)[1:-1]}
    return {key, html.escape(key), in_base64, *as_json, *address, *(form.replace("%2F", "%2f") for form in address)}
