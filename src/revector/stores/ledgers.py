"""The ledger's tables: one per generation, of several parts where it is large, made with it and dropped whole."""

from __future__ import annotations

import math

import sqlalchemy as sa
import tenacity

from revector.errors import GateBusy

PART_DOCUMENTS = 100_000_000
"""A larger generation's ledger is spread by hash: a table is vacuumed by one process at a time."""

MOST_PARTS = 64

DROP_WAIT_MS = 500
"""How long a drop may hold up publishers of other generations, for it needs the whole ledger for an instant."""

_WAITS = tenacity.retry(
    retry=tenacity.retry_if_result(lambda dropped: dropped is False),
    stop=tenacity.stop_after_attempt(3),
    wait=tenacity.wait_random(0.1, 0.5),
    retry_error_callback=lambda _: False,
)

VACUUM = (
    "autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02, "
    "autovacuum_vacuum_insert_scale_factor = 0.05"
)
"""PostgreSQL's own share of a fifth would let 200 million dead lines of a billion lie about."""


def table(gen: int) -> str:
    """Return the name of the table that holds a generation's ledger."""
    return f"ledger_g{gen}"


def create(connection: sa.Connection, gen: int, documents: int) -> None:
    """Make the ledger of a generation of about ``documents`` documents; no reader, writer or publisher waits.

    Attached, not created in place: that would need the whole ledger for itself.
    """
    run, name = connection.exec_driver_sql, table(gen)
    parts = min(MOST_PARTS, math.ceil(documents / PART_DOCUMENTS))
    if parts <= 1:
        run(f"CREATE TABLE {name} (LIKE ledger INCLUDING ALL) WITH ({VACUUM})")
    else:
        run(f"CREATE TABLE {name} (LIKE ledger INCLUDING ALL) PARTITION BY HASH (doc_id)")
        for part in range(parts):
            run(
                f"CREATE TABLE {name}_h{part} PARTITION OF {name} FOR VALUES WITH (MODULUS {parts}, REMAINDER {part}) "
                f"WITH ({VACUUM})"
            )
    run(f"ALTER TABLE ledger ATTACH PARTITION {name} FOR VALUES IN ({gen})")


def sweep(engine: sa.Engine) -> list[int]:
    """Drop the ledgers of dropped generations and return their numbers.

    One that somebody reads or writes longer than ``DROP_WAIT_MS`` stays for the next sweep; nothing asks it.
    """
    with engine.connect() as connection:
        left = connection.scalars(
            sa.text("SELECT gen FROM generation WHERE dropped AND to_regclass('ledger_g' || gen) IS NOT NULL")
        ).all()
    return [gen for gen in left if _drop(engine, gen)]


@_WAITS
def _drop(engine: sa.Engine, gen: int) -> bool:
    # One statement and no transaction: a process that stops here must not keep the whole ledger to itself.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.detach()  # the setting ends with the session
        connection.exec_driver_sql(f"SET lock_timeout = '{DROP_WAIT_MS}ms'")
        try:
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table(gen)}")
        except GateBusy:  # a lock that did not come in time
            return False
    return True
