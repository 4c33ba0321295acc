"""The verdict of three values: thresholds against what a comparison proves, in sentences that a person reads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from revector.errors import ConfigError, LabelError
from revector.measure.comparison import Comparison, MetricChange, Slice, plain
from revector.measure.metrics import Interval


class Value(StrEnum):
    """PASS: shown to hold. FAIL: shown to be broken. INCONCLUSIVE: this evidence shows neither."""

    PASS = "pass"  # noqa: S105 (no password)
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"


_SEVERITY = (Value.PASS, Value.INCONCLUSIVE, Value.FAIL)


@dataclass(frozen=True, slots=True)
class GateFinding:
    """One threshold judged, as a sentence."""

    value: Value
    sentence: str


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

    def as_data(self) -> dict[str, Any]:
        """Return value, reasons and all findings as plain JSON data."""
        return {"value": str(self.value), "reasons": list(self.reasons), "findings": plain(self.findings)}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What is demanded; None is not demanded.

    ``max_drop`` and ``max_slice_drop`` (of recall@k against the old revision), ``min_recall`` and ``min_overlap``
    (overlap@k of the index with exact search) are 0 to 1. ``max_latency_ratio`` is the new p95 over the old, above 0.
    Thresholds against the old revision demand nothing of a first one.
    """

    max_drop: float | None = None
    min_recall: float | None = None
    min_queries: int | None = None
    max_slice_drop: float | None = None
    min_overlap: float | None = None
    max_latency_ratio: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_drop", "min_recall", "max_slice_drop", "min_overlap"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"gate.{name} must be 0 to 1, found {value}. Nothing was judged; fix it.")
        if self.min_queries is not None and self.min_queries < 1:
            raise ConfigError(f"gate.min_queries must be at least 1, found {self.min_queries}. Nothing was judged.")
        if self.max_latency_ratio is not None and not 0 < self.max_latency_ratio < math.inf:
            raise ConfigError(f"gate.max_latency_ratio must be above 0, found {self.max_latency_ratio}; fix it.")


def judge(
    comparison: Comparison,
    thresholds: Thresholds,
    *,
    overlap: float | None = None,
    latency_ratio: float | None = None,
) -> Verdict:
    """Judge what was measured.

    A drop of recall passes where its whole interval is above ``-max_drop``, fails where all of it is below, and is
    inconclusive between; ``min_recall`` is judged in the same manner on the interval of the new recall. Too few
    queries and saturation make a pass inconclusive and leave a fail as it is. Overlap and latency are measured values:
    they hold or are missed.

    Args:
        comparison: Old and new measured.
        thresholds: What is demanded.
        overlap: Mean overlap@k of the new index with exact search, 0 to 1; None where it was not measured.
        latency_ratio: New p95 of a query over the old, above 0; None where it was not measured.

    Raises:
        LabelError: If ``overlap`` or ``latency_ratio`` is NaN or out of range, or no ranking can reach ``min_recall``
            on these labels.

    """
    for name, value, most in (("overlap", overlap, 1.0), ("latency ratio", latency_ratio, math.inf)):
        if value is not None and not (0 <= value <= most and value < math.inf):
            raise LabelError(f"the {name} of the gate was measured as {value}. Nothing was judged; measure it again.")
    return Verdict(tuple(_findings(comparison, thresholds, overlap, latency_ratio)))


def check_attainable(min_recall: float, ceiling: float, k: int) -> None:
    """Raise ``LabelError`` if no ranking reaches ``min_recall`` where the best one has ``ceiling``."""
    if min_recall > ceiling:
        raise LabelError(
            f"gate.min_recall is {min_recall:.4f}, and the best possible recall@{k} on these labels is {ceiling:.4f}: "
            f"some queries have more than {k} relevant documents. Nothing was judged; lower gate.min_recall or raise "
            "gate.k."
        )


def _findings(
    comparison: Comparison, thresholds: Thresholds, overlap: float | None, latency_ratio: float | None
) -> Iterator[GateFinding]:
    if thresholds.min_queries is not None and comparison.queries < thresholds.min_queries:
        yield GateFinding(
            Value.INCONCLUSIVE,
            f"{comparison.queries:,} labelled queries were measured, at least {thresholds.min_queries:,} are demanded.",
        )
    if thresholds.max_drop is not None and comparison.old is not None:
        yield _drop(comparison, thresholds.max_drop)
    if thresholds.min_recall is not None:
        yield _level(comparison, thresholds.min_recall)
    yield from _saturation(comparison)
    if thresholds.max_slice_drop is not None and comparison.old is not None:
        yield from _slices(comparison, thresholds.max_slice_drop)
    if thresholds.min_overlap is not None:
        yield _measured(
            overlap,
            f"overlap@{comparison.k} of the index with exact search",
            f"at least {thresholds.min_overlap:.4f} is demanded",
            holds=overlap is not None and overlap >= thresholds.min_overlap,
        )
    if thresholds.max_latency_ratio is not None and comparison.old is not None:
        yield _measured(
            latency_ratio,
            "p95 latency of a query, new over old,",
            f"at most {thresholds.max_latency_ratio:.4f} is allowed",
            holds=latency_ratio is not None and latency_ratio <= thresholds.max_latency_ratio,
        )


def _drop(comparison: Comparison, max_drop: float) -> GateFinding:
    change = comparison.metrics["recall"]
    found, old = _difference(change), change.old
    assert old is not None
    what = (
        f"recall@{comparison.k} {_moved(found.mean)} against revision {comparison.old} ({old.mean:.4f} to "
        f"{change.new.mean:.4f} on {change.queries:,} queries; {_ends(found, comparison.confidence)})"
    )
    if found.high < -max_drop:
        return GateFinding(Value.FAIL, f"{what}: a drop of more than the allowed {max_drop:.4f} is shown.")
    if found.low >= -max_drop:
        return GateFinding(Value.PASS, f"{what}: a drop of more than the allowed {max_drop:.4f} is excluded.")
    return GateFinding(
        Value.INCONCLUSIVE,
        f"{what}: a drop of more than the allowed {max_drop:.4f} is neither shown nor excluded. {_advice(change)}",
    )


def _advice(change: MetricChange) -> str:
    can = f"This number of queries can tell a drop of {change.detectable:.4f}"
    if change.needed is None:
        return f"{can}; only a gain can exclude a drop of 0."
    if change.needed > change.queries:
        return f"{can}; about {change.needed:,} are needed."
    return f"{can}; the change itself is too near to what is allowed."


def _level(comparison: Comparison, min_recall: float) -> GateFinding:
    check_attainable(min_recall, comparison.ceiling, comparison.k)
    found = comparison.metrics["recall"].new
    what = (
        f"recall@{comparison.k} of revision {comparison.new} is {found.mean:.4f} on {comparison.queries:,} queries "
        f"({comparison.confidence * 100:g} % interval {found.low:.4f} to {found.high:.4f})"
    )
    if found.high < min_recall:
        return GateFinding(Value.FAIL, f"{what}: less than the demanded {min_recall:.4f} is shown.")
    if found.low >= min_recall:
        return GateFinding(Value.PASS, f"{what}: at least the demanded {min_recall:.4f} is shown.")
    return GateFinding(
        Value.INCONCLUSIVE,
        f"{what}: the demanded {min_recall:.4f} is neither shown nor excluded; label more queries.",
    )


def _saturation(comparison: Comparison) -> Iterator[GateFinding]:
    if comparison.saturated_by:
        yield GateFinding(
            Value.INCONCLUSIVE,
            f"recall@{comparison.k} is saturated: {' and '.join(comparison.saturated_by)} nearly reaches the score of "
            f"revision {comparison.old or comparison.new} too, and both the best possible {comparison.ceiling:.4f}. "
            "These queries cannot tell models apart; label harder ones, or search more documents.",
        )


def _slices(comparison: Comparison, max_drop: float) -> Iterator[GateFinding]:
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
    fallen = [one for one in judged if one.high_of_all is not None and one.high_of_all < -max_drop]
    open_ones = [one for one in judged if one not in fallen and _of(one).low < -max_drop]
    allowed = f"more than the allowed {max_drop:.4f}"
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


def _measured(value: float | None, what: str, demanded: str, *, holds: bool) -> GateFinding:
    if value is None:
        return GateFinding(Value.INCONCLUSIVE, f"{what} was not measured, {demanded}.")
    return GateFinding(Value.PASS if holds else Value.FAIL, f"{what} is {value:.4f}, {demanded}.")


def _difference(change: MetricChange) -> Interval:
    assert change.difference is not None  # there is an old revision
    return change.difference


def _of(one: Slice) -> Interval:
    assert one.recall is not None  # it is judged
    return _difference(one.recall)


def _told(slices: Sequence[Slice], comparison: Comparison, *, first: int = 3) -> str:
    """Return slices as text, worst first."""
    worst = sorted(slices, key=lambda one: _of(one).mean)[:first]
    told = [
        f"{_name(one)} ({_of(one).mean:+.4f} on {one.queries:,} queries, {_ends(_of(one), comparison.confidence)})"
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


def _moved(mean: float) -> str:
    return f"falls by {-mean:.4f}" if mean < 0 else f"rises by {mean:.4f}" if mean > 0 else "does not change"


def _ends(interval: Interval, confidence: float) -> str:
    return f"{confidence * 100:g} % interval {interval.low:+.4f} to {interval.high:+.4f}"
