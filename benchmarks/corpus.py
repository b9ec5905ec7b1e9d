"""A corpus as it grows: seconds to build, memory, size on disk, and how long a three-keyword query takes.

    python -m benchmarks.corpus --articles 10000 --articles 100000

Articles are made up with the proportions of PubMed's own: 3 kB of XML each, words by Zipf's law over a vocabulary that
grows with them. Each build is a `trajgraph corpus build` in a process of its own.
"""

import argparse
import gzip
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from bisect import bisect
from itertools import accumulate
from pathlib import Path

from servers.tool_server.corpus import Corpus

PER_FILE = 30_000
SYLLABLES = [a + b for a in "bcdfghklmnprstvz" for b in ("a", "e", "i", "o", "u", "al", "in", "or", "ex", "ia")]


class Words:
    """Words in the frequencies of a language: the n-th most common comes 1/n as often as the first."""

    def __init__(self, count: int, chance: random.Random) -> None:
        self._chance = chance
        self.all = list(dict.fromkeys("".join(chance.choices(SYLLABLES, k=chance.randint(2, 4))) for _ in range(count)))
        self._weights = list(accumulate(1 / (rank + 2) for rank in range(len(self.all))))

    def some(self, count: int) -> str:
        """So many words of text."""
        total = self._weights[-1]
        return " ".join(self.all[bisect(self._weights, self._chance.random() * total)] for _ in range(count))


def article(pmid: int, words: Words, chance: random.Random) -> str:
    """One article as NLM writes it."""
    authors = "".join(
        f'<Author ValidYN="Y"><LastName>{words.some(1).title()}</LastName><ForeName>{words.some(1).title()} J'
        f"</ForeName><Initials>{chance.choice('ABCDEF')}J</Initials><AffiliationInfo><Affiliation>Department of "
        f"{words.some(6)}."
        "</Affiliation></AffiliationInfo></Author>"
        for _ in range(chance.randint(2, 6))
    )
    sections = "".join(
        f'<AbstractText Label="{label}" NlmCategory="{label}">{words.some(45).capitalize()}.</AbstractText>'
        for label in ("BACKGROUND", "METHODS", "RESULTS", "CONCLUSIONS")
    )
    headings = "".join(
        f'<MeshHeading><DescriptorName UI="D0{n}" MajorTopicYN="N">{words.some(2).title()}</DescriptorName>'
        "</MeshHeading>"
        for n in range(6)
    )
    return (
        f'<PubmedArticle><MedlineCitation Status="MEDLINE" Owner="NLM"><PMID Version="1">{pmid}</PMID><Article>'
        f"<Journal><JournalIssue><PubDate><Year>{chance.randint(1975, 2026)}</Year><Month>"
        f"{chance.randint(1, 12):02d}</Month>"
        f"</PubDate></JournalIssue><Title>Journal of {words.some(2)}</Title></Journal><ArticleTitle>{words.some(12)}."
        f"</ArticleTitle><Abstract>{sections}</Abstract><AuthorList>{authors}</AuthorList></Article><MeshHeadingList>"
        f'{headings}</MeshHeadingList></MedlineCitation><PubmedData><ArticleIdList><ArticleId IdType="pubmed">{pmid}'
        f'</ArticleId><ArticleId IdType="doi">10.1000/{pmid}</ArticleId></ArticleIdList></PubmedData></PubmedArticle>\n'
    )


def baseline(folder: Path, articles: int, seed: int = 1) -> tuple[list[Path], int]:
    """Files like PubMed's with so many articles in all, and how many bytes of XML they hold."""
    chance = random.Random(seed)
    words, files, size = Words(20_000 + articles, chance), [], 0
    for number, first in enumerate(range(1, articles + 1, PER_FILE), start=1):
        path = folder / f"pubmed26n{number:04d}.xml.gz"
        with gzip.open(path, "wt", encoding="utf-8", compresslevel=1) as file:
            file.write('<?xml version="1.0" encoding="utf-8"?>\n<PubmedArticleSet>\n')
            for pmid in range(first, min(first + PER_FILE, articles + 1)):
                text = article(pmid, words, chance)
                size += len(text)
                file.write(text)
            file.write("</PubmedArticleSet>\n")
        files.append(path)
    return files, size


def queries(words: Words, count: int, chance: random.Random) -> list[str]:
    """Three keywords each, as a model writes them: neither the commonest words nor the rarest."""
    middle = words.all[20:2000]
    return [" ".join(chance.sample(middle, 3)) for _ in range(count)]


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--articles", type=int, action="append", help="how many; more than once for how it grows")
    parser.add_argument("--queries", type=int, default=1000)
    asked = parser.parse_args()
    print("articles   XML MB  build s  articles/s  peak MB  index MB  query p50 ms  p95 ms  p99 ms  hits", flush=True)
    for articles in asked.articles or [10_000, 30_000, 100_000]:
        with tempfile.TemporaryDirectory() as folder:
            files, size = baseline(Path(folder), articles)
            index, started = Path(folder) / "index.sqlite", time.monotonic()
            command = [sys.executable, "-m", "cli", "corpus", "build", str(index), *map(str, files)]
            subprocess.run(command, check=True, capture_output=True)
            took = time.monotonic() - started
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            corpus, times, hits = Corpus.open(index), [], 0
            for query in queries(Words(20_000 + articles, random.Random(1)), asked.queries, random.Random(2)):
                began = time.perf_counter()
                hits += corpus.search(query)["total"] > 0
                times.append((time.perf_counter() - began) * 1000)
            cuts = statistics.quantiles(times, n=100)
            print(
                f"{articles:>8,} {size / 1e6:>8.0f} {took:>8.1f} {articles / took:>11,.0f} {peak:>8.0f} "
                f"{index.stat().st_size / 1e6:>9.0f} {cuts[49]:>13.1f} {cuts[94]:>7.1f} {cuts[98]:>7.1f} "
                f"{hits / asked.queries:>5.0%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
