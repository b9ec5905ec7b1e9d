"""A full text of PubMed Central as Markdown. Source: the JATS document type, as efetch answers with it for `db=pmc`."""

from servers.tool_server.markup import Element, text_of

_LEFT_OUT = ("xref", "fig", "table-wrap", "disp-formula", "supplementary-material", "fn")


def article_page(root: Element) -> str | None:
    """Title, authors, abstract and sections; None when there is no article. Without open full text, what there is."""
    article = root.find(".//article")
    if article is None:
        return None
    meta = article.find("front/article-meta")
    title = _text(meta.find("title-group/article-title")) if meta is not None else ""
    names = article.iterfind("front/article-meta/contrib-group/contrib[@contrib-type='author']/name")
    authors = ", ".join(" ".join(filter(None, [_text(n.find("given-names")), _text(n.find("surname"))])) for n in names)
    venue, year = _text(article.find("front//journal-title")), _text(article.find("front/article-meta/pub-date/year"))
    parts = [f"# {title or 'No title'}", authors, ", ".join(filter(None, [f"*{venue}*" if venue else "", year]))]
    for abstract in article.iterfind("front/article-meta/abstract"):
        parts += ["## Abstract", *_section(abstract, 3)]
    body = article.find("body")
    parts += _section(body, 2) if body is not None else ["The full text is not open: read it at the publisher's."]
    return "\n\n".join(filter(None, parts)) + "\n"


def _section(element: Element, level: int) -> list[str]:
    parts: list[str] = []
    for child in element:
        if child.tag == "title":
            parts.append(f"{'#' * min(level - 1, 6)} {_text(child)}" if level > 2 and element.tag == "sec" else "")
        elif child.tag == "sec":
            parts += _section(child, level + 1)
        elif child.tag == "p":
            parts.append(_text(child))
        elif child.tag == "list":
            parts.append("\n".join(f"- {_text(item)}" for item in child.iterfind("list-item")))
    return parts


def _text(element: Element | None) -> str:
    return text_of(element, _LEFT_OUT)
