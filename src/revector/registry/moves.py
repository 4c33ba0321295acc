"""The moves of a migration as control transactions: register, phase changes, swap, rollback, retire and abort."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import sqlalchemy as sa

from revector.crash import crash_at
from revector.encoders.check import vectors_fp
from revector.errors import (
    ClockJumped,
    EvidenceStale,
    MigrationOpen,
    NotCaughtUp,
    RollbackUnavailable,
    StaleRun,
    StateError,
    WindowOpen,
)
from revector.interfaces import Vectors
from revector.lifecycle import STEPS, Phase
from revector.registry import archived, cutoffs, ledgers, sharding, work
from revector.registry.collections import Generation, read_generation, window_is_over
from revector.registry.control import Control, add_event, before_event
from revector.registry.lanes import check, lane_of
from revector.registry.spending import spent_at
from revector.registry.verdicts import stale_evidence
from revector.registry.watching import clock_jumped
from revector.spec import PGVECTOR, Revision


@dataclass(frozen=True, slots=True)
class Registration:
    """What provisioning registers for a revision."""

    revision: Revision
    encoder_fp: str
    encoder: Mapping[str, object]
    probes: Vectors
    window_hours: float
    needs_approval: bool
    ranges: Sequence[sharding.Range]
    fidelity: Mapping[str, object] = field(default_factory=dict)


def register(control: Control, new: Registration) -> Generation:
    """Create the shadow index and put it into the building slot: from this commit on, every write reaches it too.

    What of it is in another store is made after the commit, by ``Lane.ensure``.
    Raises ``MigrationOpen`` if another generation is being built.
    """
    revision = new.revision
    _refuse_second(control, revision)
    spent = spent_at(control.connection, revision.model.name)
    gen = _insert(control, new, spent.get("spent", {}))
    generation = read_generation(control.connection, gen)
    lane_of(generation).register(control.connection, new.encoder_fp)
    ledgers.create(control.connection, gen, sum(one.documents for one in new.ranges))
    sharding.add_shards(control.connection, gen, new.ranges)
    control.move_slots("building_gen = :gen", gen=gen)
    control.record(
        "provision",
        gen,
        revision=revision.revision,
        model=revision.model.name,
        physical=generation.physical_name,
        shards=len(new.ranges),
        window_hours=new.window_hours,
        **({"fidelity": dict(new.fidelity)} if new.fidelity else {}),
        **({"trust_code": True} if new.encoder.get("trust_code") else {}),
        **spent,
    )
    return generation


def _insert(control: Control, new: Registration, spent: Mapping[str, float]) -> int:
    """Add the generation's row and return its number."""
    collection, revision = control.collection, new.revision
    gen = int(control.scalar("SELECT nextval(pg_get_serial_sequence('generation', 'gen'))"))
    control.must_hit_one(
        """
        INSERT INTO generation (gen, cid, revision, physical_name, spec, config_hash, chunker_fp, encoder_fp, encoder,
          probes, vectors_fp, fidelity, phase, window_hours, needs_approval, spent)
        OVERRIDING SYSTEM VALUE
        VALUES (:gen, :cid, :revision, :name, CAST(:spec AS jsonb), :config_hash, :chunker_fp, :encoder_fp,
          CAST(:encoder AS jsonb), :probes, :vectors_fp, CAST(:fidelity AS jsonb), 'provisioned', :window, :approval,
          CAST(:spent AS jsonb))
        """,
        gen=gen,
        cid=collection.cid,
        revision=revision.revision,
        name=_physical_name(collection.name, gen, revision),
        spec=json.dumps(revision.as_data()),
        config_hash=revision.config_hash,
        chunker_fp=revision.chunker_fp,
        encoder_fp=new.encoder_fp,
        encoder=json.dumps(new.encoder, default=str),
        probes=new.probes.astype("<f4").tobytes(),
        vectors_fp=vectors_fp(new.encoder),
        fidelity=json.dumps(new.fidelity),
        window=new.window_hours,
        approval=new.needs_approval,
        spent=json.dumps(spent),
    )
    return gen


def _physical_name(collection: str, gen: int, revision: Revision) -> str:
    """Return a name that is never used again; in a store that others may use too, also not by them."""
    name = f"idx_{collection}_g{gen}"
    return name if revision.index.store == PGVECTOR else f"{name}_{secrets.token_hex(4)}"


def _refuse_second(control: Control, revision: Revision) -> None:
    collection = control.collection
    if collection.building_gen is not None:
        other = read_generation(control.connection, collection.building_gen)
        raise MigrationOpen(
            f"revision {revision.revision} was to be provisioned for {collection.name!r}, but the migration to "
            f"{other.revision} is open (phase {other.phase}). Nothing was changed; finish it with `revector upgrade "
            f"{other.revision}` or end it with `revector abort`."
        )


def advance(control: Control, gen: int, step: str, **detail: object) -> Phase:
    """Move the building generation one phase further by the table of steps."""
    generation = read_generation(control.connection, gen)
    STEPS[step].check(generation.revision, generation.phase)
    if control.collection.building_gen != gen:
        raise StateError(
            f"step {step} of revision {generation.revision}: its generation {gen} is no longer being built. Nothing "
            "was changed; see `revector status`."
        )
    control.set_phase(gen, generation.phase, STEPS[step].leads_to)
    control.record(step, gen, **detail)
    return STEPS[step].leads_to


def _refuse_waiting(control: Control, generation: Generation, move: str) -> None:
    waiting = work.backlog(control.connection, generation.gen)
    if waiting.blocking:
        dead = waiting.dead - waiting.waived
        way = (
            "see `revector dlq list`, then retry or waive them"
            if dead
            else "is `revector worker` running? Run it again"
        )
        raise NotCaughtUp(
            f"{move} to generation {generation.gen} (revision {generation.revision}) needs 0 items waiting there; "
            f"found {waiting.due + waiting.bulk} due and {dead} dead not waived. The alias was not moved; {way}."
        )


def swap(
    control: Control,
    generation: Generation,
    *,
    began: int | None = None,
    reason: str | None = None,
    allowed_times: int = 1,
) -> Mapping[str, object]:
    """Move the alias to ``generation``: index and query encoder together, the old one on standby for its window.

    ``began`` is the epoch in which the run that asks for it began: what was rolled back since then stays so (R57); None
    for a run that begins with this. ``allowed_times``: see ``stale_evidence``; the history tells one above 1.
    Raises ``StaleRun`` for that, ``NotCaughtUp``, ``EvidenceStale`` or ``WindowOpen``; nothing is changed then.
    """
    collection = control.collection
    generation = read_generation(control.connection, generation.gen)
    forward_again = collection.standby_gen == generation.gen
    _refuse_swap(control, generation, began, forward_again=forward_again, allowed_times=allowed_times)
    old = collection.active_gen
    control.move_slots(
        "active_gen = :new, standby_gen = :old, "
        + ("" if forward_again else "building_gen = NULL, ")
        + "rollback_deadline = CASE WHEN CAST(:old AS int) IS NULL THEN NULL ELSE clock_timestamp() + :hours * "
        "interval '1 hour' END",
        new=generation.gen,
        old=old,
        hours=generation.window_hours,
    )
    to = Phase.COMPLETED if old is None else STEPS["swap"].leads_to
    control.set_phase(generation.gen, generation.phase, to, ", live_at = clock_timestamp()")
    pause_ms = round(control.held_ms, 1)
    deadline = control.scalar("SELECT rollback_deadline FROM collection WHERE cid = :cid", cid=collection.cid)
    facts = {
        "from": old,
        "to": generation.gen,
        "revision": generation.revision,
        "pause_ms": pause_ms,
        "rollback_deadline": deadline,
        "forward_again": forward_again,
        **cutoffs.moved(control.connection, old, generation.gen),
        **({"changes_allowed_times": allowed_times} if allowed_times > 1 else {}),
        **({"reason": reason} if reason else {}),
    }
    control.record("swap", generation.gen, **facts)
    return facts


def _refuse_swap(
    control: Control, generation: Generation, began: int | None, *, forward_again: bool, allowed_times: int
) -> None:
    """Raise what speaks against moving the alias to ``generation``; see ``swap``."""
    collection = control.collection
    STEPS["swap"].check(generation.revision, generation.phase)
    if not forward_again and collection.building_gen != generation.gen:
        raise StateError(
            f"swap to revision {generation.revision}: its generation {generation.gen} is in no slot. Nothing was "
            "changed; see `revector status`."
        )
    if forward_again and began not in (None, collection.epoch):
        raise StaleRun(
            f"swap to revision {generation.revision}: it was rolled back after this run began (epoch {began}, now "
            f"{collection.epoch}). The alias was not moved; to go forward, start again with `revector upgrade "
            f"{generation.revision}`."
        )
    if collection.standby_gen is not None and not forward_again:
        raise WindowOpen(
            f"swap to revision {generation.revision}: generation {collection.standby_gen} is kept for a rollback "
            f"until {collection.rollback_deadline:%Y-%m-%d %H:%M %Z}. The alias was not moved; wait, or give that "
            "window up with `revector retire --now`."
        )
    check(control.connection, generation, "swap")
    _refuse_waiting(control, generation, "swap")
    stale = stale_evidence(control.connection, generation, allowed_times=allowed_times)
    if stale is not None:
        raise EvidenceStale(
            f"swap to revision {generation.revision} needs current evidence, but {stale}. The alias was not moved; run "
            "the steps verify and gate again."
        )
    cutoffs.refuse_untold(control, generation)


class MovedBack(NamedTuple):
    """A rollback: the generation that it left, and what the history says of it; ``already``: nothing was to be done."""

    left: int
    facts: Mapping[str, object]


def rollback(control: Control, *, reason: str, force: bool) -> MovedBack:
    """Move the alias back to the standby generation; the other one goes on standby and keeps receiving.

    Asked again, it changes nothing: the way forward is ``swap``.

    Raises ``RollbackUnavailable`` after the window (by the database's clock) or without a standby, ``NotCaughtUp``
    while the standby lags unless ``force``; nothing is changed then.
    """
    collection = control.collection
    if collection.standby_gen is None or collection.active_gen is None:
        raise RollbackUnavailable(
            f"collection {collection.name!r} has nothing to go back to: no generation is on standby. The alias was not "
            "moved; write a new revision instead."
        )
    over = window_is_over(control.connection, collection.cid)
    if over is not False and not clock_jumped(control.connection, collection.cid):
        raise RollbackUnavailable(
            f"the rollback window of {collection.name!r} ended at {collection.rollback_deadline:%Y-%m-%d %H:%M %Z}; "
            "the old generation may be dropped any moment. The alias was not moved; write a new revision instead."
        )
    back = read_generation(control.connection, collection.standby_gen)
    left = read_generation(control.connection, collection.active_gen)
    if back.phase == Phase.ROLLED_BACK:  # a retry after a lost reply must not move the alias forward again
        return MovedBack(back.gen, {"from": back.gen, "to": left.gen, "revision": left.revision, "already": True})
    check(control.connection, back, "rollback")
    waiting = work.backlog(control.connection, back.gen)
    if not force:
        _refuse_waiting(control, back, "rollback")
    control.move_slots("active_gen = :back, standby_gen = :left", back=back.gen, left=left.gen)
    control.set_phase(left.gen, Phase.LIVE, Phase.ROLLED_BACK)
    facts = {
        "from": left.gen,
        "to": back.gen,
        "revision": back.revision,
        "reason": reason,
        "forced_over": waiting.blocking if force else 0,
        "pause_ms": round(control.held_ms, 1),
        **cutoffs.moved(control.connection, left.gen, back.gen),
    }
    control.record("rollback", back.gen, **facts)
    return MovedBack(left.gen, facts)


def retire(control: Control, *, reason: str, now: bool) -> Generation:
    """Give up the way back: empty the standby slot, the point of no return; the index is dropped later.

    Raises ``RollbackUnavailable`` without a standby, ``WindowOpen`` before the deadline unless ``now``.
    """
    collection = control.collection
    if collection.standby_gen is None:
        raise RollbackUnavailable(f"collection {collection.name!r} has no generation on standby. Nothing was changed.")
    over = window_is_over(control.connection, collection.cid)
    if not over and not now:
        raise WindowOpen(
            f"the rollback window of {collection.name!r} is open until "
            f"{collection.rollback_deadline:%Y-%m-%d %H:%M %Z}. Nothing was changed; wait, or give it up with "
            "`revector retire --now --reason …`."
        )
    if not now and clock_jumped(control.connection, collection.cid):
        raise ClockJumped(
            f"the rollback window of {collection.name!r} seems to be over, but the database's clock jumped since the "
            "alias was moved (see `revector history --events`). Nothing was changed; if the window may end, say so "
            "with `revector retire --now --reason …`."
        )
    unused = read_generation(control.connection, collection.standby_gen)
    control.move_slots("standby_gen = NULL, rollback_deadline = NULL")
    control.set_phase(unused.gen, unused.phase, Phase.RETIRED, ", live = false, ended_at = clock_timestamp()")
    active = read_generation(control.connection, int(collection.active_gen or 0))
    if active.phase == Phase.LIVE:
        control.set_phase(active.gen, Phase.LIVE, Phase.COMPLETED)
    control.record("retire", unused.gen, revision=unused.revision, reason=reason, window_given_up=not over)
    return read_generation(control.connection, unused.gen)


def abort(control: Control, *, reason: str) -> Generation:
    """Stop building: empty the building slot; the alias and the live generations are untouched."""
    collection = control.collection
    if collection.building_gen is None:
        raise StateError(
            f"collection {collection.name!r} has no migration to abort. Nothing was changed; after a swap, use "
            "`revector rollback`."
        )
    generation = read_generation(control.connection, collection.building_gen)
    STEPS["abort"].check(generation.revision, generation.phase)
    control.move_slots("building_gen = NULL")
    control.set_phase(generation.gen, generation.phase, Phase.ABORTED, ", live = false, ended_at = clock_timestamp()")
    control.record("abort", generation.gen, revision=generation.revision, reason=reason)
    return read_generation(control.connection, generation.gen)


def drop(engine: sa.Engine, generation: Generation, *, actor: str) -> None:
    """Drop the index of a generation that left its slot; what is dropped already counts as success.

    Its ledger is dropped after that (``registry.ledgers.sweep``), for that may have to wait.

    Raises ``StateError`` if the generation is live or in a slot: the wrong index is never dropped.
    """
    with engine.begin() as connection:
        before_event(connection, generation.cid)
        row = connection.execute(
            sa.text("SELECT live, dropped FROM generation WHERE gen = :gen FOR UPDATE"), {"gen": generation.gen}
        ).one()
        held = connection.scalar(sa.text("SELECT count(*) FROM slot WHERE gen = :gen"), {"gen": generation.gen})
        if row.live or held:
            raise StateError(
                f"generation {generation.gen} is live; its index {generation.physical_name} was not dropped."
            )
        if row.dropped:
            return
        lane_of(generation).drop(connection)
        crash_at("drop.after_table")
        # A task may be recording a part: it ends first, or finds no shard.
        connection.execute(sa.text("SELECT 1 FROM shard WHERE gen = :gen FOR UPDATE"), {"gen": generation.gen})
        work.forget_work(connection, generation.gen)
        archived.keep(connection, generation)
        for table in ("part", "shard"):
            connection.execute(sa.text(f"DELETE FROM {table} WHERE gen = :gen"), {"gen": generation.gen})
        connection.execute(sa.text("UPDATE generation SET dropped = true WHERE gen = :gen"), {"gen": generation.gen})
        add_event(connection, generation.cid, actor, "drop", generation.gen, {"physical": generation.physical_name})
    crash_at("drop.after_commit")
