"""Owns what a gate measured and found, as it is kept, shown and sent; it reads what earlier versions kept, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from pydantic import TypeAdapter

from revector.formats.kept import Kept
from revector.gate.looks import GateLook
from revector.gate.proxies import ProxyFigures
from revector.measure.comparison import Comparison
from revector.measure.metrics import Interval, MetricName
from revector.measure.statistics import CONFIDENCE

T = TypeVar("T")


class Value(StrEnum):
    """PASS: shown to hold. FAIL: shown to be broken. INCONCLUSIVE: this evidence shows neither."""

    PASS = "pass"  # noqa: S105 (no password)
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class GateFinding:
    """One demand judged, as a sentence."""

    value: Value
    sentence: str


class RefusedQueries(Kept):
    """How many queries a search refuses, and the first of them with the reason."""

    count: int
    first: Mapping[str, str]


class GateSide(Kept):
    """One of the two generations, in short."""

    generation: int
    revision: str
    recall: Interval
    means: Mapping[str, float]
    latency_ms: Mapping[str, float] = {}
    refused_queries: RefusedQueries | None = None


class SliceInShort(Kept):
    """A slice of the queries as status, events and questions name it, in ``words``; see ``measure.sliced.Slice``."""

    words: str
    field: str
    name: str
    queries: int
    recall: Interval
    difference: Interval | None = None
    gap: Interval | None = None


class Override(Kept):
    """Who let the alias move although the gate did not pass, and why."""

    by: str
    reason: str


class GateFigures(Kept):
    """What was measured, and what was found of it; None and empty: not measured, or by a version that did not keep it.

    ``gate`` holds the demands as they were. Of ``others``, queries without labels that were asked too, ``drawn`` were
    drawn and judged since. ``judged_by``: in words, where another metric than recall decided on the drop. ``look``:
    which of the ``test``. ``pipeline``: what was measured instead of plain searches; ``short``: revision → queries that
    found fewer than ``k`` documents through it. ``scores``: role (new, old) → query → recall. Each demand that measures
    more than recall keeps its ``evidence`` here, under a name of its own. ``proxy``: a judge that counted too.
    """

    k: int | None = None
    gate: Mapping[str, object] | None = None
    labels: str | None = None
    labels_fingerprint: str | None = None
    queries: int | None = None
    queries_lost: int = 0
    own_documents: int = 0
    others: int = 0
    drawn: int = 0
    new: GateSide | None = None
    old: GateSide | None = None
    difference: Interval | None = None
    judged_by: str | None = None
    worst_slice: SliceInShort | None = None
    not_measured: str | None = None
    pipeline: str | None = None
    short: Mapping[str, int] = {}
    proxy: ProxyFigures | None = None
    comparison: Comparison | None = None
    look: int | None = None
    test: GateLook | None = None
    scores: Mapping[str, Mapping[str, float]] = {}
    findings: tuple[GateFinding, ...] = ()
    reasons: tuple[str, ...] = ()
    verdict: Value | None = None
    overridden: Override | None = None
    at: str | None = None

    @property
    def compared(self) -> Comparison:
        """Old and new compared; only asked for what was measured."""
        assert self.comparison is not None
        return self.comparison

    @property
    def measured(self) -> bool:
        """Whether searches were asked; not for a first revision without labels, nor where a pipeline failed."""
        return self.new is not None

    @property
    def sides(self) -> dict[str, GateSide]:
        """The generations that were measured, by their role."""
        return {role: side for role, side in (("new", self.new), ("old", self.old)) if side is not None}

    @property
    def confidence(self) -> float:
        """Of every interval, 0 to 1."""
        return CONFIDENCE if self.comparison is None else self.comparison.confidence

    @property
    def metric(self) -> MetricName:
        """Of which a drop was judged."""
        return "ndcg" if (self.gate or {}).get("metric") == "ndcg" else "recall"

    @property
    def still_needed(self) -> int | None:
        """How many more judged queries that old and new answer differently are expected to decide on the drop.

        None where that is decided, or was not estimated.
        """
        change = None if self.comparison is None else self.comparison.metrics.get(self.metric)
        if self.verdict is not Value.INCONCLUSIVE or change is None or change.needed_differing is None:
            return None
        return max(0, change.needed_differing - (change.judged or 0)) or None

    @property
    def demanded_confidence(self) -> float:
        """By which it was judged, 0 to 1; earlier versions judged means beside intervals of the usual confidence."""
        if self.look is not None:
            return self.confidence
        asked = (self.gate or {}).get("confidence")
        return asked if isinstance(asked, float) else CONFIDENCE

    def has(self, evidence: str) -> bool:
        """Whether that evidence was asked for."""
        return evidence in (self.model_extra or {})

    def evidence(self, name: str, kind: type[T]) -> T | None:
        """Return the evidence of that name; None where it was not asked for or there was nothing to measure."""
        found = (self.model_extra or {}).get(name)
        return None if found is None else TypeAdapter(kind).validate_python(found)


class GateResult(GateFigures):
    """A kept verdict on a generation, of the gate or of the verification."""

    id: int
    generation: int
    passed: bool
    verdict: Value
    overridden: Override | None
    at: str

    def count(self, name: str) -> int:
        """Return one of the counts of a verification; 0 where it does not have it."""
        found = (self.model_extra or {}).get(name)
        return found if isinstance(found, int) else 0
