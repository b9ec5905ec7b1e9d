"""The settings of the two services: where they are, and how they are asked."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from backends.endpoint_list import EndpointSpec, parse_endpoints, read_endpoints
from backends.errors import UsageError
from backends.headers import header_values
from backends.mcp_servers import McpServer, check_word, mcp_servers
from backends.setting import setting

TOOL_NAMES = ("pubmed_search", "browse_webpage", "google_search")
"""The tools that the prompt teaches, under the names that the model uses."""
QUERY_NAMES = (
    "query", "url", "q", "keywords", "search_query", "search_terms", "search_term", "search", "terms", "term",
    "queries", "keyword", "link", "input", "text",
)  # fmt: skip
"""Names under which a call gives its query, in order of choice."""
ToolsMode = Literal["auto", "live", "record", "replay"]
"""auto: from the cassette, else asked and kept. live: asked, not kept. record: asked and kept anew. replay: as kept."""


_NOT_SAMPLING = frozenset(
    "model messages temperature max_tokens max_completion_tokens stop stream stream_options n tools tool_choice "
    "functions function_call api_key extra_body extra_headers extra_query "
    "continue_final_message add_generation_prompt".split()
)


@dataclass(frozen=True)
class Sampling:
    """How the model's replies are drawn."""

    temperature: float = setting(0.1, "Sampling temperature.", "Model", low=0, high=2, compared=True)
    sampling: dict[str, object] = setting({}, 'More of the request: {"top_p": 0.9, …}.', "Model", compared=True)

    def __post_init__(self) -> None:
        if ours := sorted(_NOT_SAMPLING & self.sampling.keys()):
            raise UsageError(f"--sampling: {', '.join(ours)} cannot be set there (see the other flags)")
        if type(self.sampling.get("seed", 1)) is not int:
            raise UsageError("--sampling: a seed is a whole number")


@dataclass(frozen=True)
class ModelConfig:
    """The model servers. Raises UsageError for an address that is none, or that holds a secret."""

    local_model_url: tuple[str, ...] = setting(
        ("http://localhost:8000/v1",), "OpenAI-compatible address, `,weight=2,max-in-flight=64` behind it; repeats.",
        "Model", envvar=("LOCAL_MODEL_URL", "OPENAI_BASE_URL"),
    )  # fmt: skip
    endpoints: Path | None = setting(None, "File of addresses, one a line, read again when it changes.", "Model")
    model_name: str = setting("Qwen3-8B", "Its name at the server.", "Model", envvar=("MODEL_NAME",), compared=True)
    api_key: str | None = setting(
        None, "Key of the model server, if it wants one.", "Model", envvar=("OPENAI_API_KEY",), secret=True
    )
    extra_header: tuple[str, ...] = setting((), "NAME=ENV_VAR, sent with every request.", "Model")
    model_timeout: float = setting(180.0, "Seconds a reply may take.", "Model", above=0)
    max_model_len: int | None = setting(None, "Its context, if the server does not say.", "Model", above=0)
    keep_token_ids: bool = setting(False, "Keep the token ids and logprobs of replies, as Parquet.", "Model")
    sampling: Sampling = field(default_factory=Sampling)
    shared_by: int = 1
    """Processes that ask the same servers for this run."""

    def __post_init__(self) -> None:
        if self.endpoints is None:
            self.servers()

    def servers(self) -> list[EndpointSpec]:
        """Where the model is served. Raises UsageError for an address that is none, or a file that names none."""
        if self.endpoints is not None:
            return read_endpoints(self.endpoints)
        return parse_endpoints(list(self.local_model_url), "--local-model-url")

    @property
    def where(self) -> str:
        """The addresses, for a message."""
        named = [spec.url for spec in self.servers()]
        more = f" and {len(named) - 3} more" if len(named) > 4 else ""
        return ", ".join(named[: 3 if more else 4]) + more

    @property
    def headers(self) -> dict[str, str]:
        """The extra headers with their values. Raises UsageError for one whose variable is not set."""
        return header_values(self.extra_header, "--extra-header")


@dataclass(frozen=True)
class ToolsConfig:
    """The tool server. Raises UsageError for an address that is none, or that holds a secret."""

    mcp_url: str | None = setting(None, "MCP server; else MCP_TRANSPORT_HOST and _PORT.", "Tools", envvar=("MCP_URL",))
    mcp: tuple[str, ...] = setting((), "More: address, sse:…, stdio:COMMAND, name in mcp.json.", "Tools")
    mcp_header: tuple[str, ...] = setting((), "NAME=ENV_VAR, sent to MCP addresses.", "Tools")
    tools: tuple[str, ...] = setting(TOOL_NAMES, "The tools to teach and use.", "Tools", listed=True)
    tool_map: tuple[str, ...] = setting((), "TOOL=SERVER_TOOL(argument), for other names.", "Tools")
    tool_timeout: float = setting(120.0, "Seconds a call may take.", "Tools", above=0)
    cassette: Path | None = setting(None, "File of kept results: no call is asked twice.", "Tools")
    tools_mode: ToolsMode = setting("auto", "What the cassette is for: replay asks no server.", "Tools")
    token: str | None = field(default_factory=lambda: os.environ.get("MCP_TOKEN"), repr=False)
    """What a server that is not on this machine asks for."""

    def __post_init__(self) -> None:
        check_word(self.url, "--mcp-url")
        for word in self.mcp:
            check_word(word, "--mcp")
        if self.tools_mode != "auto" and self.cassette is None:
            raise UsageError(f"--tools-mode {self.tools_mode}: name the file with --cassette")
        if not self.tools:
            raise UsageError("--tools: name at least one tool")

    def servers(self) -> list[McpServer]:
        """Where the tools are. Raises UsageError for a server that cannot be meant, or a header without its value."""
        headers = header_values(self.mcp_header, "--mcp-header")
        if self.token and "authorization" not in map(str.lower, headers):
            headers["Authorization"] = f"Bearer {self.token}"
        alone = () if self.mcp and not self.mcp_url else (self.url,)
        return mcp_servers([*alone, *self.mcp], headers)

    @property
    def url(self) -> str:
        """The address: as given, else from MCP_TRANSPORT_HOST and MCP_TRANSPORT_PORT."""
        host, port = os.environ.get("MCP_TRANSPORT_HOST", "127.0.0.1"), os.environ.get("MCP_TRANSPORT_PORT", "8003")
        return self.mcp_url or f"http://{host}:{port}/mcp"
