"""Who may call a server: names and pages that belong to it, and beyond this machine only who holds the token."""

import hmac
import ipaddress
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse

MAX_BODY = 1_000_000


class Guard:
    """An ASGI layer. On loopback only loopback's names are answered to (a page of another site cannot rebind its name
    to us); elsewhere a bearer token is asked for. A browser's page must come from the very host it calls.
    """

    def __init__(self, app: Any, *, loopback: bool, token: str | None = None) -> None:
        self._app = app
        self._loopback = loopback
        self._token = token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and (refused := self._refusal(scope)):
            await PlainTextResponse(refused[1], refused[0])(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Any) -> tuple[int, str] | None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._loopback and not is_loopback(_name(f"//{host}")):
            return 421, "this server answers to loopback names only"
        if origin and _authority(origin) != host:
            return 403, "pages of other sites may not call this server"
        if self._token and not scope["path"].endswith("/health"):
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), self._token.encode()):
                return 401, "a bearer token is needed: set MCP_TOKEN on both sides"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY:
            return 413, "the request is too large"
        return None


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
