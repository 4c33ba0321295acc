"""The canary's series: what was served, measured day by day on the same queries, and what it is compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa


class Baseline(NamedTuple):
    """What the first canary of a generation measured: its mean, and by query the scores, ids found and first score.

    ``version``: the newest of any document then. ``aligned``: direction → caption or image → recall, where images are
    captioned. Runs of earlier versions have the mean, and perhaps ``scores``.
    """

    recall: float
    scores: Mapping[str, float]
    run: Mapping[str, Sequence[str]]
    tops: Mapping[str, float]
    version: int
    aligned: Mapping[str, Mapping[str, float]]


class CanaryStanding(NamedTuple):
    """Where the test stands: what it compares with, None before the first run, and why it ``begins``.

    ``week_days``: days since the last test of a week, or since the baseline; ``week_alerted``: whether it alerted.
    """

    baseline: Baseline | None
    begins: str
    week_days: float
    week_alerted: bool


_SAME = "gen = :gen AND labels_fp = :labels AND k = :k"


def standing(connection: sa.Connection, cid: int, gen: int, labels_fp: str, k: int) -> CanaryStanding:
    """Return where the test of this generation on these very labels stands."""
    values = {"cid": cid, "gen": gen, "labels": labels_fp, "k": k}
    first = connection.execute(
        sa.text(f"SELECT baseline, detail FROM canary WHERE {_SAME} ORDER BY at LIMIT 1"), values
    ).one_or_none()
    if first is None:
        return CanaryStanding(None, _begins(connection, values), 0.0, week_alerted=False)
    kept = first.detail
    parts = (kept.get("scores", {}), kept.get("run", {}), kept.get("tops", {}), kept.get("version", 0))
    found = Baseline(float(first.baseline), *parts, kept.get("aligned", {}))
    last = connection.execute(
        sa.text(
            "SELECT extract(epoch FROM clock_timestamp() - at) / 86400 AS days, coalesce(CAST(detail->'week' AS "
            f"boolean), false) AS alerted FROM canary WHERE {_SAME} ORDER BY detail ? 'week' DESC, CASE WHEN detail ? "
            "'week' THEN at END DESC, at LIMIT 1"
        ),
        values,
    ).one()
    return CanaryStanding(found, "", float(last.days), week_alerted=last.alerted)


def _begins(connection: sa.Connection, values: Mapping[str, object]) -> str:
    last = connection.execute(
        sa.text("SELECT gen, labels_fp FROM canary WHERE cid = :cid ORDER BY at DESC LIMIT 1"), values
    ).one_or_none()
    if last is None:
        return "it is the first canary of this collection"
    return (
        "another index serves than at the last canary"
        if last.gen != values["gen"]
        else "the labels or the pipeline are others"
    )


def add(connection: sa.Connection, cid: int, found: Mapping[str, object]) -> None:
    """Append one measurement; ``found`` has the columns of the table, ``alerts`` and ``detail`` as plain data."""
    connection.execute(
        sa.text(
            "INSERT INTO canary (cid, gen, labels, labels_fp, k, queries, recall, baseline, encoder_fault, alerts, "
            "detail) VALUES (:cid, :gen, :labels, :labels_fp, :k, :queries, :recall, :baseline, :encoder_fault, "
            "CAST(:alerts AS jsonb), CAST(:detail AS jsonb))"
        ),
        {
            **found,
            "cid": cid,
            "alerts": json.dumps(found["alerts"]),
            "detail": json.dumps(found["detail"], default=str),
        },
    )


def read(connection: sa.Connection, cid: int, limit: int = 400) -> Sequence[sa.RowMapping]:
    """Return the newest measurements of a collection, newest first."""
    rows = connection.execute(
        sa.text(
            "SELECT at, gen, labels, labels_fp, k, queries, recall, baseline, encoder_fault, alerts FROM canary "
            "WHERE cid = :cid ORDER BY at DESC LIMIT :limit"
        ),
        {"cid": cid, "limit": limit},
    )
    return rows.mappings().all()
