"""Owns the look at a table before it is adopted: what it is, what stands against it, and what is good to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from revector.adoption.following import FollowedTable, run
from revector.adoption.look import AdoptionLook
from revector.adoption.terms import ROW, AdoptedTable, column_of, parts_of, quoted
from revector.database.driver import first_line
from revector.errors import ConfigError, DatabaseError
from revector.spec import IndexSpec
from revector.stores.metrics import CLASSES

_TABLE = """
SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, c.relkind, c.relpersistence, c.reltuples,
  pg_has_role(c.relowner, 'USAGE') AS owner, has_table_privilege(c.oid, 'SELECT') AS may_read,
  has_table_privilege(c.oid, 'TRIGGER') AS may_follow, row_security_active(c.oid) AS hidden,
  pg_get_userbyid(c.relowner) AS owned_by, current_user AS role,
  c.relkind = 'r' AND EXISTS (SELECT 1 FROM pg_inherits WHERE inhparent = c.oid) AS has_children
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(:name)
"""
_COLUMNS = """
SELECT attname AS name, attnum AS number, format_type(atttypid, -1) AS type, attnotnull AS filled,
  attgenerated = 'v' AS virtual
FROM pg_attribute WHERE attrelid = :oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_KEYS = """
SELECT array_agg(a.attname ORDER BY k.place) AS columns, i.indisprimary AS is_primary
FROM pg_index i, LATERAL unnest(i.indkey) WITH ORDINALITY k(number, place)
  JOIN pg_attribute a ON a.attnum = k.number
WHERE i.indrelid = :oid AND a.attrelid = :oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
  AND i.indexprs IS NULL AND k.place <= i.indnkeyatts
GROUP BY i.indexrelid, i.indisprimary ORDER BY i.indisprimary DESC
"""
_SEARCHED_BY = """
SELECT DISTINCT o.opcname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
  JOIN pg_opclass o ON o.oid = ANY(CAST(i.indclass AS oid[]))
WHERE i.indrelid = to_regclass(:table) AND m.amname IN ('hnsw', 'ivfflat') AND i.indisvalid AND (i.indkey[0] = 0 OR
  i.indkey[0] = (SELECT attnum FROM pg_attribute WHERE attrelid = i.indrelid AND attname = :column))
"""
_HORIZON = "SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"
_KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "i": "an index",
    "c": "a composite type",
    "t": "a TOAST table",
}
VECTORS = ("vector", "halfvec", "real[]", "double precision[]")


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the catalogue has it; ``virtual``: it is computed when it is read, and triggers do not see it."""

    name: str
    number: int
    type: str
    filled: bool
    virtual: bool


@dataclass(slots=True, kw_only=True)
class TableLook(AdoptionLook):
    """What a table of the project's own database is."""

    columns: Mapping[str, Column]
    horizon: int = 0
    """The oldest transaction that was running at the look: what it or a later one writes is not believed."""
    used: tuple[str, ...] = ()

    def followed(self, cid: int, max_bytes: int) -> FollowedTable:
        """Return the table as collection ``cid`` is to follow it."""
        types = {name: column.type for name, column in self.columns.items()}
        return FollowedTable(cid, self.terms, types, self.used, max_bytes)


def read_table(connection: sa.Connection, name: str) -> sa.Row[tuple[object, ...]]:
    """Return the catalogue's row of a table that can be adopted. Raises ``ConfigError`` for one that cannot be."""
    asked = ".".join(quoted(part) for part in parts_of(name))
    found = connection.execute(sa.text(_TABLE), {"name": asked}).one_or_none()
    if found is None:
        raise ConfigError(
            f"there is no table {name} in this database that role and search path see. Nothing was changed; name it "
            "with its schema, and set database_url to its database."
        )
    if found.relkind not in ("r", "p"):
        raise ConfigError(
            f"{name} is {_KINDS.get(found.relkind, 'no table')}, which has no triggers that see every write. Nothing "
            "was changed; adopt the table behind it."
        )
    if found.relpersistence == "t":
        raise ConfigError(f"{name} is a temporary table, which ends with its session. Nothing was changed.")
    return found


def read_columns(connection: sa.Connection, oid: object) -> dict[str, Column]:
    """Return the columns of a table by name."""
    return {row.name: Column(**row._mapping) for row in connection.execute(sa.text(_COLUMNS), {"oid": oid})}


def index_like(connection: sa.Connection, terms: AdoptedTable) -> IndexSpec | None:
    """Return an index by the metric and in the numbers of the table's own index over its vectors.

    None where it has none, several that differ, or one of another kind.
    """
    names = connection.scalars(sa.text(_SEARCHED_BY), {"table": terms.table, "column": terms.vector}).all()
    kinds: tuple[Literal["vector", "halfvec"], ...] = ("vector", "halfvec")
    like = {f"{kind}_{ops}": (metric, kind) for kind in kinds for metric, ops in CLASSES.items()}
    if len(names) != 1 or names[0] not in like:
        return None
    metric, storage = like[names[0]]
    return IndexSpec(metric=metric, storage=storage)


def look(connection: sa.Connection, terms: AdoptedTable) -> TableLook:
    """Return what the table of ``terms`` is; reads it once. Raises ``ConfigError`` for one that cannot be adopted."""
    table = read_table(connection, terms.table)
    columns = read_columns(connection, table.oid)
    named = terms.model_copy(update={"table": table.name})
    found = TableLook(named, columns=columns, horizon=int(connection.scalar(sa.text(_HORIZON)) or 0))
    missing = [
        name for name in (*named.id, *named.text, *named.meta, named.vector, named.node) if name and name not in columns
    ]
    if missing:
        found.problems.append(
            f"there is no column {', '.join(map(repr, missing))}; it has {', '.join(map(repr, columns))}"
        )
        return found
    _check_rights(found, table)
    if table.has_children:
        found.problems.append(
            f"other tables inherit from {found.terms.table}, and its triggers do not see what is written to them"
        )
    if table.relpersistence == "u":
        found.notes.append(
            f"{found.terms.table} is unlogged: a crash of PostgreSQL empties it, and triggers see no crash"
        )
    _check_key(connection, found, table.oid)
    _check_vector(found)
    if not found.problems:
        _find_used(connection, found)
    if not found.problems:
        _count(connection, found)
    return found


def _check_rights(found: TableLook, table: sa.Row[tuple[object, ...]]) -> None:
    name, role = found.terms.table, quoted(str(table.role))
    missing = [right for right, there in (("SELECT", table.may_read), ("TRIGGER", table.may_follow)) if not there]
    if missing:
        found.problems.append(f"role {table.role} lacks {' and '.join(missing)} on {name}")
        found.grants.append(f"GRANT {', '.join(missing)} ON {name} TO {role};")
    if table.hidden:
        found.problems.append(
            f"row-level security hides rows of {name} from role {table.role}, and they would be missing in the index"
        )
        found.grants.append(f"ALTER ROLE {role} BYPASSRLS;")
    if not table.owner:
        found.notes.append(
            f"role {table.role} does not own {name} ({table.owned_by} does), so the triggers are not on in sessions "
            "with session_replication_role = replica, such as those of logical replication"
        )


def _check_key(connection: sa.Connection, found: TableLook, oid: object) -> None:
    keys = connection.execute(sa.text(_KEYS), {"oid": oid}).all()
    wanted = set(found.terms.id)
    if not any(set(key.columns) == wanted for key in keys):
        there = ", ".join("(" + ", ".join(key.columns) + ")" for key in keys)
        found.problems.append(
            f"({', '.join(found.terms.id)}) is no unique key of the table, so an id would not name one row; "
            + (f"its unique keys: {there}" if there else "it has none: add a primary key")
        )
    nullable = [name for name in found.terms.id if not found.columns[name].filled]
    if nullable:
        found.problems.append(f"the key column {', '.join(nullable)} may be NULL, and NULL names no row")


def _check_vector(found: TableLook) -> None:
    name = found.terms.vector
    if name is None:
        return
    kind = found.columns[name].type
    if kind not in VECTORS:
        found.problems.append(
            f"column {name!r} is of type {kind}; vectors are read from {', '.join(VECTORS)}. Without --vector, all "
            "texts are embedded"
        )


def _find_used(connection: sa.Connection, found: TableLook) -> None:
    """Find the columns that the terms need; the condition's are those that a view of it depends on."""
    terms = found.terms
    used = [*terms.id, *terms.text, *terms.meta, *([terms.node] if terms.node else [])]
    if terms.where is not None:
        point = connection.begin_nested()
        try:
            view = f"CREATE TEMP VIEW revector_condition AS SELECT 1 AS n FROM {terms.table} {ROW}"
            run(connection, f"{view} WHERE ({terms.where}\n)")
            used += connection.scalars(
                sa.text(
                    "SELECT DISTINCT a.attname FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid JOIN pg_attribute "
                    "a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid WHERE d.classid = "
                    "CAST('pg_rewrite' AS regclass) AND w.ev_class = CAST('pg_temp.revector_condition' AS regclass) "
                    "AND d.refobjid = CAST(:table AS regclass)"
                ),
                {"table": terms.table},
            )
        except (sa.exc.DBAPIError, DatabaseError) as error:  # a column that we have and this table has not is ours
            said = first_line(getattr(error, "orig", None) or error.__cause__ or error)
            found.problems.append(f"the condition --where {terms.where!r} cannot be used: {said}")
        finally:
            point.rollback()
    found.used = tuple(dict.fromkeys(used))
    if virtual := [name for name in found.used if found.columns[name].virtual]:
        found.problems.append(
            f"the column {', '.join(virtual)} is generated when it is read, and triggers do not see it: make it STORED"
        )


_COUNT = """
SELECT count(*) AS rows, count(*) FILTER (WHERE {wanted}) AS wanted,
  count(*) FILTER (WHERE ({wanted}) AND {content} ~ '\\S') AS documents
FROM {table} {row}
"""
_COUNT_VECTORS = """
SELECT width, count(*) AS n, count(*) FILTER (WHERE NOT sound) AS bad FROM (
  SELECT {width} AS width, {sound} AS sound FROM {table} {row} WHERE ({wanted}) AND {content} ~ '\\S') v GROUP BY width
"""


def _count(connection: sa.Connection, found: TableLook) -> None:
    terms = found.terms
    parts = {"table": terms.table, "row": ROW, "wanted": terms.where or "true", "content": terms.content()}
    counted = _rows(connection, _COUNT.format(**parts))[0]
    found.rows, found.documents = counted.rows, counted.documents
    found.without_text = counted.wanted - counted.documents
    if not counted.rows:
        found.notes.append("the table is empty")
    elif not counted.wanted:
        found.problems.append(f"no row of {counted.rows:,} meets --where {terms.where!r}")
    elif not counted.documents:
        found.problems.append(f"no row of {counted.wanted:,} has a text in {', '.join(terms.text)}")
    if terms.vector is not None:
        width, sound = vector_sql(column_of(terms.vector), found.columns[terms.vector].type)
        for row in _rows(connection, _COUNT_VECTORS.format(width=width, sound=sound, **parts)):
            if row.width is None:
                found.without_vector = row.n
            else:
                found.widths[row.width] = row.n
                found.bad_vectors += row.bad


def count_chunked(connection: sa.Connection, found: TableLook, column: str) -> None:
    """Count what the rows are chunks of; a row that names nothing belongs to no document."""
    named = column_of(column)
    counted = _rows(
        connection,
        f"SELECT count(DISTINCT {named}) AS documents, count(*) FILTER (WHERE {named} IS NULL) AS without "
        f"FROM {found.terms.table} {ROW} WHERE ({found.terms.where or 'true'}\n)",
    )[0]
    found.chunked = (counted.documents, counted.without)
    if counted.without:
        found.notes.append(f"{counted.without:,} rows have no {column}, and are chunks of nothing")


def vector_sql(column: str, kind: str) -> tuple[str, str]:
    """Return the SQL of a vector's width, and of whether its length is a number above 0."""
    if kind in ("vector", "halfvec"):
        norm = f"{'vector_norm' if kind == 'vector' else 'l2_norm'}({column})"
        return f"vector_dims({column})", f"({norm} > 0 AND {norm} < 'Infinity')"
    numbers = f"(SELECT sum(CAST(x AS double precision) * x) FROM unnest({column}) x)"
    return f"cardinality({column})", f"({numbers} > 0 AND {numbers} < 'Infinity')"


def numbers_sql(column: str) -> str:
    """Return the SQL of a vector's numbers as float32 in network order."""
    return f"substr(vector_send(CAST({column} AS vector)), 5)"


def _rows(connection: sa.Connection, statement: str) -> Sequence[sa.Row[tuple[object, ...]]]:
    return connection.execute(sa.text(statement.replace(":", "\\:"))).all()
