"""A table as Markdown, each value under the head of its column. Source: HTML's table model, which JATS takes over, and
OASIS exchange tables (`tgroup`, `row`, `entry`).
"""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from servers.tool_server.markup import Element, name_of

_MOST_COLUMNS, _MOST_ROWS, _MOST_REPEATED = 100, 2000, 300
"""What a table may have, and how long a cell may be that stands in several places; a span of more is cut."""
_CELLS = ("td", "th", "entry")
_ORDER = {"thead": 0, "tfoot": 2}
_LAST_DIGITS = re.compile(r".*?(\d+)$")
Text = Callable[[Element], str]


def table_lines(table: Element, text: Text) -> str:
    """Rows between bars, the rows of the head joined to one line (`Drug / n`). A cell over several rows or columns
    stands in each of them, but one over a whole row only in its first: it heads what follows. `text` reads a cell.
    """
    rows = list(islice(_rows(table), _MOST_ROWS))
    grid = _grid(rows, text)
    width = max(map(len, grid), default=0)
    if not width:
        return ""
    heads = sum(name_of(_parent(row)) == "thead" for row in rows) or int(len(rows) > 1 and _is_head(rows[0]))
    grid = [row + [""] * (width - len(row)) for row in grid]
    head = [" / ".join(dict.fromkeys(filter(None, column))) for column in zip(*grid[:heads], strict=True)]
    body = [[row[0], *[""] * (width - 1)] if width > 2 and len(set(row)) == 1 else row for row in grid[heads:]]
    return "\n".join(map(_line, [head or [""] * width, ["---"] * width, *body]))


def _line(cells: Iterable[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _rows(table: Element) -> Iterator[Element]:
    """The rows of this table, the head's first; none of a table inside it."""
    groups = sorted(table.iterchildren("*"), key=lambda child: _ORDER.get(name_of(child), 1))
    for child in groups:
        if name_of(child) in ("tr", "row"):
            yield child
        elif name_of(child) in ("thead", "tbody", "tfoot", "tgroup"):
            yield from _rows(child)


def _parent(row: Element) -> Element:
    parent = row.getparent()
    assert parent is not None
    return parent


def _is_head(row: Element) -> bool:
    """Whether a first row heads the columns: all of it is `th`, or the table marks none of its cells so."""
    names = {name_of(cell) for cell in row.iterchildren("*")}
    return "td" not in names or "th" not in {name_of(cell) for cell in _parent(row).iter("{*}th", "{*}td")}


def _grid(rows: list[Element], text: Text) -> list[list[str]]:
    """The text at every place, each span filled in."""
    waiting: dict[int, tuple[int, str]] = {}
    grid: list[list[str]] = []
    for row in rows:
        line: list[str] = []
        for cell in row.iterchildren("*"):
            if name_of(cell) not in _CELLS:
                continue
            _fill_from_above(line, waiting)
            words, (across, down) = text(cell), _spans(cell)
            again = words if len(words) <= _MOST_REPEATED else ""
            for place in range(min(across, _MOST_COLUMNS - len(line))):
                if down > 1:
                    waiting[len(line)] = (down - 1, again)
                line.append(again if place else words)
        _fill_from_above(line, waiting, to_the_end=True)
        grid.append(line)
    return grid


def _spans(cell: Element) -> tuple[int, int]:
    """Over how many columns and rows a cell goes."""
    if name_of(cell) != "entry":
        return _number(cell.get("colspan"), 1), _number(cell.get("rowspan"), 1)
    first, last = (_number(_LAST_DIGITS.sub(r"\1", cell.get(name, "")), 0) for name in ("namest", "nameend"))
    return max(last - first, 0) + 1, _number(cell.get("morerows"), 0) + 1


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and 0 < len(text) < 6 else otherwise


def _fill_from_above(line: list[str], waiting: dict[int, tuple[int, str]], to_the_end: bool = False) -> None:
    while len(line) in waiting or (to_the_end and any(place > len(line) for place in waiting)):
        left, words = waiting.pop(len(line), (0, ""))
        if left > 1:
            waiting[len(line)] = (left - 1, words)
        line.append(words)
