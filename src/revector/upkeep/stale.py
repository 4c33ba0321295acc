"""What upkeep looks for in the registry: index entries out of date, and dead letters worth a try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from revector.registry.work import MAX_ATTEMPTS

RETRIED = "dlq_upkeep"
"""Kind of the event that names which dead letters a run of the upkeep tried again."""

_LIVE = "SELECT gen FROM slot WHERE cid = :cid"

# What waits in the work set is someone's work already, or a dead letter's.
_STALE = f"""
SELECT gen, doc_id, kind, count(*) FILTER (WHERE kind = 'old') OVER () AS old,
       count(*) FILTER (WHERE kind = 'behind') OVER () AS behind
FROM (
  SELECT gen, doc_id, min(kind) AS kind, min(at) AS at FROM (
    SELECT gen, doc_id, 'behind' AS kind, CAST('-infinity' AS timestamptz) AS at FROM i1_lost WHERE gen IN ({_LIVE})
    UNION ALL
    SELECT l.gen, l.doc_id, 'old', l.applied_at FROM ledger l
    WHERE l.gen IN ({_LIVE}) AND NOT l.deleted
      AND l.applied_at < now() - CAST(:days AS double precision) * interval '1 day'
      AND NOT EXISTS (SELECT 1 FROM pending p WHERE p.gen = l.gen AND p.doc_id = l.doc_id)) either
  GROUP BY gen, doc_id) stale JOIN slot USING (gen)
ORDER BY kind = 'old', role <> 'active', at, gen, doc_id LIMIT :limit
"""

# Hash '' in the ledger says that it was made due again (``rearm.rearm``).
_REARMED = f"""
SELECT count(*) FROM pending p JOIN ledger l USING (gen, doc_id)
WHERE gen IN ({_LIVE}) AND p.state = 'due' AND p.lane = 'live' AND l.content_hash = ''
"""

# What may pass is tried 8 times before it is dead, what is final once; twice as often means that processes died of it.
# A new version of a document resets ``since``, so only tries of the present text are counted.
_DEAD = """
WITH dead AS (
  SELECT p.doc_id, min(p.since) AS since, bool_and(p.attempts >= :most AND p.attempts < 2 * :most) AS passing,
         bool_or(EXISTS (SELECT 1 FROM waiver w WHERE (w.gen, w.doc_id, w.version) = (p.gen, p.doc_id, p.version)))
           AS waived
  FROM pending p JOIN slot s USING (gen) WHERE s.cid = :cid AND p.state = 'dead' GROUP BY p.doc_id),
tried AS (
  SELECT d.*, (SELECT count(*) FROM event e WHERE e.cid = :cid AND e.kind = :kind AND e.at > d.since
               AND e.detail->'documents' ? d.doc_id) AS tries FROM dead d),
judged AS (SELECT *, NOT waived AND (passing OR tries < :tries) AS worth FROM tried)
SELECT count(*) AS dead, count(*) FILTER (WHERE waived) AS waived,
       count(*) FILTER (WHERE NOT waived AND NOT worth) AS given_up, count(*) FILTER (WHERE worth) AS worth,
       (SELECT count(*) FROM refused WHERE cid = :cid AND waived_by IS NULL) AS refused,
       ARRAY(SELECT doc_id FROM judged WHERE worth ORDER BY tries, since, doc_id LIMIT :limit) AS chosen
FROM judged
"""


@dataclass(frozen=True, slots=True)
class Stale:
    """Entries of live indexes: how many there are, are older than asked, or are behind their document.

    ``chosen``: ids by generation and kind ("behind", "old"), up to the limit less ``waiting``, which an earlier run
    made due: those behind first, then the old ones, of the active index before others, the oldest first.
    """

    entries: int
    old: int
    behind: int
    waiting: int
    chosen: Mapping[int, Mapping[str, Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Dead:
    """Documents that are dead letters in a live index, by what should happen to them.

    ``worth``: to be tried again, of which ``chosen`` now; ``given_up``: final and tried often enough; ``refused``:
    records that ingestion did not take and nobody waived, which only their source can fix.
    """

    dead: int
    waived: int
    given_up: int
    worth: int
    refused: int
    chosen: Sequence[str]


def find_stale(connection: sa.Connection, cid: int, *, max_age_days: float | None, limit: int) -> Stale:
    """Look through the ledger of every live index: one scan, no lock. ``max_age_days`` None: age does not count."""
    entries = connection.scalar(
        sa.text(f"SELECT count(*) FROM ledger WHERE gen IN ({_LIVE}) AND NOT deleted"), {"cid": cid}
    )
    waiting = int(connection.scalar(sa.text(_REARMED), {"cid": cid}) or 0)
    # One row at least, for it has the counts.
    rows = connection.execute(sa.text(_STALE), {"cid": cid, "days": max_age_days, "limit": max(1, limit)}).all()
    chosen: dict[int, dict[str, list[str]]] = {}
    for row in rows[: max(0, limit - waiting)]:
        chosen.setdefault(row.gen, {}).setdefault(row.kind, []).append(row.doc_id)
    old, behind = (rows[0].old, rows[0].behind) if rows else (0, 0)
    return Stale(int(entries or 0), old, behind, waiting, chosen)


def find_dead(connection: sa.Connection, cid: int, *, tries: int, limit: int) -> Dead:
    """Judge the dead letters of every live index; those tried least often and waiting longest are chosen first."""
    row = connection.execute(
        sa.text(_DEAD), {"cid": cid, "most": MAX_ATTEMPTS, "kind": RETRIED, "tries": tries, "limit": limit}
    ).one()
    return Dead(**row._mapping)
