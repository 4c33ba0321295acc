"""Metadata fields of documents: who lacks one, what an expression gives, and the update that sets it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from revector.database.engine import repeated
from revector.documents.writing import hold_shared

# Computed outside any lock: an expression may be slow, and a waiting swap must not be held up by it.
_LACKING = """
SELECT doc_id, version, CAST(coalesce(
    jsonb_path_query_first(jsonb_build_object('id', doc_id, 'text', content, 'meta', meta), CAST(:path AS jsonpath),
      '{}', true),
    CAST(:value AS jsonb)) AS text) AS value
FROM document
WHERE cid = :cid AND doc_id > :after AND NOT deleted AND NOT jsonb_exists(meta, :field) ORDER BY doc_id LIMIT :rows
"""
# A document that was written since has another version: it is looked at again.
_SET = """
UPDATE document d SET meta = d.meta || jsonb_build_object(CAST(:field AS text), CAST(s.value AS jsonb))
FROM unnest(CAST(:ids AS text[]), CAST(:versions AS bigint[]), CAST(:values AS text[])) s(doc_id, version, value)
WHERE d.cid = :cid AND d.doc_id = s.doc_id AND d.version = s.version AND NOT d.deleted
"""


@dataclass(frozen=True, slots=True)
class Lacking:
    """A document that lacks the field, as it was seen; ``value`` is JSON, None where nothing can be given."""

    doc_id: str
    version: int
    value: str | None


def is_path(connection: sa.Connection, path: str) -> str | None:
    """Return why ``path`` is no JSONPath, or None if it is one."""
    try:
        connection.execute(sa.text("SELECT CAST(:path AS jsonpath)"), {"path": path})
    except sa.exc.DBAPIError as error:
        connection.rollback()
        return str(error.orig).splitlines()[0]
    return None


def lacking(
    connection: sa.Connection, cid: int, field: str, *, path: str | None, value: str | None, after: str, rows: int
) -> list[Lacking]:
    """Return a page of the documents that lack ``field``, in id order, with what ``path``, else ``value``, gives."""
    values = {"cid": cid, "field": field, "path": path, "value": value, "after": after, "rows": rows}
    return [Lacking(**row._mapping) for row in connection.execute(sa.text(_LACKING), values)]


@repeated
def set_field(engine: sa.Engine, cid: int, field: str, found: Sequence[Lacking]) -> int:
    """Set ``field`` where the document is still as it was seen, as a write like any other; return how many were set."""
    with engine.begin() as connection:
        hold_shared(connection, cid)
        return connection.execute(
            sa.text(_SET),
            {
                "cid": cid,
                "field": field,
                "ids": [one.doc_id for one in found],
                "versions": [one.version for one in found],
                "values": [one.value for one in found],
            },
        ).rowcount
