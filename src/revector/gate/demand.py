"""Owns what a demand of the gate is: one threshold with its words, what it measures, its judge, and what it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from revector.errors import LabelError
from revector.gate.at_hand import LabelsAtHand
from revector.gate.figures import GateFigures, GateFinding, Value
from revector.gate.pipeline import Pipeline
from revector.gate.query_set import QuerySet
from revector.interfaces import Progress
from revector.measure.metrics import Interval
from revector.registry.collections import Generation
from revector.serving.searcher import Searcher
from revector.spec import Gate


@dataclass(frozen=True, slots=True)
class GateScene:
    """Where evidence is measured: the generation that may go live beside the active one, and what both are asked."""

    engine: sa.Engine
    searcher: Searcher
    generation: Generation
    active: Generation | None
    queries: QuerySet
    gate: Gate
    progress: Progress
    pipeline: Pipeline | None = None


@dataclass(frozen=True, slots=True)
class ShownDemand:
    """What a demand shows on the gate's page, under the question that it answers.

    ``bars``: label → value with its interval, drawn over ``axis``, with ``zero`` as a line for no change and ``limit``
    as a dashed one. ``rows`` are those of a table under ``columns``.
    """

    question: str
    note: str = ""
    facts: Mapping[str, str | Interval] = field(default_factory=dict)
    bars: Mapping[str, Interval] = field(default_factory=dict)
    axis: str = ""
    zero: float | None = None
    limit: float | None = None
    caption: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


@dataclass(frozen=True, slots=True)
class Demand:
    """One demand, in a file of its own below ``demands/``, named as the field of ``spec.Gate`` that it reads.

    Args:
        field: Of ``Gate``. None, and the value ``off``, demand nothing.
        label: What page and command line call it.
        says: Its words for a plan, where it is demanded.
        judge: Yields findings on what was measured; None where it is judged elsewhere.
        against_old: Whether it demands nothing of a first revision.
        refuse: Raises ``LabelError`` where these labels could never pass, before the work.
        evidence: Name under which what ``measure`` returns is kept, as plain data: what it measures beside recall at
            each gate, None where nothing was demanded or there was nothing to measure.
        show: What of it the page shows; None where its figures have a part of the page of their own, or there are none.

    """

    field: str
    label: str
    says: Callable[[Gate], str]
    judge: Callable[[Gate, GateFigures], Iterator[GateFinding]] | None = None
    off: float | None = None
    against_old: bool = False
    refuse: Callable[[Gate, LabelsAtHand], None] | None = None
    evidence: str = ""
    measure: Callable[[GateScene], Mapping[str, object] | None] | None = None
    show: Callable[[GateFigures], ShownDemand | None] | None = None

    def of(self, gate: Gate) -> float | None:
        """Return what is demanded, or None."""
        return self._demanded(getattr(gate, self.field))

    def kept(self, figures: GateFigures) -> float | None:
        """Return what was demanded of what is kept, or None."""
        return self._demanded((figures.gate or {}).get(self.field))

    def _demanded(self, value: object) -> float | None:
        return value if isinstance(value, int | float) and value != self.off else None


def hold(what: str, value: float | None, demanded: str, *, most: float, holds: Callable[[float], bool]) -> GateFinding:
    """Return the finding on a value that was measured once, 0 to ``most``, and holds or is missed.

    ``demanded`` says of it what is asked. None, not measured, is inconclusive. Raises ``LabelError`` for a value that
    is NaN or out of range.
    """
    if value is None:
        return GateFinding(Value.INCONCLUSIVE, f"{what} was not measured, {demanded}.")
    if not (0 <= value <= most and value < float("inf")):
        raise LabelError(f"{what} was measured as {value}. Nothing was judged; measure it again.")
    return GateFinding(Value.PASS if holds(value) else Value.FAIL, f"{what} is {value:.4f}, {demanded}.")


def ends(interval: Interval, confidence: float) -> str:
    """Return the ends of the interval of a difference as text."""
    return f"{confidence * 100:g} % interval {interval.low:+.4f} to {interval.high:+.4f}"
