"""What providers cost is counted in the database, over all processes and days, and never goes beyond its cap."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from revector.config import load_project
from revector.encoders.api.limits import Use
from revector.errors import ConfigError
from revector.registry.spending import SpendingMeter, spent
from worlds import World


@pytest.fixture
def meter(world: World) -> SpendingMeter:
    return SpendingMeter(lambda: world.engine)


def test_uses_of_all_days_and_processes_add_up(world: World, meter: SpendingMeter) -> None:
    world.sql("INSERT INTO spending VALUES ('p', '2020-01-01', 10, 1, 1.5)")
    assert meter.charge("p", Use(1, 20, 0.5)) == (None, Use(2, 30, 2.0))
    assert SpendingMeter(lambda: world.engine).charge("p", Use(1, 5, 0.25)) == (None, Use(3, 35, 2.25))
    assert meter.charge("q", Use(1, 1, 1.0)) == (None, Use(1, 1, 1.0))
    with world.engine.connect() as connection:
        assert spent(connection) == [
            {"provider": "p", "requests": 3, "tokens": 35, "usd": 2.25, "month_usd": 0.75},
            {"provider": "q", "requests": 1, "tokens": 1, "usd": 1.0, "month_usd": 1.0},
        ]
    assert world.project.status("docs").as_data()["spending"] == [
        {"provider": "p", "requests": 3, "tokens": 35, "usd": 2.25, "month_usd": 0.75},
        {"provider": "q", "requests": 1, "tokens": 1, "usd": 1.0, "month_usd": 1.0},
    ]


def test_what_would_go_beyond_the_cap_is_not_added(world: World, meter: SpendingMeter) -> None:
    world.sql("INSERT INTO spending VALUES ('p', '2020-01-01', 10, 1, 1.5)")
    assert meter.charge("p", Use(1, 1, 0.5), caps={"max_spend_usd": 2.0}) == (None, Use(2, 11, 2.0))
    assert meter.charge("p", Use(1, 1, 0.01), caps={"max_spend_usd": 2.0}) == ("max_spend_usd", Use(2, 11, 2.0))


def test_an_estimate_that_was_too_high_is_put_right(meter: SpendingMeter) -> None:
    meter.charge("p", Use(1, 100, 1.0), caps={"max_spend_usd": 1.0})
    assert meter.charge("p", Use(0, -50, -0.5)) == (None, Use(1, 50, 0.5))


def test_processes_that_meet_at_the_cap_never_spend_more(meter: SpendingMeter) -> None:
    with ThreadPoolExecutor(8) as pool:
        added = [pool.submit(meter.charge, "p", Use(1, 1, 1.0), caps={"max_spend_usd": 5.0}) for _ in range(16)]
    assert sum(one.result()[0] is None for one in added) == 5
    assert meter.charge("p", Use())[1].usd == 5.0


MONTH, MIGRATION = "max_spend_usd_per_month", "max_spend_usd_per_migration"


def test_a_cap_of_the_month_forgets_what_was_spent_before(world: World, meter: SpendingMeter) -> None:
    world.sql("INSERT INTO spending VALUES ('p', (date_trunc('month', now() AT TIME ZONE 'UTC'))::date - 1, 9, 9, 9.0)")
    caps = {MONTH: 2.0}
    assert meter.charge("p", Use(1, 1, 2.0), caps=caps)[0] is None
    assert meter.charge("p", Use(1, 1, 0.5), caps=caps) == (MONTH, Use(1, 1, 2.0))
    assert meter.charge("p", Use(1, 1, 0.5), caps={"max_spend_usd": 11.2}) == ("max_spend_usd", Use(10, 10, 11.0))


def test_a_cap_of_a_migration_counts_from_when_it_was_provisioned(served: World) -> None:
    meter, caps = SpendingMeter(lambda: served.engine), {MIGRATION: 2.0}
    meter.charge("p", Use(5, 5, 50.0))
    assert meter.charge("p", Use(1, 1, 3.0), caps=caps)[0] is None  # no migration is open
    served.upgrade("b200", to="provision")
    served.sql("ALTER TABLE generation DISABLE TRIGGER USER")
    served.sql(
        "UPDATE generation SET spec = jsonb_set(spec, '{model,name}', '\"api:p/model\"'), spent = "
        '\'{"usd": 53.0, "tokens": 6, "requests": 6}\' WHERE phase = \'provisioned\''
    )
    assert meter.charge("p", Use(1, 1, 2.0), caps=caps)[0] is None
    assert meter.charge("p", Use(1, 1, 0.1), caps=caps) == (MIGRATION, Use(1, 1, 2.0))
    assert meter.charge("q", Use(1, 1, 9.0), caps=caps)[0] is None
    assert meter.charge("pp", Use(1, 1, 9.0), caps=caps)[0] is None
    served.migrator.abort("too dear")
    assert meter.charge("p", Use(1, 1, 9.0), caps=caps)[0] is None


@pytest.mark.parametrize("cap", ["max_spend_usd", MONTH, MIGRATION])
def test_a_cap_without_a_price_is_refused_when_the_project_is_opened(world: World, cap: str) -> None:
    table = '[providers.p]\nbase_url = "http://localhost:1/v1"\ntokenizer = "./t.json"\n'
    file = world.root / "revector.toml"
    before = file.read_text()
    file.write_text(f"{before}\n{table}{cap} = 50.0\n")
    with pytest.raises(ConfigError, match=f"{cap} would never stop anything without a price.*Nothing has run"):
        load_project(world.root)
    file.write_text(f"{before}\n{table}{cap} = 50.0\nprice_per_million_tokens_usd = 0.02\n")
    assert load_project(world.root).providers["p"].settings.caps == {cap: 50.0}
