"""From the model's tools to the servers': which tool is called for a name, and how its arguments are filled in."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mcp.types import Tool

from backends.config import QUERY_NAMES, TOOL_NAMES
from backends.errors import UsageError

_CANDIDATES: Mapping[str, Sequence[tuple[str, str, dict[str, Any]]]] = {
    "pubmed_search": [("pubmed_search", "query", {})],
    "browse_webpage": [
        ("browse_webpage", "url", {}),
        ("crawl4ai_docker_fetch_webpage_content", "url", {"use_ai2_config": True}),
        ("crawl4ai_fetch_webpage_content", "url", {}),
        ("serper_fetch_webpage_content", "webpage_url", {}),
    ],
    "google_search": [("google_search", "query", {}), ("serper_google_webpage_search", "query", {})],
}
"""For each tool of the model: the servers' names for it in order of choice, the query's argument, fixed arguments."""

_RENAMED = {"serper_google_webpage_search": {"limit": "num_results"}}
_TOOL_MAP = re.compile(r"([\w./-]+)=([\w./-]+)(?:\((\w+)\))?")
_ARGUMENT = re.compile(r"[A-Za-z_][\w-]{0,40}")
"""What an attribute can be called."""
_LONGEST_DESCRIPTION = 600
_SAFE = "arg_"


@dataclass(frozen=True)
class ToolRoute:
    """How one of the model's tools is called on its server; `accepts` are the arguments that its schema names."""

    server_name: str
    query_argument: str
    fixed: dict[str, Any] = field(default_factory=dict)
    accepts: frozenset[str] = frozenset()
    types: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The type of each argument that is no text, as its JSON schema names it."""

    def arguments(self, query: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The server's arguments; a parameter that the tool does not know is left out."""
        renamed = _RENAMED.get(self.server_name, {})
        given = {renamed.get(name, name): value for name, value in parameters.items()}
        given |= {name.removeprefix(_SAFE): value for name, value in given.items() if name.startswith(_SAFE)}
        given = {name: value for name, value in given.items() if name in self.accepts}
        if query or self.query_argument not in given:
            given[self.query_argument] = query
        if not query and self.query_argument not in self.accepts:
            given.pop(self.query_argument, None)  # a tool that asks for nothing
        return {name: _as(self.types.get(name), value) for name, value in given.items()} | self.fixed


def map_tools(
    served: Sequence[Tool], names: Sequence[str], overrides: Sequence[str] = (), *, address: str = "the tool server"
) -> dict[str, ToolRoute]:
    """A route for each of `names`, which may be a server's own; `overrides` read `browse_webpage=fetch(url)`. Raises
    UsageError when one is missing.
    """
    by_name = {tool.name: tool for tool in reversed(served)}
    chosen: dict[str, tuple[str, str, dict[str, Any]]] = {}
    for name in names:
        own: list[tuple[str, str, dict[str, Any]]] = [
            (name, _main_argument(by_name[name]) if name in by_name else "", {})
        ]
        found = next((entry for entry in _CANDIDATES.get(name, own) if entry[0] in by_name), None)
        if found:
            chosen[name] = found
    for override in overrides:
        match = _TOOL_MAP.fullmatch(override)
        if not match or match[1] not in names:
            raise UsageError(f"--tool-map {override}: write TOOL=SERVER_TOOL or TOOL=SERVER_TOOL(argument)")
        if match[2] in by_name:
            chosen[match[1]] = (match[2], match[3] or _first_argument(by_name[match[2]]), {})
        else:
            chosen.pop(match[1], None)
    missing = [name for name in names if name not in chosen]
    if missing:
        raise UsageError(
            f"{address} has no tool for {', '.join(missing)}; it has {', '.join(sorted(by_name)) or 'none'} "
            "(name yours with --tool-map, or leave one out with --tools)"
        )
    return {
        name: ToolRoute(server, argument, fixed, frozenset(_properties(by_name[server])), _types(by_name[server]))
        for name, (server, argument, fixed) in chosen.items()
    }


def descriptions(served: Sequence[Tool], routes: Mapping[str, ToolRoute]) -> dict[str, tuple[str, str]]:
    """What the prompt says of each tool that it does not know of itself, by its schema: what it does, in the server's
    own words, and how it is called.
    """
    by_name = {tool.name: tool for tool in reversed(served)}
    return {
        name: _description(name, by_name[route.server_name], route)
        for name, route in routes.items()
        if name not in TOOL_NAMES
    }


def _description(name: str, tool: Tool, route: ToolRoute) -> tuple[str, str]:
    said = " ".join((tool.description or "").split())[:_LONGEST_DESCRIPTION]
    required = _required(tool)
    beside = [argument for argument in _properties(tool) if argument != route.query_argument]
    about = [_about(tool, argument, argument in required) for argument in beside]
    given = "".join(f' {_label(argument)}="…"' for argument in beside if argument in required)
    lines = [f"{name}: {said}" if said else f"{name}:"]
    if main := _properties(tool).get(route.query_argument):
        lines.append(f"Between its tags stands `{route.query_argument}`{_hint(main)}.")
    if about:
        lines.append(f"As attributes: {'; '.join(about)}.")
    inner = route.query_argument if main else ""
    return "\n".join(lines), f'<call_tool name="{name}"{given}>{inner}</call_tool>'


def _about(tool: Tool, argument: str, required: bool) -> str:
    return f"`{_label(argument)}`{'' if required else ' (may be left out)'}{_hint(_properties(tool)[argument])}"


def _label(argument: str) -> str:
    """An argument's name as an attribute: one that an attribute of ours has, or under which a query is looked for, is
    written otherwise.
    """
    return f"{_SAFE}{argument}" if argument == "name" or argument in QUERY_NAMES else argument


def _hint(schema: Any) -> str:
    """What a schema says of an argument beside its name."""
    if not isinstance(schema, Mapping):
        return ""
    kind = schema.get("type")
    named = [kind] if isinstance(kind, str) and kind != "string" else []
    if isinstance(options := schema.get("enum"), list):
        named.append("one of " + ", ".join(map(str, options[:20])))
    said = " ".join(str(schema.get("description") or "").split())[:200].rstrip(".")
    return "".join([f", {', '.join(named)}" if named else "", f": {said}" if said else ""])


def _as(kind: Any, value: Any) -> Any:
    """An attribute's value in the type that the schema names; as it is where it cannot be that."""
    kinds = kind if isinstance(kind, list) else [kind]
    try:
        if not isinstance(value, str):
            return str(value) if "string" in kinds and not isinstance(value, bool) else value
        if "string" in kinds:
            return value
        if "integer" in kinds or "number" in kinds:
            number = int(value) if value.strip().lstrip("+-").isdigit() else float(value)
            return number if math.isfinite(number) else value
        if "boolean" in kinds:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
                value.strip().lower()
            ]
        if "array" in kinds:
            return json.loads(value) if value.lstrip().startswith("[") else [part.strip() for part in value.split(",")]
        return json.loads(value) if "object" in kinds else value
    except (ValueError, KeyError, RecursionError):
        return value


def _types(tool: Tool) -> dict[str, Any]:
    schemas = {name: schema for name, schema in _properties(tool).items() if isinstance(schema, Mapping)}
    kinds = {name: schema.get("type") or _of_any(schema) for name, schema in schemas.items()}
    return {name: kind for name, kind in kinds.items() if kind}


def _of_any(schema: Mapping[str, Any]) -> list[Any]:
    """The types of `X | None`."""
    kinds = schema.get("anyOf")
    return [
        one["type"]
        for one in (kinds if isinstance(kinds, list) else ())
        if isinstance(one, Mapping) and isinstance(one.get("type"), str)
    ]


def _properties(tool: Tool) -> Mapping[str, Any]:
    properties = tool.inputSchema.get("properties")
    named = properties if isinstance(properties, Mapping) else {}
    return {name: schema for name, schema in named.items() if _ARGUMENT.fullmatch(name)}


def _main_argument(tool: Tool) -> str:
    return "query" if "query" in _properties(tool) else _first_argument(tool)


def _first_argument(tool: Tool) -> str:
    return next(iter([*_required(tool), *_properties(tool), "query"]))


def _required(tool: Tool) -> list[str]:
    named = tool.inputSchema.get("required")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
