"""The least overlap@k of the HNSW index with exact search: what an index may lose although its model finds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from revector.gate.ann import AnnReport, measure_ann
from revector.gate.demand import Demand, GateScene, hold
from revector.gate.explaining import explain
from revector.gate.figures import GateFigures, GateFinding
from revector.spec import Gate

EVIDENCE = "ann"


def _measure(scene: GateScene) -> Mapping[str, object] | None:
    """Compare the index with exact search; None where every answer is exact anyway."""
    generation, queries, gate = scene.generation, scene.queries, scene.gate
    if gate.min_overlap is None or generation.spec.index.kind == "exact":
        return None
    vector = scene.searcher.encode(generation, [next(iter(queries.texts.values()))])[0]
    if not explain(scene.engine, scene.searcher, generation, vector, gate.k).hnsw:
        return None  # the planner scans small tables
    return measure_ann(
        scene.engine,
        scene.searcher,
        generation,
        queries.texts,
        gate.k,
        qrels=queries.qrels,
        own=queries.own,
        sweep=(),
        min_overlap=gate.min_overlap,
        progress=scene.progress,
    ).as_data()


def _judge(gate: Gate, figures: GateFigures) -> Iterator[GateFinding]:
    least, report = gate.min_overlap, figures.evidence(EVIDENCE, AnnReport)
    assert least is not None  # it is demanded
    if report is None and figures.has(EVIDENCE):
        return  # no answer comes from an HNSW index
    yield hold(
        f"overlap@{figures.compared.k} of the index with exact search",
        None if report is None else report.served.overlap.mean,
        f"at least {least:.4f} is demanded",
        most=1.0,
        holds=lambda value: value >= least,
    )


DEMAND = Demand(
    field="min_overlap",
    label="Least overlap with exact search",
    says=lambda gate: f"overlap with exact search at least {gate.min_overlap}",
    judge=_judge,
    evidence=EVIDENCE,
    measure=_measure,
)
