"""Owns the record of an adoption: begun with its triggers in one transaction, resumed, and ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from revector.adoption import following, view
from revector.adoption.following import FollowedTable, run
from revector.adoption.table import TableLook, read_columns
from revector.adoption.terms import AdoptedTable
from revector.adoption.view import AdoptedView
from revector.crash import crash_at
from revector.errors import ConfigError, GateBusy
from revector.registry.control import add_event, before_event

MOST_TOLERANCE = 0.001
"""What the proof of the model allows."""

LOCK_MS = 2_000
"""How long the triggers wait for the writers of a table, while later writers wait behind them."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """One collection's adopted table, its columns under the names that they have now."""

    cid: int
    table: FollowedTable
    named: Mapping[str, str]
    """Columns as they were called when the table was adopted, and what they are called now."""
    gone: tuple[str, ...]
    """What was dropped since: the table, or columns."""
    horizon: int
    """Rows that were last written by transactions before this one are as they were when the model was proved."""
    vectors_fp: str
    chunker_fp: str
    proof: Mapping[str, Any]
    cursor: tuple[str, ...] | None
    copied: bool
    adopted_at: datetime
    view: AdoptedView | None

    @property
    def terms(self) -> AdoptedTable:
        """The terms, by today's names."""
        return self.table.terms


_SELECT = """
SELECT a.*, c.oid AS oid, CASE WHEN c.oid IS NOT NULL THEN format('%I.%I', n.nspname, c.relname) END AS name,
  CASE WHEN v.oid IS NOT NULL THEN format('%I.%I', m.nspname, v.relname) END AS seen
FROM adoption a LEFT JOIN pg_class c ON c.oid = CAST(a.source AS oid) LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_class v ON v.oid = CAST(a.view AS oid) LEFT JOIN pg_namespace m ON m.oid = v.relnamespace
"""


def read_adoption(connection: sa.Connection, cid: int) -> Adoption | None:
    """Return the table that a collection has adopted and follows; None where there is none."""
    followed = f"{_SELECT} WHERE a.cid = :cid AND a.source IS NOT NULL"
    row = connection.execute(sa.text(followed), {"cid": cid}).one_or_none()
    if row is None:
        return None
    columns = {} if row.oid is None else read_columns(connection, row.oid)
    by_number = {column.number: column for column in columns.values()}
    numbers: dict[str, int] = row.columns["numbers"]
    named = {name: by_number[number].name if number in by_number else name for name, number in numbers.items()}
    gone = ["the table"] if row.oid is None else []
    gone += [f"column {name}" for name, number in numbers.items() if row.oid is not None and number not in by_number]
    terms = AdoptedTable.model_validate({**row.terms, "table": row.name or row.terms["table"]})
    terms = terms.model_copy(
        update={
            "id": tuple(named[name] for name in terms.id),
            "text": tuple(named[name] for name in terms.text),
            "meta": tuple(named[name] for name in terms.meta),
            "vector": None if terms.vector is None else named[terms.vector],
            "node": None if terms.node is None else named[terms.node],
        }
    )
    table = FollowedTable(
        cid,
        terms,
        {name: column.type for name, column in columns.items()},
        tuple(named[name] for name in row.columns["used"]),
        row.columns["max_bytes"],
    )
    cursor = None if row.cursor is None else tuple(row.cursor)
    return Adoption(
        cid, table, named, tuple(gone), row.horizon, row.vectors_fp, row.chunker_fp, row.proof, cursor, row.copied,
        row.adopted_at, _view(row),
    )  # fmt: skip


def _view(row: sa.Row[Any]) -> AdoptedView | None:
    if row.view_name is None:
        return None
    return AdoptedView(row.seen or row.view_name, row.view_storage, there=row.seen is not None)


def tolerance_of(connection: sa.Connection, cid: int, vectors_fp: str, chunker_fp: str) -> float:
    """Return how far, in cosine distance, an adopted vector may be from its text's: twice the proof's farthest.

    The application made it on another machine, perhaps in other numbers; 0 where none were taken.
    """
    lowest = connection.scalar(
        sa.text(
            "SELECT CAST(proof->>'lowest' AS double precision) FROM adoption WHERE cid = :cid AND "
            "vectors_fp = :vectors AND chunker_fp = :chunker"
        ),
        {"cid": cid, "vectors": vectors_fp, "chunker": chunker_fp},
    )
    return 0.0 if lowest is None else min(MOST_TOLERANCE, 2 * (1 - lowest))


@dataclass(frozen=True, slots=True)
class ProvedVectors:
    """What the vectors of a table were proved to be; empty fingerprints where none are taken."""

    vectors_fp: str
    chunker_fp: str
    proof: Mapping[str, Any]


def begin(
    connection: sa.Connection,
    cid: int,
    look: TableLook,
    proved: ProvedVectors,
    view_of: tuple[str, str] | None = None,
    *,
    max_bytes: int,
    actor: str,
) -> None:
    """Record the adoption and make its triggers, in the caller's transaction: from its commit on, no write is missed.

    ``view_of``: the name of a view to make, and the type of its vectors.

    Raises ``GateBusy`` where writers of the table do not end in time, ``ConfigError`` where the collection has
    documents or another table.
    """
    check_free(connection, cid)
    table = look.followed(cid, max_bytes)
    _install(connection, table)
    crash_at("adopt.after_triggers")
    _record(connection, cid, look, proved, max_bytes)
    facts = {"table": look.terms.table, "terms": look.terms.model_dump(mode="json"), "proof": dict(proved.proof)}
    if view_of is not None:
        view.make(connection, table, *view_of)
        facts["view"] = view_of[0]
    add_event(connection, cid, actor, "adopt", None, facts)


def check_free(connection: sa.Connection, cid: int) -> None:
    """Raise ``ConfigError`` for a collection that has adopted something, or has documents of its own."""
    before_event(connection, cid)
    known = connection.scalar(
        sa.text("SELECT coalesce(origin, CAST(source AS text)) FROM adoption WHERE cid = :cid"), {"cid": cid}
    )
    if known is not None:
        raise ConfigError(f"the collection has adopted {known} already. Nothing was changed; `revector unadopt` it.")
    if connection.scalar(sa.text("SELECT true FROM document WHERE cid = :cid AND NOT deleted LIMIT 1"), {"cid": cid}):
        raise ConfigError(
            "the collection has documents that are not of this table. Nothing was changed; adopt it into a new one."
        )


def follow_again(connection: sa.Connection, adoption: Adoption) -> None:
    """Make functions and triggers again, in the caller's transaction; what was missed is left to a copy."""
    before_event(connection, adoption.cid)
    run(connection, f"SET LOCAL lock_timeout = {LOCK_MS}")
    following.remove(connection, adoption.cid)
    _install(connection, adoption.table)


def _install(connection: sa.Connection, table: FollowedTable) -> None:
    name = table.terms.table
    run(connection, f"SET LOCAL lock_timeout = {LOCK_MS}")
    try:
        table.install(connection)
    except GateBusy as error:
        raise GateBusy(
            f"a transaction that writes {name} did not end within {LOCK_MS / 1_000:g} s, and the triggers wait for it. "
            "Nothing was changed; run it again when that transaction has ended."
        ) from error


def _record(connection: sa.Connection, cid: int, look: TableLook, proved: ProvedVectors, max_bytes: int) -> None:
    """Write the row."""
    named = dict.fromkeys((*look.used, *([look.terms.vector] if look.terms.vector else [])))
    columns = {
        "numbers": {name: look.columns[name].number for name in named},
        "used": list(look.used),
        "max_bytes": max_bytes,
    }
    connection.execute(
        sa.text(
            "INSERT INTO adoption (cid, source, terms, columns, horizon, vectors_fp, chunker_fp, proof) VALUES (:cid, "
            "CAST(:source AS regclass), CAST(:terms AS jsonb), CAST(:columns AS jsonb), :horizon, :vectors_fp, "
            ":chunker_fp, CAST(:proof AS jsonb))"
        ),
        {
            "cid": cid,
            "source": look.terms.table,
            "terms": look.terms.model_dump_json(),
            "columns": json.dumps(columns),
            "horizon": look.horizon,
            "vectors_fp": proved.vectors_fp,
            "chunker_fp": proved.chunker_fp,
            "proof": json.dumps(proved.proof),
        },
    )


def end(connection: sa.Connection, cid: int, *, actor: str) -> None:
    """Remove view, triggers, functions and record, in the caller's transaction; documents and indexes stay as they are.

    Raises ``StateError`` where something of others reads the view.
    """
    before_event(connection, cid)
    run(connection, f"SET LOCAL lock_timeout = {LOCK_MS}")
    adoption = read_adoption(connection, cid)
    if adoption is not None and adoption.view is not None:
        view.drop(connection, cid, adoption.view)
    following.remove(connection, cid)
    crash_at("unadopt.after_triggers")
    row = connection.execute(
        sa.text("DELETE FROM adoption WHERE cid = :cid RETURNING coalesce(origin, CAST(source AS text)) AS place"),
        {"cid": cid},
    ).one_or_none()
    connection.execute(sa.text("DELETE FROM copied WHERE cid = :cid"), {"cid": cid})
    if row is not None:
        add_event(connection, cid, actor, "unadopt", None, {"table": row.place})
