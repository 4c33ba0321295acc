"""Dead letters: what was refused or failed, kept with its reason, listed, tried again, or waived by a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from revector.errors import ConfigError, StateError
from revector.registry.control import add_event, before_event

NAMED = 20
"""Documents that an event names when many are waived at once; each one's waiver names it anyway."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be stored (stage ``ingest``) or a document that could not be embedded, and why.

    ``version`` counts the document's changes (stage ``embed``); ``external_version`` is the caller's own, of the record
    that was refused. ``behind``: an older version of the document is served meanwhile.
    """

    doc_id: str
    stage: str
    gen: int | None
    version: int | None
    external_version: int | None
    behind: bool
    reason: str
    attempts: int
    waived_by: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Refusal:
    """The latest version of a document, where it was refused; what is stored is older. ``version``: the caller's."""

    version: int | None
    reason: str
    source: str
    at: datetime
    waived_by: str | None


@dataclass(frozen=True, slots=True)
class OpenLetters:
    """Dead letters that nobody waived: in all, and of those ``refused`` at ingestion, ``behind``: served as before."""

    letters: int
    refused: int
    behind: int


@dataclass(frozen=True, slots=True)
class WaivedLetters:
    """How many ``documents`` were waived, and in how many places one had failed to be embedded (``generations``)."""

    documents: int
    generations: int


_KEEP = """
INSERT INTO rejected AS r (cid, doc_id, source, reason, external_version)
SELECT :cid, doc_id, :source, reason, external_version FROM {rows}
WHERE reason IS NOT NULL AND NOT EXISTS (SELECT 1 FROM document d WHERE d.cid = :cid AND d.doc_id = s.doc_id
  AND d.external_version >= s.external_version) AND {also} ORDER BY doc_id
ON CONFLICT (cid, doc_id) DO UPDATE
  SET source = EXCLUDED.source, reason = EXCLUDED.reason, at = clock_timestamp(),
      external_version = coalesce(EXCLUDED.external_version, r.external_version),
      (waived_by, waived_why, waived_at) = (SELECT r.waived_by, r.waived_why, r.waived_at
        WHERE (r.reason, r.external_version) IS NOT DISTINCT FROM (EXCLUDED.reason, EXCLUDED.external_version))
  WHERE coalesce(EXCLUDED.external_version >= r.external_version, true)
"""


def keep_refused(
    connection: sa.Connection, cid: int, source: str, rows: str, values: Mapping[str, object], *, also: str = "true"
) -> None:
    """Make dead letters of the ``rows`` that have a reason and are newer than what is stored and than older letters.

    ``rows`` is SQL, called ``s``, with the columns ``doc_id, reason, external_version``; ``also`` a further condition.
    A waiver stays while the same version is refused for the same reason.
    """
    connection.execute(sa.text(_KEEP.format(rows=rows, also=also)), {"cid": cid, "source": source, **values})


def dead_letters(connection: sa.Connection, cid: int, limit: int = 1_000) -> list[DeadLetter]:
    """Return dead letters of both stages: refused at ingestion, and failed while embedding."""
    rows = connection.execute(
        sa.text(
            """
            SELECT p.doc_id, 'embed' AS stage, p.gen, p.version, NULL AS external_version, false AS behind,
              coalesce(p.last_error, '') AS reason, p.attempts, w.who AS waived_by, p.due_at AS at
            FROM pending p JOIN generation g USING (gen) LEFT JOIN waiver w USING (gen, doc_id, version)
            WHERE g.cid = :cid AND p.state = 'dead'
            UNION ALL
            SELECT doc_id, 'ingest', NULL, NULL, external_version, behind, reason, 1, waived_by, at FROM refused
            WHERE cid = :cid
            ORDER BY at DESC LIMIT :limit
            """
        ),
        {"cid": cid, "limit": limit},
    )
    return [DeadLetter(**row._mapping) for row in rows]


def open_letters(connection: sa.Connection, cid: int) -> OpenLetters:
    """Count the dead letters of both stages that nobody waived."""
    row = connection.execute(
        sa.text(
            """
            WITH embed AS (
              SELECT count(*) AS n FROM pending p JOIN generation g USING (gen) LEFT JOIN waiver w USING
                (gen, doc_id, version) WHERE g.cid = :cid AND p.state = 'dead' AND w.gen IS NULL),
            ingest AS (
              SELECT count(*) AS n, count(*) FILTER (WHERE behind) AS behind FROM refused
              WHERE cid = :cid AND waived_by IS NULL)
            SELECT embed.n + ingest.n AS letters, ingest.n AS refused, ingest.behind FROM embed, ingest
            """
        ),
        {"cid": cid},
    ).one()
    return OpenLetters(**row._mapping)


def refusals(connection: sa.Connection, cid: int, doc_ids: Sequence[str]) -> Mapping[str, Refusal]:
    """Return, for those of ``doc_ids`` whose latest version was refused, what is known of it."""
    rows = connection.execute(
        sa.text(
            "SELECT doc_id, external_version AS version, reason, source, at, waived_by FROM refused WHERE cid = :cid "
            "AND doc_id = ANY(CAST(:ids AS text[]))"
        ),
        {"cid": cid, "ids": list(doc_ids)},
    )
    return {row.doc_id: Refusal(row.version, row.reason, row.source, row.at, row.waived_by) for row in rows}


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


_WAIVE = """
WITH chosen AS (
  SELECT p.gen, p.doc_id, p.version FROM pending p JOIN generation g USING (gen)
  LEFT JOIN waiver w USING (gen, doc_id, version)
  WHERE g.cid = :cid AND p.state = 'dead' AND w.gen IS NULL
    AND (CAST(:ids AS text[]) IS NULL OR p.doc_id = ANY(CAST(:ids AS text[])))
    AND (CAST(:containing AS text) IS NULL OR strpos(coalesce(p.last_error, ''), :containing) > 0)
), embed AS (
  INSERT INTO waiver (gen, doc_id, version, who, why) SELECT gen, doc_id, version, :who, :why FROM chosen
  ON CONFLICT DO NOTHING RETURNING doc_id
), ingest AS (
  UPDATE rejected SET waived_by = :who, waived_why = :why, waived_at = clock_timestamp()
  WHERE cid = :cid AND waived_by IS NULL
    AND (CAST(:ids AS text[]) IS NULL OR doc_id = ANY(CAST(:ids AS text[])))
    AND (CAST(:containing AS text) IS NULL OR strpos(reason, :containing) > 0)
  RETURNING doc_id
)
SELECT doc_id, count(*) FILTER (WHERE stage = 'embed') AS generations
FROM (SELECT doc_id, 'embed' AS stage FROM embed UNION ALL SELECT doc_id, 'ingest' FROM ingest) done
GROUP BY doc_id
"""


def waive(
    connection: sa.Connection,
    cid: int,
    doc_ids: Sequence[str] | None,
    *,
    actor: str,
    why: str,
    containing: str | None = None,
) -> WaivedLetters:
    """Accept dead letters: their documents stay out of the generations they failed in, at their present versions.

    Where the latest version was refused at ingestion, that is accepted as well, until another one is refused.
    ``doc_ids``: None for all; ``containing``: only those whose reason contains this. The history has one event.
    Raises ``ConfigError`` without a reason, ``StateError`` when one of ``doc_ids`` has no dead letter to waive, or
    there is none at all.
    """
    if not why.strip():
        raise ConfigError("waiving dead letters needs a reason. Nothing was changed; give one with --why.")
    asked = None if doc_ids is None else list(dict.fromkeys(doc_ids))
    before_event(connection, cid)
    rows = connection.execute(
        sa.text(_WAIVE), {"cid": cid, "ids": asked, "containing": containing, "who": actor, "why": why}
    ).all()
    found = {row.doc_id: row.generations for row in rows}
    missing = [doc_id for doc_id in asked or () if doc_id not in found]
    if missing or not found:
        which = f"document {missing[0]!r} has" if missing else "there is"
        about = "" if containing is None else f" with a reason that contains {containing!r}"
        raise StateError(
            f"{which} no dead letter that is not waived already{about}. Nothing was changed; see `revector dlq list`."
        )
    facts = {"documents": len(found), "doc_ids": sorted(found)[:NAMED], "why": why}
    add_event(connection, cid, actor, "dlq_waive", None, facts)
    return WaivedLetters(len(found), sum(found.values()))
