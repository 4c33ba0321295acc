"""When a canary calls a fall of recall no chance: by the day, by the week, and how large a fall is noticed."""

from __future__ import annotations

import re

import numpy as np
import pytest

from revector.gate import canary_falls
from revector.gate.canary_falls import fall_check
from revector.interfaces import Document
from worlds import World, document


def alerts(then: list[float], now: list[float], *, max_drop: float, weekly: bool = False) -> bool:
    before, after = ({f"q{n}": score for n, score in enumerate(side)} for side in (then, now))
    return fall_check(before, after, what="recall", max_drop=max_drop, weekly=weekly).alert


@pytest.mark.parametrize("queries", [60, 300, 600, 2_000])
def test_what_a_canary_says_it_notices_alerts_in_four_of_five_sets_of_queries(queries: int) -> None:
    """… at least: in each set some queries lose all that they found, as many as chance brings."""
    rng = np.random.default_rng(queries)
    for drop in (0.02, 0.05):
        noticed, _ = canary_falls.resolution(queries, drop)
        lost = rng.binomial(queries, noticed, 20_000)
        shown = (lost >= canary_falls.SHOWN_WEEK) & (lost / queries >= drop / 2 - 1e-9)
        assert 0.78 < np.mean(shown) < 0.9


def test_the_queries_that_a_caution_asks_for_need_none() -> None:
    (needed,) = re.findall(r"(\d+) queries notice 0\.03", canary_falls.resolution(60, 0.02)[1] or "")
    assert canary_falls.resolution(int(needed) - 1, 0.02)[1] is not None
    assert canary_falls.resolution(int(needed), 0.02)[1] is None


@pytest.mark.parametrize("queries", [60, 600, 3_000])
def test_so_many_losses_show_a_fall_and_one_fewer_does_not(queries: int) -> None:
    for weekly, shown in ((False, canary_falls.SHOWN_DAY), (True, canary_falls.SHOWN_WEEK)):
        for losses in (shown, shown - 1):
            now = [0.0] * losses + [1.0] * (queries - losses)
            assert alerts([1.0] * queries, now, max_drop=1e-3, weekly=weekly) is (losses == shown)
        few = shown + 3
        now = [0.0] * few + [1.0] * (queries - few)
        assert alerts([1.0] * queries, now, max_drop=2 * few / queries, weekly=weekly)
        assert not alerts([1.0] * queries, now, max_drop=2.1 * few / queries, weekly=weekly), "half is not reached"


def test_the_tests_of_a_year_take_no_more_than_one_false_alarm() -> None:
    assert pytest.approx(1) == 365.25 * canary_falls.DAY + 365.25 / 7 * canary_falls.WEEK
    rng, told = np.random.default_rng(6), 0
    for _ in range(300):  # as many gains as losses, whatever the fall
        now = 0.5 + rng.choice([-0.5, 0.0, 0.5], 200, p=[0.1, 0.8, 0.1])
        told += alerts([0.5] * 200, list(now), max_drop=1e-6, weekly=True)
    assert told <= 300 * canary_falls.WEEK + 8


# In a collection ------------------------------------------------------------------------------------------------------


def a_week_goes_by(world: World) -> None:
    world.sql("UPDATE canary SET at = at - interval '7 days'")


def spoil(world: World, count: int) -> None:
    """Make so many labelled documents say something else, and the others what they said."""
    world.documents.put_many(
        [Document(f"d{n:05d}", f"nothing that anyone asks for {n}", {}) for n in range(count)]
        + [document(n) for n in range(count, 30)]
    )
    world.settle()


def test_the_test_of_the_week_finds_what_a_day_does_not_and_says_it_until_it_is_over(served: World) -> None:
    served.settings(canary_drop=0.25)
    served.project.canary("docs")
    spoil(served, 12)
    found = served.project.canary("docs")
    lost = round(60 * (found.baseline - found.recall))
    assert 8 <= lost < canary_falls.SHOWN_DAY, "half of 0.25, and too few for a day"
    assert (found.checks[0].name, found.alerts) == ("day", ())
    a_week_goes_by(served)
    for _ in range(2):  # the second is no week later
        found = served.project.canary("docs")
        (alert,) = found.alerts
        assert "on 60 queries: query by query no chance by the test of the week" in alert
    spoil(served, 0)
    for name in ("week", "day"):
        found = served.project.canary("docs")
        assert (found.alerts, found.checks[0].name) == ((), name)
