"""The largest drop of recall in any slice of the queries, judged for all slices at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from revector.gate.demand import Demand, ends
from revector.gate.figures import GateFigures, GateFinding, Value
from revector.measure.comparison import Comparison, Slice
from revector.measure.metrics import Interval
from revector.spec import Gate


def _judge(gate: Gate, figures: GateFigures) -> Iterator[GateFinding]:
    comparison, most = figures.compared, gate.max_slice_drop
    assert most is not None  # it is demanded
    judged = [one for one in comparison.slices if one.recall is not None]
    if small := [one for one in comparison.slices if one.recall is None]:
        yield GateFinding(
            Value.PASS,
            f"{len(small)} of {len(comparison.slices)} slices have fewer than {small[0].minimum} queries and are not "
            f"judged: {_few([f'{_name(one)} ({one.queries})' for one in small])}.",
        )
    if not judged:
        yield GateFinding(Value.INCONCLUSIVE, "a worst slice is judged, and no slice has enough queries to be one.")
        return
    fallen = [one for one in judged if one.high_of_all is not None and one.high_of_all < -most]
    open_ones = [one for one in judged if one not in fallen and _of(one).low < -most]
    allowed = f"more than the allowed {most:.4f}"
    if fallen:
        yield GateFinding(Value.FAIL, f"recall@{comparison.k} falls by {allowed} in {_told(fallen, comparison)}.")
    if open_ones:
        yield GateFinding(
            Value.INCONCLUSIVE,
            f"a fall of recall@{comparison.k} by {allowed} is neither shown nor excluded in "
            f"{_told(open_ones, comparison)}; {_more(open_ones)}.",
        )
    if not fallen and not open_ones:
        yield GateFinding(
            Value.PASS,
            f"a fall of recall@{comparison.k} by {allowed} is excluded in each of {len(judged)} slices; the worst is "
            f"{_told(judged, comparison, first=1)}.",
        )


def _of(one: Slice) -> Interval:
    assert one.recall is not None  # it is judged
    assert one.recall.difference is not None  # against an old revision
    return one.recall.difference


def _told(slices: Sequence[Slice], comparison: Comparison, *, first: int = 3) -> str:
    """Return slices as text, worst first."""
    worst = sorted(slices, key=lambda one: _of(one).mean)[:first]
    told = [
        f"{_name(one)} ({_of(one).mean:+.4f} on {one.queries:,} queries, {ends(_of(one), comparison.confidence)})"
        for one in worst
    ]
    more = len(slices) - len(worst)
    return ", ".join(told) + (f" and {more} more" if more and first > 1 else "")


def _more(slices: Sequence[Slice]) -> str:
    most = max(slices, key=lambda one: (one.recall and one.recall.needed) or 0)
    if most.recall is None or most.recall.needed is None or most.recall.needed <= most.queries:
        return "label more queries of it" if len(slices) == 1 else "label more queries of them"
    return f"about {most.recall.needed:,} queries of {_name(most)} are needed"


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
