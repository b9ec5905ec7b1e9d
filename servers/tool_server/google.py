"""Web search by Serper. Another provider is another class with the same two methods (`sources.WebSearch`)."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from backends.bounded import MAX_REPLY, TooLong, read_bounded
from backends.errors import ToolFailed

SERPER = "https://google.serper.dev"
_TIMEOUT = aiohttp.ClientTimeout(total=30)
_WAITS = (1.0, 3.0, None)


@dataclass(frozen=True)
class Serper:
    """Google results by Serper's `/search`; the key is SERPER_API_KEY."""

    api_key: str | None = field(repr=False)
    url: str = SERPER

    async def search(self, query: str, limit: int) -> dict[str, Any]:
        if problem := await self.problem():
            raise ToolFailed(f"google_search cannot be used: {problem}")
        for wait in _WAITS:
            try:
                status, found = await self._post({"q": query, "num": max(1, min(limit, 100))})
            except (aiohttp.ClientError, TimeoutError, ValueError, RecursionError, TooLong) as error:
                why = f"no answer ({type(error).__name__})"
            else:
                if status == 200 and isinstance(found, dict):
                    return found
                why = f"status {status}"
                if status in (401, 403):
                    raise ToolFailed("google_search cannot be used: Serper refuses the key in SERPER_API_KEY")
                if status not in (429, 500, 502, 503, 504):
                    break
            if wait is not None:
                await asyncio.sleep(wait)
        raise ToolFailed(f"the web search failed: {why}")

    async def problem(self) -> str | None:
        return None if self.api_key else "set SERPER_API_KEY where serve-tools runs"

    async def _post(self, asked: dict[str, Any]) -> tuple[int, Any]:
        headers = {"X-API-KEY": self.api_key or ""}
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            session.post(f"{self.url}/search", json=asked, headers=headers, allow_redirects=False) as answer,
        ):
            body = await read_bounded(answer.content, MAX_REPLY)
            return answer.status, json.loads(body) if answer.status == 200 else None
