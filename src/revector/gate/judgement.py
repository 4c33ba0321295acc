"""The verdict of three values: what a gate demands against what was measured, in sentences that a person reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from revector.formats.kept import plain
from revector.gate.demands import DEMANDS
from revector.gate.demands.max_slice_drop import worst_slices
from revector.gate.demands.min_agreement import carried_over
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
    queries, saturation and a cut-off of the application that cannot be carried over make a pass inconclusive and leave
    a fail as it is. What is measured once, such as overlap
    and latency, holds or is missed.

    Raises:
        LabelError: If such a value is NaN or out of range, or no ranking can reach ``min_recall`` on these labels.

    """
    compared = figures.compared
    shown = (
        *_through(figures),
        *_proxy(figures),
        *worst_slices(compared),
        *carried_over(figures),
        *_looks(gate, figures),
    )
    return Verdict((*_findings(gate, figures), *_saturation(compared), *shown))


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


def _through(figures: GateFigures) -> Iterator[GateFinding]:
    """Yield what was measured, where it is not plain searches."""
    if figures.pipeline is None:
        return
    few = "".join(
        f" {count:,} queries found fewer than {figures.k} documents in revision {revision}."
        for revision, count in figures.short.items()
        if count
    )
    yield GateFinding(Value.PASS, f"Measured through the pipeline {figures.pipeline}, as users see it.{few}")


def _proxy(figures: GateFigures) -> Iterator[GateFinding]:
    """Yield what a judge's word did beside people's."""
    judge, change = figures.proxy, figures.compared.metrics[figures.metric]
    if judge is None or (part := change.proxy) is None or (found := change.difference) is None:
        return
    told = (
        f"Judge {judge.words} judged {judge.whole:,} of the {judge.differing:,} queries that are answered differently"
    )
    if judge.refused:
        told += f" ({judge.refused:,} answers were none of the scale)"
    if judge.pairs:
        alpha = "" if judge.alpha is None else f", Krippendorff's alpha {judge.alpha:.2f}"
        told += f", and says the same as people of {judge.alike:,} of {judge.pairs:,} documents{alpha}"
    if not change.judged:
        yield GateFinding(Value.PASS, f"{told}. People judged none of these queries, so it counts for nothing.")
        return
    if not part.weight:
        yield GateFinding(Value.PASS, f"{told}. The {change.judged:,} that people judged give it no weight.")
        return
    yield GateFinding(
        Value.PASS,
        f"{told}. Alone it says {part.mean:+.4f}; corrected by the {change.judged:,} queries that people judged, and "
        f"with a weight of {part.weight:.2f}, it makes the interval {part.narrower(found):.0%} narrower (without it "
        f"{part.without.low:+.4f} to {part.without.high:+.4f}).",
    )


def _looks(gate: Gate, figures: GateFigures) -> Iterator[GateFinding]:
    test = figures.test
    if test is None:
        return
    if test.begins:
        yield GateFinding(Value.PASS, f"A new test began, and earlier looks do not count in it: {test.begins}.")
    if test.number > 1 and gate.method == "fixed":
        yield GateFinding(
            Value.INCONCLUSIVE,
            f'this is look {test.number} at ever more labels, and gate.method "fixed" is right for one: looking '
            'until it passes is wrong more often than the confidence says. Set method="sequential", which begins a new '
            "test.",
        )
    elif test.number > 1:
        yield GateFinding(
            Value.PASS,
            f"Look {test.number} of this test: judged by {figures.confidence * 100:g} % intervals, so that all looks "
            f"together are wrong in at most {(1 - gate.confidence) * 100:g} %.",
        )
