"""The state of all collections as numbers for monitoring: one snapshot, and nothing that grows with the corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from revector.registry.spending import spent

STATEMENT_S = 2
"""Longest statement of a snapshot: a scrape must end, whatever waits in the database."""

_SLOTS = """
    SELECT c.name AS collection, s.role, g.gen, g.revision, g.phase, g.spec->'model'->>'name' AS model,
      coalesce(l.queued, 0) AS queued, coalesce(l.lag_s, 0)::float8 AS lag_s, dead.items AS dead, dead.waived,
      coalesce(pg_total_relation_size(to_regclass(g.physical_name)), 0) AS bytes,
      coalesce(pg_relation_size(to_regclass(g.physical_name || '_hnsw')), 0) AS index_bytes,
      bulk.planned, bulk.published, bulk.chunks, CASE WHEN g.phase = 'provisioned' THEN coalesce(
        (SELECT (e.detail->>'share')::float8 FROM event e WHERE e.cid = c.cid AND e.gen = g.gen AND e.kind = 'throttle'
         ORDER BY e.seq DESC LIMIT 1), 1) END AS share
    FROM slot s JOIN collection c USING (cid) JOIN generation g USING (gen),
      LATERAL (SELECT count(*) AS queued, greatest(0, extract(epoch FROM clock_timestamp() - min(since))) AS lag_s
               FROM pending p WHERE p.gen = g.gen AND p.state = 'due' AND p.lane = 'live') l,
      LATERAL (SELECT count(*) AS items, count(w.gen) AS waived FROM pending p LEFT JOIN waiver w USING
               (gen, doc_id, version) WHERE p.gen = g.gen AND p.state = 'dead') dead,
      LATERAL (SELECT coalesce(sum(s.documents), 0)::bigint AS planned, coalesce(sum(p.chunks), 0)::bigint AS chunks,
          coalesce(sum(CASE WHEN s.done THEN s.documents ELSE least(s.documents, p.documents) END), 0)::bigint
            AS published
        FROM shard s LEFT JOIN (
          SELECT shard, sum(documents) AS documents, sum(chunks) AS chunks FROM part
          WHERE part.gen = g.gen AND published_at IS NOT NULL GROUP BY shard) p USING (shard)
        WHERE s.gen = g.gen) bulk
    ORDER BY 1, 2"""

_VERDICTS = """
    SELECT c.name AS collection, s.role, kind.kind, r.verdict,
      (r.detail->'new'->'recall'->>'mean')::float8 AS recall
    FROM slot s JOIN collection c USING (cid), unnest(ARRAY['verify', 'recall']) AS kind(kind), LATERAL (
      SELECT verdict, detail FROM gate_result r WHERE r.gen = s.gen AND r.kind = kind.kind ORDER BY id DESC LIMIT 1) r
    ORDER BY 1, 2, 3"""

_COLLECTIONS = """
    SELECT c.cid, c.name AS collection, extract(epoch FROM c.rollback_deadline - clock_timestamp())::float8 AS window_s,
      (SELECT count(*) FROM refused r WHERE r.cid = c.cid AND waived_by IS NULL) AS rejected, load.documents,
      canary.recall, canary.baseline, canary.alerts, canary.age_s, head.seq AS head_seq, head.hash AS head_hash
    FROM collection c
      LEFT JOIN LATERAL (SELECT seq, hash FROM event WHERE event.cid = c.cid ORDER BY seq DESC LIMIT 1) head ON true
      LEFT JOIN LATERAL (
        SELECT documents FROM load_sample l WHERE l.cid = c.cid ORDER BY minute DESC LIMIT 1) load ON true
      LEFT JOIN LATERAL (SELECT recall, baseline, jsonb_array_length(alerts) AS alerts,
        extract(epoch FROM clock_timestamp() - at)::float8 AS age_s
        FROM canary WHERE canary.cid = c.cid AND canary.gen = c.active_gen ORDER BY at DESC LIMIT 1) canary ON true
    ORDER BY 2"""


@dataclass(frozen=True, slots=True)
class Gauges:
    """Rows as plain mappings: a slot each, a verdict of a slot each, a collection each, a provider's spending each.

    ``cache_bytes`` is what PostgreSQL's ``effective_cache_size`` says that memory holds of tables and indexes.
    """

    slots: Sequence[sa.RowMapping]
    verdicts: Sequence[sa.RowMapping]
    collections: Sequence[sa.RowMapping]
    spending: Sequence[Mapping[str, object]]
    cache_bytes: int


def read(engine: sa.Engine) -> Gauges:
    """Return the state in one snapshot. Raises ``DatabaseUnavailable`` also where a statement takes over 2 s."""
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection, connection.begin():
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{STATEMENT_S}s'")
        slots, verdicts, collections = (
            connection.execute(sa.text(statement)).mappings().all() for statement in (_SLOTS, _VERDICTS, _COLLECTIONS)
        )
        cache = connection.scalar(sa.text("SELECT pg_size_bytes(current_setting('effective_cache_size'))"))
        return Gauges(slots, verdicts, collections, spent(connection), int(cache or 0))
