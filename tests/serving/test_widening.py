"""How many candidates a store is asked for: as many as searches needed of late, and more where they are too few."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from revector.registry.lane import SearchRequest, VisibleHits
from revector.serving import widening
from revector.serving.widening import Widths

K = 10


class Corpus:
    """A store's index in which each document has so many chunks, one after the other."""

    def __init__(self, chunks: int) -> None:
        self.chunks, self.asked = chunks, list[int]()

    def ask(self, wanted: SearchRequest) -> VisibleHits:
        self.asked.append(wanted.candidates)
        documents = -(-wanted.candidates // self.chunks)
        rows: list[Any] = [{"doc_id": n} for n in range(min(K, documents))]
        return VisibleHits(1, wanted.candidates, rows, (len(rows) - 1) * self.chunks + 1)


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(widening, "lane_of", lambda _: SimpleNamespace(traits=SimpleNamespace(in_sql=False)))
    return SimpleNamespace(gen=1, spec=SimpleNamespace(index=SimpleNamespace(quantize="none")))


def searched(widths: Widths, pinned: Any, corpus: Corpus, filter_sql: str = "") -> list[int]:
    """Return what one search asked for."""
    corpus.asked.clear()
    first = widths.first(pinned, K, by_document=True, filtered=bool(filter_sql))
    wanted = SearchRequest(K, first, by_document=True, exact=False, filter_sql=filter_sql)
    found, _, asked = widths.widen(pinned, corpus.ask, wanted)
    assert len(found.rows) == K
    assert asked == len(corpus.asked)
    return list(corpus.asked)


def test_documents_of_one_chunk_take_as_many_candidates_as_are_wanted(pinned: Any) -> None:
    widths, corpus = Widths(), Corpus(1)
    asked = [searched(widths, pinned, corpus) for _ in range(60)]
    assert asked[0] == [4 * K]
    assert asked[-1] in ([K], [K + 1])
    assert all(len(each) == 1 for each in asked)


def test_what_was_too_few_is_asked_for_again_once_and_remembered(pinned: Any) -> None:
    widths = Widths()
    for _ in range(60):
        searched(widths, pinned, Corpus(1))
    corpus = Corpus(3)
    assert len(searched(widths, pinned, corpus)) == 2
    assert [len(searched(widths, pinned, corpus)) for _ in range(5)] == [1] * 5


def test_a_filter_says_nothing_of_searches_without_one(pinned: Any) -> None:
    widths, corpus = Widths(), Corpus(1)
    for _ in range(60):
        assert searched(widths, pinned, corpus, "d.lang = 'en'") == [4 * K]
    assert searched(widths, pinned, corpus) == [4 * K]


@pytest.mark.parametrize(("in_sql", "quantize"), [(True, "none"), (False, "int8")])
def test_where_the_number_decides_recall_it_stays(
    pinned: Any, monkeypatch: pytest.MonkeyPatch, in_sql: bool, quantize: str
) -> None:
    monkeypatch.setattr(widening, "lane_of", lambda _: SimpleNamespace(traits=SimpleNamespace(in_sql=in_sql)))
    pinned.spec.index.quantize = quantize
    widths, corpus = Widths(), Corpus(1)
    assert [searched(widths, pinned, corpus) for _ in range(30)] == [[4 * K]] * 30
