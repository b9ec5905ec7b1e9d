"""Fetching an address that somebody else chose: only over http(s), only from public addresses, at every redirect.

Each hop's name is resolved once, every address is judged, and the connection goes to one of those very addresses: there
is no second look-up that could answer otherwise.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from backends.errors import ToolFailed

MAX_BYTES = 10_000_000
MAX_REDIRECTS = 5
TIMEOUT = 30.0
_HEADERS = {"User-Agent": "Mozilla/5.0 (compatible; trajgraph)", "Accept": "text/html,application/pdf;q=0.9,*/*;q=0.5"}
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
_NOT_PUBLIC = tuple(map(ipaddress.ip_network, ("168.63.129.16/32", "192.0.0.0/24", "3fff::/20")))
"""Metadata addresses of two clouds, public by their numbers, and what older Pythons do not know to be reserved."""
Resolve = Callable[[str, int], Awaitable[list[str]]]
"""A name's addresses, as the machine would look them up. Raises OSError."""


@dataclass(frozen=True)
class Fetched:
    """What came back: `url` is where the redirects led, `charset` what the server declared."""

    url: str
    content_type: str
    charset: str | None
    body: bytes


async def look_up(host: str, port: int) -> list[str]:
    """The system's own resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet's, and leads to none that is not."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64[0]:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip in _NAT64[1] or ip.is_site_local or int(ip) < 1 << 96:
            return False
    return ip.is_global and not (
        ip.is_multicast or ip.is_reserved or ip.is_unspecified or any(ip in net for net in _NOT_PUBLIC)
    )


@dataclass(frozen=True)
class Fetcher:
    """Fetches pages. `allowed_hosts` (`name` or `name:port`) are the user's own: they may be anywhere."""

    allowed_hosts: frozenset[str] = frozenset()
    resolve: Resolve = look_up
    max_bytes: int = MAX_BYTES
    timeout: float = TIMEOUT

    async def fetch(self, url: str) -> Fetched:
        """A page after its redirects. Raises ToolFailed with the reason."""
        try:
            async with asyncio.timeout(self.timeout):
                for _ in range(MAX_REDIRECTS + 1):
                    found = await self._hop(url)
                    if isinstance(found, Fetched):
                        return found
                    url = found
        except TimeoutError as error:
            raise ToolFailed(f"no page within {self.timeout:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ToolFailed(f"no connection ({type(error).__name__})") from error
        raise ToolFailed(f"more than {MAX_REDIRECTS} redirects")

    async def _hop(self, url: str) -> "Fetched | str":
        """The page, or where it sends us."""
        parts = _checked(url)
        host, port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
        addresses = await self._addresses(host, port)
        pinned = aiohttp.TCPConnector(
            resolver=_Pinned(addresses), socket_factory=_only(addresses), use_dns_cache=False, force_close=True
        )
        async with (
            aiohttp.ClientSession(connector=pinned, headers=_HEADERS, trust_env=False) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            location = answer.headers.get("location")
            if answer.status in (301, 302, 303, 307, 308) and location:
                return urljoin(url, location)
            if answer.status != 200:
                raise ToolFailed(f"the server answered {answer.status}")
            body = bytearray()
            async for chunk in answer.content.iter_chunked(65536):
                body += chunk
                if len(body) > self.max_bytes:
                    raise ToolFailed(f"the page is larger than {self.max_bytes / 1e6:g} MB")
            return Fetched(url, answer.content_type, answer.charset, bytes(body))

    async def _addresses(self, host: str, port: int) -> list[str]:
        name = host.rstrip(".").lower()
        try:
            addresses = [str(ipaddress.ip_address(name))]
        except ValueError:
            if ":" in name or _is_number(name.rpartition(".")[2]):
                raise ToolFailed("this address is not written as addresses are") from None
            try:
                addresses = await self.resolve(name, port)
            except OSError as error:
                raise ToolFailed(f"there is no {name}") from error
        allowed = {name, f"{name}:{port}"} & self.allowed_hosts
        if not addresses or not (allowed or all(map(is_public, addresses))):
            raise ToolFailed("this address is not on the public internet")
        return addresses


class _Pinned(AbstractResolver):
    """Answers with the addresses that were judged, whatever the name."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_UNSPEC) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host, host=address, port=port, proto=socket.IPPROTO_TCP, flags=socket.AI_NUMERICHOST,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
            )
            for address in self._addresses
        ]  # fmt: skip

    async def close(self) -> None:
        """Nothing is open."""


def _only(addresses: list[str]) -> Callable[[Any], socket.socket]:
    """The last gate: no socket for an address that was not judged, however the client came by it."""

    judged = set(map(ipaddress.ip_address, addresses))

    def make(info: Any) -> socket.socket:
        family, kind, proto, _, to = info
        if ipaddress.ip_address(to[0]) not in judged:
            raise OSError("not the address that was looked up")
        made = socket.socket(family, kind, proto)
        made.setblocking(False)
        return made

    return make


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url.strip())
        parts.port  # noqa: B018
    except ValueError as error:
        raise ToolFailed("this is not a web address") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ToolFailed("only http and https addresses can be opened")
    if parts.username is not None or parts.password is not None:
        raise ToolFailed("an address with credentials in it is not opened")
    return parts


def _is_number(label: str) -> bool:
    """`2130706433`, `0x7f`, `0177`: what a resolver would take for an IPv4 address."""
    return label.isdigit() or label.startswith("0x")
