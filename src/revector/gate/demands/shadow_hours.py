"""The hours of shadow reads before the gate judges: waited out by the step (``shadow_time``); reported, not judged."""

from __future__ import annotations

from collections.abc import Mapping

from revector.formats.kept import Kept
from revector.gate.demand import Demand, GateScene, ShownDemand
from revector.gate.figures import GateFigures
from revector.measure.metrics import Interval
from revector.serving import shadow_rows
from revector.serving.shadow_rows import ShadowSums

EVIDENCE = "shadow"


class ShadowEvidence(Kept):
    """The hours that were asked for, and what was read."""

    hours: float
    reads: tuple[ShadowSums, ...]


def _measure(scene: GateScene) -> Mapping[str, object] | None:
    with scene.engine.connect() as connection:
        reads = shadow_rows.read(connection, scene.generation.gen)
    hours = scene.gate.shadow_hours
    return ShadowEvidence(hours=hours, reads=tuple(reads)).as_data() if reads or hours else None


def _show(figures: GateFigures) -> ShownDemand | None:
    shadow = figures.evidence(EVIDENCE, ShadowEvidence)
    if shadow is None:
        return None
    facts: dict[str, str | Interval] = {"Asked for": f"{shadow.hours:g} h"} if shadow.hours else {}
    for reads in shadow.reads:
        facts[f"Live queries compared with generation {reads.against}"] = f"{reads.compared:,}"
        if found := reads.figures:
            facts[f"Overlap@{reads.k}"] = found.overlap
            facts["Rank-biased overlap"] = found.rbo
            facts["p95, old and new"] = f"{found.old_latency_ms['p95']:.0f} ms, {found.new_latency_ms['p95']:.0f} ms"
        facts["Shed, failed"] = f"{reads.shed:,}, {reads.errors:,}"
    none = "" if any(reads.compared for reads in shadow.reads) else "No live query was compared."
    return ShownDemand("Do live queries find the same?", note=none, facts=facts)


DEMAND = Demand(
    field="shadow_hours",
    label="Hours of shadow reads before it judges",
    says=lambda gate: f"judged after {gate.shadow_hours:g} h of shadow reads",
    off=0.0,
    evidence=EVIDENCE,
    measure=_measure,
    show=_show,
)
