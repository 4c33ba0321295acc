"""What providers cost is counted in the database, over all processes and days, and never goes beyond its cap."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from revector.encoders.api.limits import Use
from revector.registry.spending import SpendingMeter, spent
from worlds import World


@pytest.fixture
def meter(world: World) -> SpendingMeter:
    return SpendingMeter(lambda: world.engine)


def test_uses_of_all_days_and_processes_add_up(world: World, meter: SpendingMeter) -> None:
    world.sql("INSERT INTO spending VALUES ('p', '2020-01-01', 10, 1, 1.5)")
    assert meter.charge("p", Use(1, 20, 0.5)) == (True, Use(2, 30, 2.0))
    assert SpendingMeter(lambda: world.engine).charge("p", Use(1, 5, 0.25)) == (True, Use(3, 35, 2.25))
    assert meter.charge("q", Use(1, 1, 1.0)) == (True, Use(1, 1, 1.0))
    with world.engine.connect() as connection:
        assert spent(connection) == [
            {"provider": "p", "requests": 3, "tokens": 35, "usd": 2.25},
            {"provider": "q", "requests": 1, "tokens": 1, "usd": 1.0},
        ]
    assert world.project.status("docs")["spending"] == [
        {"provider": "p", "requests": 3, "tokens": 35, "usd": 2.25},
        {"provider": "q", "requests": 1, "tokens": 1, "usd": 1.0},
    ]


def test_what_would_go_beyond_the_cap_is_not_added(world: World, meter: SpendingMeter) -> None:
    world.sql("INSERT INTO spending VALUES ('p', '2020-01-01', 10, 1, 1.5)")
    assert meter.charge("p", Use(1, 1, 0.5), cap_usd=2.0) == (True, Use(2, 11, 2.0))
    assert meter.charge("p", Use(1, 1, 0.01), cap_usd=2.0) == (False, Use(2, 11, 2.0))


def test_an_estimate_that_was_too_high_is_put_right(meter: SpendingMeter) -> None:
    meter.charge("p", Use(1, 100, 1.0), cap_usd=1.0)
    assert meter.charge("p", Use(0, -50, -0.5)) == (True, Use(1, 50, 0.5))


def test_processes_that_meet_at_the_cap_never_spend_more(meter: SpendingMeter) -> None:
    with ThreadPoolExecutor(8) as pool:
        added = [pool.submit(meter.charge, "p", Use(1, 1, 1.0), cap_usd=5.0) for _ in range(16)]
    assert sum(one.result()[0] for one in added) == 5
    assert meter.charge("p", Use())[1].usd == 5.0
