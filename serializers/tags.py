"""The grammar of a trajectory's text: the only place that knows how the protocol's tags are read and written.

<think>…</think>
<call_tool name="pubmed_search" limit="5">three to six keywords</call_tool>
<answer>… <cite id="12345678">…</cite> …</answer>
"""

import re
from dataclasses import dataclass, field

from backends.config import QUERY_NAMES
from serializers.escaping import NAMES

STOP_STRINGS = ("</call_tool>", "<tool_output>")
# Quoted values may hold "<" and ">", but no tag of ours; every repeat is bounded, which keeps reading linear.
_INSIDE = rf"<(?!/?(?:{NAMES})\b)"
_QUOTED = rf"""(?:"(?:[^"<]|{_INSIDE}){{0,500}}"|'(?:[^'<]|{_INSIDE}){{0,500}}')"""
_ATTRIBUTES = rf"""(?:\s(?:[^<>"']{{0,60}}{_QUOTED}){{0,8}}[^<>"']{{0,60}})?"""
TAG = re.compile(rf"<(?P<close>/?)(?P<name>{NAMES})(?P<attributes>{_ATTRIBUTES})>")
_ATTRIBUTE = re.compile(r"""([A-Za-z_][\w-]{0,40})\s{0,8}=\s{0,8}("[^"]*"|'[^']*'|[^\s"'=<>]+)""")
_LOOSE_QUERY = re.compile(rf"(?<![\w-])({'|'.join(QUERY_NAMES)})\s{{0,8}}=\s{{0,8}}([^=]*)\Z")
_INTEGER = re.compile(r"0|-?[1-9]\d{0,8}")


@dataclass(frozen=True)
class Call:
    """One tool call as the model wrote it: `limit="5"` arrives as the integer 5."""

    name: str
    query: str
    parameters: dict[str, str | int] = field(default_factory=dict)


def write_call(call: Call) -> str:
    """The canonical text of a call, name first, values in double quotes."""
    parameters = "".join(f" {name}={quoted(str(value))}" for name, value in call.parameters.items())
    return f"<call_tool name={quoted(call.name)}{parameters}>{call.query}</call_tool>"


def quoted(value: str) -> str:
    """An attribute's value in the quotes that it does not hold."""
    return f"'{value}'" if '"' in value else f'"{value}"'


def read_attributes(text: str) -> dict[str, str | int]:
    """The attributes in a tag; whole numbers as such. A query is all that stands behind its name, where it was written
    without quotes or with the same ones in it.
    """
    values = {match[1]: match[2][1:-1] if match[2][0] in "\"'" else match[2] for match in _ATTRIBUTE.finditer(text)}
    rest = _ATTRIBUTE.sub("", text).strip()
    if rest and (loose := _LOOSE_QUERY.search(text)):
        values[loose[1]] = loose[2].strip().removeprefix('"').removesuffix('"').strip()
        values = {name: value for name, value in values.items() if text.find(f"{name}") <= loose.start(1)}
    return {
        name: int(value) if name != "name" and name not in QUERY_NAMES and _INTEGER.fullmatch(value) else value
        for name, value in values.items()
    }
