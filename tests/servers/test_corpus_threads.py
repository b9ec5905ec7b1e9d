"""A corpus that many threads ask at once, and that its owner closes."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from servers.tool_server.corpus import Corpus


def test_searches_asked_at_once_from_many_threads_are_answered_as_each_alone() -> None:
    queries = [
        "heart failure",
        "lecanemab",
        "semaglutide",
        "olaparib",
        "statin",
        "pembrolizumab",
        "diabetes AND 2019[dp]",
    ]
    with Corpus.bundled() as alone, Corpus.bundled() as shared:
        wanted = {query: alone.search(query, 5) for query in queries}

        def ask(turn: int) -> bool:
            query = queries[turn % len(queries)]
            return shared.search(query, 5) == wanted[query]

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(ask, range(700)))


def test_a_corpus_that_is_closed_answers_nothing_more_and_holds_nothing_open() -> None:
    with Corpus.bundled() as corpus:
        assert corpus.answers()
    assert not corpus.answers()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        corpus.search("statin")
