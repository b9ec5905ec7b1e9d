"""PubMed's numbers stay what they are."""

import pytest
from lxml import etree

from servers.tool_server.jats import article_page
from servers.tool_server.markup import text_of
from servers.tool_server.pubmed_xml import parsed, read_article

MATHML = 'xmlns:mml="http://www.w3.org/1998/Math/MathML"'


def math(inner: str) -> str:
    tagged = inner.replace("<", "<mml:").replace("<mml:/", "</mml:")
    return f"<mml:math {MATHML}>{tagged}</mml:math>"


WRITTEN = [
    ("10<sup>5</sup> cells", "10^5 cells"), ("P = 5 × 10<sup>-8</sup>", "P = 5 × 10^-8"), ("10<sup>−8</sup>", "10^-8"),
    ("10<i><sup>6</sup></i>", "10^6"), ("<b>10</b><sup>9</sup>/L", "10^9/L"), ("2<sup>10</sup>", "2^10"), ("10<sup>–5</sup>", "10^-5"),
    ("1.73 m<sup>2</sup>", "1.73 m^2"), ("kg/m<sup>2</sup>", "kg/m^2"), ("min<sup>-1</sup>", "min^-1"), ("R<sup>2</sup>", "R^2"), ("χ<sup>2</sup>", "χ^2"),
    ("OR<sub>Q4</sub>=2.78", "ORQ4=2.78"), ("CO<sub>2</sub>", "CO2"), ("HbA<sub>1c</sub>", "HbA1c"), ("log<sub>10</sub>", "log10"),
    ("Ca<sup>2+</sup>", "Ca2+"), ("CD4<sup>+</sup>", "CD4+"), ("<sup>18</sup>F-FDG", "18F-FDG"), ("24<sup>a</sup> vs 31<sup>b</sup>", "24a vs 31b"),
    ("2<sup>nd</sup>", "2nd"), ("Reference<sup>12</sup>", "Reference12"), ("<sup>3</sup>/<sub>4</sub>", "3/4"), ("1<sup>1</sup>/<sub>2</sub> years", "1 1/2 years"),
    ("28<sup>0/7</sup> weeks", "28 0/7 weeks"), ("2<sup>1/2</sup>", "2 1/2"), ("HR 0.75.<sup>12</sup> Then", "HR 0.75.[12] Then"),
    ("in 65%<sup>12</sup>", "in 65%[12]"), ("of 1,200,<sup>3,4</sup>", "of 1,200,[3,4]"),
    ("First<br/>Second", "First Second"), (math("<msup><mn>10</mn><mn>6</mn></msup>"), "10^6"), (math("<mfrac><mn>3</mn><mn>4</mn></mfrac>"), "3/4"),
    ("2" + math("<mfrac><mn>1</mn><mn>2</mn></mfrac>"), "2 1/2"), (math("<msup><mi>e</mi><mrow><mo>-</mo><mn>2</mn></mrow></msup>"), "e^-2"),
    (math("<mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><mn>2</mn></mfrac>"), "(a+b)/2"), (math("<msub><mi>CO</mi><mn>2</mn></msub>"), "CO2"),
    ("175 × (Scr)<sup>-1.154</sup>", "175 × (Scr)^-1.154"), ("0.993<sup>Age</sup>", "0.993^Age"), ("2<sup>−ΔΔCt</sup>", "2^-ΔΔCt"),
    ("P &lt; .001<sup>5</sup>", "P < .001[5]"), ("(HR, 0.8; 0.6-0.9)<sup>12</sup>", "(HR, 0.8; 0.6-0.9)[12]"), ("12.3<sup>ab</sup>", "12.3ab"),
    ("45<sup>ns</sup>", "45ns"), ("10<sup>a</sup>", "10a"), ("10<sup>1/2</sup>", "10^1/2"), ("1.73m<sup>2</sup>", "1.73m^2"), ("SARS-CoV-2<sup>5</sup>", "SARS-CoV-2[5]"),
    ("in 2019<sup>2</sup>", "in 2019[2]"), ("PaCO<sub>2</sub><sup>12</sup>", "PaCO2[12]"), ("e<sup>2.5</sup>", "e^2.5"), ("(n = 65<xref>5</xref>)", "(n = 65[5])"),
    (math("<msub><mi>x</mi><mrow><mi>i</mi><mo>+</mo><mn>1</mn></mrow></msub>"), "x_(i+1)"), ("[1, <xref>2</xref>]", "[1, 2]"), ("(1–<xref>3</xref>)", "(1–3)"),
    ("10<sup>5–6</sup>", "10^5-6"), ("10<sup>n</sup>", "10^n"), ("(1 + 0.05)<sup>5</sup>", "(1 + 0.05)^5"), ("mmol<sup>-1</sup>", "mmol^-1"),
    ("10<sup>6 </sup>5 mg", "10^6 5 mg"), ("fell to 65<sup>12</sup>", "fell to 65[12]"), ("65<sup>5,6</sup>", "65[5,6]"), ("p53<sup>-/-</sup>", "p53-/-"),
    ("log<sub>2</sub>2.5", "log2 2.5"), (math("<msub><mi>log</mi><mn>10</mn></msub><mn>5</mn>"), "log10 5"), ("CD4<sup>−</sup>", "CD4−"),
    (math("<mo>(</mo><mi>a</mi><msup><mo>)</mo><mn>2</mn></msup>"), "(a)^2"), (math("<msqrt><mn>2</mn></msqrt>"), "sqrt(2)"), (math("<msubsup><mi>x</mi><mn>1</mn><mn>2</mn></msubsup>"), "x1^2"),
]  # fmt: skip


@pytest.mark.parametrize(("written", "read"), WRITTEN)
def test_exponents_fractions_and_breaks_are_kept_and_all_other_markup_is_dropped(written: str, read: str) -> None:
    assert text_of(etree.fromstring(f"<AbstractText>{written}</AbstractText>")) == read
    page = article_page(parsed(f"<r><article><front/><body><p>{written}</p></body></article></r>".encode()))
    assert page is not None and read in page


@pytest.mark.parametrize(("note", "marks"), [
    ("RetractionIn", " [RETRACTED PUBLICATION]"), ("PartialRetractionIn", " [RETRACTED PUBLICATION]"),
    ("ExpressionOfConcernIn", " [EXPRESSION OF CONCERN]"), ("RetractionOf", ""), ("UpdateIn", ""), ("ErratumIn", " [ERRATUM PUBLISHED]"),
    ("ErratumFor", ""),
])  # fmt: skip
def test_what_a_reader_must_know_of_a_paper_stands_behind_its_title(note: str, marks: str) -> None:
    source = (
        "<PubmedArticle><MedlineCitation><PMID>1</PMID><Article><ArticleTitle>T.</ArticleTitle><Abstract><AbstractText>Good."
        f"</AbstractText></Abstract></Article><CommentsCorrectionsList><CommentsCorrections RefType='{note}'/>"
        "</CommentsCorrectionsList></MedlineCitation></PubmedArticle>"
    )
    article = read_article(parsed(source.encode()))
    assert article is not None
    assert (article.paper["title"], article.paper["abstract"]) == (f"T.{marks}", "Good.")
