"""The write path: a document and its pending items in one transaction, versions and tombstones."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from revector.crash import crash_at
from revector.database.engine import repeated
from revector.documents.deadletters import Refusal, keep_refused, refusals
from revector.documents.ingesting import Ingestion, IngestReport
from revector.documents.own import OwnDocuments, own_documents
from revector.documents.text import check_id, is_id
from revector.documents.writing import (
    ROWS,
    DocumentRow,
    LateMessage,
    WriteLimits,
    check_version,
    older,
    refused_row,
    row_of,
    upsert,
    values_of,
)
from revector.errors import DocumentError, NotCaughtUp
from revector.interfaces import Document, NoProgress, Progress, Source

PAGE_DOCUMENTS = 1_000
_PAGE = """
SELECT doc_id, content FROM document WHERE cid = :cid AND doc_id > :after AND NOT deleted
ORDER BY doc_id LIMIT :rows
"""


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as it stands: the source of truth that every live generation converges to.

    ``image``: the SHA-256 of its bytes, in hex; ``image_of`` returns them. An image alone has the empty text.
    """

    id: str
    version: int
    text: str
    meta: Mapping[str, object]
    external_version: int | None
    image: str | None = None
    refused: Refusal | None = None
    """A later version that was refused: what is stored, and served, is behind it."""


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What a write did: the new version per id. Ids that are absent were unchanged, or are in ``older``.

    ``deleted``: those in ``versions`` that are deleted now.
    """

    versions: Mapping[str, int]
    older: Mapping[str, LateMessage] = field(default_factory=dict)
    deleted: frozenset[str] = frozenset()

    @property
    def changed(self) -> int:
        """Number of documents that got a new version."""
        return len(self.versions)


def exists(connection: sa.Connection, cid: int, doc_id: str) -> bool:
    """Whether there is such a document, not deleted."""
    found = connection.scalar(
        sa.text("SELECT true FROM document WHERE cid = :cid AND doc_id = :doc_id AND NOT deleted"),
        {"cid": cid, "doc_id": doc_id},
    )
    return bool(found)


class Documents:
    """Documents of one collection. A write returns when it is committed; live generations follow within the lag."""

    def __init__(self, engine: sa.Engine, cid: int, *, limits: WriteLimits | None = None) -> None:
        self._engine, self._cid, self._limits = engine, cid, limits or WriteLimits()

    def put(
        self,
        doc_id: str,
        text: str | None,
        meta: Mapping[str, object] | None = None,
        version: int | None = None,
        *,
        image: bytes | None = None,
    ) -> WriteResult:
        """Create or replace one document; unchanged content and metadata cost no version.

        ``image``: the bytes of a file (``formats.images.FORMATS``); without one, the document has none any more. With
        ``version`` (the caller's own), the write is kept only if it is newer than what is stored. Empty text without an
        image deletes the document where ``on_empty`` is ``delete``.
        Raises ``DocumentError`` for an id, text, image or metadata that cannot be stored; nothing is written then.
        """
        return self.put_many([Document(doc_id, text, meta or {}, version, image)])

    def put_many(self, documents: Sequence[Document]) -> WriteResult:
        """Create or replace documents in one transaction: all are written or, on an error, none."""
        rows = [self._row(document) for document in documents]
        _refuse_repeats([row.doc_id for row in rows])
        return self._write(rows)

    def put_valid(self, documents: Sequence[Document], source: str) -> tuple[WriteResult, Mapping[str, str]]:
        """Create or replace, in one transaction, those documents that can be stored; also return why others cannot.

        Those become dead letters of ``source``, as in ``ingest``. Raises ``DocumentError`` for an id that occurs twice;
        nothing is written then.
        """
        _refuse_repeats([document.id for document in documents])
        rows, reasons = list[DocumentRow](), dict[str, str]()
        for document in documents:
            try:
                rows.append(self._row(document))
            except DocumentError as error:
                reasons[document.id] = str(error)
                if is_id(document.id):
                    rows.append(refused_row(document, document.id, error))
        written = self._write(rows, source)
        return written, {doc_id: reason for doc_id, reason in reasons.items() if doc_id not in written.older}

    def delete(self, doc_id: str, version: int | None = None) -> WriteResult:
        """Delete one document: it is hidden from the commit on, and every live generation drops its chunks.

        With ``version``, a tombstone is kept even for an id never seen, so that an older write arriving late stays out.
        """
        return self.delete_many([doc_id], version)

    def delete_many(self, doc_ids: Sequence[str], version: int | None = None) -> WriteResult:
        """Delete documents in one transaction; ids that do not exist are ignored unless ``version`` is given."""
        for doc_id in doc_ids:
            check_id(doc_id)
            check_version(doc_id, version)
        _refuse_repeats(doc_ids)
        return self._write([DocumentRow(doc_id, None, None, "{}", version) for doc_id in doc_ids])

    def get(self, doc_id: str) -> StoredDocument | None:
        """Return the document as it stands, or None if it does not exist or was deleted."""
        with self._engine.connect() as connection:
            row = connection.execute(
                sa.text(
                    "SELECT doc_id AS id, version, content AS text, meta, external_version, image FROM document WHERE "
                    "cid = :cid AND doc_id = :doc_id AND NOT deleted"
                ),
                {"cid": self._cid, "doc_id": doc_id},
            ).one_or_none()
            refused = refusals(connection, self._cid, [doc_id])
        return None if row is None else StoredDocument(**row._mapping, refused=refused.get(doc_id))

    def image_of(self, doc_id: str) -> bytes | None:
        """Return the image of a document as it was written; None where it has none, or does not exist."""
        sql = "SELECT bytes FROM document d JOIN image i ON sha256 = d.image WHERE cid = :cid AND doc_id = :doc_id"
        with self._engine.connect() as connection:
            data = connection.scalar(sa.text(sql), {"cid": self._cid, "doc_id": doc_id})
        return None if data is None else bytes(data)

    def refused(self, doc_ids: Sequence[str]) -> Mapping[str, Refusal]:
        """Return, for those of ``doc_ids`` whose latest version was refused, what is known of it."""
        with self._engine.connect() as connection:
            return refusals(connection, self._cid, doc_ids)

    def known(self, doc_ids: Iterable[str]) -> set[str]:
        """Return those of ``doc_ids`` that exist and are not deleted."""
        with self._engine.connect() as connection:
            found = connection.scalars(
                sa.text(
                    "SELECT doc_id FROM document WHERE cid = :cid AND NOT deleted AND doc_id = ANY(CAST(:ids AS "
                    "text[]))"
                ),
                {"cid": self._cid, "ids": list(doc_ids)},
            )
            return set(found)

    def own(self, queries: Mapping[str, str]) -> OwnDocuments:
        """Return the documents that are one of ``queries``, id → text, themselves."""
        with self._engine.connect() as connection:
            return own_documents(connection, self._cid, queries)

    def texts(self, doc_ids: Iterable[str]) -> dict[str, str]:
        """Return the cleaned texts of those of ``doc_ids`` that exist and are not deleted."""
        sql = "SELECT doc_id, content FROM document WHERE cid = :cid AND NOT deleted AND doc_id = ANY(:ids)"
        with self._engine.connect() as connection:
            rows = connection.execute(sa.text(sql), {"cid": self._cid, "ids": list(doc_ids)})
            return {row.doc_id: row.content for row in rows}

    def each(self) -> Iterator[tuple[str, str]]:
        """Yield id and cleaned text of every document in id order, page by page, so that no transaction stays open."""
        after, page = "", sa.text(_PAGE)
        while True:
            with self._engine.connect() as connection:
                rows = connection.execute(page, {"cid": self._cid, "after": after, "rows": PAGE_DOCUMENTS}).all()
            if not rows:
                return
            after = rows[-1].doc_id
            yield from ((row.doc_id, row.content) for row in rows)

    def count(self) -> int:
        """Number of documents that are not deleted."""
        with self._engine.connect() as connection:
            sql = sa.text("SELECT count(*) FROM document WHERE cid = :cid AND NOT deleted")
            return int(connection.scalar(sql, {"cid": self._cid}) or 0)

    def wait_until_served(self, written: WriteResult, *, timeout_s: float = 60.0) -> None:
        """Return once the active generation shows every version in ``written``: read-your-write.

        Raises ``NotCaughtUp`` after ``timeout_s`` seconds; the write itself is safe.
        """
        deadline = time.monotonic() + timeout_s
        waiting = sa.text(
            "SELECT count(*) FROM unnest(CAST(:ids AS text[]), CAST(:versions AS bigint[])) w(doc_id, version) JOIN "
            "collection c ON c.cid = :cid AND c.active_gen IS NOT NULL WHERE NOT EXISTS (SELECT 1 FROM ledger l "
            "WHERE l.gen = c.active_gen AND l.doc_id = w.doc_id AND l.version >= w.version)"
        )
        values = {"cid": self._cid, "ids": list(written.versions), "versions": list(written.versions.values())}
        while True:
            with self._engine.connect() as connection:
                left = connection.scalar(waiting, values)
            if not left:
                return
            if time.monotonic() > deadline:
                raise NotCaughtUp(
                    f"{left} of {len(written.versions)} written documents were not served after {timeout_s:g} s. They "
                    "are stored; is `revector worker` running?"
                )
            time.sleep(0.02)

    def ingest(
        self, source: Source, *, actor: str, copies: bool = False, progress: Progress | None = None
    ) -> IngestReport:
        """Stream a whole source in: checked as a whole first, then written in pages of id order.

        A record that cannot be stored goes to the dead letters with its reason. Repeated ids, no records, or no usable
        text at all raise ``SourceError`` before anything is stored. Memory is flat: the check is done by the database.
        ``copies``: it is a reading of what was adopted by copy, which overtakes nothing that was written here.
        """
        return Ingestion(self._engine, self._cid, self._row, source, actor, copies).run(progress or NoProgress())

    def _row(self, document: Document) -> DocumentRow:
        return row_of(document, self._limits)

    @repeated
    def _write(self, rows: Sequence[DocumentRow], source: str = "") -> WriteResult:
        if not rows:
            return WriteResult({})
        values = values_of(rows)
        with self._engine.begin() as connection:
            found = upsert(connection, self._cid, values)
            changed = {row.doc_id for row in found}
            late = dict[str, LateMessage]()
            if any(row.external_version is not None and row.doc_id not in changed for row in rows):
                late = older(connection, self._cid, values)
            if any(row.reason is not None for row in rows):
                keep_refused(connection, self._cid, source, ROWS, values)
            crash_at("write.after_row")
        crash_at("write.after_commit")
        versions = {row.doc_id: row.version for row in found}
        return WriteResult(versions, late, frozenset(row.doc_id for row in found if row.deleted))


def _refuse_repeats(doc_ids: Sequence[str]) -> None:
    repeated = sorted(doc_id for doc_id, count in Counter(doc_ids).items() if count > 1)[:5]
    if repeated:
        raise DocumentError(f"one call names documents twice: {repeated}. Nothing was stored; write each once.")
