"""Owns bringing the documents up to a table: every row of it, page by page, and then what has no row any more.

Right beside live writers and without a lock on any row of theirs: a page is a transaction of one snapshot, which
PostgreSQL refuses to commit where a document of it was written since. Such a page is read again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa
import tenacity

from revector.adoption.adoptions import Adoption
from revector.adoption.terms import ROW, column_of
from revector.crash import crash_at
from revector.database.analyzing import analyze_grown
from revector.database.engine import asked_to_repeat
from revector.errors import GateBusy
from revector.interfaces import Progress

PAGE_ROWS = 2_000
"""Rows of a page, at most. One that has to give way is tried again with half of them.

Rows that are written all the time would else keep a page from ever being done before one of them changes.
"""

GIVE_WAY_MS = 200
"""How long a page waits for an application's transaction: shorter than PostgreSQL looks for deadlocks (1 s by default).

An application writes its rows in any order. Where it and a page would wait for each other, the page gives way, and the
application's transaction is never the one that PostgreSQL ends.
"""

PATIENCE_S = 600.0
"""How long a page is tried again: longer than a transaction of an application should be open."""


def _must_give_way(error: BaseException) -> bool:
    """Whether a page met a write of the application: of a document since its snapshot, or one that is still open."""
    return isinstance(error, GateBusy) or asked_to_repeat(error)


_giving_way = tenacity.retry(
    retry=tenacity.retry_if_exception(_must_give_way),
    stop=tenacity.stop_after_delay(PATIENCE_S),
    wait=tenacity.wait_random_exponential(multiplier=0.02, max=1.0),
    reraise=True,
)


@dataclass(slots=True)
class CopyReport:
    """Rows that were read, and documents that were written or deleted because the table says otherwise.

    Of a copy that no trigger follows, also ``spared``: documents that were written here since, and stay as they are;
    and ``rejected``: dead letters.
    """

    rows: int = 0
    written: int = 0
    deleted: int = 0
    spared: int = 0
    rejected: int = 0


class Copy:
    """One pass over an adopted table: the ``first``, which goes on where it was stopped, or one that repairs."""

    def __init__(self, engine: sa.Engine, adoption: Adoption, *, first: bool) -> None:
        self._engine, self._adoption, self._first = engine, adoption, first
        self._rows = PAGE_ROWS
        self.report = CopyReport()

    def run(self, progress: Progress) -> CopyReport:
        """Write every row that is not a document as it stands; a repair also deletes documents without a row."""
        table = self._adoption.table
        with self._engine.connect() as connection:
            total = connection.scalar(
                sa.text("SELECT greatest(0, reltuples) FROM pg_class WHERE oid = CAST(:name AS regclass)"),
                {"name": table.terms.table},
            )
        progress.start(f"copy {table.terms.table}", int(total or 0), unit="rows")
        cursor = self._adoption.cursor if self._first else None
        while True:
            rows, cursor = self._page(cursor)
            crash_at("adopt.after_page")
            if cursor is None:
                break
            progress.advance(rows)
        progress.done()
        crash_at("adopt.after_copy")
        if self._first:  # the triggers were there before any document: none can be without its row
            self._finish()
        else:
            self._delete_vanished()
        analyze_grown(self._engine, ("document",))
        return self.report

    def _delete_vanished(self) -> None:
        after: str | None = ""
        while after is not None:
            after = self._vanished(after)

    @contextmanager
    def _one_snapshot(self) -> Iterator[sa.Connection]:
        engine = self._engine.execution_options(isolation_level="REPEATABLE READ")
        try:
            with engine.begin() as connection:
                connection.execute(sa.text(f"SET LOCAL lock_timeout = {GIVE_WAY_MS}"))
                connection.execute(sa.text("SET LOCAL revector.copies_rows = 'on'"))  # see 0014_followed.sql
                yield connection
        except Exception as error:
            if _must_give_way(error):
                self._rows = max(1, self._rows // 2)
            raise
        self._rows = min(PAGE_ROWS, self._rows * 2)

    @_giving_way
    def _page(self, cursor: tuple[str, ...] | None) -> tuple[int, tuple[str, ...] | None]:
        """Write one page; return its rows and the key of its last, None where there was none left."""
        table = self._adoption.table
        keys = ", ".join(map(column_of, table.terms.id))
        last_keys = ", ".join(f"CAST(k{n} AS text)" for n in range(len(table.terms.id)))
        backwards = ", ".join(f"p.k{n} DESC" for n in range(len(table.terms.id)))
        values: dict[str, object] = {"cid": table.cid, "max": table.max_bytes}
        after = ""
        if cursor is not None:
            parts = ", ".join(f"CAST(:k{n} AS {table.types[name]})" for n, name in enumerate(table.terms.id))
            after = f"WHERE ({keys}) > ({parts})"
            values |= {f"k{n}": value for n, value in enumerate(cursor)}
        named = ", ".join(f"{column_of(name)} AS k{n}" for n, name in enumerate(table.terms.id))
        page = f"SELECT {ROW}, {named} FROM {table.terms.table} {ROW} {after} ORDER BY {keys} LIMIT {self._rows}"
        with self._one_snapshot() as connection:
            last = connection.execute(
                sa.text(f"SELECT count(*) OVER () AS n, {last_keys} FROM ({page}) p ORDER BY {backwards} LIMIT 1"),
                values,
            ).one_or_none()
            if last is None:
                return 0, None
            found = connection.execute(sa.text(_WRITE.format(page=page, rows=table.rows, row=ROW)), values).one()
            key = tuple(last[1:])
            if self._first:
                connection.execute(
                    sa.text("UPDATE adoption SET cursor = CAST(:key AS jsonb) WHERE cid = :cid AND NOT copied"),
                    {"cid": table.cid, "key": json.dumps(key)},
                )
        self.report.rows += last.n
        self.report.written += found.written
        return last.n, key

    @_giving_way
    def _vanished(self, after: str) -> str | None:
        """Delete those of a page of documents that no row stands for; return where it ended, None at the end."""
        table = self._adoption.table
        with self._one_snapshot() as connection:
            found = connection.execute(
                sa.text(_VANISHED.format(rows=table.rows)), {"cid": table.cid, "after": after, "most": self._rows}
            ).one()
        self.report.deleted += found.deleted
        return str(found.last) if found.last is not None else None

    def _finish(self) -> None:
        with self._engine.begin() as connection:
            connection.execute(
                sa.text("UPDATE adoption SET copied = true, cursor = NULL WHERE cid = :cid AND NOT copied"),
                {"cid": self._adoption.cid},
            )


_WRITE = """
WITH document_of AS MATERIALIZED (
  SELECT f.*, adopted_unfit(f.doc_id, f.content, :max) AS why FROM ({page}) p, LATERAL {rows}(p.{row}) f
), fit AS (
  INSERT INTO document AS d (cid, doc_id, content, meta)
  SELECT :cid, doc_id, content, meta FROM document_of WHERE why IS NULL ORDER BY doc_id
  ON CONFLICT (cid, doc_id) DO UPDATE SET deleted = false, content = EXCLUDED.content, meta = EXCLUDED.meta
    WHERE d.deleted OR (d.content, d.meta) IS DISTINCT FROM (EXCLUDED.content, EXCLUDED.meta)
  RETURNING 1
), unfit AS MATERIALIZED (
  SELECT adopted_put(:cid, doc_id, content, meta, :max) FROM document_of WHERE why IS NOT NULL
)
SELECT (SELECT count(*) FROM fit) AS written, (SELECT count(*) FROM unfit) AS unfit
"""
_VANISHED = """
WITH page AS MATERIALIZED (
  SELECT doc_id FROM document WHERE cid = :cid AND NOT deleted AND doc_id > :after ORDER BY doc_id LIMIT :most
), gone AS (
  UPDATE document SET deleted = true, content = NULL, content_hash = NULL, meta = '{{}}'
  WHERE cid = :cid AND doc_id IN (SELECT doc_id FROM page WHERE NOT {rows}_has(doc_id)) AND NOT deleted RETURNING 1
)
SELECT (SELECT max(doc_id) FROM page) AS last, (SELECT count(*) FROM gone) AS deleted
"""


_DROP = f"""
UPDATE document SET deleted = true, content = NULL, content_hash = NULL, meta = '{{}}' WHERE cid = :cid AND doc_id IN (
  SELECT doc_id FROM document WHERE cid = :cid AND NOT deleted ORDER BY doc_id LIMIT {PAGE_ROWS})
"""


def drop_documents(engine: sa.Engine, cid: int, progress: Progress) -> int:
    """Delete every document of a collection, page by page; return how many. Indexes follow as workers come to it."""
    progress.start("delete documents")
    deleted = 0
    while page := _drop_page(engine, cid):
        deleted += page
        progress.advance(page)
    progress.done()
    return deleted


@_giving_way
def _drop_page(engine: sa.Engine, cid: int) -> int:
    with engine.begin() as connection:
        connection.execute(sa.text(f"SET LOCAL lock_timeout = {GIVE_WAY_MS}"))
        return connection.execute(sa.text(_DROP), {"cid": cid}).rowcount
