"""A full text keeps its results: nothing that a paper says is lost, glued together or put under another head."""

import re
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from servers.tool_server.blocks import blocks_of
from servers.tool_server.jats import article_page
from servers.tool_server.pubmed_xml import parsed
from servers.tool_server.tables import table_lines

GOLDEN = Path(__file__).parent.parent / "golden"
INLINE = ("bold", "italic", "sc", "named-content", "styled-content", "ext-link", "underline", "unknown-inline")
CONTAINERS = ("sec", "boxed-text", "disp-quote", "statement", "app", "ack", "unknown-block", "supplementary-material")


def test_an_article_is_read_whole() -> None:
    page = article_page(parsed((GOLDEN / "article.xml").read_bytes()))
    assert page == (GOLDEN / "article.md").read_text(encoding="utf-8")


def body(written: str) -> str:
    page = article_page(parsed(f"<r><article><front/><body>{written}</body></article></r>".encode()))
    assert page is not None
    return page.removeprefix("# No title\n\n").removeprefix("## Full text\n\n").strip()


@pytest.mark.parametrize(("written", "read"), [
    ('<p>See <xref ref-type="table">Table 2</xref> and <xref ref-type="fig">Fig. 1</xref>.</p>', "See Table 2 and Fig. 1."),
    ('<p>in 10<xref ref-type="bibr">3</xref> of</p>', "in 10[3] of"), ('<p>shown.<sup><xref ref-type="bibr">1</xref>,2</sup> And</p>', "shown.[1,2] And"),
    ('<p>it [<xref ref-type="bibr">1</xref>, <xref ref-type="bibr">2</xref>]</p>', "it [1, 2]"), ('<p>by (<xref ref-type="bibr">Li 2019</xref>)</p>', "by (Li 2019)"),
    ('<p>aged 65,<xref ref-type="bibr"><sup>5</sup></xref> n = 12:<xref ref-type="bibr">5</xref></p>', "aged 65,[5] n = 12:[5]"),
    ("<table><tr><td>A<disp-formula>x=5</disp-formula>18</td></tr></table>", "|  |\n| --- |\n| A x=5 18 |"), ("<disp-formula><graphic/></disp-formula>", "[a formula that is a picture]"),
    ("<fig><object-id>10.1/x</object-id><label>F</label><alt-text>alt</alt-text><graphic/></fig>", "**F**"),
    ("<table-wrap><label>T</label><list><list-item><p>a</p></list-item></list></table-wrap>", "**T**\n\n- a"),
    ("<p>over 18</p><p>no stroke</p>", "over 18\n\nno stroke"), ("<p>Of: <list><list-item><p>a</p></list-item></list> then</p>", "Of:\n\n- a\n\nthen"),
    ('<list list-type="order"><list-item><p>a</p></list-item><list-item><p>b</p></list-item></list>', "1. a\n2. b"),
    ('<list list-type="alpha-lower"><list-item><p>a</p></list-item><list-item><p>b</p></list-item></list>', "a. a\nb. b"),
    ('<list list-type="roman-lower"><list-item><p>a</p></list-item><list-item><p>b</p></list-item></list>', "i. a\nii. b"),
    ("<table><tr><td colspan='2'>Title</td></tr><tr><th>A</th><th>B</th></tr><tr><td>1</td><td>2</td></tr></table>", "Title\n\n| A | B |\n| --- | --- |\n| 1 | 2 |"),
    ("<list><list-item><label>iv)</label><p>a</p></list-item></list>", "iv) a"), ("<disp-quote><p>Q</p><attrib>W</attrib></disp-quote>", "> Q\n\n> W"),
    ("<def-list><def-item><term>HF</term><def><p>heart failure</p></def></def-item></def-list>", "- HF: heart failure"),
    ("<disp-formula><label>(1)</label>x = 1/2</disp-formula>", "x = 1/2 (1)"), ("<preformat>a\n  b</preformat>", "```\na\n  b\n```"),
    ("<sec><label>2.1</label><title>R</title><p>x</p></sec>", "## 2.1 R\n\nx"), ("<fig><caption><title>T.</title><p>C.</p></caption></fig>", "T. C."),
    ("<table-wrap><label>Table 1</label><graphic/></table-wrap>", "**Table 1**\n\n[this table is a picture, which cannot be read here]"),
    ("<p><inline-formula><alternatives><tex-math>\\documentclass{x}\\begin{document}$a^2$\\end{document}</tex-math><graphic/></alternatives></inline-formula></p>", "a^2"),
    ("<p><math><semantics><mi>x</mi><annotation>\\x</annotation></semantics></math></p>", "x"), ("<p><math><mfenced><mi>a</mi><mi>b</mi></mfenced></math></p>", "(a,b)"),
    ("<p><math><munderover><mo>∑</mo><mrow><mi>i</mi><mo>=</mo><mn>1</mn></mrow><mi>n</mi></munderover></math></p>", "∑_(i=1)^n"),
])  # fmt: skip
def test_what_is_written_is_read(written: str, read: str) -> None:
    assert body(written) == read


@pytest.mark.parametrize(("dates", "year"), [
    ('<pub-date pub-type="pmc-release"><year>2012</year></pub-date><pub-date pub-type="ppub"><year>2011</year></pub-date>', "2011"),
    ('<pub-date pub-type="epub"><year>2010</year></pub-date><pub-date pub-type="collection"><year>2011</year></pub-date>', "2011"),
    ('<pub-date date-type="pub" publication-format="electronic"><year>2020</year></pub-date><pub-date date-type="pub" publication-format="print"><year>2021</year></pub-date>', "2021"),
    ('<pub-date pub-type="nihms-submitted"><year>2019</year></pub-date>', "2019"), ('<pub-date iso-8601-date="2018-02-01"/>', "2018"), ("", ""),
])  # fmt: skip
def test_the_year_is_the_prints_where_there_is_one(dates: str, year: str) -> None:
    page = article_page(
        parsed(f"<r><article><front><article-meta>{dates}</article-meta></front><body/></article></r>".encode())
    )
    assert page is not None
    assert page.split("\n\n")[1:-1] == ([year] if year else [])


class Made:
    """A made-up tree with numbered words, `w7w`, in their order. White space stands between words of one block only."""

    def __init__(self, data: st.DataObject) -> None:
        self.data, self.numbers = data, count()

    def word(self) -> str:
        return f"w{next(self.numbers)}w"

    def words(self, depth: int = 2) -> str:
        pieces = []
        for _ in range(self.data.draw(st.integers(1, 3))):
            tag = self.data.draw(st.sampled_from(("", *INLINE))) if depth else ""
            pieces.append(f"<{tag}>{self.words(depth - 1)}</{tag}>" if tag else self.word())
        return " ".join(pieces)

    def block(self, depth: int = 3) -> str:
        kinds = ("p", "p-with-block", "list", "def-list", "table-wrap", "fig", "container") if depth else ("p",)
        match self.data.draw(st.sampled_from(kinds)):
            case "list":
                return f"<list>{''.join(f'<list-item>{self.block(depth - 1)}</list-item>' for _ in range(2))}</list>"
            case "def-list":
                return f"<def-list><def-item><term>{self.word()}</term><def>{self.block(0)}</def></def-item></def-list>"
            case "table-wrap":
                title = f"<label>{self.word()}</label><caption><p>{self.words()}</p><p>{self.words()}</p></caption>"
                rows = "".join(
                    f"<tr><td>{self.words()}</td><td>{self.block(0)}{self.block(0)}</td></tr>" for _ in range(2)
                )
                return f"<table-wrap>{title}<table>{rows}</table></table-wrap>"
            case "fig":
                return f"<fig><label>{self.word()}</label><caption><p>{self.words()}</p></caption><graphic/></fig>"
            case "container":
                tag = self.data.draw(st.sampled_from(CONTAINERS))
                title = f"<title>{self.words()}</title>"
                return f"<{tag}>{title}{self.block(depth - 1)}{self.block(depth - 1)}</{tag}>"
            case "p-with-block":
                return f"<p>{self.words()}{self.block(depth - 1)}{self.words()}</p>"
        return f"<p>{self.words()}</p>"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_every_word_is_read_once_in_its_order_and_none_is_glued_to_another(data: st.DataObject) -> None:
    made = Made(data)
    written = "".join(made.block() for _ in range(data.draw(st.integers(1, 3))))
    read = "\n\n".join(blocks_of(etree.fromstring(f"<body>{written}</body>"), 2))
    assert re.findall(r"w\d+w", read) == [f"w{number}w" for number in range(next(made.numbers))]
    assert "ww" not in read


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_value_stands_under_each_head_that_its_cell_is_under(data: st.DataObject) -> None:
    wide, high = data.draw(st.integers(2, 6)), data.draw(st.integers(2, 7))
    expected = [[""] * wide for _ in range(high)]
    rows = [""] * high
    for row, column in ((row, column) for row in range(high) for column in range(wide)):
        if expected[row][column]:
            continue
        free = next((other for other in range(column, wide) if expected[row][other]), wide) - column
        across = data.draw(st.integers(1, free if free < wide else free - 1))
        down = data.draw(st.integers(1, 1 if row == 0 else high - row))
        for other in ((r, c) for r in range(row, row + down) for c in range(column, column + across)):
            expected[other[0]][other[1]] = f"v{row}.{column}"
        spans = f' colspan="{across}" rowspan="{down}"' if across * down > 1 else ""
        rows[row] += f"<td{spans}>v{row}.{column}</td>"
    head, body_rows = f"<thead><tr>{rows[0]}</tr></thead>", "".join(f"<tr>{row}</tr>" for row in rows[1:])
    read = table_lines(
        etree.fromstring(f"<table>{head}<tbody>{body_rows}</tbody></table>"), lambda cell: str(cell.text)
    )
    lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in read.split("\n")]
    assert [lines[0], *lines[2:]] == expected


def test_rows_of_a_head_become_one_line_and_a_cell_over_a_whole_row_heads_what_follows() -> None:
    table = (
        '<table><thead><tr><th rowspan="2">Outcome</th><th colspan="2">Drug</th></tr><tr><th>n</th><th>%</th></tr></thead>'
        '<tr><td colspan="3">Women</td></tr><tr><td>Death</td><td/><td>3|2</td></tr></table>'
    )
    read = table_lines(etree.fromstring(table), lambda cell: cell.text or "")
    head = "| Outcome | Drug / n | Drug / % |\n| --- | --- | --- |\n"
    assert read == f"{head}| Women |  |  |\n| Death |  | 3\\|2 |"


@pytest.mark.parametrize(("rows", "body"), [
    ("<tr><td>0</td><td>0</td><td>0</td></tr>", "| 0 | 0 | 0 |"),
    ('</tbody><thead><tr><th rowspan="2">Drug</th><th>a</th><th>b</th></tr></thead><tbody><tr><td>X</td><td>1</td><td>2</td></tr>',
     "| Drug | a | b |\n| --- | --- | --- |\n| H | I | J |\n| X | 1 | 2 |"),
    ('<tr><td colspan="0">X</td><td>1</td><td>2</td></tr>', "| X | 1 | 2 |"),
    ('<tr><td rowspan="0">X</td><td>1</td><td>2</td></tr><tr><td>3</td><td>4</td></tr>', "| X | 1 | 2 |\n| X | 3 | 4 |"),
])  # fmt: skip
def test_a_span_ends_with_its_group_and_equal_cells_are_no_span(rows: str, body: str) -> None:
    head = "<tr><th>H</th><th>I</th><th>J</th></tr>"
    table = etree.fromstring(f"<table><tbody>{head}{rows}</tbody></table>".replace("<tbody></tbody>", ""))
    assert body in table_lines(table, lambda cell: cell.text or "")


def test_rows_beside_an_empty_group_are_read() -> None:
    table = "<table><thead/><tr><td>a</td><td>b</td></tr><tr><td>1</td><td>2</td></tr></table>"
    assert table_lines(etree.fromstring(table), lambda cell: cell.text or "").endswith("| 1 | 2 |")


def test_what_a_table_has_too_much_of_is_said() -> None:
    rows = "<tr><td>x</td></tr>" * 5001
    assert table_lines(etree.fromstring(f"<table>{rows}</table>"), lambda cell: "x").endswith(
        "[cut here: the table goes on after 5,000 rows]"
    )
    wide = "".join(f'<td rowspan="2000">{"x" * 290}</td>' for _ in range(50)) + "<td>y</td>"
    spread = table_lines(
        etree.fromstring(f"<table><tr>{wide}</tr>{'<tr><td>z</td></tr>' * 1999}</table>"), lambda cell: cell.text or ""
    )
    assert len(spread) < 1_500_000


def test_lists_within_lists_cost_no_more_than_they_are_long() -> None:
    deep = "<dl><dt>a</dt><dd>" * 40 + "b" + "</dd></dl>" * 40
    assert "".join(blocks_of(etree.fromstring(f"<p>{deep}</p>"), 2)).count("b") == 1


def test_what_a_reader_must_know_of_a_full_text_stands_behind_its_title() -> None:
    related = '<related-article related-article-type="retraction-forward"/>'
    front = f"<front><article-meta><title-group><article-title>T</article-title></title-group>{related}</article-meta></front>"
    page = article_page(parsed(f"<r><article>{front}<body><p>x</p></body></article></r>".encode()))
    assert page is not None and page.startswith("# T [RETRACTED PUBLICATION]\n")


def test_a_table_of_the_other_model_is_read_and_a_span_that_claims_too_much_is_cut() -> None:
    oasis = (
        "<table><tgroup><thead><row><entry>A</entry><entry>B</entry><entry>C</entry></row></thead><tbody>"
        '<row><entry morerows="1">1</entry><entry namest="c2" nameend="c3">2</entry></row>'
        "<row><entry>3</entry><entry>4</entry></row></tbody></tgroup></table>"
    )
    assert blocks_of(etree.fromstring(f"<p>{oasis}</p>"), 2) == [
        "| A | B | C |\n| --- | --- | --- |\n| 1 | 2 | 2 |\n| 1 | 3 | 4 |"
    ]
    named = (
        '<table><tgroup><colspec colname="one"/><colspec colname="two"/><colspec colname="three"/><thead><row><entry>A</entry>'
        "<entry>B</entry><entry>C</entry></row></thead><tbody><row>"
        '<entry colname="one">1</entry><entry colname="three">3</entry></row></tbody></tgroup></table>'
    )
    assert table_lines(etree.fromstring(named), lambda cell: cell.text or "").endswith("| 1 |  | 3 |")
    hostile = '<table><tr><td colspan="99999" rowspan="99999">x</td></tr><tr><td>y</td></tr></table>'
    assert len(table_lines(etree.fromstring(hostile), lambda cell: cell.text or "")) < 5_000


def test_a_sign_that_is_a_picture_is_read_by_its_words() -> None:
    sign = "<inline-graphic><alt-text>≥</alt-text></inline-graphic>"
    assert "age ≥ 18 and no other" in body(f"<p>age {sign} 18 <inline-graphic/>and no other</p>")
