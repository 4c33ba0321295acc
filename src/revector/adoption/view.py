"""Owns the view of an adopted table: its rows beside the vectors of the active generation.

It joins the table with ``revector.vectors_<cid>``, which the database itself replaces where the alias moves
(0015_views.sql). So the application's view stays as it is, with its owner and its privileges. It reads with the rights
of the role that asks: row-level security and privileges of the table apply. A row without a vector yet is not in it:
what must return every row of the table cannot be read in the order of a graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
import sqlalchemy as sa

from revector.adoption.following import FollowedTable, run
from revector.adoption.table import VECTORS, Column, read_columns
from revector.adoption.terms import ROW, AdoptedTable, parts_of, quoted
from revector.errors import ConfigError, StateError
from revector.spec import PGVECTOR, IndexSpec

CHUNK = "revector_chunk"
"""Column that numbers the vectors of a row, from 0."""

DEFAULT_COLUMN = "embedding"
"""What the column of vectors is called where none was adopted."""

_SHOWN = "revector_vectors"


@dataclass(frozen=True, slots=True)
class AdoptedView:
    """A view as it was recorded: its name now, or as it was made where it is there no longer."""

    name: str
    storage: str
    there: bool


def vector_column(terms: AdoptedTable) -> str:
    """Return what the column of vectors is called in the view."""
    return terms.vector or DEFAULT_COLUMN


def full_name(name: str, terms: AdoptedTable) -> str:
    """Return a view's name with its schema, which is the table's unless it was said. Raises ``ConfigError``."""
    parts = parts_of(name)
    schema = parts[0] if len(parts) == 2 else parts_of(terms.table)[0]
    return f"{quoted(schema)}.{quoted(parts[-1])}"


_PLACE = """
SELECT to_regnamespace(:schema) IS NULL AS absent, current_user AS role,
  has_schema_privilege(CAST(to_regnamespace(:schema) AS oid), 'CREATE') AS may,
  (SELECT relkind FROM pg_class WHERE oid = to_regclass(:name)) AS taken
"""


def problems(
    connection: sa.Connection, name: str, terms: AdoptedTable, columns: Mapping[str, Column]
) -> tuple[list[str], list[str]]:
    """Return what keeps a view from being made, and the GRANT statements that would help."""
    whole = full_name(name, terms)
    schema = quoted(parts_of(whole)[0])
    place = connection.execute(sa.text(_PLACE), {"schema": schema, "name": whole}).one()
    said, grants = list[str](), list[str]()
    if place.taken:
        said.append(f"there is {whole} already, and the view would take its name")
    if place.absent:
        said.append(f"there is no schema {schema} for the view")
    elif not place.may:
        said.append(f"role {place.role} may not make a view in schema {schema}")
        grants.append(f"GRANT CREATE ON SCHEMA {schema} TO {quoted(place.role)};")
    elif parts_of(whole)[0] == "revector":
        said.append("the schema revector is for what revector makes; name another for the view")
    if CHUNK in columns:
        said.append(f"the table has a column {CHUNK}, which the view adds")
    kept = columns.get(vector_column(terms))
    if kept is not None and kept.type not in VECTORS:
        said.append(
            f"column {kept.name!r} is of type {kept.type}, and the view calls its vectors so; name one with --vector"
        )
    return said, grants


def index_refusal(index: IndexSpec, storage: str, metric: str) -> str | None:
    """Say why such an index cannot be read through a view of vectors of type ``storage``, asked by ``metric``."""
    if index.store != PGVECTOR:
        return f"the index lies outside of PostgreSQL, in the store {index.store!r}"
    if index.graph != storage:
        return f"a view keeps the type of its vectors, {storage}, and the graph would hold {index.graph}"
    if index.metric != metric:
        return f"queries on a view name the operator of {metric}, and the index would be of {index.metric}"
    return None


def make(connection: sa.Connection, table: FollowedTable, name: str, storage: str) -> None:
    """Make the view, in the caller's transaction. Raises ``ConfigError`` where ``problems`` finds some.

    Until a generation serves, asking it is an error.
    """
    terms = table.terms
    columns = read_columns(connection, connection.scalar(sa.text(_OID), {"name": terms.table}))
    said, _ = problems(connection, name, terms, columns)
    if said:
        raise ConfigError(f"the view {name} cannot be made: {'; '.join(said)}. Nothing was changed.")
    whole, collations = full_name(name, terms), _collations(connection, terms)
    key = ", ".join(f"({part})" for _, part in _pairs(table, "doc_id", collations))
    recorded = connection.execute(
        sa.text(
            "UPDATE adoption SET view_name = :name, view_storage = :storage, view_key = :key WHERE cid = :cid AND "
            "source IS NOT NULL"
        ),
        {"cid": table.cid, "name": whole, "storage": storage, "key": key},
    )
    if recorded.rowcount != 1:
        raise StateError(f"{terms.table} was given back meanwhile. Nothing was changed.")
    connection.execute(sa.text("SELECT serve_view(:cid)"), {"cid": table.cid})
    joined = " AND ".join(f"{column} = {part}" for column, part in _pairs(table, f"{_SHOWN}.doc_id", collations))
    vectors = vector_column(terms)
    shown = (
        f"{_SHOWN}.embedding AS {quoted(one)}" if one == vectors else f"{ROW}.{quoted(one)}"
        for one in dict.fromkeys((*columns, vectors))
    )
    run(
        connection,
        f"CREATE VIEW {whole} WITH (security_invoker = true) AS SELECT {', '.join(shown)}, {_SHOWN}.chunk AS {CHUNK} "
        f"FROM {terms.table} {ROW} JOIN revector.vectors_{table.cid} {_SHOWN} ON {joined}",
    )
    connection.execute(
        sa.text(
            "UPDATE adoption SET view = v.oid, view_name = format('%I.%I', n.nspname, v.relname) FROM pg_class v JOIN "
            "pg_namespace n ON n.oid = v.relnamespace WHERE cid = :cid AND v.oid = CAST(view_name AS regclass)"
        ),
        {"cid": table.cid},
    )


_DEFAULT = 'pg_catalog."default"'
_OID = "SELECT CAST(to_regclass(:name) AS oid)"
_COLLATIONS = """
SELECT a.attname, format('%I.%I', n.nspname, c.collname) AS collation
FROM pg_attribute a JOIN pg_collation c ON c.oid = a.attcollation JOIN pg_namespace n ON n.oid = c.collnamespace
WHERE a.attrelid = to_regclass(:name)
"""


def _collations(connection: sa.Connection, terms: AdoptedTable) -> dict[str, str]:
    return {row.attname: row.collation for row in connection.execute(sa.text(_COLLATIONS), {"name": terms.table})}


def _pairs(table: FollowedTable, doc_id: str, collations: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return each key column, and what it is by ``doc_id``: in the collation of the column, or no index would serve."""
    return [
        (column, f"{part} COLLATE {collations.get(name, _DEFAULT)}" if is_text else part)
        for name, (column, part, is_text) in zip(table.terms.id, table.key_parts(doc_id), strict=True)
    ]


_FAULTS = """
WITH reads AS (
  SELECT w.ev_class AS view, d.refobjid AS rel FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid
  WHERE d.classid = CAST('pg_rewrite' AS regclass) AND d.refclassid = CAST('pg_class' AS regclass))
SELECT v.oid IS NOT NULL AS there,
  EXISTS (SELECT FROM unnest(v.reloptions) o WHERE o ~ '^security_invoker=(true|on|yes|1)$') AS invoker,
  EXISTS (SELECT FROM reads WHERE view = v.oid AND rel = CAST(a.source AS oid)) AS reads_rows,
  EXISTS (SELECT FROM reads WHERE view = v.oid AND rel = i.oid) AS reads_vectors,
  i.oid IS NOT NULL AND (c.active_gen IS NULL OR EXISTS (
    SELECT FROM reads WHERE view = i.oid AND rel = CAST(to_regclass('revector.' || g.physical_name) AS oid))) AS follows
FROM adoption a JOIN collection c USING (cid) LEFT JOIN generation g ON g.gen = c.active_gen
  LEFT JOIN pg_class v ON v.oid = CAST(a.view AS oid)
  LEFT JOIN pg_class i ON i.oid = to_regclass(format('revector.vectors_%s', a.cid))
WHERE a.cid = :cid AND a.view_name IS NOT NULL
"""


def faults(connection: sa.Connection, cid: int, view: AdoptedView | None) -> list[str]:
    """Say how the view is not as it was made: dropped, replaced by hand, or not of the active generation."""
    found = connection.execute(sa.text(_FAULTS), {"cid": cid}).one_or_none()
    if view is None or found is None:
        return []
    if not found.there:
        return [f"the view {view.name} was dropped"]
    said = []
    if not (found.reads_rows and found.reads_vectors):
        said.append(f"the view {view.name} was replaced by hand, and does not read the vectors that are served")
    elif not found.invoker:
        said.append(f"the view {view.name} reads with the rights of its owner: security_invoker was switched off")
    if not found.follows:
        said.append(f"the view {view.name} does not read the generation that is active, and is refused")
    return said


def serve_again(connection: sa.Connection, cid: int, view: AdoptedView) -> None:
    """Have the view read the active generation again, as who asks. Raises ``ConfigError`` where it is another view."""
    connection.execute(sa.text("SELECT serve_view(:cid)"), {"cid": cid})
    run(connection, f"ALTER VIEW {view.name} SET (security_invoker = true)")
    if said := faults(connection, cid, view):
        raise ConfigError(f"{'; '.join(said)}. Nothing was changed; drop it, then run this again.")


def drop(connection: sa.Connection, cid: int, view: AdoptedView) -> None:
    """Drop the view, in the caller's transaction. Raises ``StateError`` where something else reads it."""
    try:
        if view.there:
            run(connection, f"DROP VIEW {view.name}")
        connection.execute(
            sa.text(
                "UPDATE adoption SET view = NULL, view_name = NULL, view_storage = NULL, view_key = NULL "
                "WHERE cid = :cid"
            ),
            {"cid": cid},
        )
        connection.execute(sa.text("SELECT serve_view(:cid)"), {"cid": cid})
    except sa.exc.DBAPIError as error:
        if not isinstance(error.orig, psycopg.errors.DependentObjectsStillExist):
            raise
        detail = str(error.orig.diag.message_detail or "").replace("\n", "; ")
        raise StateError(
            f"the view {view.name} cannot be dropped: {detail}. Nothing was changed; drop what reads it first."
        ) from error
