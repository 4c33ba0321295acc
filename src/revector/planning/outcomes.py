"""Planned against actual: the plan in the history, what a migration came to, and one beside the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from revector.planning.forecast import MigrationPlan, PlannedActual
from revector.registry.collections import Generation
from revector.registry.control import add_event, before_event
from revector.registry.lanes import lane_of
from revector.registry.spending import spent_at

STEPS = ("backfill", "index", "verify", "gate")
"""Whose end is an event, in this order; the first begins with the provisioning."""

SHARD_S = 45 * 60
"""Length of a shard: what a dead worker keeps others waiting for, against the seconds that a task costs in itself."""

LEAST_SHARDS, MOST_SHARDS = 4, 1_024
"""The most is Airflow's ``[core] max_map_length``: a longer list fails the task that returns it."""


def shards_for(connection: sa.Connection, cid: int, revision: str) -> int:
    """Return how many shards the latest plan of ``revision`` calls for; the least there are without one."""
    seconds = connection.scalar(
        sa.text(
            "SELECT (detail->'seconds'->>'backfill')::float8 FROM event WHERE cid = :cid AND kind = 'plan' AND "
            "detail->>'revision' = :revision ORDER BY seq DESC LIMIT 1"
        ),
        {"cid": cid, "revision": revision},
    )
    return min(max(LEAST_SHARDS, math.ceil((seconds or 0) / SHARD_S)), MOST_SHARDS)


def keep_plan(engine: sa.Engine, cid: int, actor: str, plan: MigrationPlan) -> None:
    """Add what a plan says to the history, where what happens is compared with it."""
    with engine.begin() as connection:
        before_event(connection, cid)
        add_event(connection, cid, actor, "plan", None, plan.brief())


def backfilled(engine: sa.Engine, generation: Generation) -> dict[str, object]:
    """Return what a backfill came to: documents, chunks, and bytes of the archive's parts that are still there.

    Behind an API also ``spent``, what its provider was paid until now; so does the event of the provisioning.
    """
    with engine.connect() as connection:
        row = connection.execute(
            sa.text("SELECT count(*) AS documents, coalesce(sum(n_chunks), 0) AS chunks FROM ledger WHERE gen = :gen"),
            {"gen": generation.gen},
        ).one()
        paths = connection.scalars(sa.text("SELECT path FROM part WHERE gen = :gen"), {"gen": generation.gen}).all()
        paid = spent_at(connection, generation.spec.model.name)
    size = 0
    for path in paths:
        with suppress(OSError):  # on another machine, or removed
            size += Path(path).stat().st_size
    return {"documents": int(row.documents), "chunks": int(row.chunks), "archive_bytes": size, **paid}


def indexed(engine: sa.Engine, generation: Generation) -> dict[str, int]:
    """Return the bytes of a physical index with everything that belongs to it."""
    with engine.connect() as connection:
        return {"index_bytes": lane_of(generation).size_bytes(connection)}


def planned_and_actual(connection: sa.Connection, cid: int, revision: str) -> dict[str, PlannedActual] | None:
    """Return ``planned`` and ``actual`` of each figure of the latest migration to ``revision``; None without a plan.

    Seconds of a step are from the end of the one before, by the database's clock: waiting in between counts. Behind an
    API there are also tokens and USD, as its provider counts them: all that it was paid between the provisioning and
    the end of the backfill, by whomever.
    """
    events = connection.execute(
        sa.text(
            """
            WITH provisioned AS (SELECT seq, gen FROM event WHERE cid = :cid AND kind = 'provision'
                                   AND detail->>'revision' = :revision ORDER BY seq DESC LIMIT 1)
            SELECT kind, at, detail FROM event WHERE cid = :cid AND (
              gen = (SELECT gen FROM provisioned) AND kind = ANY(CAST(:kinds AS text[])) OR seq = (
                SELECT max(seq) FROM event WHERE cid = :cid AND kind = 'plan' AND detail->>'revision' = :revision
                  AND seq < (SELECT seq FROM provisioned)))
            ORDER BY seq
            """
        ),
        {"cid": cid, "revision": revision, "kinds": ["provision", *STEPS]},
    ).all()
    first = {row.kind: row for row in reversed(events)}
    if "plan" not in first or "provision" not in first:
        return None
    planned: Mapping[str, Any] = first["plan"].detail
    actual: dict[str, Any] = {}
    for kind in ("backfill", "index"):
        actual |= first[kind].detail if kind in first else {}
    found: dict[str, PlannedActual] = {
        name: {"planned": planned[name], "actual": actual.get(name)}
        for name in ("documents", "chunks", "index_bytes", "archive_bytes")
    }
    began, ended = first["provision"].detail.get("spent"), actual.get("spent")
    if began and ended:
        found |= {
            name: {"planned": planned[name], "actual": round(ended[name] - began[name], 6)}
            for name in ("tokens", "usd")
        }
    before = first["provision"].at
    for step in STEPS:
        if step not in first:
            break
        took = (first[step].at - before).total_seconds()
        before = first[step].at
        found[f"{step}_seconds"] = {"planned": planned["seconds"][step], "actual": round(took, 3)}
    return found
