"""Owns the record of an adoption by copy: what was proved of a file, database or store, and whether it was read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from revector.adoption.adoptions import ProvedVectors, check_free
from revector.adoption.presets import AdoptionRequest
from revector.adoption.terms import AdoptedTable
from revector.registry.control import add_event, before_event


@dataclass(frozen=True, slots=True)
class CopiedPlace:
    """A place that a collection has adopted by copy; ``copied``: it was read to its end once, its vectors too."""

    cid: int
    origin: str
    terms: AdoptedTable
    request: AdoptionRequest
    """As it was made, the source without its password."""
    vectors_fp: str
    chunker_fp: str
    proof: Mapping[str, Any]
    copied: bool
    adopted_at: datetime


def read_copied(connection: sa.Connection, cid: int) -> CopiedPlace | None:
    """Return the place that a collection has adopted by copy; None where there is none."""
    row = connection.execute(
        sa.text("SELECT * FROM adoption WHERE cid = :cid AND origin IS NOT NULL"), {"cid": cid}
    ).one_or_none()
    if row is None:
        return None
    return CopiedPlace(
        cid,
        row.origin,
        AdoptedTable.model_validate(row.terms),
        AdoptionRequest.model_validate(row.columns),
        row.vectors_fp,
        row.chunker_fp,
        row.proof,
        row.copied,
        row.adopted_at,
    )


def begin(
    connection: sa.Connection,
    cid: int,
    terms: AdoptedTable,
    request: AdoptionRequest,
    proved: ProvedVectors,
    *,
    actor: str,
) -> None:
    """Record the adoption, in the caller's transaction; nothing is read yet.

    ``request``: without a password. Raises ``ConfigError`` where the collection has documents or adopted another.
    """
    check_free(connection, cid)
    connection.execute(
        sa.text(
            "INSERT INTO adoption (cid, origin, terms, columns, horizon, vectors_fp, chunker_fp, proof) VALUES (:cid, "
            ":origin, CAST(:terms AS jsonb), CAST(:request AS jsonb), 0, :vectors_fp, :chunker_fp, "
            "CAST(:proof AS jsonb))"
        ),
        {
            "cid": cid,
            "origin": terms.table,
            "terms": terms.model_dump_json(),
            "request": request.model_dump_json(),
            "vectors_fp": proved.vectors_fp,
            "chunker_fp": proved.chunker_fp,
            "proof": json.dumps(proved.proof),
        },
    )
    said = {"table": terms.table, "terms": terms.model_dump(mode="json"), "proof": dict(proved.proof), "copied": True}
    add_event(connection, cid, actor, "adopt", None, said)


def finish(connection: sa.Connection, cid: int) -> bool:
    """Record that the place was read to its end, in the caller's transaction; return whether that is news."""
    before_event(connection, cid)
    done = sa.text("UPDATE adoption SET copied = true WHERE cid = :cid AND NOT copied")
    return bool(connection.execute(done, {"cid": cid}).rowcount)
