"""The least share of decisions by a cut-off of the application that stay, and how its cut-offs are carried over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import TypeAdapter

from revector.formats.kept import Kept
from revector.gate.demand import Demand, GateScene, ShownDemand
from revector.gate.figures import GateFigures, GateFinding, Value
from revector.gate.scoring import ask_scored
from revector.measure.metrics import Interval
from revector.measure.thresholds import Cutoff, match_cutoffs
from revector.registry.collections import Generation
from revector.registry.cutoffs import NamedCutoff, read_cutoffs, read_scores
from revector.spec import Gate, Metric
from revector.stores.metrics import nearest_score

EVIDENCE = "cutoffs"

DEEPER = 100
"""Documents of each query where a cut-off lets all of the first ``Gate.k`` through."""


class CutoffEvidence(Kept):
    """The cut-offs of the active generation on the scores of both, over the first ``depth`` documents of each query.

    Those ``chosen`` by a person were not mapped.
    """

    depth: int
    moved: tuple[Cutoff, ...]
    chosen: tuple[str, ...]


def as_mapped(evidence: object, metric: Metric) -> dict[str, NamedCutoff]:
    """Return what to keep of evidence with the new generation: the mapped numbers, None where it cannot tell.

    ``metric`` is that of the new index.
    """
    found = TypeAdapter(CutoffEvidence).validate_python(evidence)
    return {
        one.name: NamedCutoff(
            None if one.matched is None else nearest_score(one.matched.threshold, metric), one.threshold
        )
        for one in found.moved
        if one.name not in found.chosen
    }


def carried_over(figures: GateFigures) -> Iterator[GateFinding]:
    """Yield what becomes of each cut-off; inconclusive where the sample cannot tell, or its number rests on few."""
    found = figures.evidence(EVIDENCE, CutoffEvidence)
    for one in () if found is None else found.moved:
        was = f"cut-off {one.name}, {one.threshold:.4f} on the scores of the old model,"
        if one.matched is None or one.notes:
            yield GateFinding(
                Value.INCONCLUSIVE,
                f"{was} cannot be carried over: {'; '.join(one.notes)}. Choose the number on the new model (`revector "
                f"cutoffs set --revision … {one.name}=…`), or name more queries.",
            )
            continue
        how = "was chosen as" if one.interval is None else "becomes"
        about = "" if one.interval is None else f" (95 % interval {one.interval.low:.4f} to {one.interval.high:.4f})"
        stays = f"{one.matched.agreement.mean:.1%} of its decisions stay, {one.unchanged.agreement.mean:.1%} if unmoved"
        yield GateFinding(Value.PASS, f"{was} {how} {one.matched.threshold:.4f}{about}: {stays}.")


def _measure(scene: GateScene) -> Mapping[str, object] | None:
    if scene.active is None:
        return None
    with scene.engine.connect() as connection:
        thresholds = read_scores(connection, scene.active.gen)
        there = read_cutoffs(connection, scene.generation.gen)
    if not thresholds:
        return None
    chosen = {
        name: one.score for name, one in there.items() if name in thresholds and one.chosen and one.score is not None
    }
    depth, moved = scene.gate.k, _match(scene, scene.active, thresholds, chosen, scene.gate.k)
    if depth < DEEPER and any(one.matched is None and one.share == 1 for one in moved):
        depth, moved = DEEPER, _match(scene, scene.active, thresholds, chosen, DEEPER)
    return CutoffEvidence(depth=depth, moved=moved, chosen=tuple(chosen)).as_data()


def _match(
    scene: GateScene, active: Generation, thresholds: Mapping[str, float], chosen: Mapping[str, float], k: int
) -> tuple[Cutoff, ...]:
    asked = {**scene.queries.texts, **scene.queries.others}
    old, new = (
        ask_scored(scene.searcher, one, asked, scene.queries.own, k, scene.progress).run
        for one in (active, scene.generation)
    )
    return match_cutoffs(thresholds, old, new, chosen=chosen)


def _judge(gate: Gate, figures: GateFigures) -> Iterator[GateFinding]:
    found, least = figures.evidence(EVIDENCE, CutoffEvidence), gate.min_agreement
    for one in () if found is None else found.moved:
        if one.matched is None:
            continue  # said by ``carried_over``
        share = one.matched.agreement
        value = Value.PASS if share.low >= least else Value.FAIL if share.high < least else Value.INCONCLUSIVE
        yield GateFinding(
            value,
            f"the share of decisions by cut-off {one.name} that stay is {share.mean:.4f} (95 % interval "
            f"{share.low:.4f} to {share.high:.4f}), at least {least:.4f} is demanded.",
        )


def _show(figures: GateFigures) -> ShownDemand | None:
    found = figures.evidence(EVIDENCE, CutoffEvidence)
    if found is None:
        return None
    matched = {one.name: one.matched for one in found.moved if one.matched is not None}
    rows = [
        [
            one.name,
            f"{one.threshold:.4f}",
            "unknown" if one.matched is None else f"{one.matched.threshold:.4f}",
            "a person" if one.name in found.chosen else "equal share of scores",
            "unknown" if one.matched is None else f"{one.matched.added:,} and {one.matched.dropped:,}",
            f"{one.unchanged.agreement.mean:.1%}",
        ]
        for one in found.moved
    ]
    bars: dict[str, Interval] = {name: one.agreement for name, one in matched.items()}
    return ShownDemand(
        "Do the cut-offs of the application mean the same?",
        bars=bars,
        axis="share of decisions that stay",
        limit=DEMAND.kept(figures),
        caption=f"A decision is whether a document is shown that old or new has among its first {found.depth}; 95 % "
        "interval. The new number lets the same share of scores through, and is swapped with the alias.",
        columns=("cut-off", "old", "new", "chosen by", "shown now and no longer", "kept if nobody moves it"),
        rows=rows,
    )


DEMAND = Demand(
    field="min_agreement",
    label="Least share of decisions by a cut-off that stay",
    says=lambda gate: f"at least {gate.min_agreement} of the decisions by each cut-off stay",
    judge=_judge,
    off=0.0,
    against_old=True,
    evidence=EVIDENCE,
    measure=_measure,
    show=_show,
)
