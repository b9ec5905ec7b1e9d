"""PubMed's XML, oddity by oddity, to the exact paper."""

import io
from typing import Any

import pytest

from servers.tool_server.pubmed_xml import Article, Deleted, parsed, read_article, read_articles
from tests.support.papers import AUTHOR, IDS, USUAL, author, xml


def abstract(inner: str) -> str:
    return f"<Abstract>{inner}</Abstract>"


BOOK = """<PubmedBookArticle><BookDocument><PMID Version="1">20301295</PMID><ArticleIdList><ArticleId IdType="bookaccession">
NBK1116</ArticleId></ArticleIdList><Book><Publisher><PublisherName>University of Washington, Seattle</PublisherName>
</Publisher><BookTitle book="gene">GeneReviews<sup>®</sup></BookTitle><PubDate><Year>1993</Year></PubDate>
<AuthorList Type="editors"><Author><LastName>Adam</LastName><ForeName>Margaret P</ForeName></Author></AuthorList></Book>
{chapter}</BookDocument></PubmedBookArticle>"""
CHAPTER = """<ArticleTitle book="gene" part="alzheimer">Alzheimer Disease Overview</ArticleTitle><AuthorList Type="authors">
<Author><LastName>Bird</LastName><ForeName>Thomas D</ForeName></Author></AuthorList><Abstract><AbstractText>An overview.
</AbstractText></Abstract><ContributionDate><Year>1998</Year><Month>10</Month><Day>23</Day></ContributionDate>"""

ODDITIES: list[tuple[str, str, dict[str, Any]]] = [
    ("a usual article", xml(), {}),
    ("labelled sections", xml(abstract=abstract(
        "<AbstractText Label='BACKGROUND' NlmCategory='BACKGROUND'>Why.</AbstractText><AbstractText Label='RESULTS'>What."
        "</AbstractText>")), {"abstract": "BACKGROUND\nWhy.\nRESULTS\nWhat."}),
    ("an unlabelled section among them", xml(abstract=abstract(
        "<AbstractText Label='UNLABELLED'>First.</AbstractText><AbstractText Label='AIM'>Then.</AbstractText>")),
     {"abstract": "First.\nAIM\nThen."}),
    ("a section without a label", xml(abstract=abstract("<AbstractText>One.</AbstractText><AbstractText>Two.</AbstractText>")),
     {"abstract": "One.\nTwo."}),
    ("an empty section", xml(abstract=abstract("<AbstractText Label='AIM'/><AbstractText>Two.</AbstractText>")), {"abstract": "Two."}),
    ("a copyright notice", xml(abstract=abstract(
        "<AbstractText>One.</AbstractText><CopyrightInformation>© 2019</CopyrightInformation>")), {"abstract": "One."}),
    ("markup within words", xml(abstract=abstract("<AbstractText>OR<sub>Q4</sub>=2.78, 10<sup>-3</sup>, <i>TP53</i>.</AbstractText>")),
     {"abstract": "ORQ4=2.78, 10^-3, TP53."}),
    ("text behind markup in the title", xml(title="<ArticleTitle>The <i>TERT</i> gene and H<sub>2</sub>O.</ArticleTitle>"),
     {"title": "The TERT gene and H2O."}),
    ("a formula", xml(abstract=abstract(
        "<AbstractText>At <mml:math xmlns:mml='http://www.w3.org/1998/Math/MathML'><mml:mi>x</mml:mi><mml:mn>2</mml:mn>"
        "</mml:math> it fell.</AbstractText>")), {"abstract": "At x2 it fell."}),
    ("line breaks and indents", xml(abstract=abstract("<AbstractText>One\n      two.\u2003Three.</AbstractText>")),
     {"abstract": "One two. Three."}),
    ("characters that XML escapes", xml(abstract=abstract("<AbstractText>P &lt; 0.05 &amp; n &gt; 3</AbstractText>")),
     {"abstract": "P < 0.05 & n > 3"}),
    ("no abstract", xml(abstract=""), {"abstract": ""}),
    ("an abstract elsewhere only", xml(abstract="", in_citation=
        "<OtherAbstract Type='Publisher' Language='fre'><AbstractText>Oui.</AbstractText></OtherAbstract>"
        "<OtherAbstract Type='plain-language-summary' Language='eng'><AbstractText>So so.</AbstractText></OtherAbstract>"
        "<OtherAbstract Type='Publisher' Language='eng'><AbstractText>Yes.</AbstractText></OtherAbstract>"),
     {"abstract": "Yes."}),
    ("a foreign abstract only", xml(abstract="", in_citation=
        "<OtherAbstract Type='Publisher' Language='fre'><AbstractText>Oui.</AbstractText></OtherAbstract>"), {"abstract": ""}),
    ("a collective author", xml(authors=author("<CollectiveName>DAPA-HF <i>Committees</i></CollectiveName>")),
     {"authors": [{"name": "DAPA-HF Committees"}]}),
    ("a person and a group", xml(authors=f"<AuthorList>{AUTHOR}<Author><CollectiveName>REDUCE-IT</CollectiveName></Author></AuthorList>"),
     {"authors": [{"name": "McMurray, John J V"}, {"name": "REDUCE-IT"}]}),
    ("an author without a first name", xml(authors=author("<LastName>Plato</LastName>")), {"authors": [{"name": "Plato"}]}),
    ("an author with initials only", xml(authors=author("<LastName>Strekas</LastName><Initials>TC</Initials>")),
     {"authors": [{"name": "Strekas, TC"}]}),
    ("an author with a suffix", xml(authors=author(
        "<LastName>King</LastName><ForeName>Martin</ForeName><Initials>M</Initials><Suffix>Jr</Suffix>")),
     {"authors": [{"name": "King, Martin Jr"}]}),
    ("an author who was a mistake", xml(authors=author("<LastName>Wrong</LastName>", valid="N")), {"authors": []}),
    ("affiliations and identifiers of an author", xml(authors=author(
        "<LastName>Ng</LastName><ForeName>Kimmie</ForeName><Identifier Source='ORCID'>0000</Identifier><AffiliationInfo>"
        "<Affiliation>Boston</Affiliation></AffiliationInfo>")), {"authors": [{"name": "Ng, Kimmie"}]}),
    ("no authors", xml(authors=""), {"authors": []}),
    ("a year only", xml(date="<Year>2019</Year>"), {"publicationDate": "2019"}),
    ("a month as a number", xml(date="<Year>2019</Year><Month>03</Month>"), {"publicationDate": "2019-03"}),
    ("a season", xml(date="<Year>2019</Year><Season>Spring</Season>"), {"publicationDate": "2019"}),
    ("a loose date over two months", xml(date="<MedlineDate>2000 Nov-Dec</MedlineDate>"), {"year": "2000", "publicationDate": "2000-11"}),
    ("a loose date over two years", xml(date="<MedlineDate>1998 Dec-1999 Jan</MedlineDate>"), {"year": "1998", "publicationDate": "1998-12"}),
    ("a loose date of years", xml(date="<MedlineDate>1975-1976</MedlineDate>"), {"year": "1975", "publicationDate": "1975"}),
    ("a season before the year", xml(date="<MedlineDate>Fall 2017</MedlineDate>"), {"year": "2017", "publicationDate": "2017"}),
    ("no date but the electronic one", xml(date="", in_article=
        "<ArticleDate DateType='Electronic'><Year>2018</Year><Month>07</Month><Day>02</Day></ArticleDate>"),
     {"year": "2018", "publicationDate": "2018-07-02"}),
    ("no date at all", xml(date=""), {"year": None, "publicationDate": None}),
    ("a title in its own language only", xml(title=
        "<ArticleTitle>[Not Available].</ArticleTitle><VernacularTitle>Ein Versuch.</VernacularTitle>"), {"title": "Ein Versuch."}),
    ("a translated title", xml(title="<ArticleTitle>[A trial].</ArticleTitle><VernacularTitle>Ein Versuch.</VernacularTitle>"),
     {"title": "[A trial]."}),
    ("no journal title", xml(journal=""), {"venue": "N Engl J Med"}),
    ("a number in PMC", xml(ids=IDS + "<ArticleId IdType='pmc'>PMC5442267</ArticleId>"),
     {"externalIds": {"PubMed": "1", "DOI": "10.1056/x", "PMC": "PMC5442267"}}),
    ("a DOI in the article only", xml(ids="", in_article="<ELocationID EIdType='doi' ValidYN='Y'>10.1056/y</ELocationID>"),
     {"externalIds": {"PubMed": "1", "DOI": "10.1056/y"}}),
    ("a DOI that was withdrawn", xml(ids="", in_article="<ELocationID EIdType='doi' ValidYN='N'>10.1056/y</ELocationID>"),
     {"externalIds": {"PubMed": "1"}}),
    ("numbers of references and comments", xml(
        in_citation="<CommentsCorrectionsList><CommentsCorrections RefType='CommentIn'><PMID Version='1'>99</PMID></CommentsCorrections></CommentsCorrectionsList>",
        in_data="<ReferenceList><Reference><ArticleIdList><ArticleId IdType='pubmed'>98</ArticleId><ArticleId IdType='doi'>10.1/z</ArticleId>"
        "</ArticleIdList></Reference></ReferenceList>"), {}),
    ("a retraction", xml(in_article=
        "<PublicationTypeList><PublicationType UI='D016441'>Retracted Publication</PublicationType></PublicationTypeList>"),
     {"title": "A trial. [RETRACTED PUBLICATION]"}),
    ("a book", BOOK.format(chapter=""), {
        "paperId": "20301295", "url": "https://pubmed.ncbi.nlm.nih.gov/20301295/", "externalIds": {"PubMed": "20301295"},
        "title": "GeneReviews®", "authors": [{"name": "Adam, Margaret P"}], "abstract": "", "year": "1993",
        "venue": "University of Washington, Seattle", "publicationDate": "1993"}),
    ("a chapter of a book", BOOK.format(chapter=CHAPTER), {
        "paperId": "20301295", "url": "https://pubmed.ncbi.nlm.nih.gov/20301295/", "externalIds": {"PubMed": "20301295"},
        "title": "Alzheimer Disease Overview", "authors": [{"name": "Bird, Thomas D"}], "abstract": "An overview.",
        "year": "1998", "venue": "GeneReviews®", "publicationDate": "1998-10-23"}),
]  # fmt: skip


@pytest.mark.parametrize(("source", "odd"), [case[1:] for case in ODDITIES], ids=[case[0] for case in ODDITIES])
def test_an_article_becomes_exactly_this_paper(source: str, odd: dict[str, Any]) -> None:
    article = read_article(parsed(source.encode()))
    assert article is not None
    assert article.paper == {**USUAL, **odd}
    assert list(article.paper) == list(USUAL)


def test_headings_are_read_alone_and_with_each_qualifier() -> None:
    mesh = (
        "<MeshHeadingList><MeshHeading><DescriptorName UI='D006333'>Heart Failure</DescriptorName><QualifierName>mortality"
        "</QualifierName><QualifierName>drug therapy</QualifierName></MeshHeading><MeshHeading><DescriptorName>Humans"
        "</DescriptorName></MeshHeading></MeshHeadingList>"
    )
    article = read_article(parsed(xml(in_citation=mesh).encode()))
    assert article is not None
    assert article.mesh == ("Heart Failure", "Heart Failure mortality", "Heart Failure drug therapy", "Humans")


def test_an_article_without_a_number_of_its_own_is_none() -> None:
    assert read_article(parsed(xml(pmid="").encode())) is None


def test_a_file_is_read_as_a_stream_of_articles_and_deletions_in_its_order() -> None:
    revised = xml(pmid='<PMID Version="2">7</PMID>', ids="")
    file = (
        '<?xml version="1.0" encoding="utf-8"?><!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle, 1st January '
        '2026//EN" "https://dtd.nlm.nih.gov/ncbi/pubmed/out/pubmed_260101.dtd">'
        f"<PubmedArticleSet>{xml()}{revised}"
        "<DeleteCitation><PMID Version='1'>5</PMID><PMID Version='1'>6</PMID></DeleteCitation></PubmedArticleSet>"
    )
    first, second, deleted = read_articles(io.BytesIO(file.encode()))
    assert isinstance(first, Article)
    assert isinstance(second, Article)
    assert (first.paper["paperId"], second.paper["paperId"], second.version) == ("1", "7", 2)
    assert deleted == Deleted(((5, 1), (6, 1)))


@pytest.mark.parametrize("entity", ['"boom"', 'SYSTEM "file:///etc/passwd"'])
def test_a_document_that_declares_entities_is_refused(entity: str) -> None:
    hostile = f"<!DOCTYPE x [<!ENTITY a {entity}>]>" + xml(title="<ArticleTitle>&a;</ArticleTitle>")
    with pytest.raises(ValueError, match="it declares entities"):
        parsed(hostile.encode())
    with pytest.raises(ValueError, match="it declares entities"):
        list(read_articles(io.BytesIO(hostile.encode())))


@pytest.mark.parametrize("broken", [b"", b"<html>", b"<PubmedArticleSet><PubmedArticle>", b"{}"])
def test_what_is_no_xml_is_a_value_error(broken: bytes) -> None:
    with pytest.raises(ValueError, match="not"):
        parsed(broken)
    with pytest.raises(ValueError, match="not PubMed's XML"):
        list(read_articles(io.BytesIO(broken)))
