"""Tool calls over HTTP: each is one POST within the MCP session that the SDK opened.

The SDK would take each call through two queues and four validations, end the session for everyone when one POST fails,
and wait in silence for an answer that broke off or is none. Here a failure is that call's own, typed, and at once.
"""

import asyncio
import contextlib
import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

import aiohttp

from backends.bounded import TooLong, read_bounded, redirection
from backends.errors import ToolFailed, ToolOverloaded, ToolRejected, ToolReplyInvalid, ToolUnreachable, seconds_to_wait
from backends.event_stream import EventStream
from backends.json_codec import dump_json
from backends.secrets import Secrets

MAX_ANSWER = 50_000_000
"""Bytes of an answer that are read."""
_SESSION_LOST = -32001
_SAYS_SESSION_LOST = re.compile(
    r"\bsession\b.{0,20}\b(?:terminated|not found|expired|unknown|invalid|closed)"
    r"|\b(?:no|invalid|missing|unknown|expired) (?:valid )?session\b|\bmissing\b.{0,20}\bsession|before initialization",
    re.IGNORECASE,
)
"""JSON-RPC's words, in a 200 or a 400, for a session that the server does not know."""
_RETRY, _SHORTEST_RETRY, _LONGEST_RETRY = 0.5, 0.1, 5.0
"""Seconds until a closed stream is resumed: where the server does not say; at least; at most, when it brought
nothing time and again.
"""
_ANSWERING = 5.0
_NOT_OURS = {"code": -32601, "message": "Method not found"}


class SessionUnknown(Exception):
    """The server does not know the session (any more); `stated` is what it says of it where the call itself failed."""

    def __init__(self, message: str, stated: str | None = None) -> None:
        super().__init__(message)
        self.stated = stated


class McpHttpClient:
    """Calls through one HTTP pool. `session` are the headers that name the session, as the SDK last sent them."""

    def __init__(self, url: str, pool: aiohttp.ClientSession, secrets: Secrets) -> None:
        self._url = url
        self._pool = pool
        self._secrets = secrets
        self._numbers = itertools.count(1)
        self.session: dict[str, str] = {}

    def use_session(self, headers: dict[str, str]) -> None:
        """Call within the session that these headers name."""
        self.session = headers

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The `CallToolResult`, as JSON. Raises SessionUnknown or a `ToolError`."""
        request_id = f"call-{next(self._numbers)}"
        request = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call"}
        body = dump_json({**request, "params": {"name": tool, "arguments": arguments}})
        try:
            async with self._pool.post(self._url, data=body, headers=self.session, allow_redirects=False) as response:
                if response.status != 200:
                    raise await self._refused(response)
                if response.content_type != "text/event-stream":
                    message = self._parsed(await read_bounded(response.content, MAX_ANSWER))
                    return _result(_own(message, request_id) or message, request_id)
                heard = EventStream()
                if (answer := await self._answer_in(heard, response.content, request_id)) is not None:
                    return answer
            return await self._resumed(heard, request_id)
        except TooLong as error:
            raise ToolReplyInvalid(f"the tool server's answer cannot be one: {error}") from error
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientError):
                raise
            raise ToolUnreachable(f"the tool call was lost on its way ({type(error).__name__})") from error

    async def _resumed(self, heard: EventStream, request_id: str) -> dict[str, Any]:
        """The answer from a stream that its server closed before it: asked for again from the last event on."""
        headers = {name: value for name, value in self.session.items() if name != "content-type"}
        wait, last = 0.0, None
        while heard.last_id is not None:
            stated = max(_RETRY if heard.retry is None else heard.retry, _SHORTEST_RETRY)
            wait = min(2 * wait, max(stated, _LONGEST_RETRY)) if heard.last_id == last else stated
            last = heard.last_id
            await asyncio.sleep(wait)
            asked = {**headers, "accept": "text/event-stream", "last-event-id": last}
            async with self._pool.get(self._url, headers=asked, allow_redirects=False) as response:
                if response.status != 200 or response.content_type != "text/event-stream":
                    if response.status != 200:
                        raise await self._refused(response)
                    raise ToolReplyInvalid("no event stream again")
                if (answer := await self._answer_in(heard, response.content, request_id)) is not None:
                    return answer
        raise ToolUnreachable("the tool server's event stream ended without an answer")

    async def _refused(self, response: aiohttp.ClientResponse) -> Exception:
        if elsewhere := redirection(response.status, response.headers.get("location")):
            return ToolRejected(
                f"the tool server is not where --mcp-url or --mcp says: {self._secrets.hidden(elsewhere)}"
            )
        if response.status == 404:
            return SessionUnknown("the tool server answered 404")
        if response.status == 400:
            said = (await read_bounded(response.content, MAX_ANSWER)).decode("utf-8", "replace").strip()
            if not said or _SAYS_SESSION_LOST.search(said):
                return SessionUnknown("the tool server answered 400")
            return ToolReplyInvalid(f"the tool server refused the call (400): {self._secrets.hidden(said)[:200]}")
        if response.status in (408, 429) or response.status >= 500:
            wait = seconds_to_wait(response.headers.get("retry-after"))
            return ToolOverloaded(f"the tool server answered {response.status}", wait, busy=response.status == 429)
        if response.status in (202, 204):
            return ToolReplyInvalid(f"the tool server took the call and sent no answer ({response.status})")
        return ToolUnreachable(f"the tool server refused the call ({response.status})")

    async def _answer_in(
        self, heard: EventStream, stream: aiohttp.StreamReader, request_id: str
    ) -> dict[str, Any] | None:
        """The answer in an event stream; notifications and the answers to other calls are passed over, requests of the
        server are answered. None when the stream ends before it.
        """
        async for data in heard.events(stream, MAX_ANSWER):
            message = self._parsed(data.encode())
            if (own := _own(message, request_id)) is not None:
                return _result(own, request_id)
            for asked in message if isinstance(message, list) else [message]:
                if isinstance(asked, dict) and "method" in asked and "id" in asked:
                    await self._answer(asked)
        return None

    async def _answer(self, asked: Mapping[str, Any]) -> None:
        """A ping is answered; anything else that a server may want of a client we do not have."""
        said: dict[str, Any] = {"result": {}} if asked["method"] == "ping" else {"error": _NOT_OURS}
        body = dump_json({"jsonrpc": "2.0", "id": asked["id"], **said})
        with contextlib.suppress(aiohttp.ClientError, OSError):  # the call's own answer may come all the same
            async with (
                asyncio.timeout(_ANSWERING),
                self._pool.post(self._url, data=body, headers=self.session, allow_redirects=False),
            ):
                pass

    def _parsed(self, content: bytes) -> Any:
        try:
            return json.loads(self._secrets.hidden_in(content))
        except (ValueError, RecursionError) as error:
            raise ToolReplyInvalid("the tool server's answer is not JSON") from error


def _own(message: Any, request_id: str) -> dict[str, Any] | None:
    """The answer to a call: the message itself, or one of several that came together."""
    several = message if isinstance(message, list) else [message]
    answers = (one for one in several if isinstance(one, dict) and "method" not in one)
    return next(
        (one for one in answers if one.get("id") == request_id or (one.get("id") is None and "error" in one)), None
    )


def _result(message: Any, request_id: str) -> dict[str, Any]:
    error = message.get("error") if isinstance(message, dict) else None
    if isinstance(error, dict) and (
        error.get("code") == _SESSION_LOST or _SAYS_SESSION_LOST.search(str(error.get("message")))
    ):
        raise SessionUnknown("the tool server does not know the session", str(error.get("message")))
    if not isinstance(message, dict) or message.get("id") != request_id:
        raise ToolReplyInvalid("the tool server's answer belongs to no call")
    if error:
        raise ToolFailed(str(error.get("message") if isinstance(error, dict) else error))
    if not isinstance(message.get("result"), dict):
        raise ToolReplyInvalid("the tool server's answer holds no result")
    result: dict[str, Any] = message["result"]
    return result
