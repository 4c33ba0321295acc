"""Owns reading the events of the history, and the check that their hash chain holds."""

from __future__ import annotations

import sqlalchemy as sa

from revector.registry.collections import read_collection


def read_events(connection: sa.Connection, name: str, *, limit: int = 100, after: int = 0) -> list[dict[str, object]]:
    """Return the newest events first, with sequence numbers above ``after``."""
    collection = read_collection(connection, name)
    rows = connection.execute(
        sa.text(
            "SELECT seq, at, epoch, actor, kind, gen, detail, hash FROM event WHERE cid = :cid AND seq > :after ORDER "
            "BY seq DESC LIMIT :limit"
        ),
        {"cid": collection.cid, "after": after, "limit": limit},
    )
    return [{**row._mapping, "at": row.at.isoformat()} for row in rows]


def broken_links(connection: sa.Connection, name: str) -> list[int]:
    """Return the sequence numbers where the history's hash chain does not hold; empty if nothing was tampered with.

    Each link is checked by the rule that its event names; an older rule after a newer one is broken, too.
    """
    collection = read_collection(connection, name)
    return list(
        connection.scalars(
            sa.text(
                "SELECT seq FROM (SELECT e.seq, e.hash, event_hash(coalesce(lag(e.hash) OVER (ORDER BY "
                "seq), ''), e) AS expected, seq - lag(seq, 1, 0::bigint) OVER (ORDER BY seq) AS gap, chain - "
                "lag(chain, 1, chain) OVER (ORDER BY seq) AS rule FROM event e "
                "WHERE e.cid = :cid) c WHERE hash <> expected OR gap <> 1 OR rule < 0 ORDER BY seq"
            ),
            {"cid": collection.cid},
        )
    )
