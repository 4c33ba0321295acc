"""Verdicts on a generation: kept with what they have seen, current for a while, and overridden by a named person."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from revector.errors import StateError
from revector.lifecycle import STEPS
from revector.registry import cutoffs
from revector.registry.collections import Generation, read_generation
from revector.registry.control import Control

EVIDENCE_HOURS = 24
EVIDENCE_CHANGED_SHARE = 0.01
EVIDENCE_CHANGED_FLOOR = 10
"""Gate evidence is current for 24 h and until 1 % of the documents changed (never fewer than 10, for tiny corpora)."""


@dataclass(frozen=True, slots=True)
class ChangesSeen:
    """What a verdict has seen: every change up to a version, and the number of documents."""

    version: int
    documents: int


def save_result(
    control: Control,
    generation: Generation,
    kind: str,
    *,
    verdict: str,
    detail: Mapping[str, object],
    seen: ChangesSeen,
) -> None:
    """Keep a verdict (``pass``, ``fail``, ``inconclusive``), bound to this generation, configuration and run."""
    control.must_hit_one(
        "INSERT INTO gate_result (gen, config_hash, kind, passed, verdict, detail, changes_seen, token) VALUES (:gen, "
        ":hash, :kind, :verdict = 'pass', :verdict, CAST(:detail AS jsonb), :seen, :token)",
        gen=generation.gen,
        hash=generation.config_hash,
        kind=kind,
        verdict=verdict,
        detail=json.dumps({**detail, "documents_seen": seen.documents}, default=str),
        seen=seen.version,
        token=control.token,
    )


def stale_evidence(
    connection: sa.Connection,
    generation: Generation,
    kinds: Sequence[str] = ("verify", "recall"),
    *,
    allowed_times: int = 1,
) -> str | None:
    """Say why the evidence for moving the alias to ``generation`` is not current, or return None if it is.

    ``allowed_times``: how many times the usual share of documents may have changed.
    """
    for kind in kinds:
        # Asked under the gate, so it counts no further than it must.
        row = connection.execute(
            sa.text(
                f"""
                WITH r AS (
                  SELECT *, :times * greatest(:floor, floor(:share * coalesce((detail->>'documents_seen')::bigint, 0))
                    )::bigint AS allowed FROM gate_result WHERE gen = :gen AND kind = :kind ORDER BY id DESC LIMIT 1)
                SELECT r.verdict, EXISTS (SELECT 1 FROM gate_override o WHERE o.result_id = r.id) AS overridden,
                  r.config_hash, r.at NOT BETWEEN clock_timestamp() - interval '{EVIDENCE_HOURS} hours'
                    AND clock_timestamp() AS old,  -- from the future: the clock was set back
                  r.allowed, (SELECT count(*) FROM (SELECT 1 FROM document d WHERE d.cid = :cid
                              AND d.version > r.changes_seen LIMIT r.allowed + 1) x) AS changed
                FROM r
                """
            ),
            {
                "cid": generation.cid,
                "gen": generation.gen,
                "kind": kind,
                "floor": EVIDENCE_CHANGED_FLOOR,
                "share": EVIDENCE_CHANGED_SHARE,
                "times": allowed_times,
            },
        ).one_or_none()
        if row is None or row.config_hash != generation.config_hash:
            return f"there is no {kind} result for it"
        if row.verdict != "pass" and not row.overridden:
            said = "a failure" if row.verdict == "fail" else "inconclusive"
            return f"its latest {kind} result is {said}"
        if row.old:
            return f"its {kind} result is older than {EVIDENCE_HOURS} h, or the database's clock was set back since"
        # Verification speaks of work items and rows, which the swap itself tests again; recall ages with the corpus.
        # Who overrides it has taken that on, too.
        if kind == "recall" and row.changed > row.allowed and not row.overridden:
            return f"more than {row.allowed} documents changed since its {kind} result"
        if kind == "recall" and (names := cutoffs.changed_since(connection, generation)):
            return f"the cut-offs {', '.join(names)} were set since its {kind} result"
    return None


def override(control: Control, generation: Generation, *, by: str, reason: str) -> Mapping[str, object]:
    """Let the alias move although the latest gate result is no pass, by a named person's decision.

    It holds for that result alone: measuring again voids it. Raises ``StateError`` where there is nothing to override.
    """
    row = control.connection.execute(
        sa.text(
            "SELECT r.id, r.verdict, r.config_hash, o.who FROM gate_result r LEFT JOIN gate_override o ON o.result_id "
            "= r.id WHERE r.gen = :gen AND r.kind = 'recall' ORDER BY r.id DESC LIMIT 1"
        ),
        {"gen": generation.gen},
    ).one_or_none()
    if row is None or row.config_hash != generation.config_hash or row.verdict == "pass":
        found = "passed" if row is not None and row.verdict == "pass" else "has not been measured"
        raise StateError(
            f"the gate of revision {generation.revision} was to be overridden, but it {found}. Nothing was changed; "
            "run the step gate, and go on if it passes."
        )
    facts = {"verdict": row.verdict, "by": by, "reason": reason}
    if row.who is not None:  # a retry after a lost reply
        return {**facts, "by": row.who, "already": True}
    control.must_hit_one(
        "INSERT INTO gate_override (result_id, who, why) VALUES (:id, :who, :why)", id=row.id, who=by, why=reason
    )
    now = read_generation(control.connection, generation.gen)
    if now.phase in STEPS["gate"].needs:
        control.set_phase(generation.gen, now.phase, STEPS["gate"].leads_to)
    control.record("gate_override", generation.gen, **facts)
    return facts
