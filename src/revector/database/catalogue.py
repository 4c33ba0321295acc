"""Owns what a database of this schema version is made of, and names what someone dropped or switched off by hand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import sqlalchemy as sa

from revector.errors import SchemaMismatch

PARTS = Path(__file__).parent / "schema" / "parts.txt"
"""Every part of the schema, one a line, sorted; a test compares it with a database that was just made."""

_FIND = r"""
WITH relation AS (
  SELECT c.oid, c.relname, c.relkind FROM pg_class c WHERE c.relnamespace = to_regnamespace(:schema)
    AND NOT c.relispartition AND c.relname !~ '^idx_.*_g\d+')
SELECT CASE relkind WHEN 'v' THEN 'view ' WHEN 'S' THEN 'sequence ' ELSE 'table ' END || relname AS part
  FROM relation WHERE relkind IN ('r', 'p', 'v', 'S')
UNION ALL
SELECT 'index ' || of.relname || ' on ' || relation.relname FROM relation JOIN pg_index ON indrelid = relation.oid
  JOIN pg_class of ON of.oid = indexrelid WHERE NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conindid = indexrelid)
UNION ALL
SELECT 'column ' || relname || '.' || attname FROM relation JOIN pg_attribute ON attrelid = relation.oid
  WHERE relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped
UNION ALL
SELECT 'constraint ' || conname || ' on ' || relname FROM relation JOIN pg_constraint ON conrelid = relation.oid
  WHERE contype IN ('c', 'f', 'p', 'u')
UNION ALL
SELECT 'trigger ' || tgname || ' on ' || relname || CASE tgenabled WHEN 'O' THEN '' WHEN 'A' THEN ', always'
  ELSE ', off' END FROM relation JOIN pg_trigger ON tgrelid = relation.oid WHERE NOT tgisinternal
UNION ALL
SELECT DISTINCT 'function ' || proname FROM pg_proc WHERE pronamespace = to_regnamespace(:schema)
"""


def read_parts(connection: sa.Connection, schema: str = "revector") -> set[str]:
    """Return every part of a schema, such as ``column document.meta``, without the tables of generations."""
    return set(connection.scalars(sa.text(_FIND), {"schema": schema}))


@cache
def known_parts() -> frozenset[str]:
    """Return every part that a schema of this version has."""
    return frozenset(PARTS.read_text(encoding="utf-8").splitlines())


def is_part(said: str) -> bool:
    """Whether an error of PostgreSQL that misses something names a part that every schema of this version has."""
    relations = re.findall(r'relation "(?:revector\.)?(\w+)" does not', said)
    functions = re.findall(r"function (?:revector\.)?(\w+)\(", said)
    columns = re.findall(r'column "?(?:\w+\.)?(\w+)"? ', said)
    named = [f"{kind} {name}" for kind in ("table", "view", "sequence") for name in relations]
    named += [f"function {name}" for name in functions]
    fields = {one.partition(".")[2] for one in known_parts() if one.startswith("column ")}
    return not known_parts().isdisjoint(named) or not fields.isdisjoint(columns)


def check_parts(connection: sa.Connection) -> None:
    """Raise ``SchemaMismatch`` where a part of the schema is missing, or a trigger is switched off."""
    found = read_parts(connection)
    there = {one.partition(",")[0] for one in found}
    absent = known_parts() - found
    off = sorted(one for one in absent if one.partition(",")[0] in there)
    missing = sorted(_outermost(absent - set(off)))
    if not absent:
        return
    said = []
    if missing:
        said.append(f"missing are {', '.join(missing)}; restore them from a backup (`pg_restore --schema revector`)")
    if off:
        said.append(f"triggers are off: run `{' '.join(map(_switch_on, off))}`, then `revector verify`")
    raise SchemaMismatch(
        f"someone changed the tables of this database by hand, and what keeps writes safe may not hold: "
        f"{'; '.join(said)}."
    )


def _switch_on(trigger: str) -> str:
    name, _, rest = trigger.removeprefix("trigger ").partition(" on ")
    table, _, always = rest.partition(", ")
    return f"ALTER TABLE revector.{table} ENABLE {'ALWAYS ' if always else ''}TRIGGER {name};"


def _outermost(missing: frozenset[str]) -> Iterator[str]:
    """Yield what is missing, but for the parts of a table that is missing as a whole."""
    gone = {one.removeprefix("table ") for one in missing if one.startswith("table ")}
    for one in missing:
        kind, name = one.split(" ", 1)
        table = name.partition(".")[0] if kind == "column" else name.rpartition(" on ")[2].partition(",")[0]
        if kind not in ("column", "constraint", "trigger", "index") or table not in gone:
            yield one
