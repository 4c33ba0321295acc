"""Owns the moves out of the forward line: back, abort, retire, and the end of a rollback window."""

from __future__ import annotations

from contextlib import suppress

import sqlalchemy as sa

from revector.errors import RollbackUnavailable, StaleRun, StateError, WindowOpen
from revector.indexing.mirroring import follow_if_it_can
from revector.lifecycle import Outcome, Phase
from revector.migration.catch_up import CatchUp
from revector.migration.leftovers import Leftovers
from revector.migration.target import Standing
from revector.registry import moves
from revector.registry.collections import Generation, read_generation, window_is_over
from revector.registry.control import control, take_lease
from revector.registry.lanes import lane_of
from revector.spec import Revision

WINDOW_OVER = "window over"


class BackMoves:
    """The moves of one collection that no forward step is waiting for; ``actor`` is named in the history."""

    def __init__(
        self, engine: sa.Engine, standing: Standing, leftovers: Leftovers, catch_up: CatchUp, *, cid: int, actor: str
    ) -> None:
        self._engine, self._standing, self._leftovers, self._catch_up = engine, standing, leftovers, catch_up
        self._cid, self._actor = cid, actor

    def run(
        self, step: str, *, reason: str | None = None, force: bool = False, now: bool = False, epoch: int | None = None
    ) -> Outcome:
        """Make the move ``rollback``, ``abort`` or ``retire``; see ``Migrator.run``. Raises as ``registry.moves``."""
        why = (reason or "").strip()
        if not why:
            raise StateError(f"{step} needs a reason for the history. Nothing was changed; give one.")
        if step == "rollback":
            return self._rollback(why, force=force, epoch=epoch)
        return self._abort(why) if step == "abort" else self._retire(why, now=now, epoch=epoch)

    def retire_due(self, *, wait: bool) -> Outcome:
        """Retire what is past its window, by the database's clock; see ``Migrator.retire_due``."""
        with self._engine.connect() as connection:
            over = window_is_over(connection, self._cid)
        if over:
            return self._retire(WINDOW_OVER, wait=wait)
        dropped = self._leftovers.drop(wait=False)
        return Outcome("retire", "", Phase.COMPLETED, bool(dropped), {"dropped": dropped})

    def clear_way(self, target: Revision, generation: Generation | None, *, swaps: bool) -> None:
        """Close a rollback window that is over, before a migration to ``target`` does any work.

        Raises ``WindowOpen`` where it is not over, or only a person may end it, and the migration ``swaps``.
        """
        collection = self._standing.collection()
        if collection.standby_gen is None:
            return
        if generation is not None and generation.gen in (collection.active_gen, collection.standby_gen):
            return  # it is through, or goes forward again into its own window
        try:
            with suppress(RollbackUnavailable, StaleRun):  # someone else was quicker
                self._retire(WINDOW_OVER, wait=False)
        except WindowOpen as error:
            if swaps:
                raise type(error)(
                    f"the migration to revision {target.revision} would be refused at its swap: {error} To have "
                    "everything ready for then, build it now with `revector upgrade --to gate`."
                ) from error

    def _rollback(self, reason: str, *, force: bool, epoch: int | None) -> Outcome:
        collection, back = self._standing.collection(), None
        if collection.standby_gen is not None:
            with self._engine.connect() as connection:
                back = read_generation(connection, collection.standby_gen)
            lane_of(back).demand(self._engine)

        def move() -> moves.MovedBack:
            with control(
                self._engine, self._cid, actor=self._actor, epoch=collection.epoch if epoch is None else epoch
            ) as held:
                if back is not None and not force:
                    self._catch_up.finish_under_gate(back)
                return moves.rollback(held, reason=reason, force=force)

        moved = move() if back is None or force else self._catch_up.then(back, move)
        wrong = follow_if_it_can(self._engine, self._cid)
        facts = {**moved.facts, **({"native_alias": wrong} if wrong else {})}
        with self._engine.connect() as connection:
            left = read_generation(connection, moved.left)
        return Outcome("rollback", left.revision, left.phase, not moved.facts.get("already"), facts)

    def _abort(self, reason: str) -> Outcome:
        if self._standing.collection().building_gen is None and (last := self._standing.last_aborted()) is not None:
            dropped = self._leftovers.drop(wait=False)
            return Outcome("abort", last.revision, last.phase, bool(dropped), {"generation": last.gen})
        token = take_lease(self._engine, self._cid, self._actor)
        with control(self._engine, self._cid, actor=self._actor, token=token) as held:
            ended = moves.abort(held, reason=reason)
        self._leftovers.drop(wait=False)
        return Outcome("abort", ended.revision, ended.phase, True, {"generation": ended.gen})

    def _retire(self, reason: str, *, now: bool = False, epoch: int | None = None, wait: bool = True) -> Outcome:
        ended = None
        collection = self._standing.collection()
        if collection.standby_gen is not None:
            with control(
                self._engine, self._cid, actor=self._actor, epoch=collection.epoch if epoch is None else epoch
            ) as held:
                ended = moves.retire(held, reason=reason, now=now)
        dropped = self._leftovers.drop(wait=wait)
        revision = "" if ended is None else ended.revision
        return Outcome("retire", revision, Phase.COMPLETED, bool(ended or dropped), {"dropped": dropped})
