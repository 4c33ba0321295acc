"""Measures how fast PostgreSQL is here and now, beside the server that the capacity model's constants are of."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import sqlalchemy as sa

from revector.errors import RevectorError

VECTORS, DIM, TIMES = 2_000, 64, 3
REFERENCE_S = 0.23
"""What one build takes a process alone at the pace of ``constants.CONSTANTS``: it took 0.302 s beside a build of 30,000
documents by one process that took 1.30 times what ``constants.build_cpu_s`` says."""

WORTH_S = 3.0
"""Less work for the server than this, by the constants, is not worth a probe of a second or two."""

MOST_SESSIONS = 8

_FILL = f"""
INSERT INTO revector_probe SELECT CAST(ARRAY(SELECT random() - 0.5 + 0 * n FROM generate_series(1, {DIM})) AS vector)
FROM generate_series(1, {VECTORS}) AS n
"""


@dataclass(frozen=True, slots=True)
class Slowdown:
    """Times as long as the constants say that the server takes: for one process, and for each of several at once."""

    alone: float = 1.0
    together: float = 1.0
    refused: str = ""
    """Why the server could not be probed."""


def measure(engine: sa.Engine, sessions: int) -> Slowdown:
    """Build small HNSW indexes on temporary tables, alone and in ``sessions`` at once; nothing of them remains.

    Wall time, so that what others use of the server counts as slowness, and cores that are not there as well. Where
    it cannot be done, by a role that may make no temporary tables, say, the slowdown is 1 and tells why.
    """
    try:
        alone = _mean_s(engine, 1)
        together = _mean_s(engine, min(sessions, MOST_SESSIONS)) if sessions > 1 else alone
    except (sa.exc.DBAPIError, RevectorError) as error:
        return Slowdown(refused=str(getattr(error, "orig", error)).splitlines()[0])
    return Slowdown(alone / REFERENCE_S, together / REFERENCE_S)


def _mean_s(engine: sa.Engine, sessions: int) -> float:
    with ThreadPoolExecutor(sessions) as pool:
        return sum(pool.map(_build_s, [engine] * sessions)) / sessions


def _build_s(engine: sa.Engine) -> float:
    with engine.connect() as connection:  # never committed
        run = connection.exec_driver_sql
        run("SELECT setseed(0.5)")
        run(f"CREATE TEMPORARY TABLE revector_probe (embedding vector({DIM}))")
        run(_FILL)
        started = time.perf_counter()
        for _ in range(TIMES):
            run(
                "CREATE INDEX revector_probe_ann ON revector_probe USING hnsw (embedding vector_cosine_ops) WITH "
                "(m = 16, ef_construction = 100)"
            )
            run("DROP INDEX revector_probe_ann")
        return (time.perf_counter() - started) / TIMES
