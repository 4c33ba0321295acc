"""The verdict of three values: what a gate demands against what was measured, in sentences that a person reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from revector.formats.kept import plain
from revector.gate.demands import DEMANDS
from revector.gate.figures import GateFigures, GateFinding, Value
from revector.measure.comparison import Comparison
from revector.spec import Gate

_SEVERITY = (Value.PASS, Value.INCONCLUSIVE, Value.FAIL)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The worst of its findings decides; without a finding nothing was demanded, and it passes."""

    findings: tuple[GateFinding, ...]

    @property
    def value(self) -> Value:
        """PASS, FAIL or INCONCLUSIVE."""
        return max((finding.value for finding in self.findings), key=_SEVERITY.index, default=Value.PASS)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Sentences of the findings that decided."""
        return tuple(finding.sentence for finding in self.findings if finding.value == self.value)

    def as_data(self) -> dict[str, object]:
        """Return value, reasons and all findings as plain JSON data."""
        return {"value": str(self.value), "reasons": list(self.reasons), "findings": plain(self.findings)}


def judge(gate: Gate, figures: GateFigures) -> Verdict:
    """Judge what was measured: ``figures`` with its ``comparison`` and the evidence of the demands.

    A drop of recall passes where its whole interval is above ``-max_drop``, fails where all of it is below, and is
    inconclusive between; ``min_recall`` is judged in the same manner on the interval of the new recall. Too few
    queries and saturation make a pass inconclusive and leave a fail as it is. What is measured once, such as overlap
    and latency, holds or is missed.

    Raises:
        LabelError: If such a value is NaN or out of range, or no ranking can reach ``min_recall`` on these labels.

    """
    return Verdict((*_findings(gate, figures), *_saturation(figures.compared)))


def _findings(gate: Gate, figures: GateFigures) -> Iterator[GateFinding]:
    for demand in DEMANDS:
        if demand.judge is None or demand.of(gate) is None or (demand.against_old and figures.compared.old is None):
            continue
        yield from demand.judge(gate, figures)


def _saturation(comparison: Comparison) -> Iterator[GateFinding]:
    if comparison.saturated_by:
        yield GateFinding(
            Value.INCONCLUSIVE,
            f"recall@{comparison.k} is saturated: {' and '.join(comparison.saturated_by)} nearly reaches the score of "
            f"revision {comparison.old or comparison.new} too, and both the best possible {comparison.ceiling:.4f}. "
            "These queries cannot tell models apart; label harder ones, or search more documents.",
        )
