"""The write path: a document and its pending items in one transaction, versions, tombstones and bulk ingestion."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from revector.crash import crash_at
from revector.errors import DocumentError, NotCaughtUp, SourceError
from revector.interfaces import Document, NoProgress, Progress, Source
from revector.registry.analyzing import analyze_grown
from revector.registry.control import add_event
from revector.registry.engine import GATE_LOCK, repeated
from revector.stores.database import copy_into
from revector.text import check_id, clean, content_hash, refused_name
from revector.values import plain_object

BATCH_ROWS = 2_000
"""Documents per transaction of a bulk write: enough to amortise, few enough that a waiting swap is not held up."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A document as it stands: the source of truth that every live generation converges to."""

    id: str
    version: int
    text: str
    meta: Mapping[str, Any]
    external_version: int | None


@dataclass(frozen=True, slots=True)
class Written:
    """What a write did: the new version per id; ids that are absent were unchanged or older than what is stored."""

    versions: Mapping[str, int]

    @property
    def changed(self) -> int:
        """Number of documents that got a new version."""
        return len(self.versions)


@dataclass(frozen=True, slots=True)
class IngestReport:
    """Counts of a bulk ingestion: ``read = written + unchanged + rejected``."""

    source: str
    read: int
    written: int
    unchanged: int
    rejected: int
    reasons: Mapping[str, str] = field(default_factory=dict)
    """The first few rejected ids and why; all of them are in ``dlq list``."""


@dataclass(frozen=True, slots=True)
class _Row:
    doc_id: str
    content: str | None
    content_hash: str | None
    meta: str
    external_version: int | None


_UPSERT = """
INSERT INTO document AS d (cid, doc_id, deleted, content, content_hash, meta, external_version)
SELECT :cid, doc_id, content IS NULL, content, content_hash, CAST(meta AS jsonb), external_version
FROM {rows} ORDER BY doc_id
ON CONFLICT (cid, doc_id) DO UPDATE
  SET deleted = EXCLUDED.deleted, content = EXCLUDED.content, content_hash = EXCLUDED.content_hash,
      meta = EXCLUDED.meta, external_version = coalesce(EXCLUDED.external_version, d.external_version)
  WHERE coalesce(EXCLUDED.external_version > d.external_version, true)
    AND ((d.deleted, d.content_hash, d.meta) IS DISTINCT FROM (EXCLUDED.deleted, EXCLUDED.content_hash, EXCLUDED.meta)
         OR EXCLUDED.external_version IS DISTINCT FROM d.external_version AND EXCLUDED.external_version IS NOT NULL)
RETURNING doc_id, version
"""
# What is written now answers an earlier rejection.
_HEAL = "WITH healed AS (DELETE FROM rejected WHERE cid = :cid AND doc_id = ANY(CAST(:ids AS text[])))"
_UNNEST = (
    "unnest(CAST(:ids AS text[]), CAST(:contents AS text[]), CAST(:hashes AS text[]), CAST(:metas AS text[]), "
    "CAST(:externals AS bigint[])) AS s(doc_id, content, content_hash, meta, external_version)"
)


def hold_shared(connection: sa.Connection, cid: int) -> None:
    """Take the gate as a writer of several statements: before any row, so that lock order is the same everywhere.

    An upsert alone needs it not: its trigger takes the gate before the row is found to exist, and locked.
    """
    connection.execute(sa.text("SELECT pg_advisory_xact_lock_shared(:key, :cid)"), {"key": GATE_LOCK, "cid": cid})
    crash_at("write.after_gate")


def exists(connection: sa.Connection, cid: int, doc_id: str) -> bool:
    """Whether there is such a document, not deleted."""
    found = connection.scalar(
        sa.text("SELECT true FROM document WHERE cid = :cid AND doc_id = :doc_id AND NOT deleted"),
        {"cid": cid, "doc_id": doc_id},
    )
    return bool(found)


class Documents:
    """Documents of one collection. A write returns when it is committed; live generations follow within the lag."""

    def __init__(self, engine: sa.Engine, cid: int, *, max_text_mib: int = 4) -> None:
        self._engine, self._cid, self._max_text_mib = engine, cid, max_text_mib

    def put(self, doc_id: str, text: str, meta: Mapping[str, Any] | None = None, version: int | None = None) -> Written:
        """Create or replace one document; unchanged content and metadata cost no version.

        With ``version`` (the caller's own), the write is kept only if it is newer than what is stored.
        Raises ``DocumentError`` for an id, text or metadata that cannot be stored; nothing is written then.
        """
        return self.put_many([Document(doc_id, text, meta or {}, version)])

    def put_many(self, documents: Sequence[Document]) -> Written:
        """Create or replace documents in one transaction: all are written or, on an error, none."""
        rows = [self._row(document) for document in documents]
        _refuse_repeats([row.doc_id for row in rows])
        return self._write(rows)

    def put_valid(self, documents: Sequence[Document]) -> tuple[Written, Mapping[str, str]]:
        """Create or replace, in one transaction, those documents that can be stored; also return why others cannot.

        Raises ``DocumentError`` for an id that occurs twice; nothing is written then.
        """
        _refuse_repeats([document.id for document in documents])
        rows, refused = list[_Row](), dict[str, str]()
        for document in documents:
            try:
                rows.append(self._row(document))
            except DocumentError as error:
                refused[document.id] = str(error)
        return self._write(rows), refused

    def delete(self, doc_id: str, version: int | None = None) -> Written:
        """Delete one document: it is hidden from the commit on, and every live generation drops its chunks.

        With ``version``, a tombstone is kept even for an id never seen, so that an older write arriving late stays out.
        """
        return self.delete_many([doc_id], version)

    def delete_many(self, doc_ids: Sequence[str], version: int | None = None) -> Written:
        """Delete documents in one transaction; ids that do not exist are ignored unless ``version`` is given."""
        for doc_id in doc_ids:
            check_id(doc_id)
            _check_version(doc_id, version)
        _refuse_repeats(doc_ids)
        if version is None:
            doc_ids = sorted(self.known(doc_ids))
        return self._write([_Row(doc_id, None, None, "{}", version) for doc_id in doc_ids])

    def get(self, doc_id: str) -> Stored | None:
        """Return the document as it stands, or None if it does not exist or was deleted."""
        with self._engine.connect() as connection:
            row = connection.execute(
                sa.text(
                    "SELECT doc_id AS id, version, content AS text, meta, external_version FROM document WHERE cid = "
                    ":cid AND doc_id = :doc_id AND NOT deleted"
                ),
                {"cid": self._cid, "doc_id": doc_id},
            ).one_or_none()
        return None if row is None else Stored(**row._mapping)

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

    def count(self) -> int:
        """Number of documents that are not deleted."""
        with self._engine.connect() as connection:
            return int(
                connection.scalar(
                    sa.text("SELECT count(*) FROM document WHERE cid = :cid AND NOT deleted"), {"cid": self._cid}
                )
                or 0
            )

    def wait_until_served(self, written: Written, *, timeout_s: float = 60.0) -> None:
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

    def ingest(self, source: Source, *, actor: str, progress: Progress | None = None) -> IngestReport:
        """Stream a whole source in: checked as a whole first, then written in pages of id order.

        A record that cannot be stored goes to the dead letters with its reason. Repeated ids, no records, or no usable
        text at all raise ``SourceError`` before anything is stored. Memory is flat: the check is done by the database.
        """
        progress = progress or NoProgress()
        with self._engine.connect() as connection:
            connection.execute(
                sa.text(
                    'CREATE TEMP TABLE IF NOT EXISTS ingest (doc_id text COLLATE "C", content text, content_hash text, '
                    "meta text, "
                    "external_version bigint, reason text)"
                )
            )
            connection.execute(sa.text("TRUNCATE ingest"))
            connection.commit()
            progress.start(f"read {source.name}")
            read = self._stage(connection, source, progress)
            rejected = self._check_stage(connection, source, read)
            progress.done(f"{read:,} records, {rejected:,} rejected")
            progress.start("write", read - rejected)
            written = self._write_stage(connection, progress)
            reasons = self._keep_rejected(
                connection, source.name, actor, {"read": read, "written": written, "rejected": rejected}
            )
            connection.execute(sa.text("DROP TABLE ingest"))
            connection.commit()
        progress.done()
        analyze_grown(self._engine, ("document",))
        return IngestReport(source.name, read, written, read - rejected - written, rejected, reasons)

    def _stage(self, connection: sa.Connection, source: Source, progress: Progress) -> int:
        read = 0
        with copy_into(connection, "COPY ingest FROM STDIN") as copy:
            for document in source:
                try:
                    row = self._row(document)
                    copy.write_row((row.doc_id, row.content, row.content_hash, row.meta, row.external_version, None))
                except DocumentError as error:
                    copy.write_row((refused_name(document.id), None, None, None, None, str(error)))
                read += 1
                progress.advance()
        connection.commit()
        return read

    def _check_stage(self, connection: sa.Connection, source: Source, read: int) -> int:
        if read == 0:
            raise SourceError(f"source {source.name} holds no documents. Nothing was stored; check its path or query.")
        repeated = connection.execute(
            sa.text(
                "SELECT doc_id, count(*) AS n FROM ingest GROUP BY doc_id HAVING count(*) > 1 ORDER BY doc_id LIMIT 5"
            )
        ).all()
        if repeated:
            shown = ", ".join(f"{row.doc_id!r} ({row.n} times)" for row in repeated)
            raise SourceError(
                f"source {source.name} repeats ids, each must occur once: {shown}. Nothing was stored; make the ids "
                "unique."
            )
        rejected = int(connection.scalar(sa.text("SELECT count(*) FROM ingest WHERE reason IS NOT NULL")) or 0)
        if rejected == read:
            reason = connection.scalar(sa.text("SELECT reason FROM ingest ORDER BY doc_id LIMIT 1"))
            raise SourceError(
                f"none of the {read:,} records of {source.name} can be stored; the first: {reason} Nothing was stored; "
                "check the text fields."
            )
        connection.commit()
        return rejected

    def _write_stage(self, connection: sa.Connection, progress: Progress) -> int:
        connection.execute(sa.text("CREATE INDEX ON ingest (doc_id) WHERE reason IS NULL"))
        connection.execute(sa.text("ANALYZE ingest"))
        connection.commit()
        written, cursor = 0, ""
        page = f"(SELECT * FROM ingest WHERE reason IS NULL AND doc_id > :after ORDER BY doc_id LIMIT {BATCH_ROWS}) s"

        @repeated
        def write_page() -> tuple[int, int, str | None]:
            with connection.begin():
                hold_shared(connection, self._cid)
                changed = len(
                    connection.execute(sa.text(_UPSERT.format(rows=page)), {"cid": self._cid, "after": cursor}).all()
                )
                rows, last = connection.execute(
                    sa.text(f"SELECT count(*), max(doc_id) FROM {page}"), {"after": cursor}
                ).one()
            return changed, rows, last

        while True:
            changed, rows, last = write_page()
            crash_at("ingest.after_page")
            if last is None:
                return written
            written, cursor = written + changed, last
            progress.advance(rows)

    def _keep_rejected(
        self, connection: sa.Connection, source: str, actor: str, counts: Mapping[str, int]
    ) -> dict[str, str]:
        values = {"cid": self._cid, "source": source}
        with connection.begin():
            # A record that is good now answers its own earlier rejection.
            connection.execute(
                sa.text(
                    "DELETE FROM rejected r USING ingest i WHERE r.cid = :cid AND r.doc_id = i.doc_id AND i.reason IS "
                    "NULL"
                ),
                values,
            )
            connection.execute(
                sa.text(
                    "INSERT INTO rejected (cid, doc_id, source, reason) SELECT :cid, doc_id, :source, reason FROM "
                    "ingest WHERE reason IS NOT NULL ON CONFLICT (cid, doc_id) DO UPDATE SET source = "
                    "EXCLUDED.source, reason = EXCLUDED.reason, at = clock_timestamp()"
                ),
                values,
            )
            first = connection.execute(
                sa.text("SELECT doc_id, reason FROM ingest WHERE reason IS NOT NULL ORDER BY doc_id LIMIT 5")
            ).all()
            add_event(connection, self._cid, actor, "ingest", None, {"source": source, **counts})
        return {row.doc_id: row.reason for row in first}

    def _row(self, document: Document) -> _Row:
        check_id(document.id)
        text = clean(document.text, max_mib=self._max_text_mib)
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
            raise DocumentError(
                f"document {document.id!r}: metadata holds a NUL character. It was not stored; remove it."
            )
        _check_version(document.id, document.version)
        return _Row(document.id, text, content_hash(text), meta, document.version)

    @repeated
    def _write(self, rows: Sequence[_Row]) -> Written:
        if not rows:
            return Written({})
        with self._engine.begin() as connection:
            found = connection.execute(
                sa.text(_HEAL + _UPSERT.format(rows=_UNNEST)),
                {
                    "cid": self._cid,
                    "ids": [row.doc_id for row in rows],
                    "contents": [row.content for row in rows],
                    "hashes": [row.content_hash for row in rows],
                    "metas": [row.meta for row in rows],
                    "externals": [row.external_version for row in rows],
                },
            ).all()
            crash_at("write.after_row")
        crash_at("write.after_commit")
        return Written({row.doc_id: row.version for row in found})


def _check_version(doc_id: str, version: int | None) -> None:
    if version is not None and not 0 <= version < 2**63:
        raise DocumentError(
            f"document {doc_id!r}: version must be 0 to 2^63-1, found {version}. It was not stored; correct the "
            "version."
        )


def _refuse_repeats(doc_ids: Sequence[str]) -> None:
    repeated = sorted(doc_id for doc_id, count in Counter(doc_ids).items() if count > 1)[:5]
    if repeated:
        raise DocumentError(f"one call names documents twice: {repeated}. Nothing was stored; write each once.")
