"""Judged items of ranked hits, so that recall at k compares across chunkings.

An item is what was judged: a document, or a span of one. Documents take a place each. Where spans were judged, hits are
read one after the other, and a place is ``PLACE`` characters of what is read: k places are as much text under any
chunking, so that a large chunk, which holds more of everything, also costs more. A span is found where half of it has
been read. That measures the overlap on both sides: with the length of the text fixed, its precision (the share of it
that was judged relevant) and its recall (the share of the judged that it holds) rise and fall together.

Sources: Allan, *HARD Track Overview in TREC 2004*, which scores passages by the characters that a run returns, up to a
fixed number of them; Smith & Troynikov, *Evaluating Chunking Strategies for Retrieval* (Chroma, 2024), by tokens.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TypeAlias

from revector.labels.model import PLACE, Labels, Span

Hits: TypeAlias = Iterable[tuple[str, int, int]]
"""``(document id, start, stop)`` in characters, best first; chunks of a document may come several times."""

_APART = "\x1f"
"""No document id holds a control character, so an item of a span equals no document's."""


def item_of(span: Span) -> str:
    """Return the name of a span among items."""
    return f"{span.doc_id}{_APART}{span.start}{_APART}{span.end}"


def span_of(item: str) -> Span | None:
    """Return the span that ``item_of`` named; None for an item that is a document."""
    document, *ends = item.split(_APART)
    return Span(document, int(ends[0]), int(ends[1])) if ends else None


def shown(item: str) -> str:
    """Return an item for people: a document's id, or with the characters of a span.

    >>> shown("d1"), shown(item_of(Span("d1", 100, 200)))
    ('d1', 'd1 (100-200)')
    """
    span = span_of(item)
    return item if span is None else f"{span.doc_id} ({span.start}-{span.end})"


def ranked_items(hits: Hits, spans: Collection[Span] = (), whole: Collection[str] = ()) -> list[str]:
    """Return the items that ranked hits find, best first, each once.

    Without ``spans``, what was judged by spans for this query, each document takes one place, that of its best hit,
    however many of its chunks were found: so cutting documents otherwise moves nothing. With them, a place is ``PLACE``
    characters; one in which nothing judged is found is named by the passage at its beginning. ``whole``: documents that
    were judged as a whole, found where their first hit is.

    >>> ranked_items([("a", 0, 50), ("b", 0, 50), ("a", 50, 90), ("c", 0, 9)])
    ['a', 'b', 'c']

    """
    return list(_places(hits, spans, whole) if spans else dict.fromkeys(document for document, _, _ in hits))


def passage_overlap(hits: Hits, spans: Collection[Span], places: int) -> float:
    """Return the intersection of what is read and the ``spans`` over their union, in characters, 0 to 1.

    What is read are the first ``places`` times ``PLACE`` characters of the hits; what is read twice counts twice.

    Source:
        Smith & Troynikov, *Evaluating Chunking Strategies for Retrieval* (Chroma, 2024): token-wise IoU, here of
        characters and of a fixed length instead of a number of chunks.

    >>> passage_overlap([("d", 0, 900)], [Span("d", 0, 90)], places=1)
    0.1
    >>> round(passage_overlap([("d", 0, 100)], [Span("d", 50, 150)], places=1), 3)
    0.333

    """
    left, parts = places * PLACE, dict[str, list[tuple[int, int]]]()
    for document, start, stop in hits:
        stop = min(stop, start + left)  # noqa: PLW2901
        parts.setdefault(document, []).append((start, stop))
        left -= stop - start
    judged: dict[str, list[tuple[int, int]]] = {}
    shared = 0
    for span in sorted(spans):
        for start, stop in _unread(judged.get(span.doc_id, []), span.start, span.end):
            shared += stop - start - _length(_unread(parts.get(span.doc_id, []), start, stop))
            judged.setdefault(span.doc_id, []).append((start, stop))
    length = sum(stop - start for of in judged.values() for start, stop in of)
    return shared / (length + places * PLACE - left - shared)


def item_qrels(labels: Labels, qrels: Mapping[str, Mapping[str, int]] | None = None) -> dict[str, dict[str, int]]:
    """Return query id → item → score for ``evaluate``; without spans they are ``qrels`` themselves.

    ``qrels`` are the judgements to keep, such as those of documents that exist; default: all of ``labels``.
    """
    kept: dict[str, dict[str, int]] = {}
    for query, documents in (labels.qrels if qrels is None else qrels).items():
        spans = {span: score for span, score in labels.spans.get(query, {}).items() if span.doc_id in documents}
        by_span = {span.doc_id for span in spans}
        whole = {document: score for document, score in documents.items() if document not in by_span}
        kept[query] = whole | {item_of(span): score for span, score in spans.items()}
    return kept


# Helpers --------------------------------------------------------------------------------------------------------------


def _places(hits: Hits, spans: Collection[Span], whole: Collection[str]) -> Iterator[str]:
    """Yield the items in the order in which they are read, each not before its place."""
    found: dict[str, int] = {}
    passages: dict[int, str] = {}
    parts: dict[str, list[tuple[int, int]]] = {}
    read = 0
    for document, start, stop in hits:
        for place in range(math.ceil(read / PLACE), math.ceil((read + stop - start) / PLACE)):
            begin = start + place * PLACE - read
            passages[place] = f"{item_of(Span(document, begin, min(stop, begin + PLACE)))}{_APART}{place}"
        if document in whole:
            found.setdefault(document, read)
        for span in spans:
            at = _half_read(span, parts.get(document, []), start, stop) if span.doc_id == document else None
            if at is not None:
                found.setdefault(item_of(span), read + at - start)
        parts.setdefault(document, []).append((start, stop))
        read += stop - start
    number = 0
    by_place: dict[int, list[str]] = {}
    for item, at in sorted(found.items(), key=lambda one: one[1]):
        by_place.setdefault(at // PLACE, []).append(item)
    for place, passage in passages.items():
        judged = by_place.get(place, [])
        shown_here = judged or ([passage] if number <= place else [])
        number += len(shown_here)
        yield from shown_here


def _half_read(span: Span, parts: Collection[tuple[int, int]], start: int, stop: int) -> int | None:
    """Return up to which character one reads ``[start, stop)`` until half of the span is read, after ``parts`` of it.

    None where it is not read by then, or was before.
    """
    unread = _length(_unread(parts, span.start, span.end))
    left = unread - (span.end - span.start) // 2
    if left <= 0:
        return None
    for begin, end in _unread(parts, max(start, span.start), min(stop, span.end)):
        if end - begin >= left:
            return begin + left - 1
        left -= end - begin
    return None


def _unread(parts: Collection[tuple[int, int]], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield what of ``[start, stop)`` is in none of ``parts``."""
    for begin, end in sorted(parts):
        if start < begin and start < stop:
            yield start, min(begin, stop)
        start = max(start, end)
    if start < stop:
        yield start, stop


def _length(parts: Iterable[tuple[int, int]]) -> int:
    return sum(stop - start for start, stop in parts)
