"""A web page or a PDF keeps what a reader sees: cells under their heads, captions, formulas, numbers; nothing hidden."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.tool_server.fetch import Fetched
from servers.tool_server.pdf_page import with_tables
from servers.tool_server.webpage import as_markdown
from tests.support.pdfs import Word, pdf_of

PROSE = "<p>The trial compared two drugs in adults with heart failure, and followed all of them for four years.</p>" * 4


def read(inside: str) -> str:
    page = f"<html><head><title>T</title></head><body><article><h1>T</h1>{PROSE}{inside}{PROSE}</article></body></html>"
    return as_markdown(Fetched("http://x/", "text/html", "utf-8", page.encode()))


SEEN = [
    ("<p>of 10<sup>9</sup> cells in H<sub>2</sub>O<sup><a href='#r'>1</a></sup></p>", "of 10^9 cells in H2O[1]"),
    ("<p>fell to 65<a href='#b'><span><sup>12</sup></span></a> per 1000</p>", "fell to 65[12] per 1000"),
    ("<p>(95<sup><a href='#b'>13</a></sup>) of</p>", "(95[13]) of"), ("<p>on <time>5 March</time>, <output>6</output> of <q>ten</q></p>", "on 5 March, 6 of ten"),
    ("<p>is <a href='x'><img alt='≥'></a> 18 years</p>", "is ≥ 18 years"), ("<center><p>Adults got 10 mg of the drug.</p></center>", "Adults got 10 mg"),
    ("<dl><dt>HF</dt><dd>heart failure</dd><dt>MI</dt><dd>infarction</dd></dl>", "- HF: heart failure\n- MI: infarction"),
    ("<p>at 2<sup>1</sup>/<sub>2</sub> tablets</p>", "at 2 1/2 tablets"), ("<p>of 10<span></span><sup>6</sup> cells</p>", "of 10^6 cells"),
    ("<p>is <span class='mwe-math-element'><span style='display: none;'><math><mi>E</mi></math></span><img alt='{\\displaystyle E=mc^{2}}'></span> of</p>", "is E=mc^{2} of"),
    ("<table><tr><th>Arm</th><th>Done</th></tr><tr><td>Drug</td><td><img alt='Yes'></td></tr></table>", "| Drug | Yes |"),
    ("<table><tr><th>Arm</th><th>n</th></tr><tr><td><div>12</div><div>34</div></td><td><ul><li>5</li><li>6</li></ul></td></tr></table>", "| 12 34 | 5 6 |"),
    ("<pre>Outcome   Drug   Placebo\nStroke           329</pre>", "Outcome   Drug   Placebo\nStroke           329"),
    ("<p>at least <span aria-hidden='true'>≥ 5 mg</span> of</p>", "at least ≥ 5 mg of"),
    ("<p>is <math><mfrac><mn>1</mn><mn>2</mn></mfrac></math> of</p>", "is 1/2 of"),
    ("<p>is <mml:math><mml:msqrt><mml:mn>2</mml:mn></mml:msqrt></mml:math> of</p>", "is sqrt(2) of"),
    ("<p>is <script type='math/tex'>x^2</script> of</p>", "is x^2 of"), ("<p>age <img src='g.png' alt='≥'> 18</p>", "age ≥ 18"),
    ("<figure><img alt='A curve'><figcaption>Figure 1. Survival was 81%.</figcaption></figure>", "[picture: A curve]\n\nFigure 1. Survival was 81%."),
    ("<ol start='3'><li>three</li><li>four</li></ol>", "3. three\n4. four"), ("<ol type='a'><li>one</li><li>two</li></ol>", "a. one\nb. two"),
    ("<ol reversed><li>two</li><li>one</li></ol>", "2. two\n1. one"), ("<ol><li>one</li><li value='7'>seven</li></ol>", "1. one\n7. seven"),
    ("<aside class='key'><h2>Key Points</h2><p>The finding: it helps in all of the groups.</p></aside>", "The finding: it helps"),
    ("<table><caption>Table 1</caption><tr><th>Event</th><th>Drug</th><th>Placebo</th></tr><tr><td>Death</td><td></td><td>329</td></tr></table>",
     "Table 1\n\n| Event | Drug | Placebo |\n| --- | --- | --- |\n| Death |  | 329 |"),
]  # fmt: skip


@pytest.mark.parametrize(("written", "seen"), SEEN)
def test_what_a_reader_sees_is_read(written: str, seen: str) -> None:
    assert seen in read(written)


@pytest.mark.parametrize(("written", "seen"), SEEN)
def test_a_page_without_a_main_content_is_read_all_the_same(written: str, seen: str) -> None:
    page = f"<html><body><div>{written}</div></body></html>"
    text = as_markdown(Fetched("http://x/", "text/html", "utf-8", page.encode()))
    assert seen in text


def test_an_article_of_which_most_would_be_lost_is_read_whole() -> None:
    parts = "".join(
        f"<div class='ad-body related'><p>Part {n}: {'the trial went on and on. ' * 20}</p></div>" for n in range(8)
    )
    page = f"<html><body><nav><a href='/'>Home</a></nav><article>{parts}</article></body></html>"
    text = as_markdown(Fetched("http://x/", "text/html", "utf-8", page.encode()))
    assert all(f"Part {n}:" in text for n in range(8))


def test_a_page_forges_no_place_of_a_table_and_its_templates_are_not_shown() -> None:
    table = "<table><tr><th>A</th><th>B</th></tr><tr><td>1</td><td>2</td></tr></table>"
    text = read(f"<p>Here is ⟦0:fake:0⟧ and {'⟦1:' * 2000} too.</p><template><p>Dose 500 mg</p></template>{table}")
    assert "⟦0:fake:0⟧" in text
    assert text.count("| 1 | 2 |") == 1
    assert "500" not in text


def test_a_page_that_shows_itself_only_by_a_script_is_read() -> None:
    page = f'<html><body style="visibility:hidden"><div style="display:none"><article>{PROSE}</article></div></body></html>'
    assert "two drugs" in as_markdown(Fetched("http://x/", "text/html", "utf-8", page.encode()))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=6), min_size=2, max_size=9), st.integers(6, 14), st.data())
def test_a_value_of_a_pdfs_table_stays_in_its_column(filled: list[list[bool]], wide: int, data: st.DataObject) -> None:
    columns = min(map(len, filled))
    digits = data.draw(st.lists(st.integers(0, 2), min_size=columns * 9, max_size=columns * 9))
    cells = [[f"{row}{column}" + "." * (digits[9 * column + row] > 1) + "5" * digits[9 * column + row] if row == 0 or full[column] or column == row % columns else "" for column in range(columns)]
             for row, full in enumerate(filled)]  # fmt: skip
    rows = [[f"Row {number}", *row] for number, row in enumerate(cells)]
    laid_out = "\n".join("  ".join(cell.ljust(wide) for cell in row) for row in rows)
    lines = [" ".join(filter(None, row)) for row in rows]
    order = data.draw(st.permutations(lines)) if data.draw(st.booleans()) else lines
    text = with_tables("Before it.\n" + "\n".join(order) + "\nAfter it.", f"Before it.\n{laid_out}\nAfter it.")
    shown = text.split("```")[1].strip("\n").split("\n")
    assert re.sub(r"\s", "", text) == f"Beforeit.```{''.join(laid_out.split())}```Afterit."
    for column in range(columns):
        places = {match.start() for line, row in zip(shown, rows, strict=True) if row[column + 1]
                  for match in re.finditer(rf"(?<!\S){re.escape(row[column + 1])}(?!\S)", line)}  # fmt: skip
        assert len(places) == 1


def test_two_tables_alike_stay_two() -> None:
    table = "Arm    n\nDrug   1\nNone   2"
    page = f"First.\n{table}\nThen some words.\nAnd more of them.\nAnd more.\n{table}\nLast."
    read = with_tables(page.replace("   ", " ").replace("  ", " "), page)
    assert (
        read.split()
        == f"First. ``` {table} ``` Then some words. And more of them. And more. ``` {table} ``` Last.".split()
    )
    assert read.count("Drug  1") == 2


@pytest.mark.parametrize(("left", "right"), [
    ("the study drug", "or a placebo"), ("Article history:", "We studied adults with heart failure and a low ejection fraction"),
])  # fmt: skip
def test_columns_of_prose_are_no_table(left: str, right: str) -> None:
    written = "\n".join([left] * 6 + [right] * 6)
    assert with_tables(written, "\n".join([f"{left}     {right}"] * 6)) == written


def test_a_table_of_a_pdf_is_read_by_its_columns_and_two_columns_of_prose_one_after_the_other() -> None:
    left = [f"The left column goes on here {n}" for n in range(6)]
    right = [f"and here is the right one, too {n}" for n in range(6)]
    words = [(40, 700 - 14 * n, line) for n, line in enumerate(left)] + [
        (320, 700 - 14 * n, line) for n, line in enumerate(right)
    ]
    table = [("Outcome", "Drug", "Placebo"), ("Death", "", "329"), ("Flare", "12", "40"), ("Stroke", "3", "")]
    words += [(40 + 150 * c, 500 - 14 * r, cell) for r, row in enumerate(table) for c, cell in enumerate(row) if cell]
    text = as_markdown(Fetched("http://x/", "application/pdf", None, pdf_of(words)))
    assert "\n".join(left) in text
    assert "\n".join(right) in text
    death, flare, stroke = (
        next(line for line in text.splitlines() if line.startswith(name)) for name in ("Death", "Flare", "Stroke")
    )
    assert death.index("329") == flare.index("40")
    assert stroke.index("3") == flare.index("12")


@pytest.mark.parametrize("turn", ["0 1 -1 0", "0 -1 1 0"])
def test_a_table_that_stands_sideways_is_read_by_its_columns(turn: str) -> None:
    table = [("Outcome", "Drug", "Placebo"), ("Death", "", "329"), ("Flare", "12", "40"), ("Stroke", "3", "")]
    words: list[Word] = []
    for r, row in enumerate(table):
        for c, cell in enumerate(row):
            x, y = (100 + 20 * r, 100 + 150 * c) if turn == "0 1 -1 0" else (500 - 20 * r, 700 - 150 * c)
            words += [(x, y, cell)] if cell else []
    text = as_markdown(Fetched("http://x/", "application/pdf", None, pdf_of(words, dict.fromkeys(words, turn))))
    assert [line.split() for line in text.splitlines() if line.startswith("Death")] == [["Death", "329"]]
    assert text.index("329") - text.index("Death") == text.index("40") - text.index("Flare")
    assert "could not be laid out" not in text


@pytest.mark.parametrize("written", [
    "<dl><dt>C</dt><dd>5</dd><dl><dt>nested</dt><dd>66</dd></dl></dl>", "<dl><span><dt>C</dt><dd>x 66</dd></span></dl>",
    "<dl>Loose 66<dt>C</dt><dd>x</dd></dl>", "<dl><dt>C</dt><dd>x</dd>stray 66</dl>", "<dl><dt>C</dt><dd>x</dd><ul><li>u 66</li></ul></dl>",
    "<dl><dt>C</dt><dd>x</dd><div><div><dt>D</dt><dd>66</dd></div></div></dl>",
])  # fmt: skip
def test_a_list_of_terms_loses_nothing(written: str) -> None:
    assert "66" in read(written)


def test_a_table_in_a_list_of_terms_stands_on_lines_of_its_own() -> None:
    table = "<table><tr><th>Arm</th><th>N</th></tr><tr><td>Drug</td><td>5</td></tr></table>"
    text = read(f"<dl><dt>Deaths</dt><dd>By arm: {table}</dd></dl>")
    assert "| Drug | 5 |" in [line.strip() for line in text.splitlines()]


def test_rows_over_the_whole_width_head_groups_of_rows_where_there_are_more_of_them() -> None:
    group = "<tr><td colspan=3>{}</td></tr>"
    rows = "".join(f"<tr><td>{a}</td><td>{b}</td><td>{c}</td></tr>" for a, b, c in [("Death", 3, 5), ("Flare", 1, 2)])
    later = f"{group.format('Men')}<tr><td>Death</td><td>7</td><td>9</td></tr>"
    text = read(f"<table>{group.format('Women')}{rows}{later}</table>")
    assert text.index("Women") < text.index("---") < text.index("| Death | 3 | 5 |")


@pytest.mark.parametrize(
    ("before", "last"), [("at day 30", "40"), ("from 2010 to 2020", "1.10"), ("as n (%)", "4 (2)"), ("n = 11", "11")]
)
def test_what_stands_before_a_table_keeps_its_last_letter(before: str, last: str) -> None:
    rows = [("Outcome", "Drug", "Placebo"), ("Death", "3", "329"), ("Flare", "12", last)]
    laid_out = "\n".join("".join(cell.ljust(12) for cell in row).rstrip() for row in rows)
    text = with_tables(
        f"Deaths {before}\n" + "\n".join(map(" ".join, rows)) + "\nAfter it.", f"Deaths {before}\n{laid_out}\nAfter it."
    )
    assert text.split("```")[0].strip() == f"Deaths {before}"
    assert text.split("```")[2].strip() == "After it."


def test_a_table_beside_a_column_of_prose_keeps_its_columns() -> None:
    table = [("Outcome", "Drug", "Placebo"), ("Death", "", "329"), ("Flare", "12", "40"), ("Stroke", "3", "")]
    words = [(40 + 80 * c, 500 - 14 * r, cell) for r, row in enumerate(table) for c, cell in enumerate(row) if cell]
    prose = [f"and the prose of this column goes on and on {n}" for n in range(8)]
    words += [(320, 528 - 14 * n, line) for n, line in enumerate(prose)]
    text = as_markdown(Fetched("http://x/", "application/pdf", None, pdf_of(words)))
    death, flare = (next(line for line in text.splitlines() if line.startswith(name)) for name in ("Death", "Flare"))
    assert death.index("329") == flare.index("40")
    assert "\n".join(prose) in text


def test_a_small_table_that_stands_sideways_beside_upright_text_is_turned() -> None:
    table = [("Event", "Drug", "Placebo"), ("Death", "", "329"), ("Flare", "12", "40")]
    upright = [
        (40, 760 - 14 * n, f"This line of text stands upright on the page, as do the others {n}") for n in range(20)
    ]
    words = [(100 + 20 * r, 100 + 150 * c, cell) for r, row in enumerate(table) for c, cell in enumerate(row) if cell]
    page = pdf_of([*upright, *words], dict.fromkeys(words, "0 1 -1 0"))
    text = as_markdown(Fetched("http://x/", "application/pdf", None, page))
    assert text.index("329") - text.index("Death") == text.index("40") - text.index("Flare")
