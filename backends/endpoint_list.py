"""The addresses of a run's model servers: as flags or a file name them, each once."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from backends.bounded import check_address
from backends.errors import UsageError

_LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")  # noqa: S104
_MOST = 1000
"""Addresses of a run."""


@dataclass(frozen=True)
class EndpointSpec:
    """One model server. `weight` is how much of the work it gets beside the others when they are equally quick."""

    url: str
    weight: float = 1.0
    max_in_flight: int | None = None
    """Requests at a time, at most, whatever it seems to bear."""
    model: str | None = None
    """Its name for the model where that is another one; then nothing is compared."""

    @property
    def key(self) -> tuple[str, str, int, str]:
        """The same for two ways to write one address."""
        parts = urlsplit(self.url)
        host = (parts.hostname or "").rstrip(".")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        path = parts.path.rstrip("/") + (f"?{parts.query}" if parts.query else "")
        return parts.scheme, "localhost" if host in _LOOPBACK else host, port, path


def parse_endpoint(word: str, flag: str) -> EndpointSpec:
    """`http://HOST:PORT/v1,weight=2,max-in-flight=64,model=NAME`. Raises UsageError."""
    url, *options = (part.strip() for part in word.split(","))
    check_address(flag, url)
    found: dict[str, str] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not value or name not in ("weight", "max-in-flight", "model") or name in found:
            raise UsageError(f"{flag} {url}: {option!r} is none of weight=, max-in-flight=, model=, each once")
        found[name] = value
    return EndpointSpec(
        url,
        _number(found.get("weight", "1"), f"{flag} {url}: weight", low=0.001, high=1000),
        int(_number(most, f"{flag} {url}: max-in-flight", low=1, high=100_000, whole=True))
        if (most := found.get("max-in-flight"))
        else None,
        found.get("model"),
    )


def parse_endpoints(words: list[str], flag: str) -> list[EndpointSpec]:
    """Each of the addresses. Raises UsageError for one that is none, and for one that is there twice."""
    if not words:
        raise UsageError(f"{flag}: name at least one address")
    if len(words) > _MOST:
        raise UsageError(f"{flag}: {len(words):,} addresses, {_MOST:,} at most")
    found: dict[object, EndpointSpec] = {}
    for spec in (parse_endpoint(word, flag) for word in words):
        if (before := found.get(spec.key)) is not None:
            twice = spec.url if spec.url == before.url else f"{before.url} and {spec.url}"
            raise UsageError(
                f"{flag}: {twice}: the same address twice; weight={spec.weight + before.weight:g} gives more"
            )
        found[spec.key] = spec
    return list(found.values())


def read_endpoints(path: Path) -> list[EndpointSpec]:
    """The addresses of a file, a line each; empty lines and what follows a `#` are nothing. Raises UsageError."""
    flag = f"--endpoints {path}"
    if path.exists() and not path.is_file():
        raise UsageError(f"{flag}: no regular file, and it is read again and again")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{flag}: it cannot be read ({getattr(error, 'strerror', None) or error})") from error
    bare = (re.split(r"(?:^|\s)#", line)[0].strip() for line in lines)
    return parse_endpoints([line for line in bare if line], flag)


def _number(text: str, what: str, *, low: float, high: float, whole: bool = False) -> float:
    try:
        value = float(int(text) if whole else float(text))
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise UsageError(f"{what}={text}: give a {'whole ' if whole else ''}number from {low:g} to {high:g}")
    return value
