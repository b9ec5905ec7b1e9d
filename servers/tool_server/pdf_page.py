"""A PDF's text by pypdf: read in the order in which it was written, and the tables in it by their columns.

The order of writing keeps two columns of prose apart, and runs the cells of a table together: an empty one is lost.
pypdf's layout mode keeps the places of words on the page. Both are read; where the layout shows a table, its lines
stand in the place of the same characters.
"""

import io
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from backends.errors import ToolFailed

if TYPE_CHECKING:
    from pypdf import PageObject

_MAX_PAGES = 60
_MOST_LINES, _FEWEST_ROWS, _SHORT, _FEW = 400, 2, 45, 5
"""Lines of a page that are looked at; rows that make a table; characters and words of a cell that is no prose."""
_NOT_PLACED = "\n\n[some of this page could not be laid out: which column a value is in is not known]"
_FEW_MISSING = 20
"""Characters without which a layout is whole."""
_TURNS = (b"0 -1 1 0 0 0 cm", b"0 1 -1 0 0 0 cm")
"""Page matrices that set upright what reads from below, or from above."""
_LIGATURES = {code: unicodedata.normalize("NFKD", chr(code)) for code in range(0xFB00, 0xFB07)}
_LEADERS = re.compile(r"(?:\.\s?){4,}|(?:…\s?){2,}")
_NUMBER = re.compile(r"\d+")
_APART = re.compile(r"\s{2,}")


def pdf_page(body: bytes, most: int) -> str:
    """The text of a PDF's pages, up to `most` characters and a bound of pages. Raises ToolFailed when none is read."""
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of each page that stands sideways
    pages: list[str] = []
    count = 0
    try:
        reader = PdfReader(io.BytesIO(body))
        count = len(reader.pages)
        for page in reader.pages[:_MAX_PAGES]:
            plain = page.extract_text().translate(_LIGATURES)
            laid_out = _laid_out(page).translate(_LIGATURES)
            for turn in _TURNS:
                if _characters(laid_out) + _FEW_MISSING < _characters(plain):
                    laid_out += "\n\n\n\n" + _turned(page, turn).translate(_LIGATURES)
            pages.append(with_tables(plain, laid_out) + (_NOT_PLACED if _is_part(laid_out, plain) else ""))
            if sum(map(len, pages)) > most:
                break
    except Exception as error:  # a broken file fails in many ways, and what was read of it stays
        if not pages:
            raise ToolFailed("this PDF cannot be read") from error
    if count > len(pages):
        pages.append(f"[cut here: {len(pages)} of {count} pages were read]")
    return "\n\n".join(pages)


def _is_part(laid_out: str, plain: str) -> bool:
    return _characters(laid_out) < _characters(plain) - max(3 * _FEW_MISSING, 0.1 * _characters(plain))


def _characters(text: str) -> int:
    return sum(map(len, text.split()))


def _laid_out(page: "PageObject") -> str:
    """The page's lines with the gaps that they have on paper; empty where pypdf cannot place them."""
    try:
        return page.extract_text(extraction_mode="layout", layout_mode_space_vertically=False)
    except Exception:  # it fails in many ways on odd fonts, and the page's text is there without it
        return ""


def _turned(page: "PageObject", matrix: bytes) -> str:
    """The lines that stand sideways on a page, as `matrix` sets them upright. The page itself is left as it was."""
    from pypdf.generic import NameObject

    name, contents = NameObject("/Contents"), page.get_contents()
    if contents is None:
        return ""
    before = page.raw_get(name)
    contents.set_data(b"q " + matrix + b"\n" + contents.get_data() + b"\nQ")
    page[name] = contents
    laid_out = _laid_out(page)
    page[name] = before
    return laid_out


def with_tables(plain: str, laid_out: str) -> str:
    """A page's text, with each table of its layout in the place of the same characters; behind it when there is no such
    place.
    """
    pieces = [_LEADERS.sub("  ", plain)]
    """Text as it was written, and at every second place a table."""
    for table in _tables(laid_out.splitlines()[:_MOST_LINES]):
        shown = "\n\n```\n" + "\n".join(_narrow(table)) + "\n```\n\n"
        places = ((at, _place(pieces[at], rows)) for rows in _less_and_less(table) for at in range(0, len(pieces), 2))
        if found := next(((at, place) for at, place in places if place), None):
            at, (start, end) = found
            pieces[at : at + 1] = [pieces[at][:start], shown, pieces[at][end:]]
        else:
            pieces += [f"\n\n[a table of this page again, by its columns]{shown}", ""]
    return "".join(pieces)


def _tables(lines: list[str]) -> Iterator[list[str]]:
    """Runs of lines that have cells. A line without any goes on with the table that stands around it."""
    run: list[str] = []
    between: list[str] = []
    for line in [*map(str.rstrip, lines), *[""] * 3]:
        line = _without_prose(_LEADERS.sub(lambda match: " " * len(match[0]), line))
        if _is_row(line):
            run += [*between, line]
            between = []
        elif run:
            between += [line] * (3 if _APART.search(line.strip()) else 1)
        if run and len(between) > 2:
            if sum(map(_is_row, run)) >= _FEWEST_ROWS and not _is_prose(run):
                yield [row for row in run if row.strip()]
            run, between = [], []


def _without_prose(line: str) -> str:
    """A row of a table without the prose of the column beside it."""
    before, gap, last = line.rpartition("  ")
    if len(last.split()) > _FEW and len(last) > _SHORT / 2 and _is_row(before) and gap:
        return before.rstrip()
    return line


def _is_row(line: str) -> bool:
    """Whether a line has cells: a label of any length, and values that are short."""
    _, *values = _APART.split(line.strip())
    return bool(values) and all(len(value) <= _SHORT and _is_value(value) for value in values)


def _is_value(text: str) -> bool:
    return len(text.split()) <= _FEW or len(_NUMBER.findall(text)) > 1


def _is_prose(table: list[str]) -> bool:
    """Whether the lines are columns of text: values of several words, and hardly a number."""
    values = [value for line in table for value in _APART.split(line.strip())[1:]]
    with_digits = sum(any(map(str.isdigit, value)) for value in values)
    return with_digits < 0.3 * len(values) and sum(len(value.split()) for value in values) > 2 * len(values)


def _less_and_less(table: list[str]) -> Iterator[str]:
    """The table, then without rows of its head, which are often written in another order."""
    for rows in range(min(6, len(table) - _FEWEST_ROWS + 1)):
        yield "".join(table[rows:])


def _place(plain: str, rows: str) -> tuple[int, int] | None:
    """Where a stretch of text has exactly the characters of `rows`, white space apart, in whatever order."""
    wanted = Counter(character for character in rows if not character.isspace())
    size = wanted.total()
    places = [place for place, character in enumerate(plain) if not character.isspace()]
    missing = wanted.copy()
    wrong = len(wanted)
    fitting: list[tuple[int, int]] = []
    for at, place in enumerate(places):
        for character, change in ((plain[place], -1), (plain[places[at - size]] if at >= size else "", 1)):
            if character:
                before = missing[character]
                missing[character] = before + change
                wrong += (before == 0) - (before + change == 0)
        if wrong == 0:
            fitting.append((places[at - size + 1], place + 1))
        elif fitting:
            break
    edges = ("".join(rows.split())[:1], "".join(rows.split())[-1:])
    return max(fitting, key=lambda found: _fits(plain, found, edges), default=None)


def _fits(plain: str, found: tuple[int, int], edges: tuple[str, str]) -> int:
    """How well a stretch begins and ends where words do, with the first and last letters of a table: a window that is
    one letter off has the same letters where that behind it is that before it.
    """
    start, end = found
    begins, ends = plain[max(start - 1, 0) : start], plain[end : end + 1]
    apart = sum(3 if edge in ("", "\n") else 2 * edge.isspace() for edge in (begins, ends))
    return apart + (plain[start] == edges[0]) + (plain[end - 1] == edges[1])


def _narrow(table: list[str]) -> list[str]:
    """The lines without what is blank in all of them, but for two places between columns."""
    width = max(map(len, table))
    lines = [line.ljust(width) for line in table]
    blank = [all(line[place] == " " for line in lines) for place in range(width)]
    kept = [
        place for place in range(width) if not (blank[place] and place > 1 and blank[place - 1] and blank[place - 2])
    ]
    kept = [place for place in kept if not all(blank[: place + 1])]
    return ["".join(line[place] for place in kept).rstrip() for line in lines]
