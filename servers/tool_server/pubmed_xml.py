"""PubMed's XML, article by article, as papers in the shape that pubmed_search answers with.

Source: the `PubmedArticleSet` document type of NCBI E-utilities and of the baseline and update files. The parser
expands no entity, loads no document type and opens no connection.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from lxml import etree
from typing_extensions import TypedDict

from servers.tool_server.markup import Element, text_of

_MONTHS = {name: place for place, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), start=1)}
_FOR_LAY_READERS = "plain-language-summary"
_YEAR = re.compile(r"\b(1[5-9]\d\d|20\d\d)\b")
_HARDENED: dict[str, Any] = {"resolve_entities": False, "load_dtd": False, "no_network": True}


class Paper(TypedDict):
    """One paper of a pubmed_search result. `year` is a string, `publicationDate` ISO 8601 as far as it is known."""

    paperId: str
    url: str
    externalIds: dict[str, str]
    title: str
    authors: list[dict[str, str]]
    abstract: str
    year: str | None
    venue: str | None
    publicationDate: str | None
    citationCount: int | None


@dataclass(frozen=True)
class Article:
    """A paper and what its search needs beside it."""

    paper: Paper
    mesh: tuple[str, ...] = ()
    """MeSH headings, each also with each of its qualifiers: `Heart Failure`, `Heart Failure mortality`."""
    version: int = 0
    """Of a later one that stands under the same PMID; 0 when it is not said."""
    revised: str = ""
    """When the record was last revised, ISO 8601; empty when it is not said."""
    journals: tuple[str, ...] = ()
    """Abbreviations of the journal's title."""


@dataclass(frozen=True)
class Deleted:
    """PMIDs that an update file takes out, each with the version that it means; 0 for whichever there is."""

    citations: tuple[tuple[int, int], ...] = ()


def paper_address(pmid: str) -> str:
    """The page of a paper on PubMed."""
    return f"https://pubmed.ncbi.nlm.nih.gov/{pmid}/"


def read_articles(stream: IO[bytes]) -> Iterator[Article | Deleted]:
    """Articles, books and deletions of a `PubmedArticleSet`, in their order, in constant memory.

    Raises ValueError for what is not XML, or breaks off.
    """
    tags = ("PubmedArticle", "PubmedBookArticle", "DeleteCitation")
    try:
        for _, element in etree.iterparse(stream, events=("end",), tag=tags, **_HARDENED):
            _without_entities(element)
            if element.tag == "DeleteCitation":
                yield Deleted(tuple((int(text_of(pmid)), _version(pmid)) for pmid in element.findall("PMID")))
            elif article := read_article(element):
                yield article
            element.clear(keep_tail=True)
            while element.getprevious() is not None:
                del element.getparent()[0]
    except etree.XMLSyntaxError as error:
        raise ValueError(f"not PubMed's XML: {error}") from error


def parsed(body: bytes) -> Element:
    """A small XML document from outside. Raises ValueError when it is none."""
    try:
        root: Element = etree.fromstring(body, etree.XMLParser(**_HARDENED))
    except etree.XMLSyntaxError as error:
        raise ValueError(f"not XML: {error}") from error
    return _without_entities(root)


def read_article(element: Element) -> Article | None:
    """A `PubmedArticle` or `PubmedBookArticle`; None when it has no PMID of its own."""
    return _read_book(element) if element.tag == "PubmedBookArticle" else _read_journal_article(element)


def _read_journal_article(element: Element) -> Article | None:
    citation = element.find("MedlineCitation")
    pmid = citation.find("PMID") if citation is not None else None  # references and comments hold PMIDs too
    article = citation.find("Article") if citation is not None else None
    if citation is None or pmid is None or article is None or not text_of(pmid):
        return None
    date = article.find("Journal/JournalIssue/PubDate")
    year, published = _date(date)
    if year is None:
        year, published = _date(article.find("ArticleDate"))
    ids = _external_ids(text_of(pmid), element.find("PubmedData/ArticleIdList"))
    for location in article.findall("ELocationID"):
        if location.get("EIdType") == "doi" and location.get("ValidYN") != "N":
            ids.setdefault("DOI", text_of(location))
    types = {text_of(kind) for kind in article.findall("PublicationTypeList/PublicationType")}
    abstract = _abstract(article.find("Abstract")) or _other_abstract(citation)
    venue = text_of(article.find("Journal/Title")) or text_of(citation.find("MedlineJournalInfo/MedlineTA"))
    paper = _paper(
        ids, f"{_title(article)}{_marks(types, citation)}", _authors(article.find("AuthorList")), abstract, year, venue,
        published,
    )  # fmt: skip
    abbreviations = (
        text_of(article.find("Journal/ISOAbbreviation")),
        text_of(citation.find("MedlineJournalInfo/MedlineTA")),
    )
    journals = tuple(dict.fromkeys(filter(None, abbreviations)))
    return Article(paper, _mesh(citation), _version(pmid), _date(citation.find("DateRevised"))[1] or "", journals)


def _version(pmid: Element) -> int:
    given = pmid.get("Version", "")
    return int(given) if given.isdigit() else 0


def _marks(types: set[str], citation: Element) -> str:
    """What a reader must know of a paper, behind its title: retracted, doubted by its editors, or corrected."""
    notes = {note.get("RefType") for note in citation.findall("CommentsCorrectionsList/CommentsCorrections")}
    retracted = "Retracted Publication" in types or not notes.isdisjoint(
        ("RetractionIn", "PartialRetractionIn", "RetractedandRepublishedIn")
    )
    concern = "ExpressionOfConcernIn" in notes
    corrected = not notes.isdisjoint(("ErratumIn", "CorrectedandRepublishedIn"))
    marks = {"RETRACTED PUBLICATION": retracted, "EXPRESSION OF CONCERN": concern, "ERRATUM PUBLISHED": corrected}
    return "".join(f" [{mark}]" for mark, is_so in marks.items() if is_so)


def _read_book(element: Element) -> Article | None:
    document = element.find("BookDocument")
    pmid = document.find("PMID") if document is not None else None
    book = document.find("Book") if document is not None else None
    if document is None or pmid is None or book is None or not text_of(pmid):
        return None
    book_title = text_of(book.find("BookTitle"))
    chapter = text_of(document.find("ArticleTitle"))
    year, published = _date(document.find("ContributionDate"))
    if year is None:
        year, published = _date(book.find("PubDate"))
    lists = [*document.findall("AuthorList"), *book.findall("AuthorList")]
    lists.sort(key=lambda authors: authors.get("Type") == "editors")
    paper = _paper(
        _external_ids(text_of(pmid), document.find("ArticleIdList")), chapter or book_title,
        next(filter(None, map(_authors, lists)), []), _abstract(document.find("Abstract")), year,
        book_title if chapter else text_of(book.find("Publisher/PublisherName")), published,
    )  # fmt: skip
    return Article(paper, (), _version(pmid), _date(document.find("DateRevised"))[1] or "")


def _without_entities(element: Element) -> Element:
    """NLM declares no entity: a document that does wants to blow up, or to read our files."""
    declared = element.getroottree().docinfo.internalDTD
    if declared is not None and next(declared.iterentities(), None) is not None:
        raise ValueError("not PubMed's XML: it declares entities")
    return element


def _paper(
    ids: dict[str, str], title: str, authors: list[dict[str, str]], abstract: str, year: str | None, venue: str,
    published: str | None,
) -> Paper:  # fmt: skip
    return Paper(
        paperId=ids["PubMed"], url=paper_address(ids["PubMed"]), externalIds=ids, title=title, authors=authors,
        abstract=abstract, year=year, venue=venue or None, publicationDate=published, citationCount=None,
    )  # fmt: skip


def _title(article: Element) -> str:
    title = text_of(article.find("ArticleTitle"))
    vernacular = text_of(article.find("VernacularTitle"))
    return vernacular if vernacular and title.strip("[]. ").lower() in ("", "not available") else title


def _abstract(element: Element | None) -> str:
    """Sections under their labels, each on a line of its own, as PubMed prints them."""
    lines: list[str] = []
    for section in element.findall("AbstractText") if element is not None else []:
        text = text_of(section)
        label = (section.get("Label") or "").strip()
        if text:
            lines += [label, text] if label and label.upper() != "UNLABELLED" else [text]
    return "\n".join(lines)


def _other_abstract(citation: Element) -> str:
    """An abstract from elsewhere; not one in another language, or for lay readers."""
    others = citation.iterfind("OtherAbstract")
    fit = [one for one in others if one.get("Language", "eng") == "eng" and one.get("Type") != _FOR_LAY_READERS]
    return next(filter(None, map(_abstract, fit)), "")


def _authors(element: Element | None) -> list[dict[str, str]]:
    names = []
    for author in element.findall("Author") if element is not None else []:
        if author.get("ValidYN") == "N":
            continue
        last = text_of(author.find("LastName"))
        given = text_of(author.find("ForeName")) or text_of(author.find("Initials"))
        first = f"{given} {text_of(author.find('Suffix'))}".strip()
        names.append(", ".join(filter(None, [last, first])) or text_of(author.find("CollectiveName")))
    return [{"name": name} for name in names if name]


def _external_ids(pmid: str, element: Element | None) -> dict[str, str]:
    ids = {"PubMed": pmid}
    for article_id in element.findall("ArticleId") if element is not None else []:
        name = {"doi": "DOI", "pmc": "PMC"}.get(article_id.get("IdType", ""))
        if name and text_of(article_id):
            ids.setdefault(name, text_of(article_id))
    return ids


def _mesh(citation: Element) -> tuple[str, ...]:
    headings: list[str] = []
    for heading in citation.findall("MeshHeadingList/MeshHeading"):
        name = text_of(heading.find("DescriptorName"))
        headings += [name, *(f"{name} {text_of(qualifier)}" for qualifier in heading.findall("QualifierName"))]
    return tuple(filter(None, headings))


def _date(element: Element | None) -> tuple[str | None, str | None]:
    """Year and date: `2019`, `2019-11-21`; as much of the date as is known, `MedlineDate` (`2000 Nov-Dec`) included."""
    if element is None:
        return None, None
    loose = text_of(element.find("MedlineDate"))
    found = _YEAR.search(loose or text_of(element.find("Year")))
    if not found:
        return None, None
    year, month = found[1], _month(text_of(element.find("Month")) or loose[found.end() :].strip())
    day = text_of(element.find("Day"))
    if not month:
        return year, year
    return year, f"{year}-{month:02d}" + (f"-{int(day):02d}" if day.isdigit() and 0 < int(day) < 32 else "")


def _month(text: str) -> int:
    return int(text) if text.isdigit() and 0 < int(text) < 13 else _MONTHS.get(text[:3].lower(), 0)
