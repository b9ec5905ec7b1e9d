"""What a page does not show: taken out before its text is read. Source: CSS's `display`, `visibility`, `opacity`,
`font-size`, `text-indent` and places off the screen, in an element or in the page's own style sheets, of which no more
is read than needed: simple selectors hide, any selector that shows what it ends with shows it.
"""

import re
from dataclasses import dataclass

from lxml import etree

from servers.tool_server.markup import Element

_HIDING = re.compile(
    r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse)|opacity\s*:\s*0+(?:\.0*)?%?\s*(?:;|!|$)"
    r"|font-size\s*:\s*0+(?:\.0*)?[a-z%]*\s*(?:;|!|$)|(?:left|right|top|text-indent)\s*:\s*-\d{3,}(?:\.\d*)?(?:px|em|rem|pt)"
    r"|clip\s*:\s*rect\(\s*[01](?:px)?[ ,]+[01](?:px)?[ ,]+[01](?:px)?)",
    re.IGNORECASE,
)
_SHOWING = re.compile(r"(?:^|;)\s*(?:display\s*:(?!\s*none)|visibility\s*:\s*visible|opacity\s*:)", re.IGNORECASE)
_COMMENT = re.compile(r"/\*.*?\*/|<!--|-->", re.DOTALL)
_RULE = re.compile(r"([^{}]*)\{([^{}]*)\}|([^{};]*)\{|\}|@[^{};]*;")
_SIMPLE = re.compile(r"([a-z][a-z0-9]*)?((?:[.#][\w-]+)*)", re.IGNORECASE)
_MOST_CSS, _MOST_RULES = 300_000, 500
_NEVER = frozenset(("html", "body", "main", "article"))
_READABLE = etree.XPath(".//text()[not(parent::script or parent::style)]")
_DRAWN_TWICE = frozenset("katex-html mjx-chtml MathJax_Preview MathJax_SVG mwe-math-mathml-a11y".split())


@dataclass(frozen=True)
class _Rule:
    """A compound selector, `p.note#a`; it `hides` or shows."""

    tag: str
    marks: frozenset[str]
    hides: bool

    def matches(self, tag: str, marks: frozenset[str]) -> bool:
        return self.tag in ("", tag) and self.marks <= marks


def drop_hidden(root: Element) -> None:
    """Takes out what is not shown, unless it holds half of the page: that is shown by a script."""
    half, waiting, rules = _size(root) / 2, [root], _rules(root)
    has_source = any((script.get("type") or "").startswith("math/") for script in root.iter("script"))
    while waiting:
        for child in list(waiting.pop().iterchildren("*")):
            classes = set((child.get("class") or "").split())
            is_drawn = not classes.isdisjoint(_DRAWN_TWICE) or (has_source and "MathJax" in classes)
            is_off = child.tag not in _NEVER and _is_hidden(child, rules) and _size(child) < half
            if child.tag == "template" or is_drawn or is_off:
                tail = child.tail
                child.clear()
                child.tag, child.tail = "span", tail
            else:
                child.attrib.pop("aria-hidden", None)  # such text is seen all the same
                waiting.append(child)


def _is_hidden(element: Element, rules: list[_Rule]) -> bool:
    style = element.get("style") or ""
    if element.get("hidden") not in (None, "until-found") or _HIDING.search(style):
        return True
    marks = frozenset([*(f".{name}" for name in (element.get("class") or "").split()), f"#{element.get('id')}"])
    found = [rule.hides for rule in rules if rule.matches(str(element.tag), marks)]
    return bool(found) and all(found) and not _SHOWING.search(style)


def _size(element: Element) -> int:
    """Characters to read."""
    return sum(len(str(text).strip()) for text in _READABLE(element))


def _rules(root: Element) -> list[_Rule]:
    """What the page's style sheets hide on every screen, and what they show."""
    css = _COMMENT.sub(" ", "\n".join(style.text or "" for style in root.iter("style")))[:_MOST_CSS]
    rules: list[_Rule] = []
    depth = 0
    for found in _RULE.finditer(css):
        selectors, style = found[1], found[2]
        if selectors is None:
            depth += {"{": 1, "}": -1}.get(found[0][-1], 0)
            continue
        hides, shows = _HIDING.search(style), _SHOWING.search(style)
        for selector in selectors.split(",") if hides or shows else ():
            *before, last = selector.split() or [""]
            simple = _SIMPLE.fullmatch(last)
            marks = frozenset(re.findall(r"[.#][^.#]+", simple[2])) if simple else frozenset()
            if hides and simple and (marks or simple[1]) and not before and not depth:
                rules.append(_Rule((simple[1] or "").lower(), marks, hides=True))
            elif shows and not hides:
                kept = frozenset(re.findall(r"[.#][\w-]+", re.split(r"[:\[]", last)[0]))
                rules.append(_Rule("", kept, hides=False)) if kept else None
    return rules[:_MOST_RULES] if any(rule.hides for rule in rules) else []
