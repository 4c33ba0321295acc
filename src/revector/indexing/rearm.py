"""Re-arming: documents that an index shows wrongly become work again, as if they had just been written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from revector.database.engine import repeated
from revector.documents.writing import hold_shared
from revector.registry.control import LOCK_BUDGET_MS, add_event

SHOWN_IDS = 20

# A document that does not exist cannot be brought up to date; a tombstone can, in every generation.
_BURY = """
INSERT INTO document (cid, doc_id, deleted)
SELECT :cid, id, true FROM unnest(CAST(:ids AS text[])) id
WHERE NOT EXISTS (SELECT 1 FROM document d WHERE d.cid = :cid AND d.doc_id = id) ORDER BY id
ON CONFLICT DO NOTHING
"""
# Against writers and publishers of these documents; nobody else is held up.
_LOCK = (
    "SELECT doc_id FROM document WHERE cid = :cid AND doc_id = ANY(CAST(:ids AS text[])) ORDER BY doc_id "
    "FOR NO KEY UPDATE"
)
_ARM = """
INSERT INTO pending AS p (gen, doc_id, version)
SELECT :gen, doc_id, version FROM document WHERE cid = :cid AND doc_id = ANY(CAST(:ids AS text[])) ORDER BY doc_id
ON CONFLICT (gen, doc_id) DO UPDATE
  SET version = EXCLUDED.version, lane = 'live', state = 'due', attempts = 0, due_at = clock_timestamp(),
      since = CASE WHEN p.lane = 'live' AND p.state = 'due' THEN p.since ELSE clock_timestamp() END,
      lease_until = NULL, lease_token = NULL, last_error = NULL
"""
# The ledger never goes back by an update, so what is ahead of its document is written again.
_BRING_BACK = """
WITH ahead AS (
  DELETE FROM ledger l USING document d
  WHERE l.gen = :gen AND l.doc_id = ANY(CAST(:ids AS text[])) AND d.cid = :cid AND d.doc_id = l.doc_id
    AND l.version > d.version
  RETURNING l.gen, l.doc_id, d.version, l.deleted, l.n_chunks, l.content_hash, l.attempt)
INSERT INTO ledger (gen, doc_id, version, deleted, n_chunks, content_hash, attempt) SELECT * FROM ahead
"""
# No text has this hash, so no worker takes the shortcut for unchanged content. The line itself stays: a publisher that
# took the shortcut just before must find it, or the document would be lost.
_FORGET = "UPDATE ledger SET content_hash = '' WHERE gen = :gen AND doc_id = ANY(CAST(:ids AS text[])) AND NOT deleted"


@repeated
def rearm(engine: sa.Engine, cid: int, gen: int, wrong: Mapping[str, Sequence[str]], *, actor: str) -> int:
    """Make the documents in ``wrong`` (ids by what is wrong with them) due again in one generation; return how many.

    In one transaction with its event. No version changes, and the rows stay until they are replaced, so all remain
    served. An id without a document becomes a tombstone, which removes its rows in the same way. Safe at any time: at
    worst a document that is sound again is embedded once more. Returns 0 for a generation that has left its slot.
    Raises ``GateBusy`` when a document is held by another transaction for 1.5 s; nothing was changed then.
    """
    ids = sorted({doc_id for named in wrong.values() for doc_id in named})
    values = {"cid": cid, "gen": gen, "ids": ids}
    with engine.begin() as connection:
        connection.execute(sa.text(f"SET LOCAL lock_timeout = '{LOCK_BUDGET_MS}ms'"))
        hold_shared(connection, cid)
        if not connection.scalar(sa.text("SELECT count(*) FROM slot WHERE gen = :gen"), values):
            return 0
        for statement in (_BURY, _LOCK, _ARM, _BRING_BACK, _FORGET):
            connection.execute(sa.text(statement), values)
        counts = {kind: len(named) for kind, named in wrong.items() if named}
        add_event(connection, cid, actor, "repair", gen, {"documents": len(ids), **counts, "first": ids[:SHOWN_IDS]})
    return len(ids)
