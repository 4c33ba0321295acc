"""A judge beside people: it narrows the interval where it is good, and never makes it wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from revector.measure.differing import DifferingPairs, ProxyPairs, differing_pairs
from revector.measure.proxied import FIRST, correct, proxied_interval
from revector.measure.statistics import Floats, Share, paired_interval

DRAWS = 500
Judge = Callable[[Floats, np.random.Generator], Floats]
JUDGES: dict[str, Judge] = {
    "good": lambda found, rng: np.where(rng.random(found.size) < 0.9, found, 0.0),
    "useless": lambda found, rng: rng.choice([-1.0, 0.0, 1.0], found.size),
    "always for the new": lambda found, _: np.ones(found.size),
    "right, but for the new": lambda found, rng: np.maximum(found, np.where(rng.random(found.size) < 0.4, 1.0, -1.0)),
    "blind to losses": lambda found, _: np.maximum(found, 0.0),
}


def sample(judge: Judge, labels: int, drop: float, rng: np.random.Generator) -> DifferingPairs:
    """Return judged queries and 1,500 others, of which 22 % won or lost, and ``drop`` more lost than won."""
    chances = [0.22 + drop / 2, 0.56, 0.22 - drop / 2]
    found = rng.choice([-1.0, 0.0, 1.0], labels + 1_500, p=chances)
    said = judge(found, rng)
    old, new = np.maximum(0.0, -found[:labels]), np.maximum(0.0, found[:labels])
    proxy = ProxyPairs(tuple(said[:labels]), tuple(said[labels:]))
    return DifferingPairs(tuple(old), tuple(new), Share(found.size, found.size), proxy)


def without(pairs: DifferingPairs) -> tuple[float, float]:
    found = paired_interval(pairs.old, pairs.new, share=pairs.share, draws=4_000)
    return found.low, found.high


def test_a_good_judge_narrows_the_interval_and_a_useless_one_leaves_it_as_it_is() -> None:
    widths = {
        name: [
            (found.high - found.low, high - low)
            for seed in range(8)
            for pairs in [sample(JUDGES[name], 300, 0.0, np.random.default_rng(seed))]
            for found, (low, high) in [(proxied_interval(pairs, draws=4_000), without(pairs))]
        ]
        for name in ("good", "useless", "always for the new")
    }
    ratio = {name: sum(one for one, _ in found) / sum(other for _, other in found) for name, found in widths.items()}
    assert ratio["good"] < 0.75
    assert ratio["useless"] == pytest.approx(1.0, abs=0.03)
    assert ratio["always for the new"] == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("judge", JUDGES)
def test_whatever_the_judge_says_a_loss_passes_no_more_often_than_the_confidence_allows(judge: str) -> None:
    drop, repetitions, passed = 0.1, 300, 0
    for seed in range(repetitions):
        pairs = sample(JUDGES[judge], 150, drop, np.random.default_rng(seed))
        passed += proxied_interval(pairs, draws=DRAWS).low > -drop
    assert passed <= 0.025 * repetitions + 2.6 * math.sqrt(0.025 * 0.975 * repetitions)


def test_the_weight_of_a_query_is_found_on_those_before_it_alone() -> None:
    pairs = sample(JUDGES["good"], 60, 0.0, np.random.default_rng(3))
    assert pairs.proxy is not None
    values = correct(pairs).values
    turned = DifferingPairs(
        (*pairs.old[:59], pairs.new[59]), (*pairs.new[:59], pairs.old[59]), pairs.share, pairs.proxy
    )
    assert list(correct(turned).values[:59]) == list(values[:59])
    assert list(values[:FIRST]) == [new - old for old, new in zip(pairs.old[:FIRST], pairs.new[:FIRST], strict=True)]
    assert 0 < correct(pairs).weight < 1


def test_a_judge_alone_decides_nothing() -> None:
    proxy = ProxyPairs((), (1.0,) * 2_000)
    pairs = DifferingPairs((), (), Share(2_000, 2_000), proxy)
    found, plain = proxied_interval(pairs), paired_interval((), (), share=pairs.share)
    assert (found.low, found.high) == (plain.low, plain.high)
    assert found.mean == 0.0


def test_a_query_that_the_judge_was_not_asked_counts_as_people_judged_it() -> None:
    old, new = {f"q{n}": ["a"] for n in range(5)}, {f"q{n}": ["b"] for n in range(5)}
    people = {"q3": 1.0, "q0": 0.0, "q1": 1.0}
    pairs = differing_pairs(list(old), dict.fromkeys(people, 0.5), people, old, new, proxies={"q1": 0.5, "q4": -1.0})
    assert pairs.new == (1.0, 0.0, 1.0), "in the judge's order, then in their own"
    assert pairs.proxy is not None
    assert pairs.proxy.judged[0] == 0.5
    assert [math.isnan(one) for one in pairs.proxy.judged] == [False, True, True]
    assert pairs.proxy.beside == (-1.0,)
