"""Owns the time that a revision asks for shadow reads before its gate judges: refused without any, and waited out."""

from __future__ import annotations

import time

import sqlalchemy as sa

from revector.errors import ConfigError, GenerationGone
from revector.interfaces import Progress
from revector.registry import watching
from revector.registry.collections import Collection, Generation
from revector.spec import Revision

POLL_S = 15.0


def unread(target: Revision, collection: Collection, *, share: float) -> tuple[str, ...]:
    """Say so where shadow reads are wanted and none would be made."""
    if not target.gate.shadow_hours or collection.active_gen is None or share:
        return ()
    asked = f"revision {target.revision} asks for {target.gate.shadow_hours:g} h of shadow reads (gate.shadow_hours)"
    return (f"{asked}, and those of collection {collection.name!r} are switched off",)


def refuse_unread(target: Revision, collection: Collection, *, share: float) -> None:
    """Raise ``ConfigError`` where ``unread`` says something."""
    for said in unread(target, collection, share=share):
        raise ConfigError(
            f"{said}. Nothing was changed; set share in [collections.{collection.name}.shadow] of revector.toml to "
            "such as 0.01 and run `revector serve`, or take shadow_hours out."
        )


def wait_out(engine: sa.Engine, generation: Generation, hours: float, progress: Progress) -> None:
    """Return once a generation could be read for ``hours`` since its index was built.

    What is left is read off the database's clock once, so that a run that was killed meanwhile waits for the rest only;
    from there on a clock counts that nobody sets. Raises ``GenerationGone`` where it is not built any more.
    """
    left_s = min(_left_s(engine, generation, hours), hours * 3_600)
    if left_s <= 0:
        return
    progress.start(f"shadow reads of live queries for {hours:g} h", int(left_s), "s")
    before = watching.running_s()
    while left_s > 0:
        time.sleep(min(left_s, POLL_S))
        _left_s(engine, generation, hours)  # whether it is still built
        now = watching.running_s()
        progress.advance(max(0, int(left_s) - int(left_s - (now - before))))
        left_s, before = left_s - (now - before), now
    progress.done()


def _left_s(engine: sa.Engine, generation: Generation, hours: float) -> float:
    with engine.connect() as connection:
        building, left_s = connection.execute(
            sa.text(
                "SELECT c.building_gen, (SELECT extract(epoch FROM min(e.at) + :hours * interval '1 hour' - "
                "clock_timestamp())::float8 FROM event e WHERE (e.cid, e.gen, e.kind) = (c.cid, :gen, 'index')) "
                "AS left_s FROM collection c WHERE cid = :cid"
            ),
            {"cid": generation.cid, "gen": generation.gen, "hours": hours},
        ).one()
    if building != generation.gen:
        raise GenerationGone(
            f"revision {generation.revision} is no longer being built: it was aborted or swapped while shadow reads "
            "were waited for. Nothing was changed; see `revector status`."
        )
    return float(left_s or 0.0)
