"""Tool calls over HTTP: each is one POST within the MCP session that the SDK opened.

The SDK would take each call through two queues and four validations, end the session for everyone when one POST fails,
and wait in silence for an answer that broke off or is none. Here a failure is that call's own, typed, and at once.
"""

import asyncio
import itertools
import json
from collections.abc import Mapping
from typing import Any

import aiohttp

from backends.bounded import TooLong, read_bounded, redirection
from backends.errors import (
    ToolFailed,
    ToolOverloaded,
    ToolRejected,
    ToolReplyInvalid,
    ToolUnreachable,
    seconds_to_wait,
)
from backends.event_stream import EventStream
from backends.json_bytes import dump_json

MAX_ANSWER = 50_000_000
"""Bytes of an answer that are read."""
_SESSION_LOST = (-32001,)
"""JSON-RPC's words for a session that the server does not know, in a 200."""
_RETRY = 0.5
"""Seconds until a closed stream is taken up again, where the server does not say."""


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
            async with self._pool.post(self._url, data=body, headers=self.session, allow_redirects=False) as response:
                if response.status != 200:
                    raise _refused(response)
                if response.content_type != "text/event-stream":
                    message = _parsed(await read_bounded(response.content, MAX_ANSWER))
                    return _result(_own(message, identity) or message, identity)
                heard = EventStream()
                if (answer := await _answer_in(heard, response.content, identity)) is not None:
                    return answer
            return await self._taken_up(heard, identity)
        except TooLong as error:
            raise ToolReplyInvalid(f"the tool server's answer cannot be one: {error}") from error
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientError):
                raise
            raise ToolUnreachable(f"the tool call was lost on its way ({type(error).__name__})") from error

    async def _taken_up(self, heard: EventStream, identity: str) -> dict[str, Any]:
        """The answer from a stream that its server closed before it: asked for again from the last event on."""
        headers = {name: value for name, value in self.session.items() if name != "content-type"}
        while (last := heard.last_id) is not None:
            await asyncio.sleep(_RETRY if heard.retry is None else heard.retry)
            asked = {**headers, "accept": "text/event-stream", "last-event-id": last}
            async with self._pool.get(self._url, headers=asked, allow_redirects=False) as response:
                if response.status != 200 or response.content_type != "text/event-stream":
                    raise _refused(response) if response.status != 200 else ToolReplyInvalid("no event stream again")
                if (answer := await _answer_in(heard, response.content, identity)) is not None:
                    return answer
        raise ToolUnreachable("the tool server's event stream ended without an answer")


def _refused(response: aiohttp.ClientResponse) -> Exception:
    if elsewhere := redirection(response.status, response.headers.get("location")):
        return ToolRejected(f"the tool server is not where --mcp-url says: {elsewhere}")
    if response.status in (400, 404):
        return SessionUnknown(f"the tool server answered {response.status}")
    if response.status in (408, 429) or response.status >= 500:
        wait = seconds_to_wait(response.headers.get("retry-after"))
        return ToolOverloaded(f"the tool server answered {response.status}", wait, busy=response.status == 429)
    if response.status in (202, 204):
        return ToolReplyInvalid(f"the tool server took the call and sent no answer ({response.status})")
    return ToolUnreachable(f"the tool server refused the call ({response.status})")


async def _answer_in(heard: EventStream, stream: aiohttp.StreamReader, identity: str) -> dict[str, Any] | None:
    """The answer in an event stream; notifications, requests and the answers to other calls are passed over. None when
    the stream ends before it.
    """
    async for data in heard.events(stream, MAX_ANSWER):
        if (message := _own(_parsed(data), identity)) is not None:
            return _result(message, identity)
    return None


def _own(message: Any, identity: str) -> dict[str, Any] | None:
    """The answer to a call: the message itself, or one of several that came together."""
    several = message if isinstance(message, list) else [message]
    answers = (one for one in several if isinstance(one, dict) and "method" not in one)
    return next(
        (one for one in answers if one.get("id") == identity or (one.get("id") is None and "error" in one)), None
    )


def _parsed(content: bytes | str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ToolReplyInvalid("the tool server's answer is not JSON") from error


def _result(message: Any, identity: str) -> dict[str, Any]:
    error = message.get("error") if isinstance(message, dict) else None
    if isinstance(error, dict) and error.get("code") in _SESSION_LOST:
        raise SessionUnknown("the tool server does not know the session")
    if not isinstance(message, dict) or message.get("id") != identity:
        raise ToolReplyInvalid("the tool server's answer belongs to no call")
    if error:
        raise ToolFailed(str(error.get("message") if isinstance(error, dict) else error))
    if not isinstance(message.get("result"), dict):
        raise ToolReplyInvalid("the tool server's answer holds no result")
    result: dict[str, Any] = message["result"]
    return result
