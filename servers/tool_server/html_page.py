"""The main content of an HTML page as Markdown. trafilatura finds it; what it would lose is put into words first:
formulas, exponents, captions, the texts of pictures, tables by their columns, numbers of lists. What is hidden goes.
"""

import re

from lxml import etree, html

from servers.tool_server.blocks import block_of, blocks_of
from servers.tool_server.markup import Element, name_of, superscript, text_of

_HIDING = re.compile(r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
_HOLDING = frozenset(("html", "body", "main", "article"))
_READABLE = etree.XPath(".//text()[not(parent::script or parent::style)]")
_DRAWN_TWICE = frozenset(("katex-html", "mjx-chtml", "MathJax_Preview", "MathJax_SVG"))
_KEPT = re.compile(r"⟦(\d+):.*?:\1⟧", re.DOTALL)
_LONGEST_CELL = 400
"""Characters of a cell of data; one with more is a table that lays out the page."""
_ESCAPED = re.compile(r"\\([<>~=|*_#+-])(?=\s?[\d.])|(?<=\d)\\([<>~|*_#+-])|\\([\[\]])")
"""A Markdown escape beside a number, or of a bracket: `p \\< 0.001` is one that nobody needs."""
_GAPS = re.compile(r"(?<=\S) {2,}(?=\S)")


def html_page(source: str, url: str) -> str:
    """The content that a reader came for, under the page's title; empty when there is none."""
    import trafilatura

    parser = html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    root = html.document_fromstring(source.encode("utf-8", "replace") or b"<p/>", parser=parser)
    about = trafilatura.extract_metadata(source, default_url=url)
    kept = _prepared(root)
    text = trafilatura.extract(root, url=url, output_format="markdown", include_comments=False, favor_recall=True)
    text = _ESCAPED.sub(lambda match: "".join(filter(None, match.groups())), text or "")
    text = text or "\n\n".join(blocks_of(root, 1))
    text = _GAPS.sub(" ", text)
    text = _KEPT.sub(lambda match: kept[int(match[1])] if int(match[1]) < len(kept) else match[0], text)
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    title = (about.title or "").strip() if about else ""
    return f"# {title}\n\n{text}" if title and text and title not in text[: len(title) + 10] else text


def _prepared(root: Element) -> list[str]:
    """Changes the tree so that text is all that it needs. Returns the Markdown that stands in the text as `⟦N:…:N⟧`."""
    _drop_hidden(root)
    for element in [each for each in root.iter("*") if name_of(each) == "math"]:
        _replace(element, f" {text_of(element)} ")
    for element in list(root.iter("script")):
        if (element.get("type") or "").startswith("math/"):
            _replace(element, f" {element.text or ''} ")
    around: dict[Element, str] = {}
    for element in list(root.iter("img")):
        _tell_picture(element, around)
    for element in list(root.iter("sup", "sub")):
        if element.getparent() is not None:
            _replace(element, _raised(element) if element.tag == "sup" else text_of(element))
    for element in root.iter("figure", "figcaption", "aside"):
        if element.tag != "aside" or _is_of_the_text(element):
            element.tag = "p" if element.tag == "figcaption" else "div"
    kept: list[str] = []
    for element in list(root.iter("table", "ol")):
        if _is_data(element) if element.tag == "table" else _is_numbered(element):
            _keep(element, kept)
    return kept


def _drop_hidden(root: Element) -> None:
    """Takes out what is not shown, unless it holds half of the page: that is shown by a script."""
    half, waiting = _size(root) / 2, [root]
    while waiting:
        for child in list(waiting.pop().iterchildren("*")):
            if child.tag not in _HOLDING and _is_hidden(child) and _size(child) < half:
                _replace(child, "")
            else:
                waiting.append(child)


def _is_hidden(element: Element) -> bool:
    return (
        element.get("hidden") not in (None, "until-found")
        or _HIDING.search(element.get("style") or "") is not None
        or not _DRAWN_TWICE.isdisjoint((element.get("class") or "").split())
    )


def _size(element: Element) -> int:
    """Characters to read."""
    return sum(len(str(text).strip()) for text in _READABLE(element))


def _text(element: Element) -> str:
    return "".join(map(str, element.itertext()))


def _replace(element: Element, text: str) -> None:
    """Puts text in an element's place."""
    parent, before = element.getparent(), element.getprevious()
    if parent is None:
        return
    text += element.tail or ""
    if before is not None:
        before.tail = (before.tail or "") + text
    else:
        parent.text = (parent.text or "") + text
    parent.remove(element)


def _tell_picture(picture: Element, around: dict[Element, str]) -> None:
    """Puts a picture's words in its place: as they are in the midst of a text, else as a paragraph of their own.
    `around` keeps the text of the elements that pictures stand in.
    """
    words = " ".join((picture.get("alt") or "").split())
    figure = next(picture.iterancestors("figure"), None)
    holder = figure if figure is not None else picture.getparent()
    if holder is None:
        return
    if holder not in around:
        around[holder] = " ".join(_text(holder).split())
    text = around[holder]
    if not words or holder.tag == "a" or (figure is not None and words in text):
        _replace(picture, "")
    elif figure is None:
        _replace(picture, f" {words} " if text else "")
    else:
        picture.tag, picture.text = "p", f"[picture: {words}]"


def _is_of_the_text(aside: Element) -> bool:
    """Whether something beside the text belongs to it, as key points do: words, few of them links."""
    linked = sum(len(_text(link)) for link in aside.iter("a"))
    return any(True for _ in aside.iterancestors("article", "main")) and 3 * linked < len(_text(aside).strip())


def _raised(element: Element) -> str:
    text, before = text_of(element), element.getprevious()
    if element.find(".//a") is not None:
        return f"[{text}]" if text[:1].isalnum() else text
    parent = element.getparent()
    told = (parent.text if parent is not None else "") if before is None else _text(before) + (before.tail or "")
    return superscript(text, (told or "")[-8:], element.tail or "", None)


def _is_data(table: Element) -> bool:
    cells = list(table.iter("td", "th"))
    rows = list(table.iter("tr"))
    return (
        len(rows) > 1
        and len(cells) > len(rows)
        and table.find(".//table") is None
        and table.get("role") != "presentation"
        and all(len(_text(cell)) <= _LONGEST_CELL for cell in cells)
    )


def _is_numbered(numbered: Element) -> bool:
    given = (numbered.get(name) for name in ("start", "reversed", "type"))
    return any(value is not None for value in given) or any(item.get("value") for item in numbered.iterchildren("li"))


def _keep(element: Element, kept: list[str]) -> None:
    """Leaves a paragraph in an element's place that trafilatura weighs by its words, and keeps its Markdown."""
    parent = element.getparent()
    if parent is None:
        return
    paragraph = html.Element("p")
    paragraph.text = f"⟦{len(kept)}:{' '.join(_text(element).split())}:{len(kept)}⟧"
    paragraph.tail = element.tail
    kept.append("\n\n".join(["", *block_of(element, 2), ""]))
    parent.replace(element, paragraph)
