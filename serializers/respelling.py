"""Replies that say the protocol's tags in other spellings, put into the protocol's own; each change is named."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serializers.escaping import NAMES, SPACE, SPELLINGS
from serializers.tags import QUERY_NAMES, Call, write_call

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
    r"(?:<\|start\|>\s*assistant\s*)?<\|channel\|>\s*(?P<name>\w+)[^<]{0,80}<\|message\|>(?P<text>.*?)"
    r"(?P<end><\|(?:end|return|call)\|>|(?=<\|start\|>|<\|channel\|>)|\Z)",
    re.DOTALL,
)
_END_TOKEN = re.compile(
    r"(?:\s*(?:<\|(?:im_end|endoftext|eot_id|eom_id|end|return|end_of_text|endofassistant)\|>|</s>|<end_of_turn>"
    r"|<｜end▁of▁sentence｜>))+\s*\Z"
)
_TAG = re.compile(
    rf"[{_OPEN}]{SPACE}(?P<close>[/／]?){SPACE}(?P<name>{SPELLINGS})"
    rf"(?P<attributes>(?:\s[^<>＜＞]{{0,600}}?)?){SPACE}(?:[{_CLOSE}]|&gt;)",
    re.IGNORECASE,
)
_ALIASES = {
    "calltool": "call_tool", "calltools": "call_tool", "call": "call_tool", "tooloutput": "tool_output",
    "tooloutputs": "tool_output", "finalanswer": "answer",
}  # fmt: skip
_NATIVE = re.compile(
    r"<(?:tool_call|function_call)>\s*(?P<body>[\[{].*?)\s*(?:</(?:tool_call|function_call|call_tool)>|(?=<tool_call>)|\Z)",
    re.DOTALL,
)
_NATIVE_XML = re.compile(
    r"(?:<tool_call>\s*)?<(?:function=|invoke\s+name=)[\"']?(?P<name>[\w.\- ]{1,80}?)[\"']?\s*>"
    r"(?P<body>.*?)(?:</(?:function|invoke)>(?:\s*</(?:tool_call|call_tool)>)?|</(?:tool_call|call_tool)>|\Z)",
    re.DOTALL,
)
_PARAMETER = re.compile(
    r"<parameter(?:=|\s+name=)[\"']?([\w\-]{1,60})[\"']?\s*>(.*?)(?:</parameter>|(?=<parameter)|\Z)", re.DOTALL
)
_LINK = re.compile(r"\[[^\[\]]{0,300}\]\(\s{0,4}<?([^\s()<>]{1,2000})>?[^()]{0,100}\)")
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,62})\.){1,8}[a-z]{2,24}(?::\d{1,5})?(?:[/?#]\S*)?", re.IGNORECASE)
_PMID_ONLY = re.compile(r"(?:PMID|PubMed(?: ID)?)\s{0,4}[:#]?\s{0,4}(\d{1,9})\W?", re.IGNORECASE)
_PMC_ONLY = re.compile(r"(?:PMCID\s{0,4}[:#]?\s{0,4})?(PMC\d{1,9})\W?", re.IGNORECASE)
_DOI_ONLY = re.compile(r"(?:doi\s{0,4}[:#]?\s{0,4})?(10\.\d{4,9}/\S{1,300})", re.IGNORECASE)


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
    change("end_token_dropped", _END_TOKEN, "")
    change("thought_respelled", _THOUGHT, lambda m: f"<{m['close'] or m['close2'] or m['close3'] or ''}think>")
    if "<tool_call>" in text or "<function_call>" in text:
        change("native_call_read", _NATIVE, _from_json)
    if "<function=" in text or "<invoke" in text:
        change("native_call_read", _NATIVE_XML, _from_xml)
    if (other := _with_plain_tags(text)) != text:
        repairs.append("tag_respelled")
        text = other
    return text, list(dict.fromkeys(repairs))


def call_from_json(text: str, name: str = "") -> Call | None:
    """The call that a JSON text describes: `{"query": …}`, or `{"name": …, "arguments": {…}}`; None for any other."""
    try:
        said: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(said, list) and said:
        said = said[0]
    if not isinstance(said, dict):
        return None
    if isinstance(inner := said.get("function"), dict):
        said = inner
    given = next((said[key] for key in ("arguments", "parameters", "args", "input") if key in said), None)
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            given = {"query": given}
    if isinstance(given, dict) and isinstance(called := said.get("name", name), str):
        return call_from_arguments(called or name, given)
    return call_from_arguments(name, said) if name and any(key in said for key in QUERY_NAMES) else None


def call_from_arguments(name: str, given: Mapping[str, Any]) -> Call:
    """A call from named arguments."""
    rest = dict(given)
    key = next((key for key in QUERY_NAMES if key in rest), None)
    query = rest.pop(key) if key else ""
    if isinstance(query, list):
        query = " ".join(map(str, query))
    parameters = {
        str(one): value if isinstance(value, int) and not isinstance(value, bool) else str(value)
        for one, value in rest.items()
        if isinstance(value, str | int | float)
    }
    return Call(name, str(query).strip(), parameters)


def known_name(name: str, tools: Sequence[str]) -> str:
    """The tool that a name means: `PubMed_Search` and `pubmed-search` are `pubmed_search`. Any other stays."""
    if name in tools:
        return name
    bare = _letters(name)
    return next((tool for tool in tools if _letters(tool) == bare), name)


def web_address(query: str) -> str:
    """What a call of browse_webpage means by `[text](address)`, `<address>`, a bare host, `PMID: 123`, a DOI."""
    text = query.strip().strip("`'\"").strip()
    if link := _LINK.fullmatch(text):
        text = link[1]
    text = text.removeprefix("<").removesuffix(">").strip() if text.startswith("<") else text
    if pmid := _PMID_ONLY.fullmatch(text):
        return f"https://pubmed.ncbi.nlm.nih.gov/{pmid[1]}/"
    if pmc := _PMC_ONLY.fullmatch(text):
        return f"https://pmc.ncbi.nlm.nih.gov/articles/{pmc[1].upper()}/"
    if doi := _DOI_ONLY.fullmatch(text):
        return f"https://doi.org/{doi[1]}"
    if text.startswith("//"):
        return f"https:{text}"
    return f"https://{text}" if _HOST.fullmatch(text) else text


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name.rsplit(".", 1)[-1]).casefold()


def _from_channel(match: re.Match[str]) -> str:
    if match["name"] in ("analysis", "thought", "thinking"):
        return f"<think>{match['text']}" + ("</think>\n" if match["end"] or match.end() < len(match.string) else "")
    return str(match["text"]).lstrip("\n")


def _from_json(match: re.Match[str]) -> str:
    call = call_from_json(match["body"])
    return write_call(call) if call and call.name else match[0]


def _from_xml(match: re.Match[str]) -> str:
    given: dict[str, Any] = {name: value.strip() for name, value in _PARAMETER.findall(match["body"])}
    if not given:
        call = call_from_json(match["body"].strip(), match["name"])
        return write_call(call) if call else match[0]
    return write_call(call_from_arguments(match["name"], given))


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
        attributes = match["attributes"].replace("&quot;", '"')
        for quote in _QUOTES:
            attributes = attributes.replace(quote, '"')
        attributes = re.sub(r"[‘’](.{0,300}?)[‘’]", r'"\1"', attributes)
        if bare == "call" and "name" not in attributes:
            return match[0]
        is_open = is_open or name == "call_tool"
        return f"<{name}{attributes}>"

    return _TAG.sub(plain, text)
