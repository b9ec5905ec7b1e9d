"""The text in PubMed's and PMC's XML: its markup dropped, its numbers kept what they are."""

import re
from collections.abc import Collection

from lxml import etree

Element = etree._Element
_SPACE = re.compile(r"\s+")
_SIGNED = re.compile(r"[-−–‐‑+]?\s?\d+(?:[.,·]\d+)?")
_NUMBER_BEFORE = re.compile(r"(?:(?<![\w.])|(?<=[x×*·]))\d+(?:[.,·]\d+)*\s?$")
_SYMBOL_BEFORE = re.compile(
    r"(?<![\w])(?:[A-Za-zα-ωΑ-Ω]|[munkcdµμ]?m|[mµμun]?s|min|hr?|day|[mkµμ]?g|[mµμd]?[Ll]|mol|cell|Gy|Pa|log|ft|in|yr)\)?$"
)
_MINUS = str.maketrans("−–‐‑", "----")
_BREAKS = frozenset(("br", "break", "mspace", "mtr", "mtd", "p", "sec", "title", "list-item"))
_FRACTION_BAR = re.compile(r"\s*[/⁄∕]")


def text_of(element: Element | None, left_out: Collection[str] = ()) -> str:
    """All text in an element, nothing put in the place of its tags: `OR<sub>Q4</sub>=2.78` is `ORQ4=2.78`. But an
    exponent stays one (`10<sup>5</sup>` is `10^5`), a fraction a fraction (`3/4`), and a break is a space.

    What stands in elements named in `left_out` is left out.
    """
    if element is None:
        return ""
    parts: list[str] = []
    _add(element, parts, frozenset(left_out))
    return _SPACE.sub(" ", "".join(parts)).strip()


def _add(element: Element, parts: list[str], left_out: frozenset[str]) -> None:
    parts.append(element.text or "")
    for child in element:
        name = etree.QName(child).localname if isinstance(child.tag, str) else ""
        if name and name not in left_out:
            _add_child(child, name, parts, left_out)
        parts.append(child.tail or "")


def _add_child(child: Element, name: str, parts: list[str], left_out: frozenset[str]) -> None:
    if name == "sup":
        parts.append(_superscript(_inner(child, left_out), "".join(parts[-8:]), child.tail or "", child.getnext()))
    elif name in ("msup", "msubsup", "mfrac", "msqrt", "mroot") and len(child):
        formula = _mathematics(child, name, left_out)
        apart = " " if "".join(parts[-4:])[-1:].isdigit() and formula[:1].isdigit() else ""
        parts.append(apart + formula)
    else:
        parts.append(" " if name in _BREAKS else "")
        _add(child, parts, left_out)
        parts.append(" " if name in _BREAKS and name not in ("br", "break", "mspace") else "")


def _inner(element: Element, left_out: frozenset[str]) -> str:
    parts: list[str] = []
    _add(element, parts, left_out)
    return _SPACE.sub(" ", "".join(parts)).strip()


def _superscript(text: str, before: str, after: str, following: Element | None) -> str:
    """A superscript: an exponent behind a number or a unit, the numerator of a fraction, else as it is."""
    numerator = (
        _FRACTION_BAR.fullmatch(after) and following is not None and etree.QName(following).localname == "sub"
        if isinstance(getattr(following, "tag", None), str)
        else False
    )
    if numerator:
        return f" {text}" if before[-1:].isdigit() else text
    if not _SIGNED.fullmatch(text):
        return text
    signed = not text[0].isdigit()
    if _NUMBER_BEFORE.search(before) or (_SYMBOL_BEFORE.search(before) and (signed or text in ("2", "3", "4"))):
        return f"^{text.translate(_MINUS).replace(' ', '')}"
    return text


def _mathematics(element: Element, name: str, left_out: frozenset[str]) -> str:
    pieces = [_inner(child, left_out) or _own(child) for child in element if isinstance(child.tag, str)]
    if name == "mfrac" and len(pieces) == 2:
        return f"{_grouped(pieces[0])}/{_grouped(pieces[1])}"
    if name == "msup" and len(pieces) == 2:
        return (
            f"{_grouped(pieces[0])}^{_grouped(pieces[1].translate(_MINUS))}"
            if _is_exponent(pieces[1])
            else "".join(pieces)
        )
    if name == "msubsup" and len(pieces) == 3:
        return f"{pieces[0]}{pieces[1]}" + (f"^{pieces[2]}" if _is_exponent(pieces[2]) else pieces[2])
    if name == "mroot" and len(pieces) == 2:
        return f"{_grouped(pieces[0])}^(1/{pieces[1]})"
    return f"sqrt({''.join(pieces)})" if name == "msqrt" else "".join(pieces)


def _own(element: Element) -> str:
    return _SPACE.sub(" ", element.text or "").strip()


def _is_exponent(text: str) -> bool:
    return any(map(str.isalnum, text))


def _grouped(text: str) -> str:
    """A text that stands as one beside `/` or `^`."""
    return text if re.fullmatch(r"[-+]?\w+(?:[.,·]\w+)*%?", text) else f"({text})"
