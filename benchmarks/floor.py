"""The floor: a plain asyncio loop that makes the requests of a run, keeps nothing and checks nothing.

python -m benchmarks.floor QUESTIONS_FILE MODEL_URL TOOLS_URL CONCURRENCY httpx|aiohttp

httpx is what one takes first; aiohttp, with orjson, is what a run itself is made of.
"""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx

from backends.json_codec import dump_json, load_json
from graph.limits import Limits
from nodes.prompts import system_prompt

_CALL = re.compile(r'<call_tool name="(\w+)" limit="(\d+)">(.*?)</call_tool>', re.DOTALL)
_HEADERS = {
    "accept": "application/json, text/event-stream", "content-type": "application/json",
    "mcp-protocol-version": "2025-06-18",
}  # fmt: skip
Post = Callable[[str, dict[str, Any]], Awaitable[Any]]
"""To an address, JSON both ways."""
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def rendered(papers: list[dict[str, Any]], total: int) -> str:
    """Papers as the model reads them."""
    snippets = (
        f'<snippet id="{paper["paperId"]}">Title: {paper["title"]}\nAuthors: '
        f"{', '.join(author['name'] for author in paper['authors'])} | Year: {paper['year']} | "
        f"Journal: {paper['venue']}\nAbstract: {paper['abstract']}</snippet>"
        for paper in papers
    )
    return (
        f"<tool_output>\nFound {total} results. Showing top {len(papers)}:\n" + "\n".join(snippets) + "\n</tool_output>"
    )


@asynccontextmanager
async def by_httpx(connections: int) -> AsyncIterator[Post]:
    """Requests as httpx makes them."""
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx.AsyncClient(limits=limits, timeout=180, trust_env=False) as client:

        async def post(url: str, body: dict[str, Any]) -> Any:
            return (await client.post(url, json=body, headers=_HEADERS)).json()

        yield post


@asynccontextmanager
async def by_aiohttp(connections: int) -> AsyncIterator[Post]:
    """Requests as aiohttp and orjson make them."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections), headers=_HEADERS) as client:

        async def post(url: str, body: dict[str, Any]) -> Any:
            async with client.post(url, data=dump_json(body)) as answer:
                return load_json(await answer.read())

        yield post


async def trajectory(post: Post, model_url: str, tools_url: str, system: str, question: str) -> None:
    """Think, call, read, until the answer."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    for turn in range(10):
        body = {
            "model": "Qwen3-8B", "messages": messages, "temperature": 0.1, "max_tokens": 4096,
            "stop": ["</call_tool>", "<tool_output>"], "include_stop_str_in_output": True,
        }  # fmt: skip
        reply = await post(f"{model_url}/chat/completions", body)
        text = reply["choices"][0]["message"]["content"]
        messages.append({"role": "assistant", "content": text})
        if _ANSWER.search(text):
            return
        call = _CALL.search(text)
        assert call
        arguments = {"query": call[3], "limit": int(call[2])}
        request = {"jsonrpc": "2.0", "id": turn, "method": "tools/call"}
        answer = await post(tools_url, {**request, "params": {"name": call[1], "arguments": arguments}})
        found = json.loads(answer["result"]["content"][0]["text"])
        messages.append(
            {"role": "tool", "tool_call_id": f"call-{turn}", "content": rendered(found["data"], found["total"])}
        )


async def run(questions: Iterator[str], model_url: str, tools_url: str, concurrency: int, client: str) -> None:
    """All questions, so many at a time."""
    system = system_prompt(Limits(), ("pubmed_search",))
    async with (by_httpx if client == "httpx" else by_aiohttp)(2 * concurrency + 8) as post:

        async def work() -> None:
            for question in questions:
                await trajectory(post, model_url, tools_url, system, question)

        await asyncio.gather(*(work() for _ in range(concurrency)))


if __name__ == "__main__":
    path, model, tools, at_once, by = sys.argv[1:]
    rows = (json.loads(line)["question"] for line in Path(path).read_text(encoding="utf-8").splitlines())
    asyncio.run(run(rows, model, tools, int(at_once), by))
