"""Web search by Serper. Another provider is another class with the same two methods (`sources.WebSearch`)."""

import json
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from backends.bounded import MAX_REPLY, TooLong, read_bounded
from backends.errors import ToolFailed
from servers.tool_server.retry import PASSING_STATUS, PassingFailure, ask_again

SERPER = "https://google.serper.dev"
_TIMEOUT = aiohttp.ClientTimeout(total=30)


@dataclass(frozen=True)
class Serper:
    """Google results by Serper's `/search`; the key is SERPER_API_KEY."""

    api_key: str | None = field(repr=False)
    url: str = SERPER

    async def search(self, query: str, limit: int) -> dict[str, Any]:
        if problem := await self.problem():
            raise ToolFailed(f"google_search cannot be used: {problem}")
        try:
            return await ask_again(lambda: self._ask({"q": query, "num": max(1, min(limit, 100))}), 3, 1.0)
        except PassingFailure as error:
            raise ToolFailed(f"the web search failed: {error}") from error

    async def problem(self) -> str | None:
        return None if self.api_key else "set SERPER_API_KEY where serve-tools runs"

    async def _ask(self, asked: dict[str, Any]) -> dict[str, Any]:
        headers = {"X-API-KEY": self.api_key or ""}
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as session,
                session.post(f"{self.url}/search", json=asked, headers=headers, allow_redirects=False) as answer,
            ):
                body = await read_bounded(answer.content, MAX_REPLY)
                found = json.loads(body) if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, ValueError, RecursionError, TooLong) as error:
            raise PassingFailure(f"no answer ({type(error).__name__})") from error
        if isinstance(found, dict):
            return found
        if answer.status in (401, 403):
            raise ToolFailed("google_search cannot be used: Serper refuses the key in SERPER_API_KEY")
        if answer.status in (200, *PASSING_STATUS):
            raise PassingFailure(f"status {answer.status}")
        raise ToolFailed(f"the web search failed: status {answer.status}")
