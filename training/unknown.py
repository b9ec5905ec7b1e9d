"""What of others cannot be read for certain, and is no row for that."""

import re

_CALL_OR_OUTPUT = re.compile(r"<(?:call_tool|tool_output)\b")


_OTHER_CALLS = re.compile(
    r"<(?:search|information|result|tool_call|tool_response|use_mcp_tool|functioncall)>|<function="
    r"|<\|(?:tool_call|python_tag)|\[TOOL_CALLS\]|^Action Input:",
    re.MULTILINE,
)
_OTHER_THOUGHTS = re.compile(r"\s*(?:<(?:thinking|reasoning)>|<\|begin_of_thought|\[THINK\])")


class UnknownShape(ValueError):
    """A row that is no trajectory of a shape that is known; says why."""


def check_order(roles: list[str]) -> None:
    """Raises UnknownShape unless there is at most one system message, the question behind it, and replies behind that,
    each apart from the one before.
    """
    if "user" not in roles:
        raise UnknownShape("no message of it is from the user: it has no question")
    if "assistant" not in roles:
        raise UnknownShape("no message of it is a reply")
    if roles.count("user") > 1:
        raise UnknownShape("a second message of it is from the user: a trajectory has one question")
    if roles.count("system") > 1 or "system" in roles[roles.index("user") :]:
        raise UnknownShape("it has more than one system message, or one behind the question")
    if roles[: roles.index("user")] not in ([], ["system"]):
        raise UnknownShape("a reply or a result of it stands before the question")
    if any(roles[at : at + 2] == ["assistant"] * 2 for at in range(len(roles))):
        raise UnknownShape("two replies of it follow each other: what stood between them is not known")


def check_protocol(replies: list[str]) -> None:
    """Raises UnknownShape where calls stand in what a model said in the way of another protocol."""
    if found := next(filter(None, map(_OTHER_CALLS.search, replies)), None):
        raise UnknownShape(f"its calls stand in the text in another way: {found[0]}")


def check_thoughts(replies: list[str]) -> None:
    """Raises UnknownShape where thoughts stand in what a model said in another way, or are not opened or closed."""
    if found := next(filter(None, map(_OTHER_THOUGHTS.match, replies)), None):
        raise UnknownShape(f"its thoughts stand in the text in another way: {found[0].strip()}")
    if any(said.count("<think>") != said.count("</think>") for said in replies):
        raise UnknownShape("a thought of it is not opened, or not closed")


def check_words(replies: list[str]) -> None:
    """Raises UnknownShape where calls stand apart, and what a model said looks like a call, a result, or an answer that
    is not the last.
    """
    if any(_CALL_OR_OUTPUT.search(said) for said in replies) or any("<answer" in said for said in replies[:-1]):
        raise UnknownShape("its calls stand apart, and a tag of ours is in what it says")


def check_held(question: str, text: str) -> None:
    """Raises UnknownShape for a row without a question, or in which nothing is said."""
    if not question.strip():
        raise UnknownShape("no message of it is from the user: it has no question")
    if not text.strip():
        raise UnknownShape("no message of it is a reply")
