"""Judged items: what recall counts, under any chunking."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from revector.labels import Labels, Span, item_of, item_qrels, load_labels, ranked_items
from revector.labels.items import finds
from revector.measure.metrics import evaluate

SIZES = (40, 150, 600, 5_000)
QUERIES, DOCUMENTS = 30, 40


def scored_chunks(seed: int, size: int) -> list[tuple[str, int, int]]:
    """Chunks of all documents, best first: each document is as good as its best place, wherever it is cut."""
    rng = random.Random(seed)
    chunks = []
    for n in range(DOCUMENTS):
        length, worth = rng.randrange(60, 4_000), rng.random()
        best = rng.randrange(length)
        for start in range(0, length, size):
            stop = min(start + size, length)
            elsewhere = 0.0 if start <= best < stop else 0.2 + 0.1 * (start % 3)
            chunks.append((worth - elsewhere, f"d{n}", start, stop))
    return [(doc, start, stop) for _, doc, start, stop in sorted(chunks, reverse=True)]


def test_cutting_documents_otherwise_changes_nothing_for_document_labels() -> None:
    rng = random.Random(5)
    qrels = {f"q{q}": {f"d{rng.randrange(DOCUMENTS)}": rng.randint(1, 2) for _ in range(4)} for q in range(QUERIES)}
    measured = [
        evaluate(qrels, {f"q{q}": ranked_items(scored_chunks(q, size)) for q in range(QUERIES)}, k=10) for size in SIZES
    ]
    assert all(one == measured[0] for one in measured)
    # Ranked chunk by chunk the same hits would not compare: the promise is no accident of the data.
    by_chunk = [
        sum(doc in qrels[f"q{q}"] for q in range(QUERIES) for doc in {hit[0] for hit in scored_chunks(q, size)[:10]})
        for size in SIZES
    ]
    assert len(set(by_chunk)) > 1


@pytest.mark.parametrize("size", SIZES)
def test_a_span_is_found_by_the_chunks_that_hold_it_however_they_are_cut(size: int) -> None:
    for start, length in itertools.product(range(0, 900, 70), (20, 150, 400)):
        span = Span("d", start, start + length)
        chunks = [(at, at + size) for at in range(0, 6_000, size)]
        found = [chunk for chunk in chunks if finds(span, *chunk)]
        assert found, f"{span} is lost at chunks of {size}"
        assert all(min(stop, span.end) > max(at, span.start) for at, stop in found)


@pytest.mark.parametrize(
    ("chunk", "found"),
    [
        ((0, 100), False),  # touches
        ((0, 149), False),
        ((0, 150), True),  # half of the span
        ((50, 10_000), True),  # holds it
        ((190, 210), True),  # half of the chunk
        ((191, 211), False),
        ((200, 300), False),
    ],
)
def test_half_of_the_shorter_of_the_two_is_enough(chunk: tuple[int, int], found: bool) -> None:
    assert finds(Span("d", 100, 200), *chunk) is found


def test_spans_take_a_place_each_and_a_miss_stands_for_its_document() -> None:
    first, second = Span("a", 0, 100), Span("a", 100, 200)
    hits = [("b", 0, 50), ("a", 300, 400), ("a", 90, 210), ("a", 0, 110), ("b", 50, 90), ("c", 0, 50)]
    assert ranked_items(hits, [second, first]) == ["b", "a", item_of(second), item_of(first), "c"]
    assert ranked_items([("a", 0, 200)], [second, first]) == [item_of(first), item_of(second)]
    assert ranked_items([("a", 0, 200), ("a", 300, 400)], [first]) == [item_of(first)]


def test_recall_counts_spans_and_documents_alike(tmp_path: Path) -> None:
    rows = "q1,first,a,1,0,100\nq1,first,a,1,500,600\nq1,first,a,0,700,800\nq1,first,b,2,,\nq2,other,c,1,,\n"
    (tmp_path / "labels.csv").write_text("query_id,query,doc_id,score,start,end\n" + rows)
    labels = load_labels(tmp_path / "labels.csv")
    qrels = item_qrels(labels)
    assert qrels["q1"] == {
        "b": 2,
        item_of(Span("a", 0, 100)): 1,
        item_of(Span("a", 500, 600)): 1,
        item_of(Span("a", 700, 800)): 0,
    }
    run = {
        query: ranked_items(hits, labels.spans.get(query, ()))
        for query, hits in {"q1": [("a", 0, 90), ("x", 0, 9), ("b", 0, 9)], "q2": [("c", 7, 9)]}.items()
    }
    assert evaluate(qrels, run, k=3)["recall"] == {"q1": pytest.approx(2 / 3), "q2": 1.0}
    assert item_qrels(labels, {"q1": {"b": 2}}) == {"q1": {"b": 2}}  # a document that is gone takes its spans with it


def test_without_spans_items_are_the_documents() -> None:
    labels = Labels("x", {"q": "t"}, {"q": {"a": 1, "b": 0}}, "fp")
    assert item_qrels(labels) == labels.qrels
