"""Bulk ingestion: a source streamed into a table of its own, checked as a whole, then written in pages of id order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field

import sqlalchemy as sa

from revector.crash import crash_at
from revector.database.analyzing import analyze_grown
from revector.database.driver import copy_into
from revector.database.engine import repeated
from revector.database.sessions import end_step, is_pooled
from revector.documents.deadletters import keep_refused
from revector.documents.text import refused_name
from revector.documents.writing import (
    ROWS,
    DocumentRow,
    LateMessage,
    copy,
    differing,
    hold_shared,
    older,
    refused_row,
    upsert,
    values_of,
)
from revector.errors import DocumentError, SourceError
from revector.interfaces import Document, Progress, Source
from revector.registry.control import add_event

BATCH_ROWS, BATCH_MIB = 2_000, 64
"""Documents per transaction of a bulk write, and MiB of their images, or one image that is larger: enough to amortise,
few enough that a waiting swap is not held up."""

NAMED = 20
"""Documents that came too late which a report names; it counts all of them."""

ALWAYS_TOLD = ("read", "written", "rejected")
"""Counts that the history holds of every ingestion; of others, those that are not 0."""

MOST_EMPTIED = 10
"""A source that holds nothing but more empty texts than this is one whose text field is wrong."""


@dataclass(frozen=True, slots=True)
class _Page:
    """What changed, what came too late, what was spared, how many rows there were, and the last id, if any."""

    changed: Sequence[sa.Row[tuple[str, int, bool]]]
    late: Mapping[str, LateMessage]
    spared: Sequence[str]
    rows: int
    last: str | None


@dataclass(frozen=True, slots=True)
class IngestReport:
    """Counts of a bulk ingestion: ``read = written + deleted + unchanged + older + rejected + spared``.

    ``deleted``: because their text is empty; ``older``: not newer than what is stored, by their own version, of which
    ``differing`` have other content. ``spared``: of an adoption by copy, written here since it was last read.
    """

    source: str
    read: int
    written: int
    deleted: int
    unchanged: int
    older: int
    differing: int
    rejected: int
    reasons: Mapping[str, str] = field(default_factory=dict)
    """The first few rejected ids and why; all of them are in ``dlq list``."""
    late: Mapping[str, LateMessage] = field(default_factory=dict)
    """The first ``NAMED`` of those that came too late with other content."""
    spared: int = 0


@dataclass(slots=True)
class _IngestCount:
    """What became of the records of an ingestion."""

    read: int
    rejected: int
    written: int = 0
    deleted: int = 0
    older: int = 0
    differing: int = 0
    late: dict[str, LateMessage] = field(default_factory=dict)
    spared: int = 0

    def came_late(self, found: Mapping[str, LateMessage]) -> None:
        self.older += len(found)
        self.differing += len(unlike := differing(found))
        self.late.update(list(unlike.items())[: NAMED - len(self.late)])


@dataclass(frozen=True, slots=True)
class Ingestion:
    """One ingestion of ``source`` into a collection; ``row_of`` says what of a document is stored, or refuses it.

    ``copies``: it is a reading of what the collection has adopted by copy, and overtakes nothing that was written here.
    """

    engine: sa.Engine
    cid: int
    row_of: Callable[[Document], DocumentRow]
    source: Source
    actor: str
    copies: bool = False

    def run(self, progress: Progress) -> IngestReport:
        """Read, check and write all of it. Raises ``SourceError`` before anything is stored."""
        with self.engine.connect() as connection:
            connection.execute(
                sa.text(
                    'CREATE TEMP TABLE IF NOT EXISTS ingest (doc_id text COLLATE "C", content text, content_hash text, '
                    "meta text, external_version bigint, reason text, image bytea)"
                )
            )
            connection.execute(sa.text("TRUNCATE ingest"))
            end_step(connection)
            progress.start(f"read {self.source.name}")
            read = self._stage(connection, progress)
            tally = _IngestCount(read, self._check_stage(connection, read))
            progress.done(f"{read:,} records, {tally.rejected:,} rejected")
            progress.start("write", read - tally.rejected)
            self._write_stage(connection, progress, tally)
            reasons = self._keep_rejected(connection, tally)
            connection.execute(sa.text("DROP TABLE ingest"))
            connection.commit()
        progress.done()
        analyze_grown(self.engine, ("document",))
        unchanged = read - tally.written - tally.deleted - tally.older - tally.rejected - tally.spared
        return IngestReport(
            self.source.name, unchanged=unchanged, reasons=reasons, **asdict(tally) | {"late": tally.late}
        )

    def _stage(self, connection: sa.Connection, progress: Progress) -> int:
        read = 0
        with copy_into(connection, "COPY ingest FROM STDIN") as copy:
            for document in self.source:
                try:
                    row = self.row_of(document)
                except DocumentError as error:
                    row = refused_row(document, refused_name(document.id), error)
                copy.write_row(astuple(row))
                read += 1
                progress.advance()
        end_step(connection)
        return read

    def _check_stage(self, connection: sa.Connection, read: int) -> int:
        if read == 0:
            raise SourceError(
                f"source {self.source.name} holds no documents. Nothing was stored; check its path or query."
            )
        repeated = connection.execute(
            sa.text(
                "SELECT doc_id, count(*) AS n FROM ingest GROUP BY doc_id HAVING count(*) > 1 ORDER BY doc_id LIMIT 5"
            )
        ).all()
        if repeated:
            shown = ", ".join(f"{row.doc_id!r} ({row.n} times)" for row in repeated)
            raise SourceError(
                f"source {self.source.name} repeats ids, each must occur once: {shown}. Nothing was stored; make the "
                "ids unique."
            )
        found = connection.execute(
            sa.text(
                "SELECT count(reason) AS rejected, count(*) FILTER (WHERE reason IS NULL AND content IS NULL) AS empty "
                "FROM ingest"
            )
        ).one()
        if found.rejected == read:
            raise self._nothing_usable(connection, read)
        if found.empty == read > MOST_EMPTIED:
            raise SourceError(
                f"all {read:,} records of {self.source.name} have no text, and on_empty = 'delete' would delete every "
                "one. Nothing was changed; check the text fields, or name the documents to `revector document delete`."
            )
        end_step(connection)
        return int(found.rejected)

    def _nothing_usable(self, connection: sa.Connection, read: int) -> SourceError:
        """Keep what is known of stored documents whose update was refused; return the error that says so."""
        reason = connection.scalar(sa.text("SELECT reason FROM ingest ORDER BY doc_id LIMIT 1"))
        keep_refused(
            connection,
            self.cid,
            self.source.name,
            "ingest s",
            {},
            also="EXISTS (SELECT 1 FROM document k WHERE k.cid = :cid AND k.doc_id = s.doc_id AND NOT k.deleted)",
        )
        connection.commit()
        return SourceError(
            f"none of the {read:,} records of {self.source.name} can be stored; the first: {reason} Nothing was "
            "stored; check the text fields. Those that are stored in an older version are dead letters now: `revector "
            "dlq list`."
        )

    def _write_stage(self, connection: sa.Connection, progress: Progress, tally: _IngestCount) -> None:
        connection.execute(sa.text("CREATE INDEX ON ingest (doc_id) WHERE reason IS NULL"))
        connection.execute(sa.text("ANALYZE ingest"))
        end_step(connection)
        cursor = ""
        page = (
            "(SELECT doc_id, content, content_hash, meta, external_version, reason, image FROM (SELECT *, "
            "sum(coalesce(octet_length(image), 0)) OVER (ORDER BY doc_id) - coalesce(octet_length(image), 0) AS before "
            f"FROM (SELECT * FROM ingest WHERE reason IS NULL AND doc_id > :after ORDER BY doc_id LIMIT {BATCH_ROWS}) p"
            f") p WHERE before <= {BATCH_MIB << 20}) s"
        )

        @repeated
        def write_page() -> _Page:
            if is_pooled(connection):
                found = connection.execute(sa.text(f"SELECT * FROM {page}"), {"after": cursor})
                rows = [DocumentRow(*row) for row in found]
                # The stage is seen by its own transaction only: the rows take the way over here.
                with self.engine.begin() as other:
                    written = self._write(other, values_of(rows))
                return _Page(*written, len(rows), rows[-1].doc_id if rows else None)
            with connection.begin():
                written = self._write(connection, {"after": cursor}, page)
                count, last = connection.execute(
                    sa.text(f"SELECT count(*), max(doc_id) FROM {page}"), {"after": cursor}
                ).one()
            return _Page(*written, count, last)

        while True:
            found = write_page()
            crash_at("ingest.after_page")
            if found.last is None:
                return
            cursor = found.last
            deleted = sum(row.deleted for row in found.changed)
            tally.deleted += deleted
            tally.written += len(found.changed) - deleted
            tally.spared += len(found.spared)
            tally.came_late(found.late)
            progress.advance(found.rows)

    def _write(
        self, connection: sa.Connection, values: Mapping[str, object], rows: str = ROWS
    ) -> tuple[Sequence[sa.Row[tuple[str, int, bool]]], Mapping[str, LateMessage], Sequence[str]]:
        """Write a page in the caller's transaction; return what changed, what came too late, and what was spared."""
        hold_shared(connection, self.cid)
        spared: Sequence[str] = ()
        if self.copies:
            changed, spared = copy(connection, self.cid, values, rows)
        else:
            changed = upsert(connection, self.cid, values, rows)
        return changed, older(connection, self.cid, values, rows), spared

    def _keep_rejected(self, connection: sa.Connection, tally: _IngestCount) -> dict[str, str]:
        refused = "(SELECT * FROM ingest WHERE reason IS NOT NULL) s"
        late = older(connection, self.cid, {}, refused)
        keep_refused(connection, self.cid, self.source.name, refused, {})
        first = connection.execute(
            sa.text(
                "SELECT doc_id, reason FROM ingest WHERE reason IS NOT NULL AND NOT doc_id = ANY(CAST(:late AS "
                "text[])) ORDER BY doc_id LIMIT 5"
            ),
            {"late": list(late)},
        ).all()
        tally.came_late(late)
        tally.rejected -= len(late)
        told = {name: value for name, value in asdict(tally).items() if value or name in ALWAYS_TOLD}
        add_event(connection, self.cid, self.actor, "ingest", None, {"source": self.source.name, **told})
        return {row.doc_id: row.reason for row in first}
