"""The least number of labelled queries whose documents exist."""

from __future__ import annotations

from collections.abc import Iterator

from revector.errors import LabelError
from revector.gate.at_hand import LabelsAtHand
from revector.gate.demand import Demand
from revector.gate.figures import GateFigures, GateFinding, Value
from revector.spec import Gate


def _judge(gate: Gate, figures: GateFigures) -> Iterator[GateFinding]:
    if (found := figures.compared.queries + figures.drawn) < gate.min_queries:
        yield GateFinding(
            Value.INCONCLUSIVE,
            f"{found:,} labelled queries were measured, at least {gate.min_queries:,} are demanded.",
        )


def _refuse(gate: Gate, labels: LabelsAtHand) -> None:
    if (found := len(labels.items)) < gate.min_queries:
        lost = f" ({labels.lost:,} more lost their documents)" if labels.lost else ""
        raise LabelError(
            f"the gate demands at least {gate.min_queries:,} labelled queries, {labels.name} has {found:,}{lost}. "
            "Nothing was changed; label more queries, or lower gate.min_queries (--min-queries of `revector revision`)."
        )


DEMAND = Demand(
    field="min_queries",
    label="Least queries demanded",
    says=lambda gate: f"on at least {gate.min_queries} labelled queries",
    judge=_judge,
    refuse=_refuse,
)
