"""Judged items: what recall counts, under any chunking."""

from __future__ import annotations

import random
import statistics
from pathlib import Path

import pytest

from revector.labels import Labels, Span, item_of, item_qrels, load_labels, passage_overlap, ranked_items, shown
from revector.labels.model import PLACE
from revector.measure.metrics import evaluate, recall_at_k

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


LENGTH, SPANS = 20_000, 8


def by_chance(seed: int, size: int) -> list[tuple[str, int, int]]:
    """All chunks of 40 long documents in an order that knows nothing of the query."""
    chunks = [(f"d{n}", at, min(at + size, LENGTH)) for n in range(DOCUMENTS) for at in range(0, LENGTH, size)]
    random.Random(f"{seed} {size}").shuffle(chunks)
    return chunks


def judged_by_chance(seed: int) -> list[Span]:
    rng = random.Random(seed)
    starts = [(f"d{rng.randrange(DOCUMENTS)}", rng.randrange(LENGTH - 300)) for _ in range(SPANS)]
    return [Span(document, start, start + 300) for document, start in starts]


def test_cutting_large_raises_neither_recall_of_spans_nor_their_overlap_by_itself() -> None:
    """Chunks in random order find, whatever their size, the share of the spans that k places are of all the text."""
    k, share = 100, 100 * PLACE / (DOCUMENTS * LENGTH)
    for size in (250, 1_000, 4_000, LENGTH):
        recalls, overlaps, before = [], [], []
        for seed in range(60):
            spans, hits = judged_by_chance(seed), by_chance(seed, size)[: max(k, k * PLACE // size)]
            qrels = {"q": {item_of(span): 1 for span in spans}}
            recalls.append(recall_at_k(qrels, {"q": ranked_items(hits, spans)}, k)["q"])
            overlaps.append(passage_overlap(hits, spans, k))
            top = hits[:k]
            before.append(sum(any(found_before(span, *hit) for hit in top) for span in spans) / len(spans))
        assert statistics.fmean(recalls) == pytest.approx(share, abs=0.05), size
        assert statistics.fmean(overlaps) < share * SPANS * 300 / (k * PLACE) * 1.5, size
        if size == LENGTH:
            assert statistics.fmean(before) == 1, "by the former rule, whole documents found every span"


def found_before(span: Span, document: str, start: int, stop: int) -> bool:
    """The former rule: an overlap of half of the shorter of the two."""
    shared = min(stop, span.end) - max(start, span.start)
    return document == span.doc_id and 0 < shared >= 0.5 * min(stop - start, span.end - span.start)


@pytest.mark.parametrize(
    ("chunks", "place"),
    [
        ([(0, 149)], None),
        ([(0, 150)], 0),  # half of the span
        ([(190, 210)], None),  # the chunk is half of it, and the span hardly read
        ([(160, 200), (120, 170)], 0),  # what is read twice counts once
        ([(160, 200), (150, 180)], 0),
        ([(170, 200), (160, 180)], None),
        ([(500, 2_500), (0, 200)], 2),  # after 2,000 characters of others
        ([(0, 9_000)], 0),
    ],
)
def test_a_span_is_found_where_half_of_it_was_read(chunks: list[tuple[int, int]], place: int | None) -> None:
    item = item_of(Span("d", 100, 200))
    found = ranked_items((("d", *chunk) for chunk in chunks), [Span("d", 100, 200)])
    assert (found.index(item) if item in found else None) == place


def test_a_large_chunk_costs_as_many_places_as_it_is_long() -> None:
    late = Span("a", 7_200, 7_300)
    found = ranked_items([("a", 0, 8_000), ("b", 0, 100)], [late])
    assert found.index(item_of(late)) == 7
    assert ranked_items([("a", 7_000, 7_400)], [late]) == [item_of(late)]
    assert [shown(item) for item in found[:2]] == ["a (0-1000)", "a (1000-2000)"]


def test_several_spans_in_one_place_push_nothing_out_of_the_next() -> None:
    spans = [Span("a", 100 * n, 100 * n + 100) for n in range(3)]
    found = ranked_items([("a", 0, 1_000), ("b", 0, 3_000)], spans, whole=["b"])
    assert found == [*(item_of(span) for span in spans), "b", *found[4:]]
    assert len(found) == 4


def test_overlap_is_lost_by_reading_too_much_and_by_reading_too_little() -> None:
    spans = [Span("d", 0, 400), Span("d", 200, 600)]  # together 600 characters
    exact, more, less = ([("d", 0, 600)], [("d", 0, 1_200)], [("d", 0, 300)])
    assert [passage_overlap(hits, spans, 10) for hits in (exact, more, less)] == [1, 0.5, 0.5]
    assert passage_overlap([("d", 0, 600), ("d", 0, 600)], spans, 10) == 0.5, "what is read twice was paid for twice"
    assert passage_overlap([("e", 0, 600)], spans, 10) == 0


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
        query: ranked_items(hits, labels.spans.get(query, ()), ["b"])
        for query, hits in {"q1": [("a", 0, 90), ("x", 0, 9), ("b", 0, 9)], "q2": [("c", 7, 9)]}.items()
    }
    assert evaluate(qrels, run, k=3)["recall"] == {"q1": pytest.approx(2 / 3), "q2": 1.0}
    assert item_qrels(labels, {"q1": {"b": 2}}) == {"q1": {"b": 2}}  # a document that is gone takes its spans with it


def test_without_spans_items_are_the_documents() -> None:
    labels = Labels("x", {"q": "t"}, {"q": {"a": 1, "b": 0}}, "fp")
    assert item_qrels(labels) == labels.qrels
