"""PubMed's XML, made."""

from typing import Any

AUTHOR = (
    "<Author ValidYN='Y'><LastName>McMurray</LastName><ForeName>John J V</ForeName><Initials>JJV</Initials></Author>"
)


JOURNAL = "<Title>The New England journal of medicine</Title>"


DATE = "<Year>2019</Year><Month>Nov</Month><Day>21</Day>"


ABSTRACT = "<Abstract><AbstractText>It worked.</AbstractText></Abstract>"


IDS = "<ArticleId IdType='pubmed'>1</ArticleId><ArticleId IdType='doi'>10.1056/x</ArticleId>"


USUAL: dict[str, Any] = {
    "paperId": "1", "url": "https://pubmed.ncbi.nlm.nih.gov/1/", "externalIds": {"PubMed": "1", "DOI": "10.1056/x"},
    "title": "A trial.", "authors": [{"name": "McMurray, John J V"}], "abstract": "It worked.", "year": "2019",
    "venue": "The New England journal of medicine", "publicationDate": "2019-11-21", "citationCount": None,
}  # fmt: skip


def xml(
    title: str = "<ArticleTitle>A trial.</ArticleTitle>", abstract: str = ABSTRACT,
    authors: str = f"<AuthorList>{AUTHOR}</AuthorList>", journal: str = JOURNAL, date: str = DATE, ids: str = IDS,
    in_article: str = "", in_citation: str = "", in_data: str = "", pmid: str = "<PMID Version='1'>1</PMID>",
) -> str:  # fmt: skip
    """An article as NLM writes it."""
    return (
        f"<PubmedArticle><MedlineCitation Status='MEDLINE' Owner='NLM'>{pmid}<DateRevised><Year>2021</Year><Month>01"
        f"</Month><Day>05</Day></DateRevised><Article PubModel='Print'><Journal><ISSN IssnType='Electronic'>1533-4406"
        f"</ISSN><JournalIssue CitedMedium='Internet'><Volume>381</Volume><PubDate>{date}</PubDate></JournalIssue>"
        f"{journal}<ISOAbbreviation>N Engl J Med</ISOAbbreviation></Journal>{title}<Pagination><MedlinePgn>1-9"
        f"</MedlinePgn></Pagination>{abstract}{authors}<Language>eng</Language>{in_article}</Article>"
        f"<MedlineJournalInfo><MedlineTA>N Engl J Med</MedlineTA></MedlineJournalInfo>{in_citation}</MedlineCitation>"
        f"<PubmedData><PublicationStatus>ppublish</PublicationStatus><ArticleIdList>{ids}</ArticleIdList>{in_data}"
        f"</PubmedData></PubmedArticle>"
    )


def author(inner: str, valid: str = "Y") -> str:
    return f"<AuthorList><Author ValidYN='{valid}'>{inner}</Author></AuthorList>"
