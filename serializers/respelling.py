"""Replies that say the protocol's tags in other spellings, put into the protocol's own; each change is named."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from backends.completion import without_end_token
from backends.config import QUERY_NAMES
from serializers.escaping import NAMES, SPACE, SPELLINGS, escape_own
from serializers.tags import Call, quoted, write_call

_NAMED, _GIVEN = ("name", "tool", "tool_name", "function"), ("arguments", "parameters", "args", "input")
_OPEN, _CLOSE, _QUOTES = "<＜〈‹⟨", ">＞〉›⟩", "“”„‟«»＂"
_ODD = re.compile(
    rf"[{_OPEN[1:]}◁{_CLOSE[1:]}]|&gt;|</?\s[\s/]{{0,16}}(?i:{NAMES}|call)|</?(?!(?:{NAMES})[\s>])(?i:{NAMES}|call|tool"
    rf"|func|invoke|thought|reason|final|[a-z]{{2,12}}:think)|=\s{{0,4}}[{_QUOTES}‘’]|<[|｜]|\[/?(?i:THINK)\]|</s>|<end_of"
)
"""What none of the changes below can do without."""
_THOUGHT = re.compile(
    r"<(?P<close>/?)(?:thinking|thoughts?|reasoning|[a-z]{2,12}:think)>|◁(?P<close2>/?)think▷|\[(?P<close3>/?)THINK\]",
    re.IGNORECASE,
)
_CHANNEL = re.compile(
    r"(?:<\|start\|>\s*assistant\s*)?<\|channel\|>\s*(?P<name>\w{1,40})[^<]{0,80}<\|message\|>(?P<text>.*?)"
    r"(?P<end><\|(?:end|return|call)\|>|(?=<\|start\|>|<\|channel\|>)|\Z)",
    re.DOTALL,
)
_IN_QUOTES = r"""[^<>＜＞"']{0,60}?(?:"[^"<]{0,500}"|'[^'<]{0,500}')"""
_TAG = re.compile(
    rf"[{_OPEN}]{SPACE}(?P<close>[/／]?){SPACE}(?P<name>{SPELLINGS})"
    rf"""(?P<attributes>\s(?:{_IN_QUOTES}){{1,8}}[^<>＜＞"']{{0,60}}?|(?:\s[^<>＜＞]{{0,600}}?)?)"""
    rf"{SPACE}(?:[{_CLOSE}]|&gt;)",
    re.IGNORECASE,
)
_ENDS = r"(?=[\s/]|\Z)"
_VALUE = re.compile(
    rf"""(?<=\w)=\s{{0,4}}(?:(?P<plain>"[^"=]{{0,500}}"|'[^'=]{{0,500}}'){_ENDS}|[{_QUOTES}](?P<odd>[^{_QUOTES}]{{0,500}})[{_QUOTES}]{_ENDS}"""
    rf"""|[{_QUOTES}"](?P<double>[^{_QUOTES}"]{{0,500}})[{_QUOTES}"]{_ENDS}|"[^"]{{0,500}}"{_ENDS}|[‘’'](?P<single>.{{0,300}}?)[‘’'{_QUOTES}]{_ENDS})"""
)
"""An attribute's value: in plain quotes, or in others, of which one may be a plain one."""
_ALIASES = {
    "calltool": "call_tool", "calltools": "call_tool", "call": "call_tool", "tooloutput": "tool_output",
    "tooloutputs": "tool_output", "finalanswer": "answer",
}  # fmt: skip
_NATIVE = re.compile(r"<(?:tool_call|function_call)>\s*(?=[\[{])")
_NATIVE_END = re.compile(r"\s*</(?:tool_call|function_call|call_tool)>")
_JSON = json.JSONDecoder(strict=False)
_NATIVE_XML = re.compile(
    r"(?:<tool_call>\s*)?<(?:function=|invoke\s+name=)[\"']?(?P<name>[\w.\- ]{1,80}?)[\"']?\s*>"
    r"(?P<body>.*?)(?:</(?:function|invoke)>(?:\s*</(?:tool_call|call_tool)>)?|</(?:tool_call|call_tool)>|\Z)",
    re.DOTALL,
)
_PARAMETER = re.compile(
    r"<parameter(?:=|\s+name=)[\"']?([\w\-]{1,60})[\"']?\s*>(.*?)(?:</parameter>|(?=<parameter)|\Z)", re.DOTALL
)
_LINK = re.compile(r"\[[^\[\]]{0,300}\]\(\s{0,4}<?([^\s<>]{1,2000}?)>?(?:\s[^()]{0,100})?\)")
_ADDRESS = re.compile(
    r"(?:(?:URL|link|address)\s{0,4}[:=]\s{0,4}(\S{1,2000})|(https?://[^\s<>]{1,2000})\s{1,8}\([^()]{0,300}\))",
    re.IGNORECASE,
)
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,62})\.){1,8}[a-z]{2,24}(?::\d{1,5})?(?:[/?#]\S*)?", re.IGNORECASE)
_NO_HOST = re.compile(r"et\.al|[^/]*\.(?:pdf|csv|txt|html?|docx?|xlsx?|json|xml)", re.IGNORECASE)
_PMID_ONLY = re.compile(r"(?:PMID|PubMed(?: ID)?)\s{0,4}[:#]?\s{0,4}(\d{1,9})\W?|(\d{5,9})", re.IGNORECASE)
_PMC_ONLY = re.compile(r"(?:PMCID\s{0,4}[:#]?\s{0,4})?(PMC\d{1,9})\W?", re.IGNORECASE)
_DOI_ONLY = re.compile(r"(?:doi\s{0,4}[:#]?\s{0,4})?(10\.\d{4,9}/\S{1,300}?)[.,;]?", re.IGNORECASE)
_MOST_TRIED = 20
_CALLED = re.compile(r"[\w.:/ -]{1,80}")
_PARAMETER_NAME = re.compile(r"(?!name\Z)[A-Za-z_][\w-]{0,40}")
_PARAMETER_VALUE = re.compile(r"[^<>\n\r\"]{0,300}|[^<>\n\r']{0,300}")


def respelled(text: str) -> tuple[str, list[str]]:
    """A reply in the protocol's own spelling, and the names of the changes. Linear in its length."""
    if not _ODD.search(text):
        return text, []
    repairs: list[str] = []

    def change(name: str, pattern: re.Pattern[str], by: "str | Callable[[re.Match[str]], str]") -> None:
        nonlocal text
        changed = pattern.sub(by, text)
        if changed != text:
            repairs.append(name)
            text = changed

    if "<|channel|>" in text:
        change("thought_respelled", _CHANNEL, _from_channel)
    if (ended := without_end_token(text.rstrip())) != text:
        repairs.append("end_token_dropped")
        text = ended
    change("thought_respelled", _THOUGHT, lambda m: f"<{m['close'] or m['close2'] or m['close3'] or ''}think>")
    if (other := _with_native_calls(text)) != text:
        repairs.append("native_call_read")
        text = other
    if "<function=" in text or "<invoke" in text:
        change("native_call_read", _NATIVE_XML, _from_xml)
    if (other := _with_plain_tags(text)) != text:
        repairs.append("tag_respelled")
        text = other
    return text, list(dict.fromkeys(repairs))


def call_from_json(text: str, name: str = "") -> Call | None:
    """The call that a JSON text describes: `{"query": …}`, or `{"name": …, "arguments": {…}}`; None for any other, and
    where there is nothing to ask.
    """
    said = _loaded(text)
    if isinstance(said, list) and said:
        said = said[0]
    if not isinstance(said, dict):
        return None
    if isinstance(inner := said.get("function"), dict):
        said = inner
    called = next((said[key] for key in _NAMED if isinstance(said.get(key), str)), name)
    given = next((said[key] for key in _GIVEN if said.get(key) is not None), None)
    if isinstance(given, str) and isinstance(opened := _loaded(given), dict):
        given = opened
    if isinstance(given, str):
        given = {"query": given}
    if not isinstance(given, dict):
        given = {key: value for key, value in said.items() if key not in _NAMED}
    return call_from_arguments(called, given)


def call_from_arguments(name: str, given: Mapping[str, Any]) -> Call | None:
    """A call from named arguments; None where none of them is a query, or the name can be no tool's. An argument that
    no attribute can hold is left out.
    """
    rest = dict(given)
    key = next((key for key in QUERY_NAMES if rest.get(key) not in (None, "", [])), None)
    if key is None and len(texts := [key for key, value in rest.items() if isinstance(value, str) and value]) == 1:
        key = texts[0]
    query = rest.pop(key) if key else None
    if isinstance(query, list):
        query = " ".join(map(str, query))
    if not isinstance(query, str | int | float) or not str(query).strip() or not _CALLED.fullmatch(name):
        return None
    parameters = {
        one: _parameter(value)
        for one, value in rest.items()
        if isinstance(value, str | int | float)
        and one not in QUERY_NAMES
        and _PARAMETER_NAME.fullmatch(one)
        and _PARAMETER_VALUE.fullmatch(str(value))
    }
    return Call(name, str(query).strip(), parameters)


def _parameter(value: str | int | float) -> str | int:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e9:
        return int(value)
    return value if isinstance(value, int) else str(value)


def _loaded(text: str) -> Any:
    try:
        return _JSON.decode(text)
    except (ValueError, RecursionError):
        return None


def known_name(name: str, tools: Sequence[str]) -> str:
    """The tool that a name means: `PubMed_Search` and `pubmed-search` are `pubmed_search`. Any other stays."""
    if name in tools:
        return name
    bare = _letters(name)
    return next((tool for tool in tools if _letters(tool) == bare), name)


def web_address(query: str) -> str:
    """What a call of browse_webpage means by `[text](address)`, `<address>`, a bare host, `PMID: 123`, a DOI."""
    text = query.strip().strip("`'\"*").strip()
    if link := _LINK.fullmatch(text) or _ADDRESS.fullmatch(text):
        text = next(filter(None, link.groups()))
    text = text.removeprefix("<").removesuffix(">").strip() if text.startswith("<") else text
    if pmid := _PMID_ONLY.fullmatch(text):
        return f"https://pubmed.ncbi.nlm.nih.gov/{pmid[1] or pmid[2]}/"
    if pmc := _PMC_ONLY.fullmatch(text):
        return f"https://pmc.ncbi.nlm.nih.gov/articles/{pmc[1].upper()}/"
    if doi := _DOI_ONLY.fullmatch(text):
        return f"https://doi.org/{doi[1]}"
    if text.startswith("//"):
        return f"https:{text}"
    return f"https://{text}" if _HOST.fullmatch(text) and not _NO_HOST.fullmatch(text) else text


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name.rsplit(".", 1)[-1]).casefold()


def _from_channel(match: re.Match[str]) -> str:
    if match["name"] in ("analysis", "thought", "thinking"):
        return f"<think>{match['text']}" + ("</think>\n" if match["end"] or match.end() < len(match.string) else "")
    return str(match["text"]).lstrip("\n")


def _written(call: Call | None, as_it_was: str) -> str:
    return write_call(replace(call, query=escape_own(call.query))) if call and call.name else as_it_was


def _with_native_calls(text: str) -> str:
    """Calls in JSON in the protocol's words; where one ends, its JSON says."""
    pieces, at = [], 0
    for begun, _ in zip(_NATIVE.finditer(text), range(_MOST_TRIED), strict=False):
        try:
            _, end = _JSON.raw_decode(text, begun.end()) if begun.start() >= at else (None, 0)
        except (ValueError, RecursionError):
            continue
        if call := call_from_json(text[begun.end() : end]):
            closing = _NATIVE_END.match(text, end)
            pieces += [text[at : begun.start()], _written(call, text[begun.start() : end])]
            at = closing.end() if closing else end
    return "".join([*pieces, text[at:]])


def _from_xml(match: re.Match[str]) -> str:
    given: dict[str, Any] = {name: value.strip() for name, value in _PARAMETER.findall(match["body"])}
    if not given:
        return _written(call_from_json(match["body"].strip(), match["name"]), match[0])
    return _written(call_from_arguments(match["name"], given), match[0])


def _in_plain_quotes(match: re.Match[str]) -> str:
    value = next((match[name] for name in ("odd", "double", "single") if match[name] is not None), None)
    return match[0] if value is None else f"={quoted(value)}"


def _with_plain_tags(text: str) -> str:
    """Tags in other letters, brackets, spacing and quotes as the protocol has them."""
    is_open = False

    def plain(match: re.Match[str]) -> str:
        nonlocal is_open
        bare = re.sub(r"[_-]", "", match["name"].lower())
        name = _ALIASES.get(bare, bare)
        if match["close"]:
            if bare == "call" and not is_open:
                return match[0]
            is_open = is_open and name != "call_tool"
            return f"</{name}>"
        attributes = match["attributes"]
        if '"' not in attributes:
            attributes = attributes.replace("&quot;", '"')
        attributes = _VALUE.sub(_in_plain_quotes, attributes)
        if bare == "call" and "name" not in attributes:
            return match[0]
        is_open = is_open or name == "call_tool"
        return f"<{name}{attributes}>"

    return _TAG.sub(plain, text)
