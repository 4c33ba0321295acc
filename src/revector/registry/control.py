"""Control transactions: the gate held exclusively, fencing tokens, slot moves by compare-and-set, and their events."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from revector.crash import crash_at
from revector.database.engine import GATE_LOCK
from revector.errors import StaleRun
from revector.lifecycle import Phase
from revector.registry.collections import Collection, lock_collection

LOCK_BUDGET_MS = 1_500
"""Longest wait for the gate: writers queue behind anyone who waits for it (reliability.md, R38)."""

STATEMENT_BUDGET_MS = 10_000
"""Longest statement under the gate, where writers stand still."""

ORIGIN: ContextVar[Mapping[str, object] | None] = ContextVar("origin", default=None)
"""What the detail of every event of this call names as well, such as the task of an Airflow run."""


@dataclass(slots=True)
class Control:
    """An open control transaction on one collection; everything in it commits or nothing does."""

    connection: sa.Connection
    collection: Collection
    actor: str
    token: int | None
    _held_since: float

    @property
    def held_ms(self) -> float:
        """Milliseconds since the gate was had: writers of this collection have been waiting at most that long."""
        return (time.monotonic() - self._held_since) * 1_000

    def scalar(self, sql: str, **params: object) -> Any:
        """Run one statement and return its first value."""
        return self.connection.scalar(sa.text(sql), params)

    def must_hit_one(self, sql: str, **params: object) -> None:
        """Run one write; any row count but 1 raises ``StaleRun`` and undoes the transaction."""
        found = self.connection.execute(sa.text(sql), params).rowcount
        if found != 1:
            raise StaleRun(
                f"a control write of collection {self.collection.name!r} met {found} rows instead of 1: another run "
                "was faster. Nothing was changed; see `revector status`, then run it again."
            )

    def move_slots(self, assignments: str, **params: object) -> None:
        """Set slots of the collection row, one epoch further; ``assignments`` is SQL of the caller, never input."""
        self.must_hit_one(
            f"UPDATE collection SET epoch = epoch + 1, {assignments} WHERE cid = :cid AND epoch = :seen",
            cid=self.collection.cid,
            seen=self.collection.epoch,
            **params,
        )
        crash_at("control.after_move")

    def set_phase(self, gen: int, seen: Phase, to: Phase, also: str = "") -> None:
        """Move a generation from the phase that was seen to another."""
        self.must_hit_one(
            f"UPDATE generation SET phase = :to{also} WHERE gen = :gen AND phase = :seen", gen=gen, seen=seen, to=to
        )
        crash_at("control.after_phase")

    def record(self, kind: str, gen: int | None = None, **detail: object) -> None:
        """Append an event to the history."""
        add_event(self.connection, self.collection.cid, self.actor, kind, gen, detail)


def before_event(connection: sa.Connection, cid: int) -> None:
    """Hold the collection's row as an event will, before any other row: lock order is the same everywhere."""
    connection.execute(sa.text("SELECT 1 FROM collection WHERE cid = :cid FOR KEY SHARE"), {"cid": cid})


def add_event(
    connection: sa.Connection, cid: int, actor: str, kind: str, gen: int | None, detail: Mapping[str, object]
) -> None:
    """Append one event, with the call's ``ORIGIN``; the database numbers, dates and chains it."""
    detail = {**detail, **(ORIGIN.get() or {})}
    connection.execute(
        sa.text(
            "INSERT INTO event (cid, seq, at, epoch, actor, kind, gen, detail, hash) "
            "SELECT :cid, 0, now(), epoch, :actor, :kind, :gen, CAST(:detail AS jsonb), '' FROM collection WHERE cid = "
            ":cid"
        ),
        {"cid": cid, "actor": actor, "kind": kind, "gen": gen, "detail": json.dumps(detail, default=str)},
    )


def take_lease(engine: sa.Engine, cid: int, owner: str) -> int:
    """Fence off every earlier run of this collection and return the new token."""
    with engine.begin() as connection:
        token = connection.scalar(
            sa.text(
                "INSERT INTO lease AS l (cid, token, owner) VALUES (:cid, 1, :owner) ON CONFLICT (cid) DO UPDATE "
                "SET token = l.token + 1, owner = EXCLUDED.owner, taken_at = clock_timestamp() RETURNING token"
            ),
            {"cid": cid, "owner": owner},
        )
    crash_at("lease.after_commit")
    return int(token or 0)


@contextmanager
def control(
    engine: sa.Engine, cid: int, *, actor: str, token: int | None = None, epoch: int | None = None
) -> Iterator[Control]:
    """Hold the collection's gate exclusively for one short transaction.

    Writers hold it shared, so inside nobody can add work, and the slots cannot move. Statements after the locks see
    everything committed before them (READ COMMITTED, one snapshot a statement).

    A run that builds is fenced by its ``token``; a move of the alias, which must not end that run, by the ``epoch``
    that it saw. Raises ``GateBusy`` when the gate is not free within 1.5 s, ``StaleRun`` when either is no longer the
    newest.
    """
    with engine.connect() as connection, connection.begin():
        connection.execute(
            sa.text(
                f"SELECT set_config('lock_timeout', '{LOCK_BUDGET_MS}ms', true), set_config('statement_timeout', "
                f"'{STATEMENT_BUDGET_MS}ms', true)"
            )
        )
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key, :cid)"), {"key": GATE_LOCK, "cid": cid})
        collection = lock_collection(connection, cid)
        held = Control(connection, collection, actor, token, time.monotonic())
        if token is not None:
            _check_token(connection, collection, token)
        if epoch is not None and collection.epoch != epoch:
            raise StaleRun(
                f"the slots of collection {collection.name!r} were moved meanwhile (epoch {epoch}, now "
                f"{collection.epoch}). Nothing was changed; see `revector status`, then run it again."
            )
        crash_at("control.after_gate")
        yield held
        crash_at("control.before_commit")
    crash_at("control.after_commit")


def _check_token(connection: sa.Connection, collection: Collection, token: int) -> None:
    newest = connection.execute(
        sa.text("SELECT token, owner FROM lease WHERE cid = :cid FOR UPDATE"), {"cid": collection.cid}
    ).one_or_none()
    if newest is None or newest.token != token:
        owner = "nobody" if newest is None else newest.owner
        raise StaleRun(
            f"this run of collection {collection.name!r} (token {token}) was taken over by {owner}. Nothing was "
            "changed; follow that run, or start this one again."
        )
