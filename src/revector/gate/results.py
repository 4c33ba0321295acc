"""Owns reading kept verdicts on a generation: the latest of a kind, or one of the gate with all its figures."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from revector.errors import StateError
from revector.gate.demands import DEMANDS
from revector.gate.figures import GateResult
from revector.registry.collections import read_collection

FIGURES = ("comparison", "scores", "findings", "test", *(demand.evidence for demand in DEMANDS if demand.evidence))
"""What a gate result keeps for its page: too much for a status, or for an event."""

_RESULTS = (
    "SELECT r.id, r.gen, r.passed, r.verdict, r.detail - CAST(:without AS text[]) AS detail, r.at, o.who, o.why FROM "
    "gate_result r JOIN generation g USING (gen) LEFT JOIN gate_override o ON o.result_id = r.id WHERE r.kind = :kind "
)


def latest_result(connection: sa.Connection, gen: int, kind: str) -> GateResult | None:
    """Return the latest verdict of one kind on a generation, without its ``FIGURES``."""
    return _result(connection, "AND r.gen = :gen", {"kind": kind, "without": list(FIGURES), "gen": gen})


def gate_result(
    connection: sa.Connection, name: str, *, result_id: int | None = None, gen: int | None = None
) -> GateResult:
    """Return a kept verdict of the gate with all its figures: the newest of the collection, or of ``gen``, or that one.

    Raises ``StateError`` where there is none.
    """
    asked = {"cid": read_collection(connection, name).cid, "id": result_id, "gen": gen}
    where = "AND g.cid = :cid AND r.id = coalesce(:id, r.id) AND r.gen = coalesce(:gen, r.gen)"
    found = _result(connection, where, {"kind": "recall", "without": [], **asked})
    if found is None:
        which = f" number {result_id}" if result_id is not None else f" of generation {gen}" if gen is not None else ""
        raise StateError(
            f"collection {name!r} keeps no gate result{which}. Nothing was changed; `revector history --events` names "
            "what was judged, `revector upgrade --to gate` judges the head."
        )
    return found


def _result(connection: sa.Connection, where: str, values: Mapping[str, object]) -> GateResult | None:
    row = connection.execute(sa.text(f"{_RESULTS} {where} ORDER BY r.id DESC LIMIT 1"), values).one_or_none()
    if row is None:
        return None
    return GateResult.model_validate(
        {
            **row.detail,
            "id": row.id,
            "generation": row.gen,
            "passed": row.passed,
            "verdict": row.verdict,
            "overridden": None if row.who is None else {"by": row.who, "reason": row.why},
            "at": row.at.isoformat(),
        }
    )
