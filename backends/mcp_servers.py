"""Where the tools are: addresses, commands, and names in a `mcp.json` as MCP clients share it."""

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from backends.bounded import check_address
from backends.errors import UsageError
from backends.secrets import Secrets, header_secrets, passwords_in, secret_values, without_scheme

Transport = Literal["streamable_http", "sse", "stdio"]
_SHARED = Path("mcp.json")
_VARIABLE = re.compile(r"\$\{(?:env:)?(\w+)(?::-([^}]*))?\}")
_KEY_IN_COMMAND = re.compile(
    r"(?:(?:^|[\s_-])(?:api-?)?(?:key|token|secret|password|passwd|pass|auth)[= ]|authorization|cookie|bearer\s)\s*\S|://[^/\s]*@",
    re.IGNORECASE,
)
_NOT_ITS_OWN = ("OPENAI_API_KEY", "MCP_TOKEN")
_KINDS: Mapping[str, Transport] = {
    "http": "streamable_http", "streamable-http": "streamable_http", "streamable_http": "streamable_http",
    "streamablehttp": "streamable_http", "sse": "sse", "stdio": "stdio",
}  # fmt: skip


@dataclass(frozen=True)
class McpServer:
    """One server, ready to be connected to. `where` is what messages call it."""

    where: str
    transport: Transport
    url: str = ""
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    command: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    folder: str | None = None

    @property
    def secrets(self) -> Secrets:
        """What is hidden wherever a server repeats it."""
        given = dict(parse_qsl(urlsplit(self.url).query))
        sure = [*secret_values(given), *secret_values(self.environment, by_looks=False), *secret_values(self.headers)]
        return Secrets(*sure, *_keys_in(self.command), told=header_secrets(self.headers))


def _keys_in(command: Sequence[str]) -> Iterator[str]:
    """Keys among the words of a command: behind the flag that names them, or in an address."""
    for before, word in zip(("", *command), command, strict=False):
        yield from passwords_in(word)
        for match in _KEY_IN_COMMAND.finditer(f"{before} {word}"):
            if (value := f"{before} {word}"[match.end() - 1 :].lstrip(":= ")) and match.end() - 1 > len(before):
                yield without_scheme(value)


def mcp_servers(words: Sequence[str], headers: Mapping[str, str]) -> list[McpServer]:
    """The servers that `--mcp` names, in order. `headers` go to those that are given by their address. Raises
    UsageError for what is none.
    """
    return [server for word in words for server in _servers(word, dict(headers))]


def check_word(word: str, flag: str = "--mcp") -> None:
    """Raises UsageError for a word that may hold a secret, as it would be stored and logged."""
    if word.startswith("stdio:"):
        if _KEY_IN_COMMAND.search(word):
            raise UsageError(
                f"{flag} stdio: no key in a command, it would be stored: give it in the environment or mcp.json"
            )
    elif "://" in word or flag != "--mcp":
        check_address(flag, word.removeprefix("sse:"))


def _servers(word: str, headers: dict[str, str]) -> Iterator[McpServer]:
    check_word(word)
    if word.startswith("stdio:"):
        try:
            command = shlex.split(word.removeprefix("stdio:"))
        except ValueError as error:
            raise UsageError(f"--mcp {word}: {error}") from error
        if not command:
            raise UsageError("--mcp stdio: name the command that serves, as stdio:uvx mcp-server-fetch")
        own = {name: value for name, value in os.environ.items() if name not in _NOT_ITS_OWN}
        yield McpServer(word, "stdio", command=tuple(command), environment=own)
    elif word.startswith("sse:") or (word.startswith("http") and word.partition("?")[0].rstrip("/").endswith("/sse")):
        url = word.removeprefix("sse:")
        yield McpServer(url, "sse", url, headers)
    elif "://" in word:
        yield McpServer(word, "streamable_http", word, headers)
    else:
        yield from _shared(word)


def _shared(word: str) -> Iterator[McpServer]:
    """The servers of a shared file: `mcp.json` (all of them), `NAME` (in ./mcp.json), or `FILE.json#NAME`."""
    file, _, name = word.partition("#") if ".json" in word else (str(_SHARED), "#", word)
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8-sig"))
        servers = content.get("mcpServers", content.get("servers"))
        if not isinstance(servers, dict):
            raise UsageError(f"--mcp {word}: {file} has no mcpServers")
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(
            f"--mcp {word}: {file} cannot be read ({error}); give an address, stdio:COMMAND, or a name in mcp.json"
        ) from error
    if name and name not in servers:
        raise UsageError(f"--mcp {word}: {file} has no server {name!r}; it has {', '.join(servers) or 'none'}")
    for each, about in servers.items():
        if each == name or (not name and not (isinstance(about, dict) and about.get("disabled"))):
            yield _from_file(f"{each} in {file}", about)


def _from_file(where: str, about: Any) -> McpServer:
    if not isinstance(about, dict):
        raise UsageError(f"--mcp: {where} is no object")
    kind, url = about.get("type", about.get("transport")), about.get("url", about.get("serverUrl"))
    headers, environment, more = about.get("headers") or {}, about.get("env") or {}, about.get("args") or []
    command, folder = about.get("command"), about.get("cwd")
    if not (isinstance(headers, dict) and isinstance(environment, dict) and isinstance(more, list)):
        raise UsageError(f"--mcp: {where} is not as clients share it (headers and env are objects, args a list)")
    if url is None and isinstance(command, str) and isinstance(folder, str | None):
        filled = tuple(_filled(where, str(word)) for word in [command, *more])
        return McpServer(where, "stdio", command=filled, environment=_all_filled(where, environment), folder=folder)
    if not isinstance(url, str) or not url.startswith(("http://", "https://", "${")):
        raise UsageError(f"--mcp: {where} has neither a url nor a command")
    url = _filled(where, url)
    transport = _KINDS.get(str(kind).lower(), "sse" if url.rstrip("/").endswith("/sse") else "streamable_http")
    return McpServer(where, transport, url, _all_filled(where, headers))


def _all_filled(where: str, values: Mapping[Any, Any]) -> dict[str, str]:
    return {str(name): _filled(where, str(value)) for name, value in values.items()}


def _filled(where: str, text: str) -> str:
    """`${NAME}`, `${env:NAME}` and `${NAME:-default}` from the environment."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], match[2])
        if found is None:
            raise UsageError(
                f"--mcp: {where} wants the environment variable {match[1]}, which is not set; set it, or name only the "
                "servers that you need, as --mcp mcp.json#NAME"
            )
        return found

    if unknown := re.search(r"\$\{[^}]*\}", _VARIABLE.sub("", text)):
        raise UsageError(f"--mcp: {where} holds {unknown[0]}, which only its own client can fill in")
    return _VARIABLE.sub(value, text)


def absolute(word: str) -> str:
    """A word of `--mcp` that means the same in any folder."""
    if word.startswith(("http://", "https://", "sse:", "stdio:")):
        return word
    file, mark, name = word.partition("#") if ".json" in word else (str(_SHARED), "#", word)
    return f"{Path(file).absolute()}{mark}{name}"
