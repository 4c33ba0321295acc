"""The ledger's tables: one per generation, of several parts where it is large, made with it and dropped whole."""

from __future__ import annotations

import math
from collections.abc import Iterable

import sqlalchemy as sa
import tenacity

from revector.database.sessions import alone

PART_DOCUMENTS = 100_000_000
"""A larger generation's ledger is spread by hash: a table is vacuumed by one process at a time."""

MOST_PARTS = 64

MISSING = "is missing"

DROP_WAIT_MS = 500
"""How long a drop may hold up publishers of other generations, for it needs the whole ledger for an instant."""

_WAITS = tenacity.retry(
    retry=tenacity.retry_if_result(lambda dropped: dropped is False),
    stop=tenacity.stop_after_attempt(3),
    wait=tenacity.wait_random(0.1, 0.5),
    retry_error_callback=lambda _: False,
)


def table(gen: int) -> str:
    """Return the name of the table that holds a generation's ledger."""
    return f"ledger_g{gen}"


def create(connection: sa.Connection, gen: int, documents: int) -> None:
    """Make the ledger of a generation of about ``documents`` documents; no reader, writer or publisher waits."""
    parts = min(MOST_PARTS, math.ceil(documents / PART_DOCUMENTS))
    connection.execute(sa.text("SELECT ledger_make(:gen, :parts)"), {"gen": gen, "parts": parts})


def absent(connection: sa.Connection, names: Iterable[str]) -> list[str]:
    """Say which of these tables are missing."""
    there = sa.text("SELECT to_regclass(:name) IS NOT NULL")
    return [f"the table {name} {MISSING}" for name in names if not connection.scalar(there, {"name": name})]


def sweep(engine: sa.Engine) -> list[int]:
    """Drop the ledgers of dropped generations and return their numbers.

    One that someone reads or writes longer than ``DROP_WAIT_MS`` stays for the next sweep; nothing asks it.
    """
    with engine.connect() as connection:
        left = connection.scalars(
            sa.text("SELECT gen FROM generation WHERE dropped AND to_regclass('ledger_g' || gen) IS NOT NULL")
        ).all()
    return [gen for gen in left if _drop(engine, gen)]


@_WAITS
def _drop(engine: sa.Engine, gen: int) -> bool:
    # One statement and no transaction: a process that stops here must not keep the whole ledger to itself.
    with alone(engine) as connection:
        values = {"gen": gen, "wait": DROP_WAIT_MS}
        return bool(connection.scalar(sa.text("SELECT ledger_drop(:gen, :wait)"), values))
