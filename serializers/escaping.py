"""Text from outside, made safe to stand in a trajectory: nothing in it can be read as a tag of the protocol, or as a
token of a chat template.
"""

import html
import re

NAMES = "think|call_tool|tool_output|answer"
"""The tags that part a trajectory."""
SPACE = r"\s{0,8}"
SPELLINGS = r"call[_-]?tools?|tool[_-]?outputs?|(?:final[_-]?)?answer|think|call(?=\s|>)"
"""The same in the spellings that a reply may have them in, case aside (see `respelling`)."""
_SHOWN = "snippet|cite|webpage"
"""Tags within a tool output or an answer: a foreign one would be a source that nobody found."""
_TEMPLATE_NAMES = (
    r"s|/s|tool_(?:call|calls|response|responses|result|results)|function_calls?|function_results?|tools|invoke"
    r"|function|parameter|(?:start|end)_of_(?:turn|text|image)|bos|eos|pad|unk|mask|sep|cls|thinking|thoughts?|reasoning"
    r"|extra_id_\d+|unused_?\d+|reserved_\d+|special_\d+|[a-z]{2,12}:[a-z_]{2,24}|sop|eop|[a-z]{2,8}_token|role|image|img"
    r"|(?:start|end)_function_(?:call|response|declaration)|arg_(?:key|value)|toolcall|tool_(?:input|name|args)|steps?"
)
_TEMPLATE = (
    r"/?[|｜]|/?[\w.:/-]{1,40}[|｜]>"
    rf"|/?(?:{_TEMPLATE_NAMES})(?:\s[^<>]{{0,200}}|=[^<>]{{0,200}})?/?>|</?SYS>>"
)
_BRACKETED = (
    r"\|[^|\[\]\n]{1,40}\|\]|/?(?:INST|SYSTEM_PROMPT|MODEL_SETTINGS|IMG_\w{1,10}|BEGIN_\w{1,10}|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|CALL_ID|ARGS|THINK|IMG|gMASK|MASK"
    r"|BOS|EOS|PREFIX|SUFFIX|MIDDLE)\]|e~\["
)


def _escaper(names: str) -> re.Pattern[str]:
    return re.compile(
        rf"<(?={SPACE}/?{SPACE}(?:{names})\b|{_TEMPLATE})|[＜〈‹⟨](?={SPACE}[/／]?{SPACE}(?:{names})\b)"
        rf"|\[(?={_BRACKETED})|◁(?=/?\w{{1,20}}▷)|\](?=[~!]{{1,2}}[a-z]~?[\[\]])",
        re.IGNORECASE,
    )


_TOKENS = _escaper("(?!)")
_FOREIGN, _OWN = _escaper(f"{SPELLINGS}|{_SHOWN}"), _escaper(SPELLINGS)
_ANY_TAG = re.compile(rf"<{SPACE}(?P<close>/?){SPACE}(?P<name>tool_output\w*|(?:{NAMES})\b)", re.IGNORECASE)
_AS_TRAINERS_READ = re.compile(r"</tool_output>|<tool_output(?![\w])")
_IN_ATTRIBUTE = str.maketrans({'"': "&quot;", "<": "&lt;", ">": "&gt;", "\n": " ", "\r": " "})


def escape_tags(text: str) -> str:
    """Foreign text (a question, what a tool gave): every tag that the protocol gives a meaning and every token of a
    chat template is escaped (`<answer>` becomes `&lt;answer>`), in any case and spacing; all other text stays.
    """
    return _FOREIGN.sub(_entity, text)


def escape_own(text: str) -> str:
    """The model's own text between its tags: the same, but for its citations."""
    return _OWN.sub(_entity, text)


def escape_tokens(text: str) -> str:
    """A reply that was cut off, as it is kept: only a chat template's tokens are escaped."""
    return _TOKENS.sub(_entity, text)


def escape_attribute(text: str) -> str:
    """Foreign text as the value of an attribute in double quotes; see `attribute_value`."""
    return text.translate(_IN_ATTRIBUTE)


def attribute_value(written: str) -> str:
    """What an attribute stands for."""
    return html.unescape(written) if "&" in written else written


def balanced(text: str) -> tuple[str, list[str]]:
    """A prompt in which every tag of the protocol is opened and closed, and the tags that had to be escaped for it.

    Trainers that mask by tags read the whole rendered row: one open `<tool_output>` in the prompt hides what follows.
    """
    open_tags: dict[str, re.Match[str]] = {}
    unmatched: list[re.Match[str]] = []
    for tag in _ANY_TAG.finditer(text):
        name = tag["name"].lower()
        if name.startswith("tool_output") and not _AS_TRAINERS_READ.match(text, tag.start()):
            unmatched.append(tag)
        elif not tag["close"]:
            if name in open_tags:
                unmatched.append(open_tags[name])
            open_tags[name] = tag
        elif name in open_tags:
            del open_tags[name]
        else:
            unmatched.append(tag)
    unmatched = sorted([*unmatched, *open_tags.values()], key=lambda tag: tag.start())
    for tag in reversed(unmatched):
        text = f"{text[: tag.start()]}&lt;{text[tag.start() + 1 :]}"
    return text, [f"<{tag['close']}{tag['name']}>" for tag in unmatched]


def _entity(match: re.Match[str]) -> str:
    return "&lt;" if match[0] == "<" else f"&#{ord(match[0])};"
