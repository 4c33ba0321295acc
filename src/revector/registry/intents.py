"""Owns the intents of a generation whose index is in a store outside of PostgreSQL: every point that may exist there.

An attempt is a random id for one try to embed one version of a document. It is ``open`` before the store is touched,
``published`` by a compare-and-set in the transaction that shows it, and ``doomed`` before its points are removed. It
never goes back, so a late request of the store cannot bring anything back either.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from revector.archive import Part
from revector.database.engine import repeated
from revector.errors import StoreUnavailable
from revector.guards import guard

READERS_LOCK = 1919252073
"""First key of the advisory lock, with the generation as the second, that long readers share with each other."""

OPEN_S = 3_600.0
"""An attempt that was not published after this long is given up: ten times the slowest (reliability.md 3.7)."""

PUT_S = OPEN_S / 2
"""How old an attempt may be when its points are put: what is older may be given up and forgotten by then."""

QUERY_S = 60.0
"""Longer than any search runs: what was superseded this long ago is shown to nobody."""

CANARY_S = 60.0
"""A canary older than this gets a successor: a store that goes back in time, to a snapshot, has not the newest one."""

LATELY_S = 60.0
"""How long before the newest canary an attempt may have been named whose points were put after it."""

SKEW_S = 60.0
"""How much a worker's clock, which names attempts, may be ahead of the database's."""

LATE_S = 900.0
"""Longer than a request may be on its way: after it, points that arrived late are removed once more."""


@dataclass(frozen=True, slots=True)
class DoomedAttempt:
    """An attempt whose points are to be removed; ``again`` for the second and last time."""

    attempt: UUID
    n_chunks: int
    again: bool


def table(gen: int) -> str:
    """Return the name of the table that holds a generation's intents."""
    return f"intent_g{gen}"


def create(connection: sa.Connection, gen: int) -> None:
    """Make the table of a generation's intents."""
    connection.execute(sa.text("SELECT intent_make(:gen)"), {"gen": gen})


def point_id(attempt: UUID, chunk: int) -> UUID:
    """Return the id of a chunk's point: computed, so that nothing need be scanned to find it."""
    return uuid.uuid5(attempt, str(chunk))


def point_ids(attempts: Iterable[tuple[UUID, int]]) -> list[UUID]:
    """Return the ids of all points of attempts, given with their numbers of chunks."""
    return [point_id(attempt, n) for attempt, n_chunks in attempts for n in range(n_chunks)]


def new_attempt() -> UUID:
    """Name a try: a UUID of version 7 (RFC 9562, 5.7), so that the key finds the newest, whatever else they are of."""
    drawn = uuid.uuid4().int % (1 << 76)
    return UUID(int=_first_named(time.time()).int | 7 << 76 | drawn)


def _first_named(at_s: float) -> UUID:
    """Return what all names from a moment on are larger than, given in seconds since 1970."""
    return UUID(int=int(1_000 * at_s) << 80)


def new_attempts(part: Part) -> dict[str, UUID]:
    """Name a try to embed each document of a part; no other try, also of the same version, has that name."""
    return {doc_id: new_attempt() for doc_id in part.doc_ids}


def refuse_old(age_s: float, name: str) -> None:
    """Raise ``StoreUnavailable`` for attempts whose points are put into the index ``name`` so late after opening."""
    if age_s > PUT_S:
        raise StoreUnavailable(
            f"points were to be put into {name} within {PUT_S:,.0f} s of their announcement, but this process stood "
            f"still, or the store was slow, for {age_s:,.0f} s. Nothing was published, all work stays due; it is tried "
            "again."
        )


@repeated
def open_all(engine: sa.Engine, gen: int, part: Part, attempts: Mapping[str, UUID]) -> None:
    """Commit that points of these attempts, by document, may exist from now on."""
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO intent (gen, attempt, doc_id, version, content_hash, n_chunks) SELECT :gen, * FROM unnest("
                "CAST(:attempts AS uuid[]), CAST(:ids AS text[]), CAST(:versions AS bigint[]), CAST(:hashes AS "
                "text[]), CAST(:counts AS int[])) ON CONFLICT DO NOTHING"
            ),
            {
                "gen": gen,
                "attempts": [attempts[doc_id] for doc_id in part.doc_ids],
                "ids": list(part.doc_ids),
                "versions": part.versions.tolist(),
                "hashes": list(part.content_hashes),
                "counts": part.counts.tolist(),
            },
        )


@repeated
def open_canary(engine: sa.Engine, gen: int) -> UUID:
    """Commit that a canary may exist from now on, and return its attempt. It is of no document, so nothing shows it."""
    attempt = new_attempt()
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO intent (gen, attempt, doc_id, version, content_hash, n_chunks) VALUES (:gen, :attempt, "
                "'', 0, '', 1)"
            ),
            {"gen": gen, "attempt": attempt},
        )
    return attempt


@repeated
def publish_canary(engine: sa.Engine, gen: int, attempt: UUID, *, beside: UUID | None = None) -> bool:
    """Have a canary count from now on; False where it was given up itself, or the one ``beside`` it was.

    Those before it are given up; beside another, only those that no publisher under way can carry any more.
    """
    values = {"gen": gen, "attempt": attempt, "kept_s": 0.0 if beside is None else OPEN_S}
    with engine.begin() as connection:
        if beside is not None and not is_canary(connection, gen, beside):
            return False
        counts = connection.execute(
            sa.text(
                "UPDATE intent SET state = 'published' WHERE gen = :gen AND attempt = :attempt AND state <> 'doomed'"
            ),
            values,
        ).rowcount
        if counts:
            connection.execute(
                sa.text(
                    "UPDATE intent SET state = 'doomed', doomed_at = clock_timestamp() WHERE gen = :gen AND doc_id = "
                    "'' AND state = 'published' AND attempt <> :attempt AND created_at < clock_timestamp() - "
                    "CAST(:kept_s AS float8) * interval '1 s'"
                ),
                values,
            )
    return counts == 1


def canary(connection: sa.Connection, gen: int) -> UUID | None:
    """Return the attempt of the newest canary that counts; None where the index was never made or made again."""
    found: UUID | None = connection.scalar(sa.text(f"SELECT attempt {_NEWEST}"), {"gen": gen})
    return found


def canaries(connection: sa.Connection, gen: int) -> set[UUID]:
    """Return the attempts of all canaries that count, one for about each ``CANARY_S`` of the last ``OPEN_S``."""
    sql = "SELECT attempt FROM intent WHERE gen = :gen AND doc_id = '' AND state = 'published'"
    return set(connection.scalars(sa.text(sql), {"gen": gen}))


def shown_lately(
    connection: sa.Connection, gen: int, most: int, *, after: UUID | None = None, drawn: bool = False
) -> list[tuple[UUID, str, int]]:
    """Return attempts that are shown and no canary vouches for, at most ``most``, with their documents and chunks.

    Those named ``after`` another one, or ``drawn`` at random. What is due for a loss already is left out.
    """
    newest_s, now_s = connection.execute(
        sa.text(
            "SELECT extract(epoch FROM max(created_at))::float8, extract(epoch FROM clock_timestamp())::float8 FROM "
            "intent WHERE gen = :gen AND doc_id = '' AND state = 'published'"
        ),
        {"gen": gen},
    ).one()
    if newest_s is None:
        return []
    first = _first_named(newest_s - LATELY_S)
    rows = connection.execute(
        sa.text(
            "SELECT i.attempt, i.doc_id, i.n_chunks FROM intent i JOIN ledger l ON l.gen = i.gen AND l.doc_id = "
            "i.doc_id AND l.attempt = i.attempt WHERE i.gen = :gen AND i.attempt > :first AND i.attempt < :last AND "
            f"l.content_hash <> '' ORDER BY {'random()' if drawn else 'i.attempt'} LIMIT :most"
        ),
        {"gen": gen, "first": max(first, after or first), "last": _first_named(now_s + SKEW_S), "most": most},
    )
    return [(row.attempt, row.doc_id, row.n_chunks) for row in rows]


def aged_canary(connection: sa.Connection, gen: int) -> UUID | None:
    """Return the newest canary that counts where it is older than ``CANARY_S``."""
    newest = f"SELECT attempt FROM (SELECT * {_NEWEST}) newest WHERE created_at < clock_timestamp() - "
    found: UUID | None = connection.scalar(sa.text(f"{newest}{CANARY_S} * interval '1 s'"), {"gen": gen})
    return found


_NEWEST = "FROM intent WHERE gen = :gen AND doc_id = '' AND state = 'published' ORDER BY created_at DESC LIMIT 1"


def is_canary(connection: sa.Connection, gen: int, attempt: UUID | None) -> bool:
    """Whether a canary still counts, and does until the transaction ends."""
    counts = guard("reveal.canary", "state = 'published'")
    return (
        connection.scalar(
            sa.text(f"SELECT 1 FROM intent WHERE gen = :gen AND attempt = :attempt AND {counts} FOR SHARE"),
            {"gen": gen, "attempt": attempt},
        )
        is not None
    )


@repeated
def give_up_canary(engine: sa.Engine, gen: int) -> None:
    """Have no canary count, nor one that is under way: what was put until now is shown no more, if it was not yet."""
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE intent SET state = 'doomed', doomed_at = clock_timestamp() WHERE gen = :gen AND doc_id = '' "
                "AND state <> 'doomed'"
            ),
            {"gen": gen},
        )


def publish(connection: sa.Connection, gen: int, attempts: Sequence[UUID]) -> set[str]:
    """Move attempts from open to published; return the documents of those that were still open."""
    if not attempts:
        return set()
    still = guard("reveal.open", "i.state = 'open'")
    return set(
        connection.scalars(
            sa.text(
                "WITH open AS (SELECT i.attempt FROM unnest(CAST(:attempts AS uuid[])) a(attempt) JOIN intent i ON "
                f"i.gen = :gen AND i.attempt = a.attempt WHERE {still} "
                "ORDER BY i.doc_id FOR UPDATE OF i) UPDATE intent i SET state = 'published' FROM open WHERE i.gen = "
                ":gen AND i.attempt = open.attempt RETURNING i.doc_id"
            ),
            {"gen": gen, "attempts": list(attempts)},
        )
    )


def supersede(connection: sa.Connection, gen: int, doc_ids: Sequence[str]) -> None:
    """Note that the ledger is about to name other attempts of these documents, or none."""
    connection.execute(
        sa.text(
            "UPDATE intent i SET superseded_seq = nextval('publish_seq'), superseded_at = clock_timestamp() "
            "FROM ledger l WHERE l.gen = :gen AND l.doc_id = ANY(CAST(:ids AS text[])) AND i.gen = :gen "
            "AND i.attempt = l.attempt"
        ),
        {"gen": gen, "ids": list(doc_ids)},
    )


def newest_shown(connection: sa.Connection, *, also: str) -> int:
    """Return the number of the latest change of what is shown: later ones have higher numbers, whatever clocks say.

    ``also``: another column, for what it does.
    """
    return int(connection.scalar(sa.text(f"SELECT last_value, {also} FROM publish_seq")) or 0)


def hold_for_reading(connection: sa.Connection, gen: int) -> None:
    """Keep what the transaction's snapshot names from being removed until it ends."""
    connection.execute(sa.text("SELECT pg_advisory_xact_lock_shared(:key, :gen)"), {"key": READERS_LOCK, "gen": gen})


@repeated
def doom(engine: sa.Engine, gen: int, most: int) -> int:
    """Doom at most ``most`` attempts that no one sees or can still publish; return how many, 0 while someone reads.

    Rows that a publisher holds are skipped, so the two never wait for each other.
    """
    with engine.begin() as connection:
        unseen = guard("collect.unseen", "superseded_at < clock_timestamp() - :query_s * interval '1 s'")
        free = sa.text("SELECT pg_try_advisory_xact_lock(:key, :gen)")
        if not connection.scalar(free, {"key": READERS_LOCK, "gen": gen}):
            return 0
        return connection.execute(
            sa.text(
                "WITH old AS (SELECT attempt FROM intent WHERE gen = :gen AND (state = 'open' AND created_at < "
                "clock_timestamp() - :open_s * interval '1 s' OR state = 'published' AND "
                f"{unseen}) "
                "LIMIT :most FOR UPDATE SKIP LOCKED) UPDATE intent i SET state = 'doomed', doomed_at = "
                "clock_timestamp() FROM old WHERE i.gen = :gen AND i.attempt = old.attempt"
            ),
            {"gen": gen, "open_s": OPEN_S, "query_s": QUERY_S, "most": most},
        ).rowcount


def doomed(connection: sa.Connection, gen: int, most: int) -> list[DoomedAttempt]:
    """Return attempts whose points must be removed now: for the first time, or ``LATE_S`` after it once more."""
    rows = connection.execute(
        sa.text(
            "SELECT attempt, n_chunks, removed_at IS NOT NULL AS again FROM intent WHERE gen = :gen AND state = "
            "'doomed' AND (removed_at IS NULL OR removed_at < clock_timestamp() - :late_s * interval '1 s') LIMIT "
            ":most"
        ),
        {"gen": gen, "late_s": LATE_S, "most": most},
    )
    return [DoomedAttempt(**row._mapping) for row in rows]


@repeated
def removed(engine: sa.Engine, gen: int, attempts: Sequence[DoomedAttempt]) -> None:
    """Note that the points of attempts were removed; those for which it was the second time are forgotten."""
    values = {
        "gen": gen,
        "first": [one.attempt for one in attempts if not one.again],
        "last": [one.attempt for one in attempts if one.again],
    }
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE intent SET removed_at = clock_timestamp() WHERE gen = :gen AND attempt = "
                "ANY(CAST(:first AS uuid[])) AND removed_at IS NULL"
            ),
            values,
        )
        connection.execute(
            sa.text(
                "DELETE FROM intent WHERE gen = :gen AND attempt = ANY(CAST(:last AS uuid[])) AND removed_at IS NOT "
                "NULL"
            ),
            values,
        )
