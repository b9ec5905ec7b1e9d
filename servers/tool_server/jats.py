"""A full text of PubMed Central as Markdown. Source: the JATS document type, as efetch answers with it for `db=pmc`."""

import re

from servers.tool_server.blocks import block_of, blocks_of, heading
from servers.tool_server.markup import Element, text_of

_LEFT_OUT = ("xref", "fn", "contrib-group", "object-id")
_PRINT_FIRST = ("ppub", "print", "collection", "epub-ppub", "epub", "electronic", "pub", "")
"""Kinds of a date of publication, the one by which a paper is cited before the others."""
_YEAR = re.compile(r"\b(1[5-9]\d\d|20\d\d)\b")
_NO_AUTHOR = re.compile(r"editor|reviewer|translator|illustrator", re.IGNORECASE)
_MARKS = {
    "RETRACTED PUBLICATION": re.compile(r"retraction-forward|retracted-by"),
    "EXPRESSION OF CONCERN": re.compile(r"concern.*forward|concern-by"),
    "ERRATUM PUBLISHED": re.compile(r"(?:correction|corrigendum|erratum)-forward|corrected-by"),
}
"""What a reader must know of a paper, by the kinds of articles that it names as related."""
_NO_BODY = "The full text is not open: read it at the publisher's."


def article_page(root: Element) -> str | None:
    """Title, authors, abstracts and sections, with their tables and captions; None when there is no article. Without
    open full text, what there is.
    """
    article = root.find(".//article")
    if article is None:
        return None
    for picture in list(article.iter("inline-graphic", "private-char")):
        words, tail = text_of(picture.find(".//alt-text")), picture.tail
        if words:  # a sign within a text
            picture.clear()
            picture.tag, picture.text, picture.tail = "named-content", words, tail
    parts: list[str] = []
    meta = article.find("front/article-meta")
    if meta is not None:
        venue = text_of(article.find("front//journal-title"))
        parts += [", ".join(_authors(meta)), ", ".join(filter(None, [f"*{venue}*" if venue else "", _year(meta)]))]
        for abstract in meta.iterfind("abstract"):
            kind = abstract.get("abstract-type", "").replace("-", " ")
            parts += [f"## {heading(abstract) or 'Abstract' + (f' ({kind})' if kind else '')}", *blocks_of(abstract, 3)]
    body = article.find("body")
    text = blocks_of(body, 2) if body is not None else []
    parts += ["## Full text" if text and not text[0].startswith("#") else "", *(text or [_NO_BODY])]
    for more in (article.find("floats-group"), article.find("back")):
        parts += block_of(more, 2) if more is not None else []
    return "\n\n".join(filter(None, [f"# {_title(meta)}", *parts])) + "\n"


def _title(meta: Element | None) -> str:
    titles = meta.iterfind("title-group/*") if meta is not None else ()
    title = ": ".join(text_of(one, _LEFT_OUT) for one in titles if one.tag in ("article-title", "subtitle"))
    others = meta.iterfind("related-article") if meta is not None else ()
    related = [other.get("related-article-type", "") for other in others]
    marks = (f" [{mark}]" for mark, kind in _MARKS.items() if any(map(kind.search, related)))
    return (title or "No title") + "".join(marks)


def _authors(meta: Element) -> list[str]:
    names = []
    for contributor in meta.iterfind("contrib-group/contrib"):
        if not _NO_AUTHOR.search(contributor.get("contrib-type", "")):
            name = next(contributor.iter("name", "string-name", "collab", "anonymous"), None)
            names.append(_author(name) if name is not None else "")
    return list(filter(None, names))


def _author(name: Element) -> str:
    if name.tag == "name":
        western, eastern = ("given-names", "surname", "suffix"), ("surname", "given-names")
        order = eastern if name.get("name-style") == "eastern" else western
        return " ".join(filter(None, (text_of(name.find(part)) for part in order)))
    return text_of(name, _LEFT_OUT) or ("Anonymous" if name.tag == "anonymous" else "")


def _year(meta: Element) -> str:
    found: dict[str, str] = {}
    for date in meta.iterfind("pub-date"):
        kinds = (date.get("pub-type") or date.get("publication-format") or "", date.get("date-type", ""))
        year = _YEAR.search(text_of(date.find("year")) or date.get("iso-8601-date") or text_of(date))
        if year:
            found.setdefault(next((kind for kind in kinds if kind in _PRINT_FIRST), "other"), year[1])
    return next((found[kind] for kind in (*_PRINT_FIRST, "other") if kind in found), "")
