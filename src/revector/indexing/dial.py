"""How fast the bulk lane may go: the dial of the open migration, kept in the history, and what writers suffer."""

from __future__ import annotations

import sqlalchemy as sa

from revector.errors import ConfigError, StateError
from revector.lifecycle import Phase
from revector.registry.collections import read_collection, read_generation
from revector.registry.control import add_event, before_event

KIND = "throttle"


def set_share(engine: sa.Engine, name: str, share: float, *, actor: str, why: str | None = None) -> int:
    """Let the open backfill of a collection work this share of the time, 0 (paused) to 1; return its generation.

    It holds for this migration, from the next seconds on, in all processes. Raises ``ConfigError`` for another share,
    ``StateError`` where no backfill is open.
    """
    if not 0 <= share <= 1:
        raise ConfigError(
            f"the bulk lane of {name!r} can work 0 to 100 % of the time, not {share:.0%}. Nothing changed."
        )
    with engine.begin() as connection:
        collection = read_collection(connection, name)
        before_event(connection, collection.cid)
        gen = collection.building_gen
        if gen is None or read_generation(connection, gen).phase is not Phase.PROVISIONED:
            raise StateError(
                f"collection {name!r} has no open backfill, so there is nothing to slow down. Nothing was changed; see "
                "`revector status`."
            )
        add_event(connection, collection.cid, actor, KIND, gen, {"share": share, **({"reason": why} if why else {})})
    return gen


def read_share(connection: sa.Connection, gen: int) -> float | None:
    """Return the share of the time that the backfill of a generation may work: 1 where nobody said otherwise.

    None when the generation is no longer live, so that nobody waits for a dial that is gone.
    """
    row = connection.execute(
        sa.text(
            "SELECT g.live, (SELECT (e.detail->>'share')::float8 FROM event e WHERE e.cid = g.cid AND e.gen = g.gen "
            "AND e.kind = :kind ORDER BY e.seq DESC LIMIT 1) AS share FROM generation g WHERE g.gen = :gen"
        ),
        {"gen": gen, "kind": KIND},
    ).one_or_none()
    if row is None or not row.live:
        return None
    return 1.0 if row.share is None else float(row.share)


def worked_lag_s(connection: sa.Connection, gen: int) -> float:
    """Return the age in seconds of the oldest waiting change of a generation while a worker is busy with it, else 0.

    Where no worker has taken anything, slowing down others would help nobody; nor would it cure what failed before.
    """
    return float(
        connection.scalar(
            sa.text(
                "SELECT CASE WHEN bool_or(lease_until > clock_timestamp()) THEN greatest(0, extract(epoch FROM "
                "clock_timestamp() - min(since))) ELSE 0 END FROM pending WHERE gen = :gen AND state = 'due' AND lane "
                "= 'live' AND due_at <= clock_timestamp()"
            ),
            {"gen": gen},
        )
        or 0.0
    )
