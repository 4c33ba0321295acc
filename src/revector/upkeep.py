"""Upkeep by night: stale index entries are embedded anew, a source is read again, dead letters are tried again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from revector.errors import ConfigError
from revector.interfaces import Document, Progress, Source
from revector.registry import stale as registry
from revector.registry.control import add_event
from revector.registry.deadletters import retry_dead
from revector.registry.documents import Documents
from revector.registry.repair import rearm
from revector.sources import ColumnType, open_source
from revector.stores.database import copy_into
from revector.text import is_id

PAGE_IDS = 500
"""Documents re-armed in one transaction, which holds their rows against writers."""

FIRST = 20

MOST_ENTRIES = 10_000
"""Index entries made due by one run, unless said otherwise: the live lane must follow new writes meanwhile."""

MOST_RETRIES = 200
"""Dead letters tried by one run, unless said otherwise; the history names each of them."""

TRIES = 3
"""How often a dead letter whose failure is final is tried again by upkeep, unless said otherwise."""


@dataclass(frozen=True, slots=True)
class Reread:
    """What reading a source again found: ``read = changed + unchanged + older + rejected``.

    ``changed``: deleted ones, where empty text deletes, among them; ``older``: not newer than what is stored.
    ``absent``: documents that the source has not, gone from it or never of it; ``first`` names some. None was deleted.
    """

    source: str
    read: int
    changed: int
    unchanged: int
    older: int
    rejected: int
    absent: int
    first: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StaleReport:
    """What one look for stale vectors found; an entry is one document in one live index.

    ``entries``: looked at; ``old`` and ``behind``: older than the limit, or not at their document's version and nobody
    at work on it; ``due``: made due again, a worker embeds them; ``left``: over the limit, for the next run;
    ``waiting``: made due by an earlier run and not done yet, which the limit counts, too.
    """

    collection: str
    entries: int
    old: int
    behind: int
    due: int
    left: int
    reread: Reread | None
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class RetryReport:
    """What one run did with the dead letters, in documents.

    ``dead = retried + left + given_up + waived``: made due again; over the limit, for the next run; final and tried
    often enough; accepted by a person. ``refused``: by ingestion, which are fixed at their source.
    """

    collection: str
    dead: int
    retried: int
    left: int
    given_up: int
    waived: int
    refused: int


def refresh_stale(
    engine: sa.Engine,
    cid: int,
    collection: str,
    documents: Documents,
    source: Source | None,
    *,
    actor: str,
    max_age_days: float | None = None,
    limit: int = MOST_ENTRIES,
    progress: Progress | None = None,
) -> StaleReport:
    """Make every stale entry of every live index due again, up to ``limit``, and keep the counts as an event.

    What is behind comes first, then what is old, of the active index before others. ``wait_until_done`` waits for it.

    ``source`` is read again first: what differs there is written, **also over what was written directly since**, so
    name one only where it is the truth. Entries older than ``max_age_days`` lose their hash, so that they are embedded
    anew and not taken from another index; they are served until then. None: age does not count. Raises ``ConfigError``
    for numbers out of range, ``SourceError`` as ``Documents.ingest``, ``GateBusy`` when documents are held by others;
    what was done before stays done, and the call may be repeated.
    """
    if limit < 1 or (max_age_days is not None and not max_age_days > 0):
        raise ConfigError(
            f"max_age_days must be above 0 and limit 1 or more, found {max_age_days} and {limit}. Nothing has run."
        )
    reread = None if source is None else reread_source(engine, cid, documents, source, actor=actor, progress=progress)
    with engine.connect() as connection:
        found = registry.find_stale(connection, cid, max_age_days=max_age_days, limit=limit)
    due = sum(_make_due(engine, cid, gen, kinds, actor) for gen, kinds in found.chosen.items())
    chosen = sum(len(ids) for kinds in found.chosen.values() for ids in kinds.values())
    left = found.old + found.behind - chosen
    report = StaleReport(collection, found.entries, found.old, found.behind, due, left, reread, found.waiting)
    with engine.begin() as connection:
        add_event(connection, cid, actor, "stale", None, asdict(report) | {"max_age_days": max_age_days})
    return report


def _make_due(engine: sa.Engine, cid: int, gen: int, kinds: Mapping[str, Sequence[str]], actor: str) -> int:
    pages = ((kind, ids[at : at + PAGE_IDS]) for kind, ids in kinds.items() for at in range(0, len(ids), PAGE_IDS))
    return sum(rearm(engine, cid, gen, {kind: page}, actor=actor) for kind, page in pages)


def reread_source(
    engine: sa.Engine, cid: int, documents: Documents, source: Source, *, actor: str, progress: Progress | None = None
) -> Reread:
    """Ingest ``source`` anew, so that what changed there is written, and count what it has not; memory stays flat.

    Nothing is deleted, for a document may never have been of this source. Raises as ``Documents.ingest``.
    """
    with engine.connect() as connection:
        began = registry.begin_seen(connection)
        try:
            done = documents.ingest(_Seen(source, connection), actor=actor, progress=progress)
        except BaseException:
            connection.invalidate()  # takes its temporary table with it
            raise
        absent, first = registry.end_seen(connection, cid, began, first=FIRST)
    changed = done.written + done.deleted
    return Reread(done.source, done.read, changed, done.unchanged, done.older, done.rejected, absent, tuple(first))


class Described(Protocol):
    """How a collection's source is configured; ``config.CollectionSettings`` is one."""

    @property
    def source(self) -> str | None: ...  # noqa: D102 - as in revector.toml

    @property
    def id_field(self) -> str: ...  # noqa: D102

    @property
    def text_fields(self) -> list[str]: ...  # noqa: D102

    @property
    def meta_fields(self) -> list[str] | None: ...  # noqa: D102

    @property
    def column_types(self) -> dict[str, ColumnType]: ...  # noqa: D102


def configured_source(collection: str, chosen: Described, root: Path) -> Source:
    """Open the source of ``revector.toml``; paths are below ``root``. Raises ``ConfigError`` without one.

    Raises ``SourceError`` for what cannot be read, and for ``sql:``, whose database no setting names.
    """
    if not chosen.source:
        raise ConfigError(
            f"the source of collection {collection!r} was to be read again and revector.toml names none. Nothing has "
            f"run; add `source` to [collections.{collection}], or leave it out here."
        )
    place = chosen.source
    if place.partition(":")[0] not in ("sql", "docstrings"):
        place = str(root / Path(place).expanduser())
    return open_source(
        place,
        id_field=chosen.id_field,
        text_fields=chosen.text_fields,
        meta_fields=chosen.meta_fields,
        column_types=chosen.column_types,
    )


class _Seen:
    """A source that notes, in the table ``seen`` of a connection, the ids that pass by."""

    def __init__(self, source: Source, connection: sa.Connection) -> None:
        self.name, self._source, self._connection = source.name, source, connection

    def __iter__(self) -> Iterator[Document]:
        with copy_into(self._connection, "COPY seen FROM STDIN") as copy:
            for document in self._source:
                if is_id(document.id):
                    copy.write_row((document.id,))
                yield document
        self._connection.commit()  # no transaction stays open while the documents are written


def retry_dead_letters(
    engine: sa.Engine, cid: int, collection: str, *, actor: str, limit: int = MOST_RETRIES, tries: int = TRIES
) -> RetryReport:
    """Make dead letters due again, up to ``limit`` documents, those tried least often first.

    Always where the failure may pass: it was of a kind that is tried 8 times (device, connection, memory). Up to
    ``tries`` times for one text where it was final, or where processes died of it; how often is counted from the
    history, and a new version of the document begins anew. What a person waived is left alone. Raises ``ConfigError``
    for numbers out of range.
    """
    if limit < 1 or tries < 0:
        raise ConfigError(f"limit must be 1 or more and tries 0 or more, found {limit} and {tries}. Nothing has run.")
    with engine.begin() as connection:
        found = registry.find_dead(connection, cid, tries=tries, limit=limit)
        chosen = list(found.chosen)
        if chosen:
            retry_dead(connection, cid, chosen, actor)
            add_event(connection, cid, actor, registry.RETRIED, None, {"documents": chosen})
    left = found.worth - len(chosen)
    return RetryReport(collection, found.dead, len(chosen), left, found.given_up, found.waived, found.refused)
