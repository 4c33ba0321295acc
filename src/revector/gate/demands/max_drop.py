"""The largest drop of recall or nDCG against the active revision, judged by the interval of the difference."""

from __future__ import annotations

from collections.abc import Iterator

from revector.gate.demand import Demand, ends
from revector.gate.figures import GateFigures, GateFinding, Value
from revector.measure.changes import MetricChange
from revector.measure.metrics import METRIC_NAMES
from revector.spec import Gate


def _judge(gate: Gate, figures: GateFigures) -> Iterator[GateFinding]:
    comparison, allowed = figures.compared, f"a drop of more than the allowed {gate.max_drop:.4f}"
    change, metric = comparison.metrics[gate.metric], f"{METRIC_NAMES[gate.metric]}@{comparison.k}"
    found, old = change.difference, change.old
    assert found is not None  # there is an old revision
    assert old is not None
    what = (
        f"{metric} {_moved(found.mean)} against revision {comparison.old} ({old.mean:.4f} to "
        f"{change.new.mean:.4f} on {change.queries:,} queries{_differing(change)}; "
        f"{ends(found, comparison.confidence)})"
    )
    if found.high < -gate.max_drop:
        yield GateFinding(Value.FAIL, f"{what}: {allowed} is shown.")
    elif found.low >= -gate.max_drop:
        yield GateFinding(Value.PASS, f"{what}: {allowed} is excluded.")
    else:
        yield GateFinding(Value.INCONCLUSIVE, f"{what}: {allowed} is neither shown nor excluded. {_advice(change)}")


def _advice(change: MetricChange) -> str:
    can = f"This number of queries can tell a drop of {change.detectable:.4f}"
    if change.needed is None:
        return f"{can}; only a gain can exclude a drop of 0."
    if change.needed_differing is not None and change.judged is not None:
        more = change.needed_differing - change.judged
        if more > 0 and (change.needed > change.queries or change.asked != change.queries):
            return (
                f"{can}; about {change.needed:,} are needed, or judgements of {more:,} more of the queries that old "
                "and new answer differently."
            )
    return f"{can}; the change itself is too near to what is allowed."


def _differing(change: MetricChange) -> str:
    if change.asked is None or change.asked == change.queries:
        return ""
    return f", of {change.asked:,} asked {change.differing:,} are answered differently and {change.judged:,} judged"


def _moved(mean: float) -> str:
    return f"falls by {-mean:.4f}" if mean < 0 else f"rises by {mean:.4f}" if mean > 0 else "does not change"


DEMAND = Demand(
    field="max_drop",
    label="Largest drop allowed",
    says=lambda gate: (
        f"{METRIC_NAMES[gate.metric]}@{gate.k} at most {gate.max_drop:g} below the active revision, at "
        f"{gate.confidence:.0%} confidence"
    ),
    judge=_judge,
    against_old=True,
)
