"""What a page hides is not read, and what it shows in the end is."""

import pytest

from tests.servers.test_pages import read

GONE = ["hidden", 'style="display:none"', 'style="color:red; Display : None"']
SHEET = (
    "/* p{display:none} */ .off, p.a.b {display: none} .x{color:red} .off.on {display:block} .page .part {display: block}"
    "#gone{visibility:hidden} .small{font-size:small; opacity:0.5} .reveal{opacity:0} @import url(x.css); .y{color:red}"
    "@media print {.small, article {display:none}} @media (max-width:9px){.wide{display:none}}"
    ".page>.inner{display:block} section[data-on], section{display:block} .off::before{display:block} .inner,.tall{display:none} .x>.tall{display:block}"
    "@media (min-width:9px) {.md\\:block{display:block}}"
)


@pytest.mark.parametrize("hiding", [
    *GONE, 'style="visibility:hidden"', 'style="opacity:0"', 'style="opacity: 0.0 !important"', 'style="font-size:0px"',
    'style="position:absolute;left:-9999px"', 'class="off"', 'class="small off"', 'id="gone"',
])  # fmt: skip
@pytest.mark.parametrize("tag", ["p", "div", "span", "section", "td"])
def test_what_is_hidden_is_not_shown(hiding: str, tag: str) -> None:
    element = f"<{tag} {hiding}>The secret words.</{tag}>"
    if tag == "td":
        element = f"<table><tr><th>A<th>B<th>C<th>D<tr><td>Seen</td><td>1</td>{element}<td>7</td></tr></table>"
    text = read(f"<style>{SHEET}</style>{element}<p class='small'>The open words.</p>")
    assert "open words" in text
    assert "secret" not in text
    if tag == "td" and hiding not in GONE:
        assert ("| Seen | 1 |  | 7 |" in text) == ("off" not in hiding), "a cell that is gone is not in the row"


@pytest.mark.parametrize("shown", [
    "class='small'", "class='off on'", "class='off part'", "class='off md:block'", "style='font-size:0'", "class='paper'",
    "class='lazy'", "style='padding-left:120px;text-indent:-120px'", "style='position:relative;top:-120px'",
    "class='inner'", "class='tall'", "class='reveal'", "style='opacity:0' data-w-id='1'", "style='opacity:0;transition:opacity 1s'", "class='wide'",
])  # fmt: skip
def test_what_a_page_shows_in_the_end_is_read(shown: str) -> None:
    others = "<style media=print>.paper{display:none}</style><noscript><style>.lazy{display:none}</style></noscript>"
    text = read(f"<style>{SHEET}</style>{others}<div {shown}><span>The open words.</span></div>")
    assert "The open words." in text


def test_a_page_of_which_most_is_hidden_by_its_style_sheet_is_shown_by_a_script() -> None:
    parts = "".join(f"<p class='part'>Part {n}: {'the trial went on and on. ' * 9}</p>" for n in range(20))
    text = read(f"<style>.part{{visibility:hidden}}</style>{parts}")
    assert all(f"Part {n}:" in text for n in range(20))


CSS = ["a" * 900_000, ".a{src:url(data:x," + "A" * 900_000, "/* " * 300_000, "a{" * 400_000, "}{" * 400_000]


@pytest.mark.parametrize("css", CSS, ids=[css[:9] for css in CSS])
def test_no_style_sheet_takes_long_to_read(css: str) -> None:
    assert "two drugs" in read(f"<style>{css}</style>")


def test_a_long_consent_that_is_hidden_is_not_read_where_there_is_an_article() -> None:
    consent = "".join(f"<p>We value your privacy {n}: {'partners may store data. ' * 20}</p>" for n in range(20))
    for hiding in ("style='display:none'", "hidden", "popover"):
        text = read(f"<div {hiding}>{consent}</div><dialog>{consent}</dialog>")
        assert "privacy" not in text
        assert "two drugs" in text
