"""Owns what labels can show at most, known before anything is measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from revector.gate.looks import look_confidence
from revector.gate.query_set import QuerySet, unjudged_texts
from revector.labels import LabelSource, item_qrels, load_labels
from revector.measure.power import equal_needed, excluded_by_equal
from revector.spec import Gate


@dataclass(frozen=True, slots=True)
class LabelsAtHand:
    """Labelled queries as far as they are known: ``items`` holds what was judged for each.

    ``asked`` queries, labelled or not, would be asked of old and new. ``lost`` have no document left.
    """

    name: str
    items: Mapping[str, Mapping[str, int]]
    asked: int
    lost: int = 0

    @classmethod
    def usable(cls, queries: QuerySet) -> LabelsAtHand:
        """Return those whose documents exist."""
        asked = len(queries.items) + len(queries.others)
        return cls(queries.labels.name, queries.items, asked, queries.counts["queries_lost"])

    @classmethod
    def in_files(cls, source: LabelSource, others: Path | None) -> LabelsAtHand:
        """Read labels and the queries beside them; which documents exist is not looked at, so it is the most there is.

        Raises ``LabelError`` as ``load_labels`` and ``read_queries``, ``DatabaseError`` where a database is asked.
        """
        labels = load_labels(source)
        items = item_qrels(labels, labels.qrels)
        return cls(labels.name, items, len(items) + len(unjudged_texts(labels, others)))


def unequal(gate: Gate, labels: LabelsAtHand) -> str | None:
    """Say that ``max_drop`` is not excluded even if old and new answer every query alike; None where it is.

    Only a revision that finds more can pass then, so it is a note and refused by nothing: many a new model finds more.
    A ``max_drop`` of 0 says that a gain is wanted.
    """
    confidence, drop = look_confidence(gate, 1), gate.max_drop
    least = excluded_by_equal(labels.asked, confidence=confidence)
    if not 0 < drop < least:
        return None
    needed, labelled = equal_needed(drop, confidence=confidence), len(labels.items)
    return (
        f"gate.max_drop is {drop:g}. To exclude such a fall takes {needed:,} queries, even if old and new answer all "
        f"alike; {labels.name} has {labelled:,}, with {labels.asked - labelled:,} beside them that are not labelled, "
        f"which exclude a fall of {least:.4f}. So a revision as good as the old one will be inconclusive, and only one "
        f"that finds more can pass. To let an equal one pass, name a file of at least {needed - labels.asked:,} more "
        "queries as users ask them (`queries` in revector.toml), label more, or allow a larger drop "
        f"(--max-drop {math.ceil(1000 * least) / 1000:g})"
    )
