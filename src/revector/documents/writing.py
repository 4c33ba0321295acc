"""What one write is: the row that a document becomes, the statements that keep the newest, and what came too late."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import sqlalchemy as sa

from revector.crash import crash_at
from revector.database.engine import GATE_LOCK
from revector.documents.text import check_id, clean
from revector.errors import DocumentError, EmptyText
from revector.formats.images import ImageLimits, check_image
from revector.formats.values import plain_object
from revector.guards import guard
from revector.interfaces import Content, Document

OnEmpty = Literal["keep", "delete"]
"""What a document without text means: it is refused and the older one stays, or it is deleted."""


@dataclass(frozen=True, slots=True)
class LateMessage:
    """A message that came too late: its version, the one that is stored, and whether its content differs from that."""

    version: int
    stored: int
    differs: bool


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """A document as it is stored; ``content`` None deletes it, ``reason`` says why it is refused."""

    doc_id: str
    content: str | None
    content_hash: str | None
    meta: str
    external_version: int | None
    reason: str | None = None
    image: bytes | None = None


@dataclass(frozen=True, slots=True)
class WriteLimits:
    """What is taken as a document: the largest text in MiB, the largest image, and what one without text means."""

    text_mib: int = 4
    on_empty: OnEmpty = "keep"
    images: ImageLimits = field(default_factory=ImageLimits)


def row_of(document: Document, limits: WriteLimits) -> DocumentRow:
    """Return what is stored of ``document``; an image alone has the empty text.

    Raises ``DocumentError`` for what cannot be stored.
    """
    check_id(document.id)
    check_version(document.id, document.version)
    image = document.image() if callable(document.image) else document.image
    if image is not None:
        check_image(image, limits.images)
    try:
        text = clean(document.text, max_mib=limits.text_mib)
    except EmptyText:
        if image is None and limits.on_empty == "keep":
            raise
        if image is None:
            return DocumentRow(document.id, None, None, "{}", document.version)
        text = ""
    return DocumentRow(document.id, text, _hash(text, image), _meta(document), document.version, image=image)


def _hash(text: str, image: bytes | None) -> str:
    """Return the hash of all that a document holds, as its trigger makes it."""
    if image is None:
        return Content("text", text).sha256
    return hashlib.sha256(f"{text}\0{Content.image(image).sha256}".encode()).hexdigest()


def refused_row(document: Document, doc_id: str, error: DocumentError) -> DocumentRow:
    """Return the row of a document that cannot be stored, under the printable id ``doc_id``."""
    version = document.version
    usable = isinstance(version, int) and 0 <= version < 2**63
    return DocumentRow(doc_id, None, None, "{}", version if usable else None, str(error))


def check_version(doc_id: str, version: int | None) -> None:
    """Raise ``DocumentError`` for a version of the caller's that cannot be stored."""
    if version is not None and not 0 <= version < 2**63:
        raise DocumentError(
            f"document {doc_id!r}: version must be 0 to 2^63-1, found {version}. It was not stored; correct the "
            "version."
        )


def _meta(document: Document) -> str:
    try:
        meta = json.dumps(
            plain_object(dict(document.meta).items()), ensure_ascii=False, allow_nan=False, sort_keys=True
        )
        meta.encode()  # half of a surrogate pair cannot be stored
    except (TypeError, ValueError, RecursionError) as error:
        raise DocumentError(
            f"document {document.id!r}: metadata must be a JSON object: {error}. It was not stored."
        ) from error
    if "\\u0000" in meta or "\0" in meta:
        raise DocumentError(f"document {document.id!r}: metadata holds a NUL character. It was not stored; remove it.")
    return meta


# Statements over rows, called ``s``, with the columns of ``DocumentRow`` ----------------------------------------------

ROWS = (
    "unnest(CAST(:ids AS text[]), CAST(:contents AS text[]), CAST(:hashes AS text[]), CAST(:metas AS text[]), "
    "CAST(:externals AS bigint[]), CAST(:reasons AS text[]), CAST(:images AS bytea[])) "
    "AS s(doc_id, content, content_hash, meta, external_version, reason, image)"
)
# A trigger of the documents removes what a change answers. A repeated write changes nothing, and answers as well.
_UPSERT = """
WITH answered AS (
  DELETE FROM rejected r USING {rows}
  WHERE r.cid = :cid AND r.doc_id = s.doc_id AND s.reason IS NULL AND s.external_version IS NULL),
-- An image that is here is locked all the same: nothing sweeps it before its document names it.
seen AS (
  INSERT INTO image (sha256, bytes)
  SELECT DISTINCT ON (1) encode(sha256(s.image), 'hex'), s.image FROM {rows}
  WHERE s.reason IS NULL AND s.image IS NOT NULL ORDER BY 1
  ON CONFLICT (sha256) DO UPDATE SET sha256 = EXCLUDED.sha256)
INSERT INTO document AS d (cid, doc_id, deleted, content, image, content_hash, meta, external_version)
SELECT :cid, doc_id, content IS NULL, content, encode(sha256(image), 'hex'), content_hash, CAST(meta AS jsonb),
  external_version
FROM {rows}
WHERE reason IS NULL AND (content IS NOT NULL OR external_version IS NOT NULL OR EXISTS (
  SELECT 1 FROM document k WHERE k.cid = :cid AND k.doc_id = s.doc_id AND NOT k.deleted)
  -- A reading may be about to bring what is deleted here before it came.
  OR EXISTS (SELECT 1 FROM adoption a WHERE a.cid = :cid AND a.source IS NULL))
ORDER BY doc_id
ON CONFLICT (cid, doc_id) DO UPDATE
  SET deleted = EXCLUDED.deleted, content = EXCLUDED.content, image = EXCLUDED.image,
      content_hash = EXCLUDED.content_hash, meta = EXCLUDED.meta,
      external_version = coalesce(EXCLUDED.external_version, d.external_version)
  WHERE coalesce(EXCLUDED.external_version > d.external_version, true)
    AND ((d.deleted, d.content_hash, d.meta) IS DISTINCT FROM (EXCLUDED.deleted, EXCLUDED.content_hash, EXCLUDED.meta)
         OR EXCLUDED.external_version IS DISTINCT FROM d.external_version AND EXCLUDED.external_version IS NOT NULL)
    AND {guard}
RETURNING doc_id, version, deleted
"""
_OWN = "d.version = (SELECT c.version FROM copied c WHERE c.cid = d.cid AND c.doc_id = d.doc_id)"
_NOTE = """
INSERT INTO copied (cid, doc_id, version)
SELECT :cid, n.doc_id, n.version FROM unnest(CAST(:ids AS text[]), CAST(:versions AS bigint[])) n(doc_id, version)
ON CONFLICT (cid, doc_id) DO UPDATE SET version = EXCLUDED.version
"""
_SPARED = f"""
SELECT d.doc_id FROM {{rows}} JOIN document d ON d.cid = :cid AND d.doc_id = s.doc_id
WHERE s.reason IS NULL AND {_OWN} IS NOT true AND (d.deleted, d.content_hash, d.meta)
  IS DISTINCT FROM (s.content IS NULL, s.content_hash, CAST(s.meta AS jsonb)) ORDER BY 1
"""
_OLDER = """
SELECT doc_id, version, stored, differs FROM (
  SELECT s.doc_id, s.external_version AS version, d.external_version AS stored,
    s.reason IS NOT NULL OR (d.deleted, d.content_hash, d.meta)
      IS DISTINCT FROM (s.content IS NULL, s.content_hash, CAST(s.meta AS jsonb)) AS differs
  FROM {rows} JOIN document d ON d.cid = :cid AND d.doc_id = s.doc_id
  WHERE s.external_version <= d.external_version) o
WHERE version < stored OR differs ORDER BY doc_id
"""


def values_of(rows: Sequence[DocumentRow]) -> dict[str, object]:
    """Return the parameters of ``ROWS``."""
    return {
        "ids": [row.doc_id for row in rows],
        "contents": [row.content for row in rows],
        "hashes": [row.content_hash for row in rows],
        "metas": [row.meta for row in rows],
        "externals": [row.external_version for row in rows],
        "reasons": [row.reason for row in rows],
        "images": [row.image for row in rows],
    }


def upsert(
    connection: sa.Connection, cid: int, values: Mapping[str, object], rows: str = ROWS
) -> Sequence[sa.Row[tuple[str, int, bool]]]:
    """Store those ``rows`` without a reason that are newer; return ``(doc_id, version, deleted)`` of what changed."""
    return connection.execute(sa.text(_UPSERT.format(rows=rows, guard="true")), {"cid": cid, **values}).all()


def copy(
    connection: sa.Connection, cid: int, values: Mapping[str, object], rows: str = ROWS
) -> tuple[Sequence[sa.Row[tuple[str, int, bool]]], list[str]]:
    """Store ``rows`` of an adoption's reading, as ``upsert``, but never over what was written here since the last one.

    Returns what changed, and the ids of the documents that were spared because they were written here, otherwise.
    """
    statement = sa.text(_UPSERT.format(rows=rows, guard=_OWN))
    changed = connection.execute(statement, {"cid": cid, **values}).all()
    noted = {"ids": [row.doc_id for row in changed], "versions": [row.version for row in changed]}
    connection.execute(sa.text(_NOTE), {"cid": cid, **noted})
    spared = connection.scalars(sa.text(_SPARED.format(rows=rows)), {"cid": cid, **values})
    return changed, list(spared)


def older(
    connection: sa.Connection, cid: int, values: Mapping[str, object], rows: str = ROWS
) -> dict[str, LateMessage]:
    """Return those ``rows``, by id, whose version is older than what is stored, or the same with other content.

    Asked after ``upsert`` in its transaction, which holds the rows that it met.
    """
    found = connection.execute(sa.text(_OLDER.format(rows=rows)), {"cid": cid, **values})
    return {row.doc_id: LateMessage(row.version, row.stored, row.differs) for row in found}


def hold_shared(connection: sa.Connection, cid: int) -> None:
    """Take the gate as a writer of several statements: before any row, so that lock order is the same everywhere.

    An upsert alone does not need it: its trigger takes the gate before the row is found to exist, and locked.
    """
    gate = guard("write.gate", "pg_advisory_xact_lock_shared(:key, :cid)")
    connection.execute(sa.text(f"SELECT {gate}"), {"key": GATE_LOCK, "cid": cid})
    crash_at("write.after_gate")


def differing(found: Mapping[str, LateMessage]) -> dict[str, LateMessage]:
    """Return those that came too late with other content than what is stored."""
    return {doc_id: one for doc_id, one in found.items() if one.differs}
