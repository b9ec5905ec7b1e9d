"""The text in a page's bytes, as browsers read it. Source: the WHATWG Encoding and HTML standards."""

import re

import webencodings
from charset_normalizer import from_bytes

_BEGIN = 1024
"""Bytes in which a page names its encoding."""
_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_NO_MARKUP = re.compile(
    rb"<!--.*?(?:-->|$)|<script\b.*?(?:</script|$)|<style\b.*?(?:</style|$)", re.DOTALL | re.IGNORECASE
)
_META = re.compile(
    rb"<meta\b(?:[^>\"']|\"[^\"]*\"|'[^']*')*?\bcharset\s*=\s*[\"']?\s*([^\s\"'/>;]+)"
    rb"|<meta\b(?=[^>]*\bhttp-equiv)[^>]*?\bcharset\s*=\s*[\"']?\s*([^\s\"'/>;]+)",
    re.IGNORECASE,
)
_DECLARED = re.compile(rb"\A\s*<\?xml\b[^>]*?\bencoding\s*=\s*[\"']([^\"']+)", re.IGNORECASE)
_CODECS = {"shift_jis": "cp932", "euc-kr": "cp949", "big5": "big5hkscs", "gbk": "gb18030", "windows-874": "cp874",
           "iso-8859-8-i": "iso-8859-8", "x-mac-cyrillic": "mac-cyrillic", "macintosh": "mac-roman",
           "x-user-defined": "windows-1252"}  # fmt: skip
"""Where Python's codec for a name of the standard is called otherwise, or knows fewer letters."""


_EAST_ASIAN = ("gb18030", "big5hkscs", "cp932", "euc_jp", "cp949")
"""What is guessed at where nothing is said; all else is read as browsers of the West read it."""


def decoded(body: bytes, label: str | None, *, is_html: bool = False) -> str:
    """By its byte order mark, else the header's `label`, else what the page says of itself; without all of these as
    UTF-8 where it is that, else by a guess.
    """
    for mark, encoding in _MARKS:
        if body.startswith(mark):
            return body[len(mark) :].decode(encoding, "replace")
    named = _codec(label) or (_said(body) if is_html else _codec_in(_DECLARED, body))
    if named:
        return body.decode(named, "replace")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        guess = from_bytes(body[:100_000], cp_isolation=list(_EAST_ASIAN)).best()
        return body.decode(guess.encoding if guess else "windows-1252", "replace")


def _said(body: bytes) -> str | None:
    """The encoding that a page names in its beginning; one in which it could not name it is UTF-8, by the standard."""
    begin = _NO_MARKUP.sub(b"", body[:_BEGIN])
    named = _codec_in(_META, begin) or _codec_in(_DECLARED, begin)
    return "utf-8" if named and named.startswith("utf-16") else named


def _codec_in(pattern: re.Pattern[bytes], body: bytes) -> str | None:
    match = pattern.search(body[:_BEGIN])
    return _codec((match[1] or match[match.re.groups]).decode("ascii", "replace")) if match else None


def _codec(label: str | None) -> str | None:
    """Python's codec for a label; None for one that the standard does not know."""
    found = webencodings.lookup(label) if label else None
    return _CODECS.get(found.name, found.name) if found and found.name != "replacement" else None
