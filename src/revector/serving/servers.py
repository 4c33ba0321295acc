"""Processes that answer queries as rows: which are alive, and whose encoder is loaded, by the database's clock."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from revector.errors import ServersCold

ALIVE_S = 15
"""A process that was silent for longer counts as gone: nothing waits for it, and its row is removed."""

POLL_S = 0.5

# A row from before the clock was set back is of a process that is gone, too: the others tell a new time soon.
_ALIVE = "abs(extract(epoch FROM clock_timestamp() - seen_at)) <= :alive"


@dataclass(frozen=True, slots=True)
class QueryServer:
    """A process that answers queries; ``problem`` says why an encoder of it cannot be loaded."""

    name: str
    warm: frozenset[int]
    problem: str | None


def beat(connection: sa.Connection, server_id: UUID, name: str, *, warm: Collection[int], problem: str | None) -> None:
    """Tell that a process is alive and of which generations it has the encoder; forget those that are gone."""
    connection.execute(
        sa.text(
            f"WITH gone AS (DELETE FROM server WHERE server_id IN (SELECT server_id FROM server WHERE NOT {_ALIVE} AND "
            "server_id <> :id FOR UPDATE SKIP LOCKED)) "
            "INSERT INTO server (server_id, name, warm, problem) VALUES (:id, :name, :warm, :problem) ON CONFLICT "
            "(server_id) DO UPDATE SET seen_at = EXCLUDED.seen_at, warm = EXCLUDED.warm, problem = EXCLUDED.problem"
        ),
        {"id": server_id, "name": name, "warm": sorted(warm), "problem": problem, "alive": ALIVE_S},
    )


def leave(connection: sa.Connection, server_id: UUID) -> None:
    """Forget a process that ends."""
    connection.execute(sa.text("DELETE FROM server WHERE server_id = :id"), {"id": server_id})


def alive(connection: sa.Connection) -> Sequence[QueryServer]:
    """Return the processes that were seen within ``ALIVE_S``, by name."""
    rows = connection.execute(
        sa.text(f"SELECT name, warm, problem FROM server WHERE {_ALIVE} ORDER BY name, server_id"),
        {"alive": ALIVE_S},
    )
    return [QueryServer(row.name, frozenset(row.warm), row.problem) for row in rows]


def cold(connection: sa.Connection, gen: int, *, serving: int | None) -> list[QueryServer]:
    """Return the processes that answer by generation ``serving`` and have not loaded the encoder of ``gen``.

    One that has not loaded the encoder of ``serving`` either serves other collections, or is not ready anyway. With
    ``serving`` None there is no answer yet that could become slow.
    """
    return [one for one in alive(connection) if serving in one.warm and gen not in one.warm]


def wait_until_warm(engine: sa.Engine, gen: int, *, serving: int | None, limit_s: float) -> None:
    """Return once every process that answers by ``serving`` has loaded the encoder of ``gen``; see ``cold``.

    Raises ``ServersCold`` after ``limit_s`` seconds, with what the first of them says is wrong.
    """
    deadline = time.monotonic() + limit_s
    while True:
        with engine.connect() as connection:
            waiting = cold(connection, gen, serving=serving)
        if not waiting:
            return
        if time.monotonic() >= deadline:
            why = waiting[0].problem or "it is still being loaded."
            raise ServersCold(
                f"{len(waiting)} serving processes have no encoder of generation {gen} after {limit_s:g} s; "
                f"{waiting[0].name}: {why} The alias was not moved and everything serves as before; fix or stop them, "
                "then swap again."
            )
        time.sleep(POLL_S)
