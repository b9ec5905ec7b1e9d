"""A table as Markdown, each value under the head of its column. Source: HTML's table model, which JATS takes over, and
OASIS exchange tables (`tgroup`, `row`, `entry`).
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from servers.tool_server.markup import Element, name_of

_MOST_COLUMNS, _MOST_ROWS, _MOST_REPEATED = 200, 5000, 200_000
"""What a table may have, and characters that may stand in it more than once: of more, the rest is said to be cut."""
_CELLS, _GROUPS = ("td", "th", "entry"), ("thead", "tbody", "tfoot")
_LAST_DIGITS = re.compile(r".*?(\d+)$")
Text = Callable[[Element], str]


def table_lines(table: Element, text: Text) -> str:
    """Rows between bars, the rows of the head joined to one line (`Drug / n`). A cell over several rows or columns
    stands in each of them, but one over a whole row only in its first: it heads what follows. `text` reads a cell.
    """
    parts = [child for child in table.iterchildren("*") if name_of(child) == "tgroup"]
    return "\n\n".join(filter(None, (_lines(part, text) for part in parts or [table])))


def _lines(table: Element, text: Text) -> str:
    columns = [column for column in table.iterchildren("*") if name_of(column) == "colspec"]
    grid = _Grid(text, {column.get("colname", ""): place for place, column in enumerate(columns)})
    for group, is_head in _groups(table):
        grid.add(group, is_head=is_head)
    width = max(map(len, grid.rows), default=0)
    if not width:
        return ""
    titles = 0  # rows that are one cell over all columns, before what heads them
    while not grid.heads and titles in grid.whole and titles < len(grid.rows) - 1:
        titles += 1
    if any(place >= titles for place in grid.whole):
        titles = 0  # there are more of them: they head groups of rows
    heads = grid.heads or int(len(grid.rows) - titles > 1 and _is_head(grid.elements[titles], table))
    rows = [row + [""] * (width - len(row)) for row in grid.rows]
    named = [row[0] for row in rows[:titles]]
    heads += titles
    head = [" / ".join(dict.fromkeys(filter(None, column))) for column in zip(*rows[titles:heads], strict=True)]
    body = [
        [row[0], *[""] * (width - 1)] if place in grid.whole and width == len(grid.rows[place]) else row
        for place, row in enumerate(rows[heads:], start=heads)
    ]
    bars = map(_line, [head or [""] * width, ["---"] * width, *body])
    lines = [*named, *([""] if named else []), *bars, *([grid.cut] if grid.cut else [])]
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _groups(table: Element) -> Iterator[tuple[list[Element], bool]]:
    """The rows of this table by their groups, the first head's before all, the foot's last; none of a table inside."""
    groups: list[tuple[int, list[Element]]] = []
    loose: list[Element] | None = None
    """Rows that stand in no group, until the next one."""
    for child in table.iterchildren("*"):
        if name_of(child) in _GROUPS:
            rows = [row for row in child.iterchildren("*") if name_of(row) in ("tr", "row")]
            is_first_head = name_of(child) == "thead" and not any(order == 0 for order, _ in groups)
            groups.append((0 if is_first_head else 2 if name_of(child) == "tfoot" else 1, rows))
            loose = None
        elif name_of(child) in ("tr", "row"):
            if loose is None:
                groups.append((1, loose := []))
            loose.append(child)
    for order, rows in sorted(groups, key=lambda group: group[0]):
        if rows:
            yield rows, order == 0


def _is_head(row: Element, table: Element) -> bool:
    """Whether a first row heads the columns: all of it is `th`, or the table marks none of its cells so."""
    names = {name_of(cell) for cell in row.iterchildren("*")}
    return "td" not in names or next(table.iter("{*}th"), None) is None


@dataclass
class _Grid:
    """The text at every place of a table, each span filled in."""

    text: Text
    columns: dict[str, int]
    """By the names of an OASIS table."""
    rows: list[list[str]] = field(default_factory=list)
    elements: list[Element] = field(default_factory=list)
    """The same rows as they are in the page."""
    whole: set[int] = field(default_factory=set)
    """Rows that are one cell."""
    heads: int = 0
    cut: str = ""
    _repeated: int = 0

    def add(self, group: list[Element], *, is_head: bool) -> None:
        """Rows in which no span reaches beyond the last."""
        waiting: dict[int, tuple[int, str]] = {}
        for left, row in zip(range(len(group), 0, -1), group, strict=True):
            if len(self.rows) >= _MOST_ROWS:
                self.cut = f"[cut here: the table goes on after {_MOST_ROWS:,} rows]"
                return
            self.elements.append(row)
            self._add_row(row, left, waiting)
            self.heads += is_head

    def _add_row(self, row: Element, left: int, waiting: dict[int, tuple[int, str]]) -> None:
        line: list[str] = []
        cells = [cell for cell in row.iterchildren("*") if name_of(cell) in _CELLS]
        is_alone = len(cells) == 1 and not waiting
        for cell in cells:
            self._go_on(line, waiting, self._place(cell, "colname") or self._place(cell, "namest"))
            words, (across, down) = self.text(cell), self._spans(cell, left)
            if len(line) + across > _MOST_COLUMNS:
                self.cut = f"[cut here: rows go on after {_MOST_COLUMNS} columns]"
            for place in range(min(across, _MOST_COLUMNS - len(line))):
                if min(down, left) > 1:
                    waiting[len(line)] = (min(down, left) - 1, words)
                line.append(self._again(words) if place else words)
        self._go_on(line, waiting, max(waiting, default=-1) + 1)
        if is_alone and len(line) > 1 and not waiting:
            self.whole.add(len(self.rows))
        self.rows.append(line)

    def _go_on(self, line: list[str], waiting: dict[int, tuple[int, str]], up_to: int) -> None:
        """The cells of the rows above, and empty ones where a cell says that it stands later."""
        while len(line) in waiting or len(line) < up_to:
            left, words = waiting.pop(len(line), (0, ""))
            if left > 1:
                waiting[len(line)] = (left - 1, words)
            line.append(self._again(words))

    def _place(self, cell: Element, name: str) -> int:
        """The column that an OASIS entry names; 0 where it names none."""
        given = cell.get(name, "") if name_of(cell) == "entry" else ""
        return min(self.columns.get(given, _number(_LAST_DIGITS.sub(r"\1", given), 1) - 1), _MOST_COLUMNS)

    def _spans(self, cell: Element, left: int) -> tuple[int, int]:
        """Over how many columns and rows a cell goes, of those that are `left` in its group."""
        if name_of(cell) != "entry":
            return _number(cell.get("colspan"), 1) or 1, _number(cell.get("rowspan"), 1) or left
        across = self._place(cell, "nameend") - self._place(cell, "namest")
        return max(across, 0) + 1, _number(cell.get("morerows"), 0) + 1

    def _again(self, words: str) -> str:
        self._repeated += len(words)
        if self._repeated > _MOST_REPEATED:
            self.cut = "[cut here: cells over many rows or columns stand in the first of them only]"
            return ""
        return words


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and 0 < len(text) < 6 else otherwise
