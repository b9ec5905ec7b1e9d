"""Tool calls over HTTP: each is one POST within the MCP session that the SDK opened.

The SDK would take each call through two queues and four validations, end the session for everyone when one POST fails,
and wait in silence for an answer that broke off or is none. Here a failure is that call's own, typed, and at once.
"""

import itertools
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp

from backends.errors import ToolFailed, ToolOverloaded, ToolReplyInvalid, ToolUnreachable, seconds_to_wait
from backends.json_bytes import dump_json

MAX_ANSWER = 200_000_000
"""Bytes of an answer that are read."""


class SessionUnknown(Exception):
    """The server does not know the session (any more)."""


class ToolCalls:
    """Calls through one HTTP pool. `session` are the headers that name the session, as the SDK last sent them."""

    def __init__(self, url: str, pool: aiohttp.ClientSession) -> None:
        self._url = url
        self._pool = pool
        self._numbers = itertools.count(1)
        self.session: dict[str, str] = {}

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The `CallToolResult`, as JSON. Raises SessionUnknown or a `ToolError`."""
        identity = f"call-{next(self._numbers)}"
        request = {"jsonrpc": "2.0", "id": identity, "method": "tools/call"}
        body = dump_json({**request, "params": {"name": tool, "arguments": arguments}})
        try:
            async with self._pool.post(self._url, data=body, headers=self.session) as response:
                if response.status != 200:
                    raise _refused(response)
                if response.content_type == "text/event-stream":
                    return await _from_events(response.content, identity)
                return _result(_parsed(await _read(response.content)), identity)
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientError):
                raise
            raise ToolUnreachable(f"the tool call was lost on its way ({type(error).__name__})") from error


def _refused(response: aiohttp.ClientResponse) -> Exception:
    if response.status in (400, 404):
        return SessionUnknown(f"the tool server answered {response.status}")
    if response.status in (408, 429) or response.status >= 500:
        wait = seconds_to_wait(response.headers.get("retry-after"))
        return ToolOverloaded(f"the tool server answered {response.status}", wait)
    if response.status in (202, 204):
        return ToolReplyInvalid(f"the tool server took the call and sent no answer ({response.status})")
    return ToolUnreachable(f"the tool server refused the call ({response.status})")


async def _read(stream: aiohttp.StreamReader) -> bytes:
    pieces, size = [], 0
    async for piece in stream.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > MAX_ANSWER:
            raise ToolReplyInvalid(f"the tool server's answer is longer than {MAX_ANSWER} bytes")
    return b"".join(pieces)


async def _from_events(stream: aiohttp.StreamReader, identity: str) -> dict[str, Any]:
    """The answer in an event stream; notifications on the way are passed over."""
    async for data in _events(stream):
        message = _parsed(data)
        if not isinstance(message, dict) or "method" not in message:
            return _result(message, identity)
    raise ToolUnreachable("the tool server's event stream ended without an answer")


async def _events(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The data of each event."""
    rest, size, data = bytearray(), 0, bytearray()
    async for piece in stream.iter_any():
        size += len(piece)
        if size > MAX_ANSWER:
            raise ToolReplyInvalid(f"the tool server's answer is longer than {MAX_ANSWER} bytes")
        rest += piece
        if b"\n" not in piece and b"\r" not in piece:
            continue
        *lines, last = bytes(rest).replace(b"\r\n", b"\n").split(b"\n")
        rest = bytearray(last)
        for line in lines:
            if line.startswith(b"data:"):
                data += line[5:].removeprefix(b" ") + b"\n"
            elif not line and data:
                yield bytes(data)
                data.clear()


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ToolReplyInvalid("the tool server's answer is not JSON") from error


def _result(message: Any, identity: str) -> dict[str, Any]:
    if not isinstance(message, dict) or message.get("id") != identity:
        raise ToolReplyInvalid("the tool server's answer belongs to no call")
    if error := message.get("error"):
        raise ToolFailed(str(error.get("message") if isinstance(error, dict) else error))
    if not isinstance(message.get("result"), dict):
        raise ToolReplyInvalid("the tool server's answer holds no result")
    result: dict[str, Any] = message["result"]
    return result
