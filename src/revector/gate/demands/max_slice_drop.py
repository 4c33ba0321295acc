"""The largest drop of recall in any slice of the queries, judged for all slices at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from revector.gate.demand import Demand, ends
from revector.gate.figures import GateFigures, GateFinding, Value
from revector.measure.comparison import Comparison
from revector.measure.metrics import Interval
from revector.measure.sliced import Slice
from revector.measure.slices import FEW
from revector.spec import Gate


def _judge(gate: Gate, figures: GateFigures) -> Iterator[GateFinding]:
    comparison, most = figures.compared, gate.max_slice_drop
    assert most is not None  # it is demanded
    measured = [one for one in comparison.slices if one.recall is not None]
    if not measured:
        yield _nothing_measured(gate)
        return
    fallen = [one for one in measured if one.high_of_all is not None and one.high_of_all < -most]
    cleared = [one for one in measured if one.to_clear and one not in fallen]
    open_ones = [one for one in cleared if _of(one).low < -most]
    open_ones += [one for one in measured if not one.to_clear and one not in fallen and _of(one).high < -most]
    allowed = f"more than the allowed {most:.4f}"
    if fallen:
        yield GateFinding(Value.FAIL, f"recall@{comparison.k} falls by {allowed} in {_told(fallen, comparison)}.")
    if open_ones:
        yield GateFinding(
            Value.INCONCLUSIVE,
            f"a fall of recall@{comparison.k} by {allowed} is neither shown nor excluded in "
            f"{_told(open_ones, comparison)}; {_more(open_ones)}.",
        )
    elif cleared and not fallen:
        yield GateFinding(
            Value.PASS,
            f"a fall of recall@{comparison.k} by {allowed} is excluded in each of {_slices(cleared)} of "
            f"{cleared[0].minimum} queries or more.",
        )
    small = [one for one in comparison.slices if not one.to_clear and one not in (*fallen, *open_ones)]
    yield from _small([one for one in small if one.difference is None or one.difference.low < -most], allowed)


def _nothing_measured(gate: Gate) -> GateFinding:
    if gate.slices:
        named = ", ".join(gate.slices)
        return GateFinding(
            Value.INCONCLUSIVE, f"slices by {named} are judged, and none of them has {FEW} queries; label more."
        )
    return GateFinding(Value.PASS, f"The queries form no slices of {FEW} queries or more, so none is judged.")


def _small(small: Sequence[Slice], allowed: str) -> Iterator[GateFinding]:
    """Say which slices are only watched: a fall in them fails once it is shown, and none must be excluded."""
    if not small:
        return
    names = _few([f"{_name(one)} ({one.queries})" for one in small])
    yield GateFinding(
        Value.PASS,
        f"of {_slices(small)} with fewer than the {small[0].minimum} queries that clear one, a fall by {allowed} is "
        f"neither shown nor excluded: {names}.",
    )


def worst_slices(comparison: Comparison) -> Iterator[GateFinding]:
    """Yield the slice that fell most, and the one where the new revision finds least; nothing without slices."""
    if (worst := comparison.worst_slice) is None:
        return
    measured = [one for one in comparison.slices if one.recall is not None]
    if worst.difference is not None:
        yield GateFinding(Value.PASS, f"The worst of {_slices(measured)} is {_told([worst], comparison)}.")
    if (lowest := comparison.lowest_slice) is not None and lowest.recall is not None and lowest.gap is not None:
        yield GateFinding(
            Value.PASS,
            f"Of the new revision alone, recall@{comparison.k} is lowest beside the other queries in {_name(lowest)}: "
            f"{lowest.recall.new.mean:.4f}, {lowest.gap.mean:+.4f} ({ends(lowest.gap, comparison.confidence)}).",
        )


def _of(one: Slice) -> Interval:
    assert one.difference is not None  # it is judged, against an old revision
    return one.difference


def _told(slices: Sequence[Slice], comparison: Comparison) -> str:
    """Return slices as text, worst first."""
    told = [
        f"{_name(one)} ({_of(one).mean:+.4f} on {one.queries:,} queries, {ends(_of(one), comparison.confidence)})"
        for one in sorted(slices, key=lambda one: _of(one).mean)
    ]
    return ", ".join(told[:3]) + (f" and {len(told) - 3} more" if len(told) > 3 else "")


def _more(slices: Sequence[Slice]) -> str:
    most = max(slices, key=lambda one: (one.recall and one.recall.needed) or 0)
    if most.recall is None or most.recall.needed is None or most.recall.needed <= most.queries:
        return "label more queries of it" if len(slices) == 1 else "label more queries of them"
    return f"about {most.recall.needed:,} queries of {_name(most)} are needed"


def _slices(some: Sequence[Slice]) -> str:
    return f"{len(some):,} slice{'' if len(some) == 1 else 's'}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _name(one: Slice) -> str:
    return f"{one.field} = {one.name}"


DEMAND = Demand(
    field="max_slice_drop",
    label="Largest drop allowed in a slice",
    says=lambda gate: f"at most {gate.max_slice_drop} below in any slice",
    judge=_judge,
    against_old=True,
)
