"""The work set: seeding a backfill, claiming items, failures and dead letters, and how much is waiting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from revector.crash import crash_at
from revector.errors import ConfigError, GenerationGone, StateError
from revector.registry.control import add_event, before_event
from revector.registry.engine import repeated

LEASE_S = 60
"""A claimed item may be claimed by others after this long: leases save work, they protect nothing."""

LONGEST_PAUSE_S = 600
"""What lies further ahead was written before the database's clock was set back: it counts as due."""

MAX_ATTEMPTS = 8
SEED_ROWS = 5_000


@dataclass(frozen=True, slots=True)
class Item:
    """A document to bring up to date, as it stood when it was read; ``content`` is None for a tombstone."""

    doc_id: str
    version: int
    content: str | None
    content_hash: str | None
    tombstone_version: int


@dataclass(frozen=True, slots=True)
class Shard:
    """One key range ``(lo, hi]`` of a backfill."""

    gen: int
    shard: int
    lo: str
    hi: str | None
    cursor: str
    documents: int
    seeded: bool
    done: bool


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for one generation. ``blocking`` counts items that keep the alias from moving there."""

    due: int
    bulk: int
    dead: int
    waived: int
    oldest_s: float
    """Seconds since the oldest live-lane item became due: the indexing lag."""

    @property
    def blocking(self) -> int:
        """Items due or dead and not waived."""
        return self.due + self.bulk + self.dead - self.waived


# Shards and seeding ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Range:
    """Keys ``(lo, hi]`` with the number of documents counted in them; ``hi`` None is the end."""

    lo: str
    hi: str | None
    documents: int


_SHARD = "gen, shard, lo, hi, cursor, documents, seeded, done"


def plan_ranges(engine: sa.Engine, cid: int, count: int) -> list[Range]:
    """Cut the collection's key space into at most ``count`` ranges of about equal documents, at least one.

    Reads every key, so it is done before the gate is taken: ranges stay valid whatever is written meanwhile.
    """
    with engine.connect() as connection:
        lasts = connection.execute(
            sa.text(
                """
                WITH numbered AS (
                  SELECT doc_id, row_number() OVER (ORDER BY doc_id) - 1 AS n, count(*) OVER () AS total
                  FROM document WHERE cid = :cid AND NOT deleted)
                SELECT max(doc_id) AS last, count(*) AS documents FROM numbered
                GROUP BY n * LEAST(:count, total) / total ORDER BY 1
                """
            ),
            {"cid": cid, "count": count},
        ).all()
    bounds = ["", *(row.last for row in lasts[:-1])]
    ends: list[str | None] = [*bounds[1:], None]
    return [Range(lo, hi, row.documents) for lo, hi, row in zip(bounds, ends, lasts, strict=False)] or [
        Range("", None, 0)
    ]


def add_shards(connection: sa.Connection, gen: int, ranges: Sequence[Range]) -> None:
    """Register the ranges as the shards of a generation."""
    for shard, one in enumerate(ranges):
        connection.execute(
            sa.text(
                "INSERT INTO shard (gen, shard, lo, hi, cursor, documents) "
                "VALUES (:gen, :shard, :lo, :hi, :lo, :documents)"
            ),
            {"gen": gen, "shard": shard, "lo": one.lo, "hi": one.hi, "documents": one.documents},
        )


def read_shards(connection: sa.Connection, gen: int) -> list[Shard]:
    """Return the shards of a generation in key order."""
    rows = connection.execute(sa.text(f"SELECT {_SHARD} FROM shard WHERE gen = :gen ORDER BY shard"), {"gen": gen})
    return [Shard(**row._mapping) for row in rows]


def lock_shard(connection: sa.Connection, shard: Shard) -> Shard:
    """Return a shard as it is now, locked until the transaction ends: two tasks may be at it."""
    row = connection.execute(
        sa.text(f"SELECT {_SHARD} FROM shard WHERE gen = :gen AND shard = :shard FOR UPDATE"),
        {"gen": shard.gen, "shard": shard.shard},
    ).one_or_none()
    if row is None:
        raise GenerationGone(f"generation {shard.gen} was dropped, and shard {shard.shard} of its backfill with it.")
    return Shard(**row._mapping)


@repeated
def seed_page(engine: sa.Engine, cid: int, shard: Shard) -> bool:
    """Add a page of a shard's documents to the work set, cursor and items in one transaction; return whether it ended.

    Only a successful page that is empty ends a seed: an error is not the end of the data.
    """
    with engine.begin() as connection:
        now = lock_shard(connection, shard)
        if now.seeded:
            return True
        last = connection.scalar(
            sa.text(
                """
                WITH page AS (
                  SELECT doc_id, version FROM document
                  WHERE cid = :cid AND doc_id > :cursor AND (CAST(:hi AS text) IS NULL OR doc_id <= :hi) AND NOT deleted
                  ORDER BY doc_id LIMIT :rows),
                added AS (
                  INSERT INTO pending (gen, doc_id, version, lane)
                  SELECT :gen, doc_id, version, 'bulk' FROM page p
                  WHERE NOT EXISTS (SELECT 1 FROM ledger l
                                    WHERE l.gen = :gen AND l.doc_id = p.doc_id AND l.version = p.version)
                  ON CONFLICT DO NOTHING)
                SELECT max(doc_id) FROM page
                """
            ),
            {"cid": cid, "gen": shard.gen, "cursor": now.cursor, "hi": now.hi, "rows": SEED_ROWS},
        )
        crash_at("seed.after_items")
        change = "seeded = true" if last is None else "cursor = :last"
        connection.execute(
            sa.text(f"UPDATE shard SET {change} WHERE gen = :gen AND shard = :shard"),
            {"gen": shard.gen, "shard": shard.shard, "last": last},
        )
        crash_at("seed.after_cursor")
    crash_at("seed.after_commit")
    return last is None


def mark_shard_done(connection: sa.Connection, shard: Shard) -> None:
    """Record that a shard's parts are published; what is left of it waits in the work set."""
    connection.execute(
        sa.text("UPDATE shard SET done = true WHERE gen = :gen AND shard = :shard AND seeded"),
        {"gen": shard.gen, "shard": shard.shard},
    )


def mark_seeded(connection: sa.Connection, gen: int) -> bool:
    """Set the generation's ``seeded`` if its shards cover all keys and each is seeded; return whether it is."""
    connection.execute(
        sa.text(
            """
            UPDATE generation SET seeded = true WHERE gen = :gen AND NOT seeded
              AND NOT EXISTS (SELECT 1 FROM shard WHERE gen = :gen AND NOT seeded)
              AND (SELECT bool_and(lo = before) AND bool_or(hi IS NULL)
                   FROM (SELECT lo, hi, coalesce(lag(hi) OVER (ORDER BY shard), '') AS before
                         FROM shard WHERE gen = :gen) s)
            """
        ),
        {"gen": gen},
    )
    return bool(connection.scalar(sa.text("SELECT seeded FROM generation WHERE gen = :gen"), {"gen": gen}))


# Claiming and reading -------------------------------------------------------------------------------------------------


@repeated
def claim(engine: sa.Engine, gen: int, *, rows: int, lanes: Sequence[str] = ("live",)) -> list[str]:
    """Lease up to ``rows`` due items, the live lane first and the oldest first; return their document ids.

    Items that were in hand when processes died without a word are suspects: they are taken one at a time, after all
    others, so that the one whose document kills processes becomes a dead letter and its neighbours do not.
    """
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE pending SET state = 'dead', last_error = coalesce(last_error, 'the process that embedded it "
                "died ' || attempts || ' times') WHERE gen = :gen AND state = 'due' AND attempts >= :most AND "
                "lease_until < clock_timestamp()"
            ),
            {"gen": gen, "most": 2 * MAX_ATTEMPTS},
        )
        return _lease(connection, gen, rows, lanes, "attempts < :most") or _lease(
            connection, gen, 1, lanes, "attempts >= :most"
        )


def _lease(connection: sa.Connection, gen: int, rows: int, lanes: Sequence[str], which: str) -> list[str]:
    found = connection.scalars(
        sa.text(
            f"""
            UPDATE pending p SET lease_token = nextval('lease_seq'), attempts = attempts + 1,
              lease_until = clock_timestamp() + interval '{LEASE_S} s'
            FROM (SELECT gen, doc_id FROM pending
                  WHERE gen = :gen AND state = 'due' AND lane = ANY(CAST(:lanes AS text[])) AND {which}
                    AND (due_at <= clock_timestamp()
                      OR isfinite(due_at) AND due_at > clock_timestamp() + interval '{LONGEST_PAUSE_S} s')
                    AND (lease_until IS NULL OR lease_until < clock_timestamp()
                      OR lease_until > clock_timestamp() + interval '{LEASE_S} s')
                  ORDER BY lane DESC, due_at LIMIT :rows FOR UPDATE SKIP LOCKED) c
            WHERE p.gen = c.gen AND p.doc_id = c.doc_id RETURNING p.doc_id
            """
        ),
        {"gen": gen, "lanes": list(lanes), "rows": rows, "most": MAX_ATTEMPTS},
    )
    return list(found)


@repeated
def count_attempt(engine: sa.Engine, gen: int, doc_ids: Sequence[str]) -> None:
    """Note, before a part is embedded, that its items are in hand: what kills the process leaves a trace."""
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE pending SET attempts = attempts + 1 WHERE gen = :gen AND doc_id = ANY(CAST(:ids AS text[])) "
                "AND state = 'due'"
            ),
            {"gen": gen, "ids": list(doc_ids)},
        )


def bulk_page(engine: sa.Engine, shard: Shard, after: str, rows: int) -> list[str]:
    """Return the next ids of a shard's bulk lane in key order; unleased, for a shard is one task's work.

    Items that were in hand in too many deaths are left to ``claim``.
    """
    with engine.connect() as connection:
        return list(
            connection.scalars(
                sa.text(
                    "SELECT doc_id FROM pending WHERE gen = :gen AND doc_id > :after AND (CAST(:hi AS text) IS NULL "
                    "OR doc_id <= :hi) AND state = 'due' AND lane = 'bulk' AND attempts < :most "
                    "ORDER BY doc_id LIMIT :rows"
                ),
                {"gen": shard.gen, "after": after, "hi": shard.hi, "rows": rows, "most": MAX_ATTEMPTS},
            )
        )


def read_items(engine: sa.Engine, cid: int, doc_ids: Sequence[str], *, characters: int | None = None) -> list[Item]:
    """Return the documents as they stand now, in id order; with ``characters``, at least one and about so much text."""
    with engine.connect() as connection:
        rows = connection.execute(
            sa.text(
                """
                SELECT doc_id, version, content, content_hash, tombstone_version FROM (
                  SELECT *, sum(length(content)) OVER (ORDER BY doc_id) - length(content) AS before FROM document
                  WHERE cid = :cid AND doc_id = ANY(CAST(:ids AS text[]))) d
                WHERE CAST(:characters AS bigint) IS NULL OR coalesce(before, 0) < :characters ORDER BY doc_id
                """
            ),
            {"cid": cid, "ids": list(doc_ids), "characters": characters},
        )
        return [Item(**row._mapping) for row in rows]


def applied_unchanged(engine: sa.Engine, gen: int, items: Sequence[Item]) -> set[str]:
    """Return the ids whose content the generation shows already: they need a new version in the ledger, no embedding.

    Chunks from before the latest delete do not count: they are hidden for good. The items were read first, so the
    ledger cannot go back behind what is seen here.
    """
    with engine.connect() as connection:
        return shown_unchanged(connection, gen, items)


def shown_unchanged(connection: sa.Connection, gen: int, items: Sequence[Item]) -> set[str]:
    """``applied_unchanged`` in a transaction of the caller's."""
    return set(
        connection.scalars(
            sa.text(
                "SELECT l.doc_id FROM unnest(CAST(:ids AS text[]), CAST(:hashes AS text[]), CAST(:tombstones AS "
                "bigint[])) i(doc_id, hash, tombstone) JOIN ledger l ON l.gen = :gen AND l.doc_id = i.doc_id "
                "WHERE l.content_hash = i.hash AND l.version > i.tombstone"
            ),
            {
                "gen": gen,
                "ids": [item.doc_id for item in items],
                "hashes": [item.content_hash for item in items],
                "tombstones": [item.tombstone_version for item in items],
            },
        )
    )


@repeated
def release(engine: sa.Engine, gen: int, doc_ids: Sequence[str]) -> None:
    """Give leases back as if they had not been taken: nothing was wrong with these documents."""
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE pending SET lease_until = NULL, attempts = greatest(attempts - 1, 0) WHERE gen = :gen AND "
                "doc_id = ANY(CAST(:ids AS text[])) AND state = 'due'"
            ),
            {"gen": gen, "ids": list(doc_ids)},
        )


@repeated
def fail(engine: sa.Engine, gen: int, doc_id: str, version: int, reason: str, *, final: bool) -> bool:
    """Record a failed attempt at ``version``: due again after 1 s to 10 min; dead when final or tried 8 times.

    Returns whether the item is dead now. An item that a newer version has re-armed is left alone.
    """
    with engine.begin() as connection:
        state = connection.scalar(
            sa.text(
                f"""
                UPDATE pending SET last_error = :reason, lease_until = NULL, lane = 'live',
                  attempts = greatest(attempts, 1),
                  state = CASE WHEN :final OR attempts >= :most THEN 'dead' ELSE 'due' END,
                  due_at = clock_timestamp()
                    + least(power(2, greatest(attempts, 1) - 1), {LONGEST_PAUSE_S}) * interval '1 s'
                WHERE gen = :gen AND doc_id = :doc_id AND version <= :version RETURNING state
                """
            ),
            {
                "gen": gen,
                "doc_id": doc_id,
                "version": version,
                "reason": reason[:2_000],
                "final": final,
                "most": MAX_ATTEMPTS,
            },
        )
    return str(state) == "dead"


# What waits -----------------------------------------------------------------------------------------------------------


def backlog(connection: sa.Connection, gen: int) -> Backlog:
    """Count what waits for one generation, in one snapshot."""
    row = connection.execute(
        sa.text(
            """
            SELECT count(*) FILTER (WHERE state = 'due' AND lane = 'live') AS due,
                   count(*) FILTER (WHERE state = 'due' AND lane = 'bulk') AS bulk,
                   count(*) FILTER (WHERE state = 'dead') AS dead,
                   count(*) FILTER (WHERE state = 'dead' AND EXISTS (SELECT 1 FROM waiver w
                     WHERE (w.gen, w.doc_id, w.version) = (p.gen, p.doc_id, p.version))) AS waived,
                   coalesce(extract(epoch FROM clock_timestamp()
                     - min(since) FILTER (WHERE state = 'due' AND lane = 'live')), 0)::float8 AS oldest_s
            FROM pending p WHERE gen = :gen
            """
        ),
        {"gen": gen},
    ).one()
    return Backlog(**row._mapping)


def characters_due(connection: sa.Connection, gen: int, cid: int) -> int:
    """Return how many characters of text wait to be embedded for one generation."""
    return int(
        connection.scalar(
            sa.text(
                "SELECT coalesce(sum(length(d.content)), 0) FROM pending p JOIN document d ON d.cid = :cid AND "
                "d.doc_id = p.doc_id WHERE p.gen = :gen AND p.state = 'due'"
            ),
            {"gen": gen, "cid": cid},
        )
        or 0
    )


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record or document that could not be embedded, and why."""

    doc_id: str
    stage: str
    gen: int | None
    version: int | None
    reason: str
    attempts: int
    waived_by: str | None
    at: datetime


def dead_letters(connection: sa.Connection, cid: int, limit: int = 1_000) -> list[DeadLetter]:
    """Return dead letters of both stages: refused at ingestion, and failed while embedding."""
    rows = connection.execute(
        sa.text(
            """
            SELECT p.doc_id, 'embed' AS stage, p.gen, p.version, coalesce(p.last_error, '') AS reason, p.attempts,
              w.who AS waived_by, p.due_at AS at
            FROM pending p JOIN generation g USING (gen) LEFT JOIN waiver w USING (gen, doc_id, version)
            WHERE g.cid = :cid AND p.state = 'dead'
            UNION ALL
            SELECT doc_id, 'ingest', NULL, NULL, reason, 1, NULL, at FROM rejected WHERE cid = :cid
            ORDER BY at DESC LIMIT :limit
            """
        ),
        {"cid": cid, "limit": limit},
    )
    return [DeadLetter(**row._mapping) for row in rows]


def retry_dead(connection: sa.Connection, cid: int, doc_ids: Sequence[str] | None, actor: str) -> int:
    """Make dead items due again, all or those named; return how many."""
    before_event(connection, cid)
    changed = connection.execute(
        sa.text(
            "UPDATE pending p SET state = 'due', attempts = 0, due_at = clock_timestamp(), lease_until = NULL FROM "
            "generation g WHERE g.gen = p.gen AND g.cid = :cid AND p.state = 'dead' AND (CAST(:ids AS text[]) IS "
            "NULL OR p.doc_id = ANY(CAST(:ids AS text[])))"
        ),
        {"cid": cid, "ids": None if doc_ids is None else list(doc_ids)},
    ).rowcount
    if changed:
        add_event(connection, cid, actor, "dlq_retry", None, {"items": changed})
    return int(changed)


def waive(connection: sa.Connection, cid: int, doc_id: str, *, actor: str, why: str) -> int:
    """Accept that a dead document stays out of the generations it failed in, at its present version; return how many.

    Raises ``ConfigError`` without a reason, ``StateError`` when no dead letter of that id exists.
    """
    if not why.strip():
        raise ConfigError(f"waiving document {doc_id!r} needs a reason. Nothing was changed; give one with --why.")
    changed = connection.execute(
        sa.text(
            "INSERT INTO waiver (gen, doc_id, version, who, why) SELECT p.gen, p.doc_id, p.version, :who, :why FROM "
            "pending p JOIN generation g USING (gen) WHERE g.cid = :cid AND p.doc_id = :doc_id AND p.state = 'dead' "
            "ON CONFLICT DO NOTHING"
        ),
        {"cid": cid, "doc_id": doc_id, "who": actor, "why": why},
    ).rowcount
    if not changed:
        raise StateError(
            f"document {doc_id!r} has no dead letter that is not waived already. Nothing was changed; see `revector "
            "dlq list`."
        )
    add_event(connection, cid, actor, "dlq_waive", None, {"doc_id": doc_id, "why": why})
    return int(changed)


def forget_work(connection: sa.Connection, gen: int) -> None:
    """Drop the work set of a generation that left its slot."""
    connection.execute(sa.text("DELETE FROM pending WHERE gen = :gen"), {"gen": gen})


def shard_progress(connection: sa.Connection, gen: int) -> dict[str, Any]:
    """Return documents planned and published by shards, and the rate of the last minute (documents/s).

    A finished shard counts as its planned documents: those that the live lane published are in no part.
    """
    row = connection.execute(
        sa.text(
            """
            WITH parts AS (
              SELECT shard, sum(documents) AS documents, sum(chunks) AS chunks,
                     sum(documents) FILTER (WHERE published_at > clock_timestamp() - interval '60 s') AS recent
              FROM part WHERE gen = :gen AND published_at IS NOT NULL GROUP BY shard)
            SELECT coalesce(sum(s.documents), 0)::bigint AS planned,
                   coalesce(sum(CASE WHEN s.done THEN s.documents
                                ELSE least(s.documents, coalesce(p.documents, 0)) END), 0)::bigint AS published,
                   coalesce(sum(p.chunks), 0)::bigint AS chunks,
                   (coalesce(sum(p.recent), 0) / greatest(1, least(60, extract(epoch FROM clock_timestamp()
                      - (SELECT registered_at FROM generation WHERE gen = :gen)))))::float8 AS documents_per_s
            FROM shard s LEFT JOIN parts p USING (shard) WHERE s.gen = :gen
            """
        ),
        {"gen": gen},
    ).one()
    return dict(row._mapping)
