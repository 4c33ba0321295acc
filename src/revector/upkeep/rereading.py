"""Owns reading a source again: what changed there is written, what is gone from it is told, or deleted by choice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import sqlalchemy as sa

from revector.database.driver import copy_into
from revector.database.sessions import end_step
from revector.documents.documents import Documents
from revector.documents.ingesting import IngestReport
from revector.documents.text import is_id
from revector.errors import ConfigError, TooManyMissing
from revector.formats.images import ImageLimits
from revector.interfaces import Document, Progress, Source
from revector.sources import ColumnType, located, open_source
from revector.upkeep import seen

FIRST = 20
"""How many of the ids missing from a source are named."""

MOST_MISSING = 0.05
"""Share of a collection's documents that may be deleted at once because its source has them no more, unless said."""


@dataclass(frozen=True, slots=True)
class Reread:
    """What reading a source again found: ``read = changed + unchanged + older + rejected``.

    ``changed``: deleted ones, where empty text deletes, among them; ``older``: not newer than what is stored.
    ``absent``: documents that the source has not, gone from it or never of it; ``first`` names some. ``deleted`` of
    them were deleted: none, unless that was asked for.
    """

    source: str
    read: int
    changed: int
    unchanged: int
    older: int
    rejected: int
    absent: int
    first: tuple[str, ...]
    deleted: int = 0
    ingested: IngestReport | None = field(default=None, compare=False)
    """All that ``Documents.ingest`` said."""


def reread_source(
    engine: sa.Engine,
    cid: int,
    documents: Documents,
    source: Source,
    *,
    actor: str,
    max_missing: float | None = None,
    copies: bool = False,
    progress: Progress | None = None,
) -> Reread:
    """Ingest ``source``, so that what changed there is written, and count what it has not; memory stays flat.

    ``max_missing`` None: nothing is deleted, for a document may never have been of this source. Else what the source
    has not is deleted, but for what is written meanwhile; where that is more than this share (0 to 1) of all documents,
    ``TooManyMissing`` is raised before anything is stored. ``copies``: as of ``Documents.ingest``; then only what was
    of the source can be gone from it. Otherwise raises as ``Documents.ingest``.
    """
    if max_missing is not None and not 0 <= max_missing <= 1:
        raise ConfigError(f"max_missing must be from 0 to 1, found {max_missing}. Nothing was read.")
    with engine.connect() as connection:
        began = seen.begin(connection)
        try:
            noted = _Noted(source, connection, cid, began, max_missing, copies=copies)
            done = documents.ingest(noted, actor=actor, copies=copies, progress=progress)
            absent, first = seen.absent(connection, cid, began, first=FIRST, copies=copies)
            deleted = 0
            if max_missing is not None and absent:
                deleted = seen.bury_absent(connection, cid, began, actor=actor, source=source.name, copies=copies)
            seen.end(connection)
        except BaseException:
            connection.invalidate()  # takes its temporary table with it
            raise
    changed = done.written + done.deleted
    counts = done.read, changed, done.unchanged, done.older, done.rejected
    return Reread(done.source, *counts, absent, tuple(first), deleted, done)


class SourceDescription(Protocol):
    """How a collection's source is configured; ``CollectionSettings`` is one."""

    @property
    def source(self) -> str | None: ...  # noqa: D102 - as in revector.toml

    @property
    def source_url(self) -> str | None: ...  # noqa: D102

    @property
    def id_field(self) -> str: ...  # noqa: D102

    @property
    def text_fields(self) -> list[str]: ...  # noqa: D102

    @property
    def meta_fields(self) -> list[str] | None: ...  # noqa: D102

    @property
    def column_types(self) -> dict[str, ColumnType]: ...  # noqa: D102

    @property
    def version_field(self) -> str | None: ...  # noqa: D102

    @property
    def image_field(self) -> str | None: ...  # noqa: D102

    @property
    def on_missing(self) -> Literal["keep", "delete"]: ...  # noqa: D102

    @property
    def max_missing(self) -> float: ...  # noqa: D102


def configured_source(
    collection: str,
    chosen: SourceDescription,
    root: Path,
    database_url: Callable[[], str],
    images: ImageLimits | None = None,
) -> Source:
    """Open the source of ``revector.toml``; paths are below ``root``, SQL is of ``source_url`` or the own database.

    ``images``: the largest that is taken. Raises ``ConfigError`` where none is configured, and ``SourceError`` for what
    cannot be read.
    """
    if not chosen.source:
        raise ConfigError(
            f"the source of collection {collection!r} was to be read and revector.toml names none. Nothing has "
            f"run; add `source` to [collections.{collection}], or name another."
        )
    return open_source(
        located(chosen.source, root),
        id_field=chosen.id_field,
        text_fields=chosen.text_fields,
        meta_fields=chosen.meta_fields,
        version_field=chosen.version_field,
        image_field=chosen.image_field,
        column_types=chosen.column_types,
        url=(chosen.source_url or database_url()) if chosen.source.startswith("sql:") else None,
        images=images,
    )


def allowed_missing(chosen: SourceDescription) -> float | None:
    """Return ``max_missing`` of ``reread_source`` as the settings have it."""
    return chosen.max_missing if chosen.on_missing == "delete" else None


class _Noted:
    """A source that notes the ids that pass by, in a connection's table ``seen``; at its end it looks for gaps."""

    def __init__(
        self,
        source: Source,
        connection: sa.Connection,
        cid: int,
        began: int,
        max_missing: float | None,
        *,
        copies: bool,
    ) -> None:
        self.name, self._source, self._connection = source.name, source, connection
        self._cid, self._began, self._max_missing, self._copies = cid, began, max_missing, copies

    def __iter__(self) -> Iterator[Document]:
        with copy_into(self._connection, "COPY seen FROM STDIN") as copy:
            for document in self._source:
                if is_id(document.id):
                    copy.write_row((document.id,))
                yield document
        end_step(self._connection)  # no transaction stays open while the documents are written
        if self._max_missing is not None:
            self._refuse_gaps(self._max_missing)

    def _refuse_gaps(self, max_missing: float) -> None:
        absent, first = seen.absent(self._connection, self._cid, self._began, first=3, copies=self._copies)
        stored = seen.stored(self._connection, self._cid)
        if absent > max_missing * stored:
            raise TooManyMissing(
                f"source {self.name} has {absent:,} of {stored:,} documents of its collection no more "
                f"({absent / stored:.1%}, {max_missing:.1%} are allowed), such as {', '.join(map(repr, first))}. "
                f"Nothing was stored or deleted; if that is right, allow it once with `revector "
                f"{'adopt' if self._copies else 'ingest'} --max-missing`"
                f"{'' if self._copies else ', or raise max_missing'}."
            )
