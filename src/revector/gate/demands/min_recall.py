"""The least recall of the new revision, judged by its interval."""

from __future__ import annotations

from collections.abc import Iterator

from revector.errors import LabelError
from revector.gate.at_hand import LabelsAtHand
from revector.gate.demand import Demand
from revector.gate.figures import GateFigures, GateFinding, Value
from revector.gate.looks import look_confidence
from revector.measure.metrics import attainable_recall
from revector.measure.statistics import score_interval
from revector.spec import Gate


def _judge(gate: Gate, figures: GateFigures) -> Iterator[GateFinding]:
    comparison, least = figures.compared, gate.min_recall
    _check(least, comparison.ceiling, comparison.k)
    found = comparison.metrics["recall"].new
    what = (
        f"recall@{comparison.k} of revision {comparison.new} is {found.mean:.4f} on {comparison.queries:,} queries "
        f"({comparison.confidence * 100:g} % interval {found.low:.4f} to {found.high:.4f})"
    )
    if found.high < least:
        yield GateFinding(Value.FAIL, f"{what}: less than the demanded {least:.4f} is shown.")
    elif found.low >= least:
        yield GateFinding(Value.PASS, f"{what}: at least the demanded {least:.4f} is shown.")
    else:
        yield GateFinding(
            Value.INCONCLUSIVE, f"{what}: the demanded {least:.4f} is neither shown nor excluded; label more queries."
        )


def _refuse(gate: Gate, labels: LabelsAtHand) -> None:
    best = list(attainable_recall(labels.items, gate.k).values())
    if not best:
        return
    _check(gate.min_recall, sum(best) / len(best), gate.k)
    confidence = look_confidence(gate, 1)
    shown = score_interval(best, confidence=confidence).low
    if gate.min_recall > shown:
        raise LabelError(
            f"gate.min_recall is {gate.min_recall:.4f}, and if all {len(best):,} queries of {labels.name} are answered "
            f"as well as any ranking can, they show a recall@{gate.k} of at least {shown:.4f} ({confidence * 100:g} % "
            "interval). Nothing was changed; label more queries, or lower gate.min_recall (--min-recall of `revector "
            "revision`)."
        )


def _check(least: float, ceiling: float, k: int) -> None:
    """Raise ``LabelError`` if no ranking reaches ``least`` where the best one has ``ceiling``."""
    if least > ceiling:
        raise LabelError(
            f"gate.min_recall is {least:.4f}, and the best possible recall@{k} on these labels is {ceiling:.4f}: "
            f"some queries have more than {k} relevant documents. Nothing was judged; lower gate.min_recall or raise "
            "gate.k."
        )


DEMAND = Demand(
    field="min_recall",
    label="Least recall demanded",
    says=lambda gate: f"recall@{gate.k} at least {gate.min_recall:g}",
    judge=_judge,
    off=0.0,
    refuse=_refuse,
)
