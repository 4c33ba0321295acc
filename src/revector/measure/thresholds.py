"""Score cut-offs across models: the threshold that lets the same share through, and which decisions change with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from revector.errors import ConfigError, LabelError
from revector.measure.metrics import Interval

Scored: TypeAlias = Mapping[str, Sequence[tuple[str, float]]]
"""Query id → (document id, similarity) of its top k, each document once."""

FEW_QUERIES = 50
FEW_SCORES = 10
"""Below these, a result says that it rests on little."""

Counts: TypeAlias = npt.NDArray[np.int64]
Scores: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Decisions:
    """What one threshold on the new model's scores does to the decisions that the old one took.

    A decision is taken on each document that either model retrieved for a query: shown or not. ``kept`` were and are
    shown, ``added`` are now, ``dropped`` were, ``neither`` never. ``agreement`` is the share of equal decisions;
    ``still_shown`` the share of what was shown that still is, None where nothing was. ``share`` of the new scores
    reaches ``threshold``; ``empty`` queries show nothing.
    """

    threshold: float
    share: float
    kept: int
    added: int
    dropped: int
    neither: int
    empty: int
    agreement: Interval
    still_shown: Interval | None

    def as_data(self) -> dict[str, object]:
        """Return plain JSON data."""
        counts = {name: getattr(self, name) for name in ("threshold", "share", *_COUNTS, "empty")}
        still = None if self.still_shown is None else self.still_shown._asdict()
        return {**counts, "agreement": self.agreement._asdict(), "still_shown": still}


_COUNTS = ("kept", "added", "dropped", "neither")


@dataclass(frozen=True, slots=True)
class Cutoff:
    """One named threshold, moved from the old model to the new one.

    ``matched`` is None where the sample cannot tell, ``notes`` say why. ``interval`` is of the matched threshold, its
    ``mean`` the threshold itself; None where a person chose it. ``unchanged`` is what happens if nobody moves it.
    ``share`` of the old scores reaches ``threshold``; ``empty`` queries show nothing today.
    """

    name: str
    threshold: float
    share: float
    empty: int
    queries: int
    scores: int
    unchanged: Decisions
    matched: Decisions | None
    interval: Interval | None
    notes: tuple[str, ...]

    def as_data(self) -> dict[str, object]:
        """Return plain JSON data."""
        return {
            "name": self.name,
            "threshold": self.threshold,
            "share": self.share,
            "empty": self.empty,
            "queries": self.queries,
            "scores": self.scores,
            "unchanged": self.unchanged.as_data(),
            "matched": None if self.matched is None else self.matched.as_data(),
            "interval": None if self.interval is None else self.interval._asdict(),
            "notes": list(self.notes),
        }


def match_cutoffs(
    thresholds: Mapping[str, float],
    old: Scored,
    new: Scored,
    *,
    chosen: Mapping[str, float] | None = None,
    confidence: float = 0.95,
    draws: int = 1_000,
    seed: int = 0,
) -> tuple[Cutoff, ...]:
    """Return, for each named threshold on the old model's scores, its counterpart on the new model's.

    The new threshold lets the same share of the same queries' top k through: it matches quantiles of the two score
    distributions, and lies halfway between the two scores around that quantile.

    Args:
        thresholds: Name → threshold on the old model's similarity; a document at or above it is shown.
        old: Top k of each query by the model that is served.
        new: The same queries and k by the candidate.
        chosen: Thresholds on the new model's similarity that a person chose: only their decisions are counted.
        confidence: Coverage of all intervals, in (0, 1).
        draws: Bootstrap samples, at least 1. Queries are drawn, for a query's scores hang together, and the threshold
            is matched again in each draw.
        seed: Equal seeds and scores give equal intervals.

    Raises:
        ConfigError: If a threshold is not finite, or ``confidence`` or ``draws`` is out of range.
        LabelError: If the queries differ, there are no scores, a score is not finite or a document stands there twice.

    Source:
        Quantile (equipercentile) matching: Kolen & Brennan, *Test Equating, Scaling, and Linking* (3rd ed., 2014),
        chapter 2. Clustered bootstrap: Davison & Hinkley, *Bootstrap Methods and their Application* (1997), 3.8.

    """
    given = chosen or {}
    for name, threshold in (*thresholds.items(), *given.items()):
        if not math.isfinite(threshold):
            raise ConfigError(f"cut-off {name!r} is {threshold}; it must be a finite number. Nothing was compared.")
    if not 0 < confidence < 1 or draws < 1:
        raise ConfigError(
            f"cut-offs were asked for with confidence={confidence} and draws={draws}; confidence must lie between 0 "
            "and 1, draws must be at least 1. Nothing was compared."
        )
    sample = _Sample(old, new)
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    rng, everywhere = np.random.default_rng(seed), np.arange(sample.queries)
    drawn = [np.bincount(rng.choice(everywhere, sample.queries), minlength=sample.queries) for _ in range(draws)]
    return tuple(_cutoff(name, float(at), given.get(name), sample, tails, drawn) for name, at in thresholds.items())


class _Sample:
    """Every document that either model retrieved, query by query; a score is -inf where that model did not."""

    def __init__(self, old: Scored, new: Scored) -> None:
        if old.keys() != new.keys():
            differing = sorted(old.keys() ^ new.keys())
            raise LabelError(
                f"old and new scores must be of the same queries; {len(differing)} of {len(old.keys() | new.keys())} "
                f"are in one only, such as {differing[0]!r}. Nothing was compared; ask both the same queries."
            )
        query: list[int] = []
        pairs: list[tuple[float, float]] = []
        for number, name in enumerate(old):
            before, after = _scores(name, old[name]), _scores(name, new[name])
            for document in dict.fromkeys([*before, *after]):
                query.append(number)
                pairs.append((before.get(document, -math.inf), after.get(document, -math.inf)))
        self.queries = len(old)
        self.query: Counts = np.array(query, dtype=np.int64)
        scores: Scores = np.array(pairs, dtype=np.float64).reshape(-1, 2)
        self.old, self.new = scores[:, 0], scores[:, 1]
        self.from_old, self.from_new = np.isfinite(self.old), np.isfinite(self.new)
        if not self.from_old.any() or not self.from_new.any():
            raise LabelError(
                f"cut-offs were asked for over {self.queries} queries, for which one of the models found nothing at "
                "all. Nothing was compared; check the queries."
            )
        values, self._rank = np.unique(-self.new[self.from_new], return_inverse=True)
        self._values: Scores = -values

    def weights(self, drawn: Counts) -> Scores:
        """Return how often each pair counts when each query was drawn that often."""
        return drawn[self.query].astype(np.float64)

    def match(self, threshold: float, weights: Scores) -> float:
        """Return the new threshold whose share of passing scores is nearest to the old one's."""
        before, after = weights[self.from_old], weights[self.from_new]
        share = before[self.old[self.from_old] >= threshold].sum() / max(1.0, before.sum())
        passing = np.cumsum(np.bincount(self._rank, weights=after, minlength=len(self._values)))
        cut = int(np.argmin(np.abs(np.concatenate([[0.0], passing]) - share * passing[-1])))
        if cut == 0:
            return float(np.nextafter(self._values[0], math.inf))
        if cut == len(self._values):
            return float(self._values[-1])
        between = (self._values[cut - 1] + self._values[cut]) / 2
        return float(between if between > self._values[cut] else self._values[cut - 1])

    def count(self, threshold: float, new_threshold: float, weights: Scores) -> dict[str, float]:
        """Return the weights of kept, added, dropped and neither."""
        shown, now = self.old >= threshold, self.new >= new_threshold
        masks = (shown & now, ~shown & now, shown & ~now, ~shown & ~now)
        return {name: float(weights[mask].sum()) for name, mask in zip(_COUNTS, masks, strict=True)}

    def empty(self, passes: npt.NDArray[np.bool_]) -> int:
        return self.queries - len(np.unique(self.query[passes]))


def _scores(query: str, ranked: Sequence[tuple[str, float]]) -> dict[str, float]:
    found = dict(ranked)
    if len(found) != len(ranked):
        raise LabelError(
            f"the ranking of query {query!r} lists a document twice ({len(ranked)} entries, {len(found)} documents). "
            "Nothing was compared; keep the best score of each document."
        )
    for document, score in found.items():
        if not math.isfinite(score):
            raise LabelError(
                f"the score of document {document!r} for query {query!r} is {score}; scores must be finite. Nothing "
                "was compared; check how they were measured."
            )
    return found


def _cutoff(
    name: str, threshold: float, chosen: float | None, sample: _Sample, tails: tuple[float, float], drawn: list[Counts]
) -> Cutoff:
    passing, scores = int((sample.old >= threshold).sum()), int(sample.from_old.sum())
    tells = chosen is not None or 0 < passing < scores

    def move(weights: Scores) -> float:
        if chosen is not None:
            return chosen
        return sample.match(threshold, weights) if tells else math.nan

    matched = move(np.ones(len(sample.query), dtype=np.float64))
    moved, stay, counts = list[float](), list[dict[str, float]](), list[dict[str, float]]()
    for times in drawn:
        weights = sample.weights(times)
        moved.append(move(weights))
        stay.append(sample.count(threshold, threshold, weights))
        counts.append(sample.count(threshold, moved[-1], weights))
    low, high = np.quantile(moved, tails)
    return Cutoff(
        name,
        threshold,
        passing / scores,
        sample.empty(sample.old >= threshold),
        sample.queries,
        scores,
        unchanged=_decisions(sample, threshold, threshold, stay, tails),
        matched=_decisions(sample, threshold, matched, counts, tails) if tells else None,
        interval=Interval(matched, float(low), float(high)) if tells and chosen is None else None,
        notes=_notes(sample.queries, passing, scores) if chosen is None else (),
    )


def _decisions(
    sample: _Sample, threshold: float, new: float, drawn: list[dict[str, float]], tails: tuple[float, float]
) -> Decisions:
    counts = sample.count(threshold, new, np.ones(len(sample.query), dtype=np.float64))
    passes = sample.new >= new
    agreement = _interval(_agreement, counts, drawn, tails)
    return Decisions(
        new,
        float(passes.sum() / sample.from_new.sum()),
        **{name: int(count) for name, count in counts.items()},
        empty=sample.empty(passes),
        agreement=agreement,
        still_shown=_interval(_still_shown, counts, drawn, tails) if counts["kept"] + counts["dropped"] else None,
    )


def _agreement(counts: Mapping[str, float]) -> float:
    decided = sum(counts[name] for name in _COUNTS)
    return (counts["kept"] + counts["neither"]) / decided if decided else math.nan


def _still_shown(counts: Mapping[str, float]) -> float:
    shown = counts["kept"] + counts["dropped"]
    return counts["kept"] / shown if shown else math.nan


def _interval(
    share: Callable[[Mapping[str, float]], float],
    counts: Mapping[str, float],
    drawn: Sequence[Mapping[str, float]],
    tails: tuple[float, float],
) -> Interval:
    """Return a share with the quantiles of its draws, those that drew nothing to decide left out."""
    low, high = np.nanquantile([share(counts), *map(share, drawn)], tails)
    return Interval(share(counts), float(low), float(high))


def _notes(queries: int, passing: int, scores: int) -> tuple[str, ...]:
    notes = []
    if queries < FEW_QUERIES:
        notes.append(f"only {queries} queries: intervals over fewer than {FEW_QUERIES} are too narrow")
    if passing == 0:
        notes.append(f"none of the {scores} old scores reaches it, so no new threshold can be matched")
    elif passing == scores:
        notes.append(
            f"all {scores} old scores reach it: what it cuts off was not retrieved, so no new threshold can be "
            "matched; ask for more documents per query"
        )
    elif min(passing, scores - passing) < FEW_SCORES:
        side = f"{passing} of {scores} scores reach it" if passing < FEW_SCORES else f"{scores - passing} lie below it"
        notes.append(f"only {side}: the new threshold rests on few")
    return tuple(notes)
