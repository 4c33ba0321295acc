"""The ids that a source had when it was read, in a temporary table, and the documents that it has not."""

from __future__ import annotations

from contextlib import nullcontext

import sqlalchemy as sa

from revector.database.engine import repeated
from revector.database.sessions import end_step
from revector.documents.writing import hold_shared
from revector.registry import work
from revector.registry.control import add_event, before_event

PAGE_IDS = 500

# What was written since the reading began may be newer than what was read, and is spared: by its version, for the
# database's clock may be set back meanwhile.
_UNSEEN = "NOT EXISTS (SELECT 1 FROM seen WHERE seen.doc_id = d.doc_id)"
# Of an adoption by copy only what a reading wrote can be gone: the rest was written here, or since.
_COPIED = "EXISTS (SELECT 1 FROM copied c WHERE c.cid = d.cid AND c.doc_id = d.doc_id AND c.version = d.version)"
_ABSENT = f"d.cid = :cid AND NOT d.deleted AND d.version <= :began AND {_UNSEEN} AND (NOT :copies OR {_COPIED})"
# Asked again on each row under its lock. The caller's number goes one back, so that the same row may come back upstream
# with the number that it had, and nothing older.
_BURY = f"""
WITH page AS (SELECT doc_id FROM document d WHERE doc_id > :after AND {_ABSENT} ORDER BY doc_id LIMIT {PAGE_IDS}),
gone AS (
  UPDATE document d SET deleted = true, content = NULL, content_hash = NULL, meta = '{{}}',
    external_version = d.external_version - 1
  FROM page WHERE page.doc_id = d.doc_id AND {_ABSENT} RETURNING d.doc_id, d.version),
noted AS (  -- a reading buried it, and a reading may bring it back
  UPDATE copied c SET version = gone.version FROM gone WHERE c.cid = :cid AND c.doc_id = gone.doc_id)
SELECT doc_id FROM gone
"""


def begin(connection: sa.Connection) -> int:
    """Make the connection's table ``seen`` of a source's ids and return the newest version, to compare writes with."""
    connection.execute(sa.text('CREATE TEMP TABLE seen (doc_id text COLLATE "C")'))
    began = work.newest_version(connection)
    end_step(connection)
    return began


def absent(
    connection: sa.Connection, cid: int, began: int, *, first: int, copies: bool = False
) -> tuple[int, list[str]]:
    """Return how many documents the source has not, and the ``first`` ids; what was written since is spared."""
    connection.execute(sa.text("ANALYZE seen"))
    rows = connection.execute(
        sa.text(
            f"SELECT doc_id, count(*) OVER () AS total FROM document d WHERE {_ABSENT} ORDER BY doc_id LIMIT :first"
        ),
        {"cid": cid, "began": began, "first": first, "copies": copies},
    ).all()
    end_step(connection)
    return (rows[0].total if rows else 0), [row.doc_id for row in rows]


def stored(connection: sa.Connection, cid: int) -> int:
    """Return how many documents are not deleted."""
    found = connection.scalar(sa.text("SELECT count(*) FROM document WHERE cid = :cid AND NOT deleted"), {"cid": cid})
    end_step(connection)
    return int(found or 0)


def bury_absent(
    connection: sa.Connection, cid: int, began: int, *, actor: str, source: str, copies: bool = False
) -> int:
    """Delete what the source has not, in pages, each with its event; return how many. A repetition goes on."""
    deleted, after = 0, ""

    @repeated
    def page() -> list[str]:
        # Behind a pooler the transaction that has the table ``seen`` is open, and all pages are of it.
        with nullcontext() if connection.in_transaction() else connection.begin():
            hold_shared(connection, cid)
            before_event(connection, cid)
            values = {"cid": cid, "began": began, "after": after, "copies": copies}
            found = sorted(connection.scalars(sa.text(_BURY), values))
            if found:
                add_event(connection, cid, actor, "missing", None, {"source": source, "documents": found})
        return found

    while ids := page():
        deleted, after = deleted + len(ids), ids[-1]
    return deleted


def end(connection: sa.Connection) -> None:
    """Drop the table ``seen``."""
    connection.execute(sa.text("DROP TABLE seen"))
    connection.commit()
