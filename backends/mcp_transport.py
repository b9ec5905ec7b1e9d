"""HTTP for MCP in which a failed request fails one call, not the session that all calls share.

The MCP client ends its whole session on any error of one POST, and waits in silence when an event stream breaks off.
Both become a JSON-RPC error addressed to the call in question, with the code `TRANSPORT_ERROR`.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx

TRANSPORT_ERROR = -32050


class CallErrors(httpx.AsyncBaseTransport):
    """Wraps a transport; answers a POST that failed with an error for its JSON-RPC request.

    404 is left alone: with it a server says that it does not know the session, and the session must be opened anew.
    Requests without an id (notifications) and those that open a session fail as ever.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        identity = _request_id(request)
        if identity is None:
            return await self._inner.handle_async_request(request)
        try:
            response = await self._inner.handle_async_request(request)
            if response.status_code >= 400 and response.status_code != 404:
                await response.aclose()
                return _error(request, identity, f"HTTP {response.status_code}")
            if response.headers.get("content-type", "").startswith("text/event-stream"):
                assert isinstance(response.stream, httpx.AsyncByteStream)
                response.stream = _Events(response.stream, identity)
                return response
            return await _whole(request, response, identity)
        except (httpx.TransportError, aiohttp.ClientError) as error:
            return _error(request, identity, type(error).__name__)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Events(httpx.AsyncByteStream):
    """An event stream that ends with an error when it breaks off, or ends, without the answer."""

    def __init__(self, inner: httpx.AsyncByteStream, identity: Any) -> None:
        self._inner = inner
        self._identity = identity

    async def __aiter__(self) -> AsyncIterator[bytes]:
        reason = "the event stream ended without an answer"
        try:
            async for chunk in self._inner:
                yield chunk
        except (httpx.TransportError, aiohttp.ClientError) as error:
            reason = type(error).__name__
        # The client has closed the stream by now if the answer was in it.
        yield b"event: message\r\ndata: " + _error_body(self._identity, reason) + b"\r\n\r\n"

    async def aclose(self) -> None:
        await self._inner.aclose()


async def _whole(request: httpx.Request, response: httpx.Response, identity: Any) -> httpx.Response:
    """A JSON answer, read to its end; one that is not JSON is an error."""
    content = await response.aread()
    await response.aclose()
    if response.status_code == 200:
        try:
            json.loads(content)
        except (ValueError, RecursionError):
            return _error(request, identity, "the answer is not JSON")
    kind = response.headers.get("content-type", "application/json")
    return httpx.Response(response.status_code, headers={"content-type": kind}, content=content, request=request)


def _request_id(request: httpx.Request) -> Any:
    """The id of the JSON-RPC request in a POST; None for anything that is not a call within a session."""
    if request.method != "POST":
        return None
    try:
        message = json.loads(request.content)
    except (ValueError, httpx.RequestNotRead):
        return None
    return message.get("id") if isinstance(message, dict) and message.get("method") != "initialize" else None


def _error(request: httpx.Request, identity: Any, reason: str) -> httpx.Response:
    headers = {"content-type": "application/json"}
    return httpx.Response(200, headers=headers, content=_error_body(identity, reason), request=request)


def _error_body(identity: Any, reason: str) -> bytes:
    error = {"code": TRANSPORT_ERROR, "message": reason}
    return json.dumps({"jsonrpc": "2.0", "id": identity, "error": error}).encode()
