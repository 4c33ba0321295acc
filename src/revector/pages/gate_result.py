"""Owns the page on a gate result: its figures, joined with texts as they are now, which no result holds.

So deleted documents do not live on in the history.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import sqlalchemy as sa

from revector.errors import LabelError
from revector.gate.ann import AnnReport
from revector.gate.demands import min_overlap
from revector.gate.figures import GateFigures, GateResult
from revector.gate.results import gate_result
from revector.labels import Labels, item_qrels, load_labels, shown, span_of
from revector.pages.gate import render
from revector.pages.gate_view import GatePage
from revector.pages.markup import one_line

if TYPE_CHECKING:
    from revector.config import Project

SNIPPET = 160
"""Characters shown of a document, or of a judged span."""

_TEXTS = sa.text(
    "SELECT i.item, substr(d.content, i.at, :characters) AS text FROM unnest(CAST(:items AS text[]), CAST(:ids AS "
    "text[]), CAST(:starts AS int[])) AS i(item, doc_id, at) JOIN document d ON d.cid = :cid AND d.doc_id = i.doc_id "
    "AND NOT d.deleted"
)


def gate_page(project: Project, collection: str, result_id: int | None = None) -> str:
    """Return the page on one kept gate result (default: the collection's newest) as one self-contained HTML text.

    Needs no model. Texts are those of today, of queries by the labels, of documents by the table; what is gone is named
    by its id. Raises ``StateError`` where the collection keeps no such result, ``ConfigError`` for an unknown one.
    """
    return page(project, collection, kept_result(project, collection, result_id))


def kept_result(
    project: Project, collection: str, result_id: int | None = None, *, generation: int | None = None
) -> GateResult:
    """Return a kept gate result; see ``results.gate_result``."""
    project.collection(collection)
    with project.engine.connect() as connection:
        return gate_result(connection, collection, result_id=result_id, gen=generation)


def page(
    project: Project, collection: str, found: GateFigures, *, measured_at: str | None = None, exact: bool = False
) -> str:
    """Return the page on ``found`` with the texts of what it names; see ``GatePage`` for the rest."""
    labels, comparison = _labels(project, collection), found.comparison
    changed = [] if comparison is None else [*comparison.lost, *comparison.won]
    queries = {one.query for one in changed}
    judged = {} if labels is None else item_qrels(labels)
    relevant = {
        query: [item for item, score in judged[query].items() if score > 0] for query in queries & judged.keys()
    }
    items = {item for one in changed for item in (*one.old_ranking, *one.new_ranking)}
    items.update(item for of in relevant.values() for item in of)
    if (ann := found.evidence(min_overlap.EVIDENCE, AnnReport)) is not None:
        items.update(one.document for one in ann.lost)
    looked_up = {
        "collection": collection,
        "measured_at": measured_at,
        "exact": exact,
        "texts": {} if labels is None else labels.queries,
        "relevant": relevant,
        "items": _items(project, collection, items),
        "labels_changed": labels is not None and found.labels_fingerprint not in (None, labels.fingerprint),
    }
    return render(GatePage.model_validate(found.as_data() | looked_up))


def query_texts(project: Project, collection: str) -> Mapping[str, str]:
    """Return the texts of the labelled queries as they are today; empty where the labels are gone."""
    labels = _labels(project, collection)
    return {} if labels is None else labels.queries


def _labels(project: Project, collection: str) -> Labels | None:
    source = project.labels(collection)
    try:
        return None if source is None else load_labels(source)
    except LabelError:  # gone since; the figures stand without texts
        return None


def _items(project: Project, collection: str, items: Iterable[str]) -> dict[str, tuple[str, str | None]]:
    """Return, per item, how people name it and how its text begins; None where its document is gone."""
    spans = {item: span_of(item) for item in items}
    asked = {
        "items": list(spans),
        "ids": [item if span is None else span.doc_id for item, span in spans.items()],
        "starts": [1 if span is None else span.start + 1 for span in spans.values()],
        "characters": SNIPPET * 2,  # white space is folded
        "cid": project.cid(collection),
    }
    with project.engine.connect() as connection:
        texts = {row.item: one_line(row.text, SNIPPET) for row in connection.execute(_TEXTS, asked)}
    return {item: (shown(item), texts.get(item)) for item in spans}
