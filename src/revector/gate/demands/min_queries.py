"""The least number of labelled queries whose documents exist."""

from __future__ import annotations

from collections.abc import Iterator

from revector.errors import LabelError
from revector.gate.demand import Demand
from revector.gate.figures import GateFigures, GateFinding, Value
from revector.gate.query_set import QuerySet
from revector.spec import Gate


def _judge(gate: Gate, figures: GateFigures) -> Iterator[GateFinding]:
    if (found := figures.compared.queries + figures.drawn) < gate.min_queries:
        yield GateFinding(
            Value.INCONCLUSIVE,
            f"{found:,} labelled queries were measured, at least {gate.min_queries:,} are demanded.",
        )


def _refuse(gate: Gate, queries: QuerySet) -> None:
    if (found := len(queries.qrels)) < gate.min_queries:
        raise LabelError(
            f"the gate demands at least {gate.min_queries} labelled queries, {queries.labels.name} has {found} whose "
            f"documents exist ({queries.counts['queries_lost']} lost theirs). Nothing was measured; label more "
            "queries, or lower gate.min_queries in the migration file."
        )


DEMAND = Demand(
    field="min_queries",
    label="Least queries demanded",
    says=lambda gate: f"on at least {gate.min_queries} labelled queries",
    judge=_judge,
    refuse=_refuse,
)
