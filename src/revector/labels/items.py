"""Judged items of ranked hits, so that recall at k compares across chunkings.

An item is what was judged: a document, or a span of one. A span is found by a hit whose chunk overlaps it by at least
half of the shorter of the two (overlap coefficient of Szymkiewicz and Simpson, |A ∩ B| / min(|A|, |B|), at least 0.5):
a chunk much larger than the span finds it as well as one of several small chunks inside it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from revector.labels.model import Labels, Span

FOUND_SHARE = 0.5
"""Least overlap coefficient, in (0, 1], at which a chunk finds a span."""

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


def finds(span: Span, start: int, stop: int) -> bool:
    """Whether a chunk ``[start, stop)`` of the span's document finds it.

    >>> finds(Span("d", 100, 200), 0, 1000), finds(Span("d", 100, 200), 0, 149), finds(Span("d", 100, 200), 140, 160)
    (True, False, True)
    """
    shared = min(stop, span.end) - max(start, span.start)
    return shared > 0 and shared >= FOUND_SHARE * min(stop - start, span.end - span.start)


def ranked_items(hits: Iterable[tuple[str, int, int]], spans: Collection[Span] = ()) -> list[str]:
    """Return the items that ranked hits find, best first, each once.

    Each document takes one place, that of its best hit, however many of its chunks were found: so cutting documents
    otherwise moves nothing. Of a document judged by spans, each span found takes one place instead; a hit that finds
    none of them stands for the document, which is then no relevant item.

    Args:
        hits: ``(document id, start, stop)`` in characters, best first; chunks of a document may come several times.
        spans: What was judged by spans for this query.

    >>> ranked_items([("a", 0, 50), ("b", 0, 50), ("a", 50, 90), ("c", 0, 9)])
    ['a', 'b', 'c']

    """
    of_document: dict[str, list[Span]] = {}
    for span in sorted(spans):
        of_document.setdefault(span.doc_id, []).append(span)
    items: dict[str, None] = {}
    met: set[str] = set()
    for document, start, stop in hits:
        found = [item_of(span) for span in of_document.get(document, ()) if finds(span, start, stop)]
        items |= dict.fromkeys(found or ([] if document in met else [document]))
        met.add(document)
    return list(items)


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
