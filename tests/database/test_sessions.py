"""What a pool asks of its connections before it lends them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from places import until
from revector.database import sessions
from revector.database.engine import make_engine
from worlds import World


@pytest.fixture
def pool(world: World) -> Iterator[sa.Engine]:
    engine = make_engine(world.database_url)
    yield engine
    engine.dispose()


def used(pool: sa.Engine) -> tuple[int, Any]:
    """Use the one connection of the pool; return its process on the server, and the driver's object."""
    with pool.connect() as connection:
        return connection.scalar(sa.text("SELECT pg_backend_pid()")), connection.connection.driver_connection


def test_a_connection_is_asked_whether_it_works_only_after_a_rest(world: World, pool: sa.Engine) -> None:
    pid, driver = used(pool)
    last = f"SELECT state_change FROM pg_stat_activity WHERE pid = {pid}"
    before = world.value(last)
    with pool.connect():
        assert world.value(last) == before
    driver.rested_s -= sessions.REST_S
    with pool.connect():
        assert world.value(last) > before


def test_a_connection_that_the_server_closed_just_now_is_replaced_before_it_is_used(
    world: World, pool: sa.Engine
) -> None:
    pid, driver = used(pool)
    assert world.value(f"SELECT pg_terminate_backend({pid}, 10000)")
    until(lambda: not sessions._is_silent(driver), "its end has come here", every_s=0.01)
    assert used(pool)[0] != pid
