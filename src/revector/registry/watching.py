"""What workers notice beside their work: time that passes, jumps of the database's clock, encoders that fail."""

from __future__ import annotations

import time

import sqlalchemy as sa

from revector.registry.control import add_event

JUMP_S = 60.0
"""A clock that gained or lost more than this against a worker's own is not trusted to end a rollback window."""

CLOSED_AFTER_S = 300

_MOVED = "SELECT coalesce(max(m.seq), 0) FROM event m WHERE m.cid = c.cid AND m.kind IN ('swap', 'rollback')"
_JUMPED = f"SELECT 1 FROM event j WHERE j.cid = c.cid AND j.kind = 'clock_jump' AND j.seq > ({_MOVED})"


def running_s() -> float:
    """Seconds of a clock that nobody sets; it goes on while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def note_clock_jump(engine: sa.Engine, jump_s: float, *, actor: str) -> int:
    """Record that the database's clock jumped, in each collection with an open window; return in how many.

    Once a window: from then on only a person ends it.
    """
    with engine.begin() as connection:
        cids = connection.scalars(
            sa.text(f"SELECT cid FROM collection c WHERE standby_gen IS NOT NULL AND NOT EXISTS ({_JUMPED})")
        ).all()
        for cid in cids:
            add_event(connection, cid, actor, "clock_jump", None, {"jump_s": round(jump_s, 1)})
    return len(cids)


def clock_jumped(connection: sa.Connection, cid: int) -> bool:
    """Whether the database's clock jumped since the alias last moved: its deadline proves nothing then."""
    return bool(
        connection.scalar(
            sa.text(f"SELECT EXISTS (SELECT 1 FROM collection c WHERE c.cid = :cid AND EXISTS ({_JUMPED}))"),
            {"cid": cid},
        )
    )


def windows_over(connection: sa.Connection, *, drain_s: float) -> list[str]:
    """Return the collections that have something to retire or to drop, and nobody needs to be asked.

    A rollback window that has been over for 5 minutes (the run that opened it closes it first, where there is one) and
    in which the clock did not jump; or an index whose generation left its slot more than ``drain_s`` ago.
    """
    return list(
        connection.scalars(
            sa.text(
                f"""
                SELECT name FROM collection c
                WHERE standby_gen IS NOT NULL AND NOT EXISTS ({_JUMPED})
                    AND rollback_deadline < clock_timestamp() - interval '{CLOSED_AFTER_S} s'
                  OR EXISTS (SELECT 1 FROM generation g WHERE g.cid = c.cid AND NOT g.live AND NOT g.dropped
                             AND g.ended_at < clock_timestamp() - :drain_s * interval '1 s')
                ORDER BY name
                """
            ),
            {"drain_s": drain_s},
        )
    )


def encoder_fault(connection: sa.Connection, gen: int) -> str | None:
    """Return why the encoder of a generation cannot be used, as the last worker that tried found, or None if it can."""
    row = connection.execute(
        sa.text(
            "SELECT kind, detail FROM event WHERE cid = (SELECT cid FROM generation WHERE gen = :gen) AND gen = :gen "
            "AND kind IN ('encoder_failed', 'encoder_restored') ORDER BY seq DESC LIMIT 1"
        ),
        {"gen": gen},
    ).one_or_none()
    return str(row.detail["reason"]) if row is not None and row.kind == "encoder_failed" else None


def note_encoder(engine: sa.Engine, cid: int, gen: int, fault: str | None, *, actor: str) -> None:
    """Record that an encoder fails, or works again; what the history says already is not repeated."""
    with engine.begin() as connection:
        known = encoder_fault(connection, gen)
        if fault is not None and known is None:
            add_event(connection, cid, actor, "encoder_failed", gen, {"reason": fault[:1_000]})
        elif fault is None and known is not None:
            add_event(connection, cid, actor, "encoder_restored", gen, {})
