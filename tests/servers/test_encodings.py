"""A page's bytes are read in the encoding that browsers read them in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers.tool_server.encodings import decoded

PAGES = [
    ("windows-1252", "iso-8859-1", "95% CI 0.65–0.85, Crohn’s disease"), ("windows-1252", "us-ascii", "“Naïve” – €5"),
    ("gb18030", "gb2312", "心力衰竭镕"), ("cp932", "shift_jis", "心不全①"), ("cp949", "euc-kr", "심부전 똠"),
    ("big5hkscs", "big5", "心臟衰竭"), ("koi8-r", "koi8-r", "сердце"), ("windows-1251", "cp1251", "сердце"),
    ("iso-8859-2", "latin2", "łódź"), ("euc-jp", "x-euc-jp", "心不全"), ("utf-8", "utf8", "naïve ≥ 5"),
]  # fmt: skip


@pytest.mark.parametrize(("codec", "label", "text"), PAGES, ids=[label for _, label, _ in PAGES])
def test_a_label_means_what_the_standard_says(codec: str, label: str, text: str) -> None:
    body = text.encode(codec)
    assert decoded(body, label) == text
    meta = f'<!-- charset="utf-16" --><meta http-equiv="Content-Type" content="text/html; charset={label}">'.encode()
    assert decoded(meta + body, None, is_html=True).endswith(text)
    assert decoded(f'<?xml version="1.0" encoding="{label}"?>'.encode() + body, None).endswith(text)


def test_a_mark_goes_before_the_header_and_the_header_before_the_page() -> None:
    page = '<meta charset="koi8-r">Crohn’s'
    assert decoded(b"\xef\xbb\xbf" + page.encode(), "windows-1251", is_html=True) == page
    assert decoded(page.encode("windows-1252"), "latin1", is_html=True) == page
    assert decoded(page.encode("utf-16"), "latin1", is_html=True) == page
    assert decoded(page.replace("koi8-r", "utf-16").encode(), None, is_html=True).endswith("Crohn’s")
    assert decoded(page.encode("koi8-r", "replace"), "no such label", is_html=True).startswith("<meta")


def test_what_is_no_declaration_is_none() -> None:
    for other in (
        '<meta name="description" content="of charset=gb2312">',
        "<script>a = '<meta charset=gb2312>'</script>",
    ):
        assert decoded(f'{other}<meta charset="utf-8">0.65–0.85'.encode(), None, is_html=True).endswith("0.65–0.85")


def test_a_page_that_says_nothing_is_utf_8_or_guessed() -> None:
    assert decoded("心力衰竭患者的死亡率研究结果表明".encode("gb18030"), None) == "心力衰竭患者的死亡率研究结果表明"
    assert decoded("a naïve café – Crohn’s".encode("windows-1252"), None) == "a naïve café – Crohn’s"


@given(st.binary(max_size=200), st.none() | st.text(max_size=12) | st.sampled_from([label for _, label, _ in PAGES]))
def test_any_bytes_are_some_text(body: bytes, label: str | None) -> None:
    assert isinstance(decoded(body, label, is_html=True), str)
