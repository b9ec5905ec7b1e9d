"""Why a tool server could not be opened, in words that name what to change."""

import contextlib
from dataclasses import replace
from urllib.parse import urljoin

import aiohttp

from backends.bounded import TooLong, read_bounded, redirection, without_secrets
from backends.errors import NothingAnswers, UsageError
from backends.json_codec import dump_json
from backends.mcp_servers import McpServer, Transport

_MOST, _TIMEOUT = 20_000, 10.0
_INITIALIZE = {
    "jsonrpc": "2.0", "id": 0, "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "trajgraph", "version": "0"},
    },
}  # fmt: skip


async def diagnosis(server: McpServer, error: BaseException) -> UsageError:
    """What is wrong with a server to which the SDK could not connect: it is asked once more, and its answer read."""
    if server.transport == "stdio":
        return _of_command(server, error)
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT)) as http:
            answer, said = await _asked(http, server)
            found = await _beside(http, server) if answer.status in (404, 410) else ""
            return _of_answer(server, answer, said, found)
    except (aiohttp.ClientError, OSError, ValueError):
        return NothingAnswers(
            f"no MCP server answers at {server.where}: start it (trajgraph serve-tools) or change MCP_TRANSPORT_HOST "
            "and MCP_TRANSPORT_PORT, --mcp-url or --mcp"
        )


async def _asked(http: aiohttp.ClientSession, server: McpServer) -> tuple[aiohttp.ClientResponse, str]:
    """The answer to the first request that a client sends, and its text (none of an event stream's)."""
    over_http = server.transport == "streamable_http"
    accepted = "application/json, text/event-stream" if over_http else "text/event-stream"
    headers = {**server.headers, "Accept": accepted} | ({"Content-Type": "application/json"} if over_http else {})
    body, said = dump_json(_INITIALIZE) if over_http else None, ""
    async with http.request(
        "POST" if over_http else "GET", server.url, data=body, headers=headers, allow_redirects=False
    ) as answer:
        if answer.content_type != "text/event-stream":
            with contextlib.suppress(TooLong):
                said = (await read_bounded(answer.content, _MOST)).decode("utf-8", "replace")
        if session := answer.headers.get("mcp-session-id"):  # it is not for use
            async with http.delete(server.url, headers={**server.headers, "Mcp-Session-Id": session}):
                pass
        return answer, said


async def _beside(http: aiohttp.ClientSession, server: McpServer) -> str:
    """Where the same host does answer as an MCP server, as it is written behind --mcp; empty when nowhere usual."""
    url = without_secrets(server.url)
    usual: dict[str, Transport] = {
        f"{url.rstrip('/')}/mcp": "streamable_http",
        urljoin(url, "/mcp"): "streamable_http",
        urljoin(url, "/sse"): "sse",
    }
    for address, transport in usual.items():
        with contextlib.suppress(aiohttp.ClientError, OSError):
            answer, said = await _asked(http, replace(server, url=address, transport=transport))
            if answer.status == 200 and (answer.content_type == "text/event-stream" or '"result"' in said):
                return address
    return ""


def _of_command(server: McpServer, error: BaseException) -> UsageError:
    command = server.command[0]
    first = error
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    if isinstance(first, FileNotFoundError | PermissionError | NotADirectoryError):
        return UsageError(f"--mcp {server.where}: {command} cannot be started ({first.strerror})")
    if isinstance(first, TimeoutError):
        return UsageError(f"--mcp {server.where}: {command} was started and did not answer as an MCP server in time")
    said = server.secrets.hidden(" ".join(str(first).split()))[:200] or type(first).__name__
    return UsageError(f"--mcp {server.where}: {command} was started and ended, or does not speak MCP ({said})")


def _of_answer(server: McpServer, answer: aiohttp.ClientResponse, said: str, found: str) -> UsageError:
    where, status, kind = server.where, answer.status, answer.content_type
    words = server.secrets.hidden(" ".join(said.split()))[:200]
    if elsewhere := redirection(status, answer.headers.get("location")):
        elsewhere = server.secrets.hidden(elsewhere)
        return UsageError(f"the tool server is not at {where}: {elsewhere}; change the address")
    if kind == "text/html":
        return UsageError(f"{where} answers with a web page ({status}), which is no MCP server: change the address")
    if status == 401:
        given = any(name.lower() == "authorization" for name in server.headers)
        asks = "refuses the token that was given (401)" if given else "asks for a token"
        return UsageError(
            f"the tool server at {where} {asks}: set MCP_TOKEN to the right one, or give its header with --mcp-header "
            "NAME=ENV_VAR, or in mcp.json"
        )
    if status == 403:
        return UsageError(
            f"the tool server at {where} refuses us (403: {words}): a token, a host or an origin it wants"
        )
    if status in (404, 410):
        hint = f"; one answers at {found}" if found else ""
        return UsageError(f"the server at {where} has nothing there ({status}): change the address{hint}")
    if status == 405 and server.transport == "streamable_http":
        url = without_secrets(server.url)
        return UsageError(f"{where} takes no POST (405): no MCP over HTTP; for MCP over SSE write --mcp sse:{url}")
    if server.transport == "sse" and status in (200, 400, 405, 406):
        return UsageError(f"{where} is no MCP over SSE ({status}, {kind}): for MCP over HTTP write it without sse:")
    if status in (502, 503, 504):
        return NothingAnswers(f"the tool server at {where} answers {status}: it is not ready", there=True)
    if status != 200:
        return UsageError(f"the tool server at {where} refuses to begin ({status}: {words})")
    if kind not in ("application/json", "text/event-stream"):
        return UsageError(f"{where} answers with a page ({kind}), which is no MCP server: change the address")
    if kind == "application/json" and '"result"' not in said:
        return UsageError(f"the server at {where} does not begin as an MCP server does ({words}): change the address")
    return NothingAnswers(f"the MCP server at {where} answers, and its tools could not be listed in time")
