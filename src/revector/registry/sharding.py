"""The shards of a backfill: planned key ranges, seeded page by page into the work set, and how far they came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from revector.crash import crash_at
from revector.database.engine import repeated
from revector.errors import GenerationGone
from revector.registry import work


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
class Range:
    """Keys ``(lo, hi]`` with the number of documents counted in them; ``hi`` None is the end."""

    lo: str
    hi: str | None
    documents: int


_SHARD = "gen, shard, lo, hi, cursor, documents, seeded, done"


SEED_ROWS = 5_000


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
                {"gen": shard.gen, "after": after, "hi": shard.hi, "rows": rows, "most": work.MAX_ATTEMPTS},
            )
        )


def shard_progress(connection: sa.Connection, gen: int) -> dict[str, object]:
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
