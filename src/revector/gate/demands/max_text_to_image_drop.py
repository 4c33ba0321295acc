"""The largest drop of the recall of images by their captions, against the active revision."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from revector.gate.cross_modal import EVIDENCE, WORDS, CrossModal, Direction, measure
from revector.gate.demand import Demand, ShownDemand, ends
from revector.gate.figures import GateFigures, GateFinding, Value
from revector.measure.metrics import Interval
from revector.measure.statistics import paired_interval, score_interval
from revector.spec import Gate


def judged(direction: Direction, demanded: Callable[[Gate], float | None]) -> Callable[..., Iterator[GateFinding]]:
    """Return the judge of one direction: as the drop of recall is judged, by the interval of the difference."""

    def judge(gate: Gate, figures: GateFigures) -> Iterator[GateFinding]:
        most, found = demanded(gate), figures.evidence(EVIDENCE, CrossModal)
        assert most is not None  # it is demanded
        if found is None:
            said = f"recall of {WORDS[direction]} was not measured: no labelled query has a document with an image."
            yield GateFinding(Value.INCONCLUSIVE, said)
            return
        if found.old is None:
            said = f"recall of {WORDS[direction]} has nothing to fall from: what is served sees no images."
            yield GateFinding(Value.PASS, said)
            return
        change = paired_interval(found.old[direction], found.new[direction], confidence=figures.confidence)
        old, new = (sum(side[direction]) / len(side[direction]) for side in (found.old, found.new))
        what = (
            f"recall@{found.k} of {WORDS[direction]} goes from {old:.4f} to {new:.4f} on {len(found.new[direction]):,} "
            f"({ends(change, figures.confidence)}): a drop of more than the allowed {most:.4f}"
        )
        if change.high < -most:
            yield GateFinding(Value.FAIL, f"{what} is shown.")
        elif change.low >= -most:
            yield GateFinding(Value.PASS, f"{what} is excluded.")
        else:
            yield GateFinding(Value.INCONCLUSIVE, f"{what} is neither shown nor excluded; label more captions.")

    return judge


def _show(figures: GateFigures) -> ShownDemand | None:
    found = figures.evidence(EVIDENCE, CrossModal)
    if found is None:
        return None
    sides = {"new": found.new} | ({} if found.old is None else {"old": found.old})
    bars: dict[str, Interval] = {
        f"{WORDS[direction]}, {role}": score_interval(side[direction], confidence=figures.confidence)
        for direction in WORDS
        for role, side in sides.items()
    }
    return ShownDemand(
        "Do texts and images find each other?",
        bars=bars,
        axis=f"recall@{found.k}",
        caption=f"{found.captions:,} captions, searched among {found.images:,} images, and the {found.captioned:,} "
        "images that they are of, searched for their captions: both by exact search, each revision by its own towers. "
        "One tower changed without the other shows here.",
    )


DEMAND = Demand(
    field="max_text_to_image_drop",
    label="Largest drop of images found by their captions",
    says=lambda gate: f"images found by their captions at most {gate.max_text_to_image_drop:g} below the active one",
    judge=judged("text_to_image", lambda gate: gate.max_text_to_image_drop),
    against_old=True,
    evidence=EVIDENCE,
    measure=measure,
    show=_show,
)
