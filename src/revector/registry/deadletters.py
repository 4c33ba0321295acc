"""Dead letters: listed, tried again, or waived by a person with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from revector.errors import ConfigError, StateError
from revector.registry.control import add_event, before_event


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
