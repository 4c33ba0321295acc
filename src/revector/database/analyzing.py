"""Keeps what PostgreSQL's planner believes of growing tables near the truth: autovacuum looks but once a minute.

A planner that takes a table of a million rows for empty reads it whole for each batch of a load.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from revector.database.driver import analyze

GROWN = 2.0
LEAST_PAGES = 64
"""A table below half a megabyte is read whole in no time."""


def analyze_grown(engine: sa.Engine, tables: Iterable[str]) -> list[str]:
    """Analyze those of ``tables`` (and of their partitions) that are ``GROWN`` times as large as when last analyzed.

    Returns which. One that someone else is analyzing or vacuuming is left to them.
    """
    with engine.connect() as connection:
        grown = connection.scalars(
            sa.text(
                """
                WITH given AS (SELECT CAST(to_regclass(name) AS oid) AS oid FROM unnest(CAST(:names AS text[])) name)
                SELECT CAST(CAST(c.oid AS regclass) AS text) FROM pg_class c
                WHERE c.relkind = 'r' AND c.oid IN (SELECT oid FROM given UNION
                  SELECT relid FROM given, LATERAL pg_partition_tree(CAST(given.oid AS regclass)))
                AND pg_relation_size(c.oid) / CAST(current_setting('block_size') AS int)
                  > greatest(:least, :grown * c.relpages)
                """
            ),
            {"names": list(tables), "least": LEAST_PAGES, "grown": GROWN},
        ).all()
    analyze(engine, grown, skip_locked=True)
    return list(grown)
