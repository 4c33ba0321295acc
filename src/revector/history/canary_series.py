"""The canary's series: what was served, measured day by day on the same queries, and what it is compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa


class Baseline(NamedTuple):
    """What the first canary of a generation measured: its mean, and ``scores`` by query; empty in earlier versions."""

    recall: float
    scores: Mapping[str, float]


def baseline(connection: sa.Connection, gen: int, labels_fp: str, k: int) -> Baseline | None:
    """Return recall@``k`` of the first canary of this generation on these very labels, or None before it."""
    found = connection.execute(
        sa.text(
            "SELECT baseline, coalesce(detail->'scores', '{}') AS scores FROM canary WHERE gen = :gen AND labels_fp = "
            ":labels AND k = :k ORDER BY at LIMIT 1"
        ),
        {"gen": gen, "labels": labels_fp, "k": k},
    ).one_or_none()
    return None if found is None else Baseline(float(found.baseline), found.scores)


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
