"""Load over time as rows: per collection and minute, what waits for the index that answers, and for how long."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

KEPT_DAYS = 30
COUNTED_EACH_MINUTE = 100_000
"""Larger collections are counted once an hour: a count reads the whole table."""


def add(connection: sa.Connection) -> int:
    """Keep this minute's load of every collection that has none yet; return of how many. Forgets what is old.

    ``queued`` and ``lag_s`` are those of the live lane of the active index, 0 where there is none yet; ``dead`` those
    of all live indexes; ``documents`` are not deleted ones.
    """
    added = connection.execute(
        sa.text(
            """
            WITH this AS (SELECT date_trunc('minute', clock_timestamp()) AS minute)
            INSERT INTO load_sample (cid, minute, queued, lag_s, dead, documents)
            SELECT c.cid, this.minute,
              (SELECT count(*) FROM pending p WHERE p.gen = c.active_gen AND p.state = 'due' AND p.lane = 'live'),
              coalesce((SELECT greatest(0, extract(epoch FROM clock_timestamp() - min(p.since))) FROM pending p
                        WHERE p.gen = c.active_gen AND p.state = 'due' AND p.lane = 'live'), 0),
              (SELECT count(*) FROM slot s JOIN pending p USING (gen) WHERE s.cid = c.cid AND p.state = 'dead'),
              CASE WHEN last.documents > :many AND last.minute >= date_trunc('hour', this.minute) THEN last.documents
                ELSE (SELECT count(*) FROM document d WHERE d.cid = c.cid AND NOT d.deleted) END
            FROM this, collection c LEFT JOIN LATERAL (
              SELECT minute, documents FROM load_sample l WHERE l.cid = c.cid ORDER BY minute DESC LIMIT 1) last ON true
            WHERE NOT EXISTS (SELECT 1 FROM load_sample l WHERE l.cid = c.cid AND l.minute = this.minute)
            ON CONFLICT DO NOTHING
            """
        ),
        {"many": COUNTED_EACH_MINUTE},
    ).rowcount
    connection.execute(
        sa.text("DELETE FROM load_sample WHERE minute < clock_timestamp() - make_interval(days => :days)"),
        {"days": KEPT_DAYS},
    )
    return int(added)


def worker_seen_s(connection: sa.Connection, cid: int) -> float | None:
    """Return how many seconds ago a worker noted a collection's load, which each does every minute; None: never."""
    found = connection.scalar(
        sa.text(
            "SELECT extract(epoch FROM clock_timestamp() - max(minute) - interval '1 minute')::float8 FROM load_sample "
            "WHERE cid = :cid"
        ),
        {"cid": cid},
    )
    return None if found is None else max(0.0, float(found))


def documents(connection: sa.Connection, cid: int, *, recount: bool) -> int:
    """Return how many documents are not deleted; unless ``recount``, of a large collection what the last hour knew."""
    return int(
        connection.scalar(
            sa.text(
                "SELECT coalesce((SELECT documents FROM (SELECT documents, minute FROM load_sample WHERE cid = :cid "
                "ORDER BY minute DESC LIMIT 1) last WHERE NOT :recount AND documents > :many AND minute > "
                "clock_timestamp() - interval '1 hour'), (SELECT count(*) FROM document WHERE cid = :cid AND NOT "
                "deleted))"
            ),
            {"cid": cid, "recount": recount, "many": COUNTED_EACH_MINUTE},
        )
        or 0
    )


def read(connection: sa.Connection, cid: int, *, since: datetime | None = None) -> list[dict[str, object]]:
    """Return the samples of a collection, oldest first: ``minute``, ``queued``, ``lag_s``, ``dead``, ``documents``."""
    rows = connection.execute(
        sa.text(
            "SELECT minute, queued, lag_s, dead, documents FROM load_sample WHERE cid = :cid AND "
            "(CAST(:since AS timestamptz) IS NULL OR minute >= :since) ORDER BY minute"
        ),
        {"cid": cid, "since": since},
    )
    return [dict(row._mapping) for row in rows]
