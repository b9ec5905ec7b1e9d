"""Marked-up text as Markdown, block by block: headings, paragraphs, lists, tables, captions, formulas. One reader for
the two vocabularies in which papers come, JATS and HTML; what is a block in neither is text.
"""

import re
from collections.abc import Callable, Iterator

from servers.tool_server.markup import Element, flow, name_of, text_of
from servers.tool_server.tables import table_lines

_LEFT_OUT = (
    "ref-list", "bio", "inline-graphic", "permissions", "processing-meta", "alt-text", "long-desc",
    "object-id", "script", "style", "template", "noscript", "head", "svg", "iframe", "object", "video", "audio",
    "canvas", "button", "select", "textarea", "input", "colgroup", "col", "colspec",
)  # fmt: skip
_PLAIN = (
    "p", "caption", "figcaption", "body", "section", "article", "div", "main", "header", "footer", "aside", "nav",
    "form", "address", "details", "summary", "fieldset", "hgroup", "search", "td", "th", "tr", "def", "dd", "dt", "li",
    "attrib", "speech", "speaker", "verse-group", "verse-line", "statement", "fig-group", "table-wrap-group",
    "table-wrap-foot", "disp-formula-group", "app-group", "back",
)  # fmt: skip
_TITLES = {"ack": "Acknowledgments", "fn-group": "Notes", "floats-group": "Figures and tables", "glossary": "Glossary"}
_ROMAN = ((100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i"))
Blocks = Iterator[str]


def blocks_of(element: Element, level: int) -> list[str]:
    """The content of an element as paragraphs of Markdown. The headings of sections in it begin at `level`, 1 to 6."""
    return [block for block in _inside(element, level) if block]


def block_of(element: Element, level: int) -> list[str]:
    """A block itself, as paragraphs of Markdown."""
    return [block for block in _READERS.get(name_of(element), _paragraph)(element, level) if block]


def heading(element: Element) -> str:
    """An element's own number and title: `2.1 Results`."""
    return " ".join(filter(None, (text_of(child) for child in element.iterchildren("label", "title"))))


def _inside(element: Element, level: int) -> Blocks:
    for piece in flow(element, _READERS, _LEFT_OUT):
        if isinstance(piece, str):
            yield piece
        else:
            yield from _READERS[name_of(piece)](piece, level)


def _headed(element: Element, level: int) -> Blocks:
    if title := heading(element) or _TITLES.get(name_of(element), ""):
        yield f"{'#' * min(level, 6)} {title}"
    yield from _inside(element, level + 1)


def _title(element: Element, level: int) -> Blocks:
    """A label or a title that its parent does not read itself."""
    parent = element.getparent()
    holder = name_of(parent) if parent is not None else ""
    reads_itself = (_headed, _captioned, _listed, _defined, _formula)
    if holder not in ("list-item", "li") and _READERS.get(holder) not in reads_itself:
        yield text_of(element)


def _html_heading(element: Element, level: int) -> Blocks:
    yield f"{'#' * int(name_of(element)[1])} {text_of(element)}"


def _captioned(element: Element, level: int) -> Blocks:
    """A figure, a table with all that belongs to it, a supplement: its label and caption first."""
    captions = [text_of(caption, _LEFT_OUT) for caption in element.iterchildren("caption", "figcaption")]
    named = heading(element)
    first = " ".join(filter(None, [f"**{named}**" if named else "", *captions]))
    if first:
        yield first
    rest = [
        block
        for child in element.iterchildren("*")
        if name_of(child) not in ("label", "title", "caption", "figcaption", *_LEFT_OUT)
        for block in _READERS.get(name_of(child), _paragraph)(child, level)
        if block
    ]
    if name_of(element) == "table-wrap" and not rest:
        yield "[this table is a picture, which cannot be read here]"
    yield from rest


def _table(element: Element, level: int) -> Blocks:
    yield from (text_of(caption) for caption in element.iterchildren("caption"))
    yield table_lines(element, lambda cell: text_of(cell, _LEFT_OUT))


def _listed(element: Element, level: int) -> Blocks:
    """A list: an item's blocks under its number, or its dash."""
    lines = [heading(element)]
    items = [child for child in element.iterchildren("*") if name_of(child) in ("list-item", "li")]
    kind = element.get("list-type") or element.get("type") or ("order" if name_of(element) == "ol" else "bullet")
    backwards = element.get("reversed") is not None
    place = _whole(element.get("start"), len(items) if backwards else 1)
    for child in element.iterchildren("*"):
        if name_of(child) in ("list-item", "li"):
            place = _whole(child.get("value"), place)
            label = text_of(child.find("label")) or _marker(kind, place)
            place += -1 if backwards else 1
            blocks = blocks_of(child, level)
            lines.append(f"{label} " + "\n".join(blocks).replace("\n", "\n  "))
        elif name_of(child) not in ("label", "title"):
            lines += block_of(child, level)
    yield "\n".join(filter(None, lines))


def _marker(kind: str, place: int) -> str:
    """What stands before an item. Source: `list-type` of JATS, `type` of HTML."""
    if kind in ("bullet", "simple", "disc", "circle", "square", "none"):
        return "-"
    if kind in ("alpha-lower", "a", "alpha-upper", "A") and 0 < place < 27:
        return f"{chr((96 if kind in ('alpha-lower', 'a') else 64) + place)}."
    if kind in ("roman-lower", "i", "roman-upper", "I") and 0 < place < 400:
        return f"{_roman(place) if kind in ('roman-lower', 'i') else _roman(place).upper()}."
    return f"{place}."


def _roman(number: int) -> str:
    text = ""
    for value, letters in _ROMAN:
        text += letters * (number // value)
        number %= value
    return text


def _whole(text: str | None, otherwise: int) -> int:
    return int(text) if text and re.fullmatch(r"-?[0-9]{1,9}", text.strip()) else otherwise


def _defined(element: Element, level: int) -> Blocks:
    """A list of terms, each with what it means; one that holds anything else is read as it comes."""
    if not _is_of_terms(element):
        yield from _inside(element, level)
        return
    lines, term = [heading(element)], ""
    for child in _terms(element):
        text = "\n".join(blocks_of(child, level)).replace("\n", "\n  ")
        if name_of(child) in ("term", "dt"):
            term = f"{term}, {text}" if term else text
        else:
            lines.append(f"- {term}: {text}" if term else f"  {text}")
            term = ""
    yield "\n".join(filter(None, [*lines, f"- {term}" if term else ""]))


def _is_of_terms(listed: Element) -> bool:
    """Whether nothing stands in a list but terms and meanings: a page may put anything there."""
    held = ("term", "def", "dt", "dd", "def-item", "label", "title")
    groups = [listed, *(child for child in listed.iterchildren("*") if name_of(child) in ("div", "def-item"))]
    return not any(
        (group.text or "").strip()
        or any((child.tail or "").strip() for child in group)
        or any(
            name_of(child) not in (*held, *(("div",) if group is listed else ())) for child in group.iterchildren("*")
        )
        for group in groups
    )


def _terms(element: Element) -> Iterator[Element]:
    """Terms and meanings of this list, in their order; none of a list inside one."""
    for child in element.iterchildren("*"):
        if name_of(child) in ("term", "def", "dt", "dd"):
            yield child
        elif name_of(child) in ("def-item", "div"):
            yield from _terms(child)


def _quoted(element: Element, level: int) -> Blocks:
    for block in blocks_of(element, level):
        yield "> " + block.replace("\n", "\n> ")


def _formula(element: Element, level: int) -> Blocks:
    label = text_of(element.find("label"))
    yield " ".join(filter(None, [text_of(element, (*_LEFT_OUT, "label")) or "[a formula that is a picture]", label]))


def _verbatim(element: Element, level: int) -> Blocks:
    text = "".join(map(str, element.itertext())).strip("\n")
    yield f"```\n{text}\n```" if text.strip() else ""


def _paragraph(element: Element, level: int) -> Blocks:
    yield from _inside(element, level)


def _note(element: Element, level: int) -> Blocks:
    yield text_of(element, _LEFT_OUT)


_READERS: dict[str, Callable[[Element, int], Blocks]] = {
    **dict.fromkeys(_PLAIN, _paragraph),
    **dict.fromkeys(
        ("sec", "app", "ack", "notes", "glossary", "boxed-text", "abstract", "fn-group", "floats-group"), _headed
    ),
    **dict.fromkeys(("label", "title"), _title),
    **dict.fromkeys(("h1", "h2", "h3", "h4", "h5", "h6"), _html_heading),
    **dict.fromkeys(("fig", "figure", "table-wrap", "supplementary-material", "media", "graphic"), _captioned),
    **dict.fromkeys(("table", "array", "tgroup"), _table),
    **dict.fromkeys(("list", "ul", "ol"), _listed),
    **dict.fromkeys(("def-list", "dl"), _defined),
    **dict.fromkeys(("disp-quote", "blockquote"), _quoted),
    **dict.fromkeys(("preformat", "pre"), _verbatim),
    "disp-formula": _formula,
    "fn": _note,
}
