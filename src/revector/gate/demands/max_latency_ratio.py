"""The largest p95 of a query over that of the old revision."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from revector.gate.demand import Demand, GateScene, ShownDemand, hold
from revector.gate.figures import GateFigures, GateFinding
from revector.gate.latency import LatencyReport, compare_latency
from revector.spec import Gate

EVIDENCE = "latency"


def _measure(scene: GateScene) -> Mapping[str, object] | None:
    if scene.gate.max_latency_ratio is None or scene.active is None:
        return None
    texts = list(scene.queries.texts.values())
    sides = (scene.active, scene.generation)
    return compare_latency(scene.searcher, *sides, texts, scene.gate.k, pipeline=scene.pipeline).as_data()


def _judge(gate: Gate, figures: GateFigures) -> Iterator[GateFinding]:
    most, report = gate.max_latency_ratio, figures.evidence(EVIDENCE, LatencyReport)
    assert most is not None  # it is demanded
    yield hold(
        "p95 latency of a query, new over old,",
        None if report is None else report.ratio["p95"].mean,
        f"at most {most:.4f} is allowed",
        most=math.inf,
        holds=lambda value: value <= most,
    )


def _show(figures: GateFigures) -> ShownDemand | None:
    report = figures.evidence(EVIDENCE, LatencyReport)
    if report is None:
        return None
    most, names = DEMAND.kept(figures), ("p50", "p95", "p99")
    sides = {"old": report.old, "new": report.new}
    rows = [
        [f"{part}, {role}", *(f"{getattr(side, f'{part}_ms')[name]:.2f} ms" for name in names)]
        for part in ("encode", "search", "total")
        for role, side in sides.items()
        if part == "total" or side.encode_ms["p99"]  # a pipeline is timed as a whole
    ]
    return ShownDemand(
        "Is a query slower than before?",
        bars=report.ratio,
        axis="time of a query, new / old",
        zero=1.0,
        limit=most,
        caption=f"Encoding and search of {report.queries:,} queries in turns on one machine, 95 % interval; above 1 the"
        f" new one is slower.{'' if most is None else f' Dashed: the most that is allowed, {most:g}.'}",
        columns=("time of a query", *names),
        rows=rows,
    )


DEMAND = Demand(
    field="max_latency_ratio",
    label="Largest p95 latency, new over old",
    says=lambda gate: f"p95 of a query at most {gate.max_latency_ratio} times as long",
    judge=_judge,
    against_old=True,
    evidence=EVIDENCE,
    measure=_measure,
    show=_show,
)
