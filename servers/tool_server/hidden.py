"""What a page does not show: taken out before its text is read.

Hidden is what an attribute or a style of the element itself says, or a simple selector of the page's own style sheets
(`display`, `visibility`), where no other rule shows the same. What a page fades in or moves about is shown.
"""

import re
from dataclasses import dataclass, field

from lxml import etree

from servers.tool_server.markup import Element

_OFF = re.compile(r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse))", re.IGNORECASE)
_GONE = re.compile(r"(?:^|;)\s*display\s*:\s*none", re.IGNORECASE)
_CLEAR = re.compile(r"(?:^|;)\s*opacity\s*:\s*0+(?:\.0*)?%?\s*(?:;|!|$)", re.IGNORECASE)
_NO_SIZE = re.compile(r"(?:^|;)\s*font-size\s*:\s*0+(?:\.0*)?[a-z%]*\s*(?:;|!|$)", re.IGNORECASE)
_AWAY = re.compile(r"(?:^|;)\s*(?:left|right|top|text-indent)\s*:\s*-\d{4,}", re.IGNORECASE)
_LOOSE = re.compile(r"position\s*:\s*(?:absolute|fixed)|text-indent", re.IGNORECASE)
_MOVES = re.compile(r"transition|animation|transform|will-change", re.IGNORECASE)
_SHOWS = re.compile(r"(?:^|;)\s*(?:display\s*:(?!\s*none)|visibility\s*:\s*visible)", re.IGNORECASE)
_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)|<!--|-->", re.DOTALL)
_PART = re.compile(r"([^{}]*)([{}]|\Z)")
_NAME = re.compile(r"[.#](?:\\.|[\w-])+")
_SIMPLE = re.compile(r"([a-z][a-z0-9]*)?((?:[.#](?:\\.|[\w-])+)*)", re.IGNORECASE)
_COMBINED = re.compile(r"\s*[\s>+~]\s*")
_BESIDE = re.compile(r"::?(?:before|after|first-l|marker|placeholder|selection|backdrop)")
"""Pseudo-elements, which are not the element itself."""
_ARTICLE = 600
"""Characters in paragraphs that make a text."""
_MOST_CSS = 2_000_000
_NEVER = frozenset(("html", "body", "main", "article"))
_READABLE = etree.XPath(".//text()[not(parent::script or parent::style)]")
_DRAWN_TWICE = frozenset("katex-html mjx-chtml MathJax_Preview MathJax_SVG mwe-math-mathml-a11y".split())
Marks = frozenset[str]
"""Classes and id of an element or a selector: `.note`, `#a`."""


@dataclass
class _Sheet:
    """The rules that hide, each with its tag, and those that show; each under one of its marks."""

    hiding: dict[str, list[tuple[str, Marks, bool]]] = field(default_factory=dict)
    showing: dict[str, list[Marks]] = field(default_factory=dict)

    def add(self, selector: str, style: str, *, everywhere: bool) -> None:
        """A rule; one that is not `everywhere` (of a screen's width, say) may show, and hides nothing."""
        last = _COMBINED.split(selector.strip())[-1]
        if _OFF.search(style):
            simple = _SIMPLE.fullmatch(selector.strip())
            if simple and selector.strip() and everywhere:
                marks = _marks(simple[2])
                self.hiding.setdefault(min(marks, default=simple[1]), []).append(
                    ((simple[1] or "").lower(), marks, _GONE.search(style) is not None)
                )
        elif _SHOWS.search(style) and not _BESIDE.search(last):
            marks = _marks(last)
            if mark := min(marks, default=re.split(r"[:\[]", last)[0].lower()):
                self.showing.setdefault(mark, []).append(marks)

    def hides(self, tag: str, marks: Marks) -> list[bool]:
        """Whether an element is gone, by each rule that hides it; none when it is shown."""
        rules = [rule for mark in (*marks, tag) for rule in self.hiding.get(mark, ())]
        found = [rule for rule in rules if rule[0] in ("", tag) and rule[1] <= marks]
        strongest = marks if any(needed for _, needed, _ in found) else (*marks, tag)  # a class is more than a tag
        if any(needed <= marks for mark in strongest for needed in self.showing.get(mark, ())):
            return []
        return [gone for _, _, gone in found]


def drop_hidden(root: Element) -> None:
    """Takes out what is not shown, unless it holds half of the page: that is shown by a script."""
    half, sheet = _size(root) / 2, _sheet(root)
    has_source = any((script.get("type") or "").startswith("math/") for script in root.iter("script"))
    waiting, found = [root], list[tuple[Element, bool]]()
    while waiting:
        for child in list(waiting.pop().iterchildren("*")):
            classes = set((child.get("class") or "").split())
            is_drawn = not classes.isdisjoint(_DRAWN_TWICE) or (has_source and "MathJax" in classes)
            if (
                child.tag == "template"
                or is_drawn
                or (_is_off(child) and (_size(child) < half or _has_article(root, child)))
            ):
                _drop(child)
                continue
            child.attrib.pop("aria-hidden", None)  # such text is seen all the same
            by_sheet = sheet.hides(str(child.tag), _marks_of(child))
            if child.tag not in _NEVER and (by_sheet or _is_clear(child)):
                found.append((child, any(by_sheet)))
            else:
                waiting.append(child)
    if sum(_size(element) for element, _ in found) < half:
        for element, gone in found:
            _drop(element, gone=gone)


def _has_article(root: Element, hidden: Element) -> bool:
    """Whether there is something to read beside what is hidden."""
    beside = (each for each in root.iter("p") if not any(above is hidden for above in each.iterancestors()))
    return sum(map(_size, beside)) > _ARTICLE


def _is_off(element: Element) -> bool:
    """Whether an element itself says that it is not shown."""
    if element.tag in _NEVER:
        return False
    style = element.get("style") or ""
    is_closed = element.tag == "dialog" and element.get("open") is None
    return (
        is_closed
        or element.get("popover") is not None
        or element.get("hidden") not in (None, "until-found")
        or _OFF.search(style) is not None
        or (_NO_SIZE.search(style) is not None and not len(element))
        or (_AWAY.search(style) is not None and _LOOSE.search(style) is not None)
    )


def _is_clear(element: Element) -> bool:
    """Whether it cannot be seen and nothing says that it is faded in."""
    style = element.get("style") or ""
    if not _CLEAR.search(style) or _MOVES.search(style):
        return False
    return not any(str(name).startswith("data-") for name in element.attrib)


def _drop(element: Element, *, gone: bool = False) -> None:
    """Empties an element; a cell that is not `gone` keeps its place."""
    gone = gone or _GONE.search(element.get("style") or "") is not None or "hidden" in element.attrib
    keeps = element.tag in ("td", "th") and not gone
    tag, tail, spans = element.tag, element.tail, {name: element.get(name) for name in ("colspan", "rowspan")}
    element.clear()
    element.tag, element.tail = tag if keeps else "span", tail
    for name, value in spans.items() if keeps else ():
        if value is not None:
            element.set(name, value)


def _size(element: Element) -> int:
    """Characters to read."""
    return sum(len(str(text).strip()) for text in _READABLE(element))


def _sheet(root: Element) -> _Sheet:
    """The page's own style sheets for screens. One that is too long hides nothing: it might show what it hides."""
    styles = [style for style in root.iter("style") if _is_for_screens(style)]
    sheet, css = _Sheet(), "\n".join(style.text or "" for style in styles)
    if len(css) > _MOST_CSS:
        return sheet
    css = _COMMENT.sub(" ", css)
    depth, selectors = 0, ""
    for part in _PART.finditer(css):
        before, brace = part[1].rpartition(";")[2] if part[2] == "{" else part[1], part[2]
        if brace == "{":
            depth, selectors = depth + 1, before
        elif brace == "}":
            for selector in selectors.split(",") if not selectors.lstrip().startswith("@") else ():
                sheet.add(selector, before, everywhere=depth == 1)
            depth, selectors = max(depth - 1, 0), ""
    return sheet


def _is_for_screens(style: Element) -> bool:
    media = (style.get("media") or "all").strip().lower()
    return media in ("all", "screen", "only screen") and not any(
        True for _ in style.iterancestors("noscript", "template", "svg")
    )


def _marks(selector: str) -> Marks:
    return frozenset(found.replace("\\", "") for found in _NAME.findall(selector))


def _marks_of(element: Element) -> Marks:
    names = (f".{name}" for name in (element.get("class") or "").split())
    return frozenset([*names, *([f"#{element.get('id')}"] if element.get("id") else [])])
