"""What comes from a server, read up to a bound; and a server that sends us elsewhere, named."""

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from backends.errors import UsageError

if TYPE_CHECKING:
    import aiohttp

_HARMLESS = re.compile(
    r"(?:api[-_]?version|version|v|profile|tools?|model|region|format|stream)=[\w.,:/-]{0,40}", re.IGNORECASE
)
"""All that may stand in an address behind `?`: it is stored and logged, and a key has many names."""
_HARMLESS_OPTIONS = frozenset(
    "sslmode sslrootcert application_name connect_timeout target_session_attrs host port dbname user".split()
)
MAX_REPLY = 8_000_000
"""Bytes of a model's reply that are read, after decompression."""
MAX_REPLY_WITH_TOKENS = 128_000_000
"""The same of one with a logprob for each token: llama.cpp writes 400 of them for each."""


class TooLong(Exception):
    """An answer that goes on beyond its bound."""


async def read_bounded(stream: "aiohttp.StreamReader", most: int) -> bytes:
    """All of a body. Raises TooLong when it has more than `most` bytes."""
    pieces, size = [], 0
    async for piece in stream.iter_any():
        size += len(piece)
        if size > most:
            raise TooLong(f"the answer is longer than {most / 1e6:g} MB")
        pieces.append(piece)
    return b"".join(pieces)


def redirection(status: int, location: str | None) -> str | None:
    """In words where a redirect leads, without what may be secret in it; None where an answer is none."""
    if not 300 <= status < 400 or status == 304:
        return None
    return f"it answers {status} and sends requests to {without_secrets(location or 'nowhere')}; none was sent there"


def without_secrets(address: str) -> str:
    """An address without credentials, query and fragment."""
    try:
        parts = urlsplit(address)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "an address that is none"
    return f"{parts.scheme}://{host}{parts.path}"[:200] if host else parts.path[:200]


def check_address(flag: str, address: str) -> None:
    """Raises UsageError for an address that is none, or that holds a secret: it would be stored and logged."""
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018
    except ValueError as error:
        raise UsageError(f"{flag}: this is not a web address ({error})") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or any(map(str.isspace, parts.netloc)):
        shown = without_secrets(address if "://" in address else f"http://{address}").removeprefix("http://")
        raise UsageError(f"{flag} {shown}: an address begins with http://")
    if "@" in parts.netloc:
        raise UsageError(f"{flag}: no password in an address, it would be stored")
    given = [part for part in re.split("[&;]", parts.query) if part]
    if parts.fragment or ";" in parts.path or not all(map(_HARMLESS.fullmatch, given)):
        raise UsageError(
            f"{flag}: no key in an address, it would be stored; give it by --api-key or MCP_TOKEN "
            "(behind `?` may stand a version, a profile, tools, a model, a region, a format)"
        )


def check_database(address: str) -> None:
    """Raises UsageError for an address that is none, or that may hold a password: it would be stored."""
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018
        known = parts.scheme in ("postgresql", "postgres") and bool(parts.netloc)
    except ValueError:
        known = False
    if not known:
        raise UsageError("--checkpoints: an address begins with postgresql:// (a password in it has no place there)")
    given = {name.lower() for name in parse_qs(parts.query, keep_blank_values=True)}
    odd = "#" in address or "@" in parts.path + parts.query or not given <= _HARMLESS_OPTIONS
    if parts.password is not None or odd:
        raise UsageError(
            "--checkpoints: no password in an address, it would be stored; PGPASSWORD or PGPASSFILE has it (behind `?` "
            f"may stand {', '.join(sorted(_HARMLESS_OPTIONS))})"
        )
