"""Owns the functions and triggers by which a collection follows a table, in the application's own transactions.

What names columns is a function of SQL, parsed when it is made: PostgreSQL lets it follow the renaming of a column, a
table or a schema, and refuses to drop what it needs. The trigger's own code names no column at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from revector.adoption.terms import ROW, AdoptedTable, column_of, quoted

_TRIGGER_NAME = "revector_{cid}_{event}"
_EVENTS = ("write", "change", "truncate")

_INTEGERS, _TEXTS = ("smallint", "integer", "bigint"), ("text", "character varying")
_AS_TYPE = {
    **dict.fromkeys(
        _INTEGERS,
        "CASE WHEN {part} ~ '^-?[0-9]{{1,18}}$' THEN CAST({part} AS bigint) WHEN {part} ~ '^-?[0-9]{{19}}$' AND "
        "CAST({part} AS numeric) BETWEEN -9223372036854775808 AND 9223372036854775807 THEN CAST({part} AS bigint) END",
    ),
    **dict.fromkeys(_TEXTS, "{part}"),
    "uuid": "CASE WHEN {part} ~ '^[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}$' THEN CAST({part} AS uuid) END",
}
"""How a part of an id becomes a value that the index of its column is searched for; never an error."""


_NOT_EQUAL = ("json", "xml", "point", "line", "lseg", "box", "path", "polygon")
"""Types without an equality: their text is compared."""


@dataclass(frozen=True, slots=True)
class FollowedTable:
    """A table as a collection follows it: its terms, and what the catalogue says of the columns that they name."""

    cid: int
    terms: AdoptedTable
    types: Mapping[str, str]
    """Types of the named columns, as ``format_type`` spells them without their modifiers."""
    used: Sequence[str]
    """Columns that id, text, metadata and condition need: a change of any other is not looked at."""
    max_bytes: int
    """Largest text, in bytes of UTF-8."""

    @property
    def documents(self) -> str:
        """What stands after FROM: the table's rows, called ``ROW``, beside the documents ``f`` that they are."""
        return f"{self.terms.table} {ROW}, LATERAL {self.rows}({ROW}) f"

    @property
    def rows(self) -> str:
        """The function that gives the document of a row, or nothing for a row that is none."""
        return f"revector.adopted_{self.cid}"

    def matches(self, doc_id: str) -> str:
        """Return the SQL condition that the row ``ROW`` has the document ``doc_id``; the key's index serves it."""
        return f"({' AND '.join(f'{column} = {part}' for column, part, _ in self.key_parts(doc_id))})"

    def key_parts(self, doc_id: str) -> list[tuple[str, str, bool]]:
        """Return as SQL each key column of the row ``ROW``, and what it is by ``doc_id``; and whether that is text."""
        names = self.terms.id
        if len(names) == 1:
            return [self._key_part(names[0], doc_id)]
        part = "replace(replace(split_part({0}, '/', {1}), '%2F', '/'), '%25', '%')"
        return [self._key_part(name, part.format(doc_id, n)) for n, name in enumerate(names, 1)]

    def _key_part(self, name: str, part: str) -> tuple[str, str, bool]:
        kind, column = self.types[name], column_of(name)
        if kind not in _AS_TYPE:
            return f"CAST({column} AS text)", part, True
        return column, _AS_TYPE[kind].format(part=part), kind in _TEXTS

    def install(self, connection: sa.Connection) -> None:
        """Make functions and triggers. Waits for writers of the table, as long as ``lock_timeout`` allows."""
        for statement in (*self._functions(), *self._triggers(connection)):
            run(connection, statement)

    def _functions(self) -> list[str]:
        table, terms = self.terms.table, self.terms
        fields = ", ".join(f"(r).{quoted(name)} AS {quoted(name)}" for name in self.used)
        json_columns = [name for name in terms.meta if self.types[name] in ("json", "jsonb")]
        document = (
            f"SELECT {terms.key()} AS doc_id, {terms.content()} AS content, {terms.metadata(json_columns)} AS meta "
            f"FROM (SELECT {fields}) {ROW}"
        )
        if terms.where is not None:
            document += f" WHERE ({terms.where}\n)"
        ids = ", ".join(f"(r).{quoted(name)} AS {quoted(name)}" for name in terms.id)
        has = f"adopted_{self.cid}_has.id"
        return [
            f"""CREATE FUNCTION {self.rows}(r {table}) RETURNS TABLE (doc_id text, content text, meta jsonb)
              LANGUAGE sql STABLE BEGIN ATOMIC
              SELECT d.doc_id, d.content, d.meta FROM ({document}) d WHERE d.content ~ '\\S'; END""",
            f"""CREATE FUNCTION {self.rows}_key(r {table}) RETURNS text LANGUAGE sql STABLE BEGIN ATOMIC
              SELECT {terms.key()} FROM (SELECT {ids}) {ROW}; END""",
            f"""CREATE FUNCTION {self.rows}_has(id text) RETURNS boolean LANGUAGE sql STABLE BEGIN ATOMIC
              SELECT EXISTS (SELECT 1 FROM {self.documents} WHERE {self.matches(has)}); END""",
            self._follow(),
        ]

    def _follow(self) -> str:
        """Return what every trigger runs: as our role, for the application's need have no rights here."""
        cid = self.cid
        return f"""
CREATE FUNCTION {self.rows}_follow() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$
DECLARE f record; old_id text; new_id text;
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    UPDATE revector.document SET deleted = true, content = NULL, content_hash = NULL, meta = '{{}}'
      WHERE cid = {cid} AND NOT deleted AND NOT {self.rows}_has(doc_id);
    RETURN NULL;
  END IF;
  IF TG_OP <> 'DELETE' THEN
    SELECT * INTO f FROM {self.rows}(NEW);
    IF FOUND THEN
      new_id := f.doc_id;
      PERFORM revector.adopted_put({cid}, new_id, f.content, f.meta, {self.max_bytes});
    END IF;
  END IF;
  IF TG_OP <> 'INSERT' THEN
    -- Whether OLD was a document cannot be asked any more: its condition may name a row that is gone too.
    old_id := {self.rows}_key(OLD);
    -- One statement may exchange two ids: the id is gone only if no row has it now.
    IF old_id IS DISTINCT FROM new_id AND NOT {self.rows}_has(old_id) THEN
      PERFORM revector.adopted_delete({cid}, old_id);
    END IF;
  END IF;
  RETURN NULL;
END $$"""

    def _triggers(self, connection: sa.Connection) -> list[str]:
        """Return the triggers: after the row, so that they see what triggers of the application made of it.

        Not UPDATE OF columns: that would miss a column that another trigger sets. Always on, also in a session that
        applies a replica's changes, where our role owns the table: nobody else may say so.
        """
        table = self.terms.table
        old, new = (", ".join(self._comparable(row, name) for name in self.used) for row in ("OLD", "NEW"))
        run_it = f"FOR EACH ROW EXECUTE FUNCTION {self.rows}_follow()"
        write, change, truncate = (self.trigger(event) for event in _EVENTS)
        made = [
            f"CREATE TRIGGER {write} AFTER INSERT OR DELETE ON {table} {run_it}",
            (
                f"CREATE TRIGGER {change} AFTER UPDATE ON {table} FOR EACH ROW WHEN (({old}) IS DISTINCT FROM "
                f"({new})) EXECUTE FUNCTION {self.rows}_follow()"
            ),
        ]
        always = [f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}" for name in (write, change)]
        for one in leaves(connection, table):
            made.append(
                f"CREATE TRIGGER {truncate} AFTER TRUNCATE ON {one} FOR EACH STATEMENT EXECUTE FUNCTION "
                f"{self.rows}_follow()"
            )
            always.append(f"ALTER TABLE {one} ENABLE ALWAYS TRIGGER {truncate}")
        owned = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = CAST(:table AS regclass)"
        return made + (always if connection.scalar(sa.text(owned), {"table": table}) else [])

    def _comparable(self, row: str, name: str) -> str:
        column = f"{row}.{quoted(name)}"
        return f"CAST({column} AS text)" if self.types[name] in _NOT_EQUAL else column

    def trigger(self, event: str) -> str:
        """Return the name of a trigger: ``write``, ``change`` or ``truncate``."""
        return trigger_name(self.cid, event)


def trigger_name(cid: int, event: str) -> str:
    """Return the name of a collection's trigger on its table."""
    return _TRIGGER_NAME.format(cid=cid, event=event)


_LEAVES = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = CAST(:table AS regclass)
  OR c.oid IN (SELECT relid FROM pg_partition_tree(CAST(:table AS regclass)) WHERE isleaf) ORDER BY 1
"""


def leaves(connection: sa.Connection, table: str) -> list[str]:
    """Return the table and its partitions: each can be truncated by itself."""
    return list(connection.scalars(sa.text(_LEAVES), {"table": table}))


_TRIGGERS = """
SELECT t.tgname, t.tgenabled = 'D' AS off, t.tgparentid <> 0 AS inherited, format('%I.%I', n.nspname, c.relname) AS of
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE t.tgname = ANY(CAST(:names AS text[]))
"""


def remove(connection: sa.Connection, cid: int) -> None:
    """Remove functions and triggers of a collection from wherever they are; what is gone already counts as removed."""
    names = [trigger_name(cid, event) for event in _EVENTS]
    for one in connection.execute(sa.text(_TRIGGERS), {"names": names}).all():
        if not one.inherited:  # those of partitions go with that of their table
            run(connection, f"DROP TRIGGER {one.tgname} ON {one.of}")
    for suffix in ("_follow", "_has", "_key", ""):
        run(connection, f"DROP FUNCTION IF EXISTS revector.adopted_{cid}{suffix}")


def faults(connection: sa.Connection, cid: int, table: str) -> list[str]:
    """Say which triggers are missing, switched off, or missing on a partition that came later."""
    names = {event: trigger_name(cid, event) for event in _EVENTS}
    found = connection.execute(sa.text(_TRIGGERS), {"names": list(names.values())}).all()
    there = {(one.tgname, one.of) for one in found}
    wanted = [(names["write"], table), (names["change"], table)]
    wanted += [(names["truncate"], one) for one in leaves(connection, table)]
    said = [f"the trigger {name} is missing on {of}" for name, of in wanted if (name, of) not in there]
    return said + [f"the trigger {one.tgname} on {one.of} is switched off" for one in found if one.off]


def run(connection: sa.Connection, statement: str) -> None:
    """Run a statement that holds an operator's own SQL: no colon in it is a parameter."""
    connection.execute(sa.text(statement.replace(":", "\\:")))
