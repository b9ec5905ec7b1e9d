"""What the tools tell, held against what others say of the same sources.

    python -m benchmarks.truth --pubmed pubmed*.xml --pages article-extraction-benchmark --tables icdar2013-dataset

- `--pubmed`: PubMed's XML, field by field, beside NCBI's own `xtract` (Debian: ncbi-entrez-direct). Each difference is
  shown.
- `--pages`: pages with their texts as people marked them: a folder with `ground-truth.json` and `html/*.html.gz`, as
  scrapinghub's article-extraction-benchmark has it. Runs of four words that are found, and that are not in the text as
  marked; the same for readability-lxml where it is installed.
- `--tables`: PDFs beside the structure of their tables, `*-str.xml`, as the ICDAR 2013 table competition gave them. Of
  two values side by side in a row, whether a line of the text still has them apart (gaps are counted, not columns).
"""

import argparse
import gzip
import importlib.util
import io
import json
import re
import statistics
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path

from lxml import etree, html

from backends.errors import ToolFailed
from servers.tool_server.fetch import Fetched
from servers.tool_server.pubmed_xml import Article, read_articles
from servers.tool_server.webpage import as_markdown

Field = tuple[tuple[str, ...], Callable[[Article], str]]
FIELDS: dict[str, Field] = {
    "pmid": (("-element", "MedlineCitation/PMID"), lambda article: article.paper["paperId"]),
    "title": (("-element", "ArticleTitle"), lambda article: article.paper["title"]),
    "journal": (("-element", "Journal/Title"), lambda article: article.paper["venue"] or ""),
    "year": (("-element", "PubDate/Year"), lambda article: article.paper["year"] or ""),
    "surnames": (
        ("-element", "Author/LastName"),
        lambda article: "|".join(author["name"].split(",")[0] for author in article.paper["authors"]),
    ),
    "doi": (
        (*"-block PubmedData/ArticleIdList -subset ArticleId -if @IdType -equals doi -element ArticleId".split(),),
        lambda article: article.paper["externalIds"].get("DOI", ""),
    ),
    "abstract": (
        ("-element", "AbstractText"),
        lambda article: "".join(line for line in article.paper["abstract"].split("\n") if not line.isupper()),
    ),
}


def main() -> None:
    """Ask each oracle that was given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pubmed", nargs="*", type=Path, default=[])
    parser.add_argument("--pages", type=Path)
    parser.add_argument("--tables", type=Path)
    given = parser.parse_args()
    for file in given.pubmed:
        fields(file)
    if given.pages:
        pages(given.pages)
    if given.tables:
        tables(given.tables)


def fields(file: Path) -> None:
    """Fields as `xtract` reads them, and as we do."""
    with file.open("rb") as stream:
        ours = [entry for entry in read_articles(stream) if isinstance(entry, Article)]
    alike = different = 0
    for name, (asked, read) in FIELDS.items():
        command = ["xtract", "-mixed", "-input", str(file), "-pattern", "PubmedArticle", "-sep", "|", "-tab", "\\t"]
        command += ["-element", "MedlineCitation/PMID", *asked]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        theirs = dict(line.partition("\t")[::2] for line in told.split("\n"))
        for article in ours:
            its, mine = theirs.get(article.paper["paperId"], ""), read(article)
            if plain(its) == plain(mine):
                alike += 1
            else:
                different += 1
                print(f"{file.name}, {name} of {article.paper['paperId']}:\n  xtract {its}\n  here   {mine}")
    print(f"{file.name}: {len(ours)} articles, {alike} fields alike, {different} different")


def plain(text: str) -> str:
    """Without white space and markup, which the two write differently by choice (`10^5` and `10<sup>5</sup>`)."""
    return "".join(re.findall(r"[^\s|^]", re.sub(r"</?(?:[bisu]|su[bp]|mml:\w+)\b[^>]*>", "", text).lower()))


def pages(folder: Path) -> None:
    """Recall and precision of runs of four words, on the mean of all pages."""
    gold = json.loads((folder / "ground-truth.json").read_text(encoding="utf-8"))
    bodies = {name: gzip.decompress((folder / "html" / f"{name}.html.gz").read_bytes()) for name in gold}
    with ProcessPoolExecutor(2) as processes:
        ours = dict(zip(bodies, processes.map(page_text, bodies.values()), strict=True))
    report("here", {name: (gold[name]["articleBody"], text) for name, text in ours.items()})
    if importlib.util.find_spec("readability") is None:
        print("readability-lxml is not installed: not compared")
        return
    from readability import Document  # type: ignore[import-not-found]

    theirs = {
        name: html.fromstring(Document(body.decode("utf-8", "replace")).summary()).text_content()
        for name, body in bodies.items()
    }
    report("readability", {name: (gold[name]["articleBody"], text) for name, text in theirs.items()})


def page_text(body: bytes) -> str:
    """A page as the model reads it."""
    try:
        return as_markdown(Fetched("http://page.example/", "text/html", None, body))
    except ToolFailed:
        return ""


def report(name: str, pairs: dict[str, tuple[str, str]]) -> None:
    """The means, and the five pages of which most is lost."""
    found: dict[str, tuple[float, float]] = {}
    for page, (gold, text) in pairs.items():
        wanted, given = fours(gold), fours(text)
        both = (wanted & given).total()
        found[page] = (both / (wanted.total() or 1), both / (given.total() or 1))
    recall, precision = (statistics.mean(values) for values in zip(*found.values(), strict=True))
    print(f"{name}: {len(found)} pages, recall {recall:.3f}, precision {precision:.3f}")
    print(
        "  least recalled:",
        ", ".join(f"{page[:8]} {found[page][0]:.2f}" for page in sorted(found, key=found.__getitem__)[:5]),
    )


def fours(text: str) -> Counter[tuple[str, ...]]:
    """Runs of four words, with how often they come."""
    words = re.findall(r"\w+", text.lower())
    return Counter(zip(*(words[start:] for start in range(4)), strict=False))


def tables(folder: Path) -> None:
    """Neighbours in a row that stand apart in one line, by two spaces at least."""
    from pypdf import PdfReader

    neighbours = before = after = 0
    for structure in sorted(folder.rglob("*-str.xml")):
        file = structure.with_name(structure.name.replace("-str.xml", ".pdf"))
        if not file.exists():  # one file may hold what two structures tell
            continue
        body = file.read_bytes()
        written = "\n".join(page.extract_text() for page in PdfReader(io.BytesIO(body)).pages).splitlines()
        read = as_markdown(Fetched("http://page.example/", "application/pdf", None, body)).splitlines()
        pairs = list(side_by_side(etree.parse(structure)))
        counts = [sum(apart(lines, *pair) for pair in pairs) for lines in (written, read)]
        neighbours, before, after = neighbours + len(pairs), before + counts[0], after + counts[1]
    print(f"{neighbours:,} pairs of neighbours: apart in {before:,} as pypdf writes them, in {after:,} here")


def side_by_side(structure: etree._ElementTree) -> Iterator[tuple[str, str]]:
    """Short values with the next one to the right."""
    for region in structure.iter("region"):
        rows: dict[int, dict[int, str]] = {}
        for cell in region.iter("cell"):
            if text := "".join((cell.findtext("content") or "").split()):
                rows.setdefault(int(cell.get("start-row", 0)), {})[int(cell.get("start-col", 0))] = text
        for columns in rows.values():
            values = [columns[column] for column in sorted(columns)]
            yield from (pair for pair in pairwise(values) if sum(map(len, pair)) < 60)


def apart(lines: list[str], one: str, other: str) -> bool:
    """Whether a line has both, in their order, with a gap between them."""
    spaced = (r"\s?".join(map(re.escape, text)) for text in (one, other))
    pattern = re.compile(r"(?:^|\s){}\s{{2,}}{}(?:\s|$)".format(*spaced))
    return any(pattern.search(line) for line in lines if one[0] in line)


if __name__ == "__main__":
    main()
