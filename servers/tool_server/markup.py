"""The text in PubMed's and PMC's XML: its markup dropped, its numbers kept what they are."""

import itertools
import re
from collections.abc import Collection
from dataclasses import dataclass

from lxml import etree

Element = etree._Element
_SPACE = re.compile(r"\s+")
_SIGNED = re.compile(r"[-−–‐‑+]?\s?\d+(?:[.,·]\d+)?")
_NUMBER_BEFORE = re.compile(r"(?:(?<![\w.])|(?<=[x×*·]))\.?\d+(?:[.,·]\d+)*\s?$")
_NAME_BEFORE = re.compile(r"(?:[A-Za-z][-–]\d+|(?<!\d)(?:19|20)\d\d)$")
"""`SARS-CoV-2` and `2019` are no numbers that are raised to a power."""
_SYMBOL_BEFORE = re.compile(
    r"(?<![^\W\d])(?:[A-Za-zα-ωΑ-Ω]|[munkcdµμ]?m|[mµμun]?s|min|hr?|day|[mkµμ]?g|[mµμd]?[Ll]|mol|cell|Gy|Pa|log|ft|in|yr)\)?$"
)
_MINUS = str.maketrans("−–‐‑", "----")
_BREAKS = frozenset(
    "br break hr mspace mtr mtd p sec title list list-item def-list def-item def term disp-quote disp-formula fig "
    "caption boxed-text table-wrap preformat div li ul ol dl dt dd h1 h2 h3 h4 h5 h6 table tr td th section blockquote "
    "pre".split()
)
_NAMES = ("given-names", "surname", "institution", "suffix")
_NEGATIVE = re.compile(r"[-−–‐‑]\s?[\w(αβγΔ]")
_SUM = re.compile(r"\([^()]*(?:[+×*=]|\s[-−–]\s)[^()]*\)$")
_WORD_POWER = re.compile(r"(?:[A-Z][a-z]{2,}|Δ)[\w()/ ]*")
_POWER_OF_TEN = re.compile(r"[nkxyzm]|\d+\s?[-−–/]\s?\d+|\([-−–+]?\d+\)")
_FRACTION, _TEN = re.compile(r"\d{1,2}[/⁄]\d{1,2}"), re.compile(r"(?<!\d)10$")
_RANGE_OR_MARK = re.compile(r"\d{1,3}(?:\s?[-−–,;]\s?\d{1,3})*")
_ENDED_NUMBER = re.compile(r"\d[.,;:%]$")
"""A number with what ends a clause behind it: what is raised there is a mark."""
_RANGE = re.compile(r"\d+(?:\s?[-−–,;]\s?\d+)+")
_OPERATOR = re.compile(r"\w\s?[-+−=×*/]\s?\w")
_CLOSING = (")", "]", "}", "|")
_NEAR = 80
"""Characters that are looked at before a superscript or a mark."""
_FRACTION_BAR = re.compile(r"\s*[/⁄∕]")
_FORMULAS = ("msup", "msubsup", "mfrac", "msqrt", "mroot", "munder", "munderover", "mfenced", "msub")
_NOT_READ = ("annotation", "annotation-xml", "index-term", "object-id", "mphantom")
_INVISIBLE = dict.fromkeys((0x200B, 0x2060, 0x2061, 0x2062, 0x2063, 0x2064, 0xFEFF, 0xAD))
_PREFERRED = ("table", "math", "tex-math", "textual-form", "preformat", "chem-struct", "graphic", "media")
_MARKS = ("bibr", "fn", "table-fn", "aff", "corresp", "author-notes")
_TEX_DOCUMENT = re.compile(r"\\begin\{document\}(.*?)\\end\{document\}", re.DOTALL)


def name_of(element: Element) -> str:
    """An element's name without its namespace; empty for a comment."""
    return element.tag.rpartition("}")[2].rpartition(":")[2] if isinstance(element.tag, str) else ""


def text_of(element: Element | None, left_out: Collection[str] = ()) -> str:
    """All text in an element, nothing put in the place of its tags: `OR<sub>Q4</sub>=2.78` is `ORQ4=2.78`. But an
    exponent stays one (`10<sup>5</sup>` is `10^5`), a fraction a fraction (`3/4`), a break is a space, and the mark of
    a citation stands apart (`10<xref ref-type="bibr">5</xref>` is `10[5]`).

    What stands in elements named in `left_out` is left out.
    """
    if element is None:
        return ""
    if not len(element):
        return " ".join((element.text or "").translate(_INVISIBLE).split())
    return " ".join(str(piece) for piece in flow(element, (), left_out))


def flow(element: Element, blocks: Collection[str], left_out: Collection[str] = ()) -> list["str | Element"]:
    """What stands in an element, in its order: stretches of text, as `text_of` reads them, and whole elements with a
    name in `blocks`, however deep they stand in the text.
    """
    parts: list[str | Element] = []
    _Reading(frozenset(blocks), frozenset(left_out)).add(element, parts)
    pieces: list[str | Element] = []
    for is_text, group in itertools.groupby(parts, lambda part: isinstance(part, str)):
        if is_text:
            text = _SPACE.sub(" ", "".join(map(str, group)).translate(_INVISIBLE)).strip()
            pieces += [text] if text else []
        else:
            pieces += group
    return pieces


@dataclass(frozen=True)
class _Reading:
    """How an element's content becomes parts: which elements are left whole, and which are left out."""

    blocks: frozenset[str]
    left_out: frozenset[str]

    def add(self, element: Element, parts: list["str | Element"]) -> None:
        parts.append(element.text or "")
        for child in element:
            self._put(child, parts)
            parts.append(child.tail or "")

    def _put(self, child: Element, parts: list["str | Element"]) -> None:
        name = name_of(child)
        if name in self.blocks:
            parts.append(child)
        elif name and name not in self.left_out and name not in _NOT_READ:
            self._add_child(child, name, parts)

    def _add_child(self, child: Element, name: str, parts: list["str | Element"]) -> None:
        before = _end(parts)
        if name == "alternatives":
            self._put(_best(child), parts)
        elif name == "tex-math":
            parts.append(_tex(child))
        elif (name == "xref" and child.get("ref-type", "bibr") in _MARKS) or (name == "sup" and _holds_mark(child)):
            parts.append(mark(" ".join("".join(map(str, child.itertext())).split()), before))
        elif name == "sup":
            parts.append(superscript(self._inner(child), before, child.tail or "", child.getnext()))
            parts.append(" " if _ends_blank(child) else "")
        elif name in _FORMULAS and len(child):
            formula = self._formula(child, name)
            parts.append((" " if before[-1:].isdigit() and formula[:1].isdigit() else "") + formula)
            parts.append(" " if formula[-1:].isdigit() and _follows(child)[:1].isdigit() else "")
        else:
            parts.append(" " if name in _BREAKS or name in _NAMES else "")
            self.add(child, parts)
            parts.append(" " if name in _BREAKS and name not in ("br", "break", "mspace", "hr") else "")
            if name == "sub" and (child.tail or "")[:1].isdigit() and _end(parts)[-1:].isdigit():
                parts.append(" ")

    def _inner(self, element: Element) -> str:
        return text_of(element, self.left_out)

    def _formula(self, element: Element, name: str) -> str:
        pieces = []
        for child in element.iterchildren("*"):
            parts: list[str | Element] = []
            self._put(child, parts)
            pieces.append(_SPACE.sub(" ", "".join(map(str, parts))).strip())
        return _formula(element, name, pieces)


def _end(parts: list["str | Element"]) -> str:
    """The last characters of the text that is open."""
    end = itertools.takewhile(lambda part: isinstance(part, str), reversed(parts[-8:]))
    return "".join(str(part)[-_NEAR:] for part in reversed(list(end)))[-_NEAR:]


def _holds_mark(element: Element) -> bool:
    return any(each.get("ref-type", "bibr") in _MARKS for each in element.iter("xref"))


def _ends_blank(element: Element) -> bool:
    last = element[-1].tail if len(element) else element.text
    return (last or "")[-1:].isspace()


def _follows(element: Element) -> str:
    """What stands directly behind an element of a formula."""
    following = element.getnext()
    behind = (element.tail or "").strip()
    return behind or ("".join(map(str, following.itertext())).strip() if following is not None else "")


def _best(alternatives: Element) -> Element:
    """The one of several forms of the same thing that reads best."""
    forms = [each for each in alternatives if isinstance(each.tag, str)]
    ranks = {name: rank for rank, name in enumerate(_PREFERRED)}
    return min(forms, key=lambda each: ranks.get(name_of(each), len(ranks) // 2), default=etree.Element("nothing"))


def _tex(element: Element) -> str:
    """A formula of a TeX document without the document around it."""
    text = "".join(element.itertext())
    inside = _TEX_DOCUMENT.search(text)
    return (inside[1] if inside else text).strip().strip("$").strip()


def mark(text: str, before: str) -> str:
    """The mark of a citation or a note, behind what stands before it: apart from a word or a number, `65[12]`."""
    text = text.strip(" ,;") if text.strip(" ,;") else text
    in_brackets = max(before.rfind("["), before.rfind("(")) > max(before.rfind("]"), before.rfind(")"))
    touches = before[-1:].isalnum() or (bool(before.strip()) and not before[-1:].isspace() and not in_brackets)
    return f"[{text}]" if touches and text[:1].isalnum() else text


def superscript(text: str, before: str, after: str, following: Element | None) -> str:
    """A superscript: an exponent behind a number, a unit or a bracket, the numerator of a fraction, a note behind a
    number as a mark, else as it is.
    """
    if _FRACTION_BAR.fullmatch(after) and following is not None and name_of(following) == "sub":
        return f" {text}" if before[-1:].isdigit() else text
    if _FRACTION.fullmatch(text) and before[-1:].isdigit() and not _TEN.search(before):
        return f" {text}"  # `28 0/7` weeks, `2 1/2` tablets
    if _RANGE_OR_MARK.fullmatch(text) and _ENDED_NUMBER.search(before):
        return f"[{text}]"
    number = None if _NAME_BEFORE.search(before) else _NUMBER_BEFORE.search(before)
    exponent = f"^{text.translate(_MINUS).replace(' ', '')}"
    if _NEGATIVE.match(text):
        return exponent if before[-1:].isalnum() or before[-1:] in (")", "]") else text
    if _SIGNED.fullmatch(text):
        signed = not text[0].isdigit()
        if number and not signed and text not in ("2", "3") and number[0].strip() not in ("10", "2"):
            return f"[{text}]"  # nobody raises 65 to the power of 12
        symbol = _SYMBOL_BEFORE.search(before) and (signed or text in ("2", "3", "4") or "." in text)
        if number or symbol or (before[-1:] == ")" and _SUM.search(before)):
            return exponent
        return f"[{text}]" if not signed and (before[-1:].isdigit() or before[-1:] in (")", "]")) else text
    if number and (_WORD_POWER.fullmatch(text) or (number[0].strip() == "10" and _POWER_OF_TEN.fullmatch(text))):
        return exponent
    return f"[{text}]" if before[-1:].isdigit() and _RANGE.fullmatch(text) else text


def _formula(element: Element, name: str, pieces: list[str]) -> str:
    match name, pieces:
        case "mfrac", [above, below] if element.get("linethickness") in ("0", "0pt", "0px"):
            return f"binom({above}, {below})"
        case "mfrac", [above, below]:
            return f"{_grouped(above)}/{_grouped(below)}"
        case "msup", [base, power]:
            if not _is_exponent(power):
                return base + power
            return f"{base if base in _CLOSING else _grouped(base)}^{_grouped(power.translate(_MINUS))}"
        case "msub", [base, index]:
            return base + lowered(index)
        case "msubsup", [base, index, power]:
            return base + lowered(index) + (f"^{power}" if _is_exponent(power) else power)
        case "munder", [base, under]:
            return f"{base}_{_grouped(under)}"
        case "munderover", [base, under, over]:
            return f"{base}_{_grouped(under)}^{_grouped(over)}"
        case "mroot", [base, degree]:
            return f"{_grouped(base)}^(1/{degree})"
        case "msqrt", _:
            return f"sqrt({''.join(pieces)})"
        case "mfenced", _:
            separator = (element.get("separators", ",").strip() or " ")[:1].strip()
            return element.get("open", "(") + separator.join(pieces) + element.get("close", ")")
    return "".join(pieces)


def lowered(text: str) -> str:
    """An index: `CO2`, but `x_(i+1)`."""
    return f"_({text})" if _OPERATOR.search(text) else text


def _is_exponent(text: str) -> bool:
    return any(map(str.isalnum, text))


def _grouped(text: str) -> str:
    """A text that stands as one beside `/` or `^`."""
    is_one = re.fullmatch(r"[-+]?\w+(?:[.,·]\w+)*%?|\([^()]*\)|\[[^\[\]]*\]", text)
    return text if is_one else f"({text})"
