"""The main content of an HTML page as Markdown. trafilatura finds it; what it would lose is put into words first:
formulas, exponents, captions, the texts of pictures, tables by their columns, numbers of lists. What is hidden goes.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from secrets import token_hex

from lxml import etree, html

from servers.tool_server.blocks import block_of, blocks_of
from servers.tool_server.hidden import drop_hidden
from servers.tool_server.markup import Element, lowered, mark, name_of, superscript, text_of

_DISPLAYSTYLE = re.compile(r"\{\\(?:display|text)style (.*)\}")
_WORDS = "x-words"
"""A tag for what has become text, until all has."""
_CELLS = ("td", "th", "li", "dd", "dt")
_HOLDERS = (*_CELLS, "p", "div", "section", "article", "body", "blockquote")
_BLOCKS = frozenset((*_HOLDERS, "h1", "h2", "h3", "h4", "h5", "h6", "pre", "table", "tr", "ul", "ol", "dl"))
_MOST_LOST = 0.65
"""Of an article's paragraphs: when trafilatura keeps less, it has taken a part for the whole."""
_FEW = 4
"""Words of a picture that is perhaps an icon."""
_LONGEST_CELL = 1200
"""Characters of a cell of data; one with more and no `th` is a table that lays out the page."""
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
    article, size = _article(root)
    if len(text) < _MOST_LOST * size:
        text = "\n\n".join(blocks_of(article, 1))
    text = _GAPS.sub(" ", text or "\n\n".join(blocks_of(root, 1)))
    text = re.sub(r"\n{3,}", "\n\n", kept.put_back(text)).strip()
    title = (about.title or "").strip() if about else ""
    return f"# {title}\n\n{text}" if title and text and title not in text[: len(title) + 10] else text


def _article(root: Element) -> tuple[Element, int]:
    """What the page itself calls its article, and how many characters its paragraphs have."""
    sizes = {each: sum(len(_text(one)) for one in each.iter("p")) for each in root.iter("article")}
    largest = max(sizes, key=sizes.__getitem__, default=root)
    return largest, sizes.get(largest, 0)


@dataclass
class _Kept:
    """Markdown that trafilatura does not see: in its place stands the plain text, between marks that no page has."""

    token: str = field(default_factory=lambda: token_hex(4))
    blocks: list[str] = field(default_factory=list)

    def keep(self, element: Element, root: Element) -> None:
        """Leaves a paragraph in an element's place that trafilatura weighs by its words."""
        parent = element.getparent()
        if parent is None or not any(each is root for each in element.iterancestors()):
            return  # it stands in one that is kept
        number = f"{self.token}n{len(self.blocks)}"
        paragraph = html.Element("p")
        paragraph.text, paragraph.tail = f"⟦{number}:{text_of(element)}:{number}⟧", element.tail
        self.blocks.append("\n\n".join(["", *block_of(element, 2), ""]))
        parent.replace(element, paragraph)

    def put_back(self, text: str) -> str:
        """The text with what was kept."""
        place = re.compile(rf"⟦{self.token}n(\d+):.*?:{self.token}n\1⟧", re.DOTALL)
        return place.sub(lambda match: self.blocks[int(match[1])], text)


def _prepared(root: Element) -> _Kept:
    """Changes the tree so that text is all that it needs."""
    drop_hidden(root)
    for element in [each for each in root.iter("*") if name_of(each) == "math"]:
        _become(element, f" {text_of(element)} ")
    for element in list(root.iter("script")):
        if (element.get("type") or "").startswith("math/"):
            _become(element, f" {element.text or ''} ")
    around: dict[Element, str] = {}
    for element in list(root.iter("img")):
        _tell_picture(element, around)
    for element in list(root.iter("sup", "sub")):
        around_it = [each for each in element.iterancestors("a", "span") if _text(each) == _text(element)]
        _become(element, _raised(element) if element.tag == "sup" else _lowered(element))
        for holder in around_it:  # a link around the mark of a note
            holder.tag = _WORDS
    for element in list(root.iter("span")):
        if not len(element) and not element.text:
            element.tag = _WORDS
    for element in list(root.iter("time", "output", "label", "data", "q", "u", "bdi")):
        element.tag = _WORDS  # trafilatura would drop them out of their sentence
    for element in root.iter("center", "form"):
        if element.tag == "center" or element.find(".//p") is not None:
            element.tag = "div"
    for element in root.iter("figure", "figcaption", "aside"):
        if element.tag != "aside" or _is_of_the_text(element):
            element.tag = "p" if element.tag == "figcaption" else "div"
    etree.strip_tags(root, _WORDS)
    kept = _Kept()
    for element in list(root.iter("table", "ol", "pre", "dl")):
        if _IS_LOST[name_of(element)](element):
            kept.keep(element, root)
    return kept


def _text(element: Element) -> str:
    return "".join(map(str, element.itertext()))


def _become(element: Element, text: str, tag: str = _WORDS) -> None:
    """Puts text in an element's place."""
    tail = element.tail
    element.clear()
    element.tag, element.text, element.tail = tag, text, tail


def _tell_picture(picture: Element, around: dict[Element, str]) -> None:
    """Puts a picture's words in its place: as they are in a text or a cell, else as a paragraph of their own. `around`
    keeps the text of the blocks that pictures stand in.
    """
    words = _DISPLAYSTYLE.sub(r"\1", " ".join((picture.get("alt") or "").split()))
    figure = next(picture.iterancestors("figure"), None)
    block = figure if figure is not None else next(picture.iterancestors(*_HOLDERS), None)
    if block is None or not words:
        _become(picture, "")
        return
    if block not in around:
        around[block] = " ".join(_text(block).split())
    if figure is not None:
        _become(picture, "" if words in around[block] else f"[picture: {words}]", "p")
    elif not around[block] and len(words.split()) < _FEW and next(picture.iterancestors("a"), None) is not None:
        _become(picture, "")  # an icon that leads elsewhere
    else:
        _become(picture, f" {words} " if around[block] or block.tag in _CELLS else f"[picture: {words}]")


def _is_of_the_text(aside: Element) -> bool:
    """Whether something beside the text belongs to it, as key points do: words, few of them links."""
    linked = sum(len(_text(link)) for link in aside.iter("a"))
    return any(True for _ in aside.iterancestors("article", "main")) and 3 * linked < len(_text(aside).strip())


def _raised(element: Element) -> str:
    text, before = text_of(element), _before(element)
    link = next(element.iterancestors("a"), None)
    if element.find(".//a") is not None or (link is not None and _text(link).strip() == _text(element).strip()):
        return mark(text, before)
    blank = " " if _text(element)[-1:].isspace() else ""
    return superscript(text, before, element.tail or "", element.getnext()) + blank


def _lowered(element: Element) -> str:
    text = lowered(text_of(element))
    return f"{text} " if text[-1:].isdigit() and (element.tail or "")[:1].isdigit() else text


def _before(element: Element) -> str:
    """The end of what stands before an element in its block."""
    text, at = "", element
    while len(text) < 40:
        previous, parent = at.getprevious(), at.getparent()
        if previous is not None:
            text = (previous.tail or "") + text
            if previous.tag in _BLOCKS:
                return text
            text, at = _text(previous)[-80:] + text, previous
        elif parent is None:
            return text
        else:
            text, at = (parent.text or "") + text, parent
            if parent.tag in _BLOCKS:
                return text
    return text


def _is_data(table: Element) -> bool:
    cells, rows = list(table.iter("td", "th")), list(table.iter("tr"))
    return (
        len(rows) > 1
        and len(cells) > len(rows)
        and table.find(".//table") is None
        and table.get("role") != "presentation"
        and (table.find(".//th") is not None or all(len(_text(cell)) <= _LONGEST_CELL for cell in cells))
    )


def _is_numbered(numbered: Element) -> bool:
    given = (numbered.get(name) for name in ("start", "reversed", "type"))
    return any(value is not None for value in given) or any(item.get("value") for item in numbered.iterchildren("li"))


_IS_LOST: dict[str, Callable[[Element], bool]] = {
    "table": _is_data, "ol": _is_numbered, "pre": lambda _: True, "dl": lambda listed: listed.find(".//dt") is not None,
}  # fmt: skip
"""By tags: whether trafilatura would lose what an element says by its form."""
