"""Owns where a collection stands, as typed data: what CLI, HTTP, the pages and the demo show of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from pydantic import Field

from revector.adoption.standing import AdoptionStatus, read_standing
from revector.documents import deadletters
from revector.errors import SpecError
from revector.formats.kept import Kept
from revector.gate.figures import GateResult
from revector.gate.results import latest_result
from revector.indexing import loads
from revector.indexing.dial import read_share
from revector.lifecycle import BUILDING, FORWARD, STEPS, Phase, remaining, state_of
from revector.registry import sharding, work
from revector.registry.collections import Collection, Generation, read_collection, read_generation
from revector.registry.cutoffs import read_cutoffs
from revector.registry.lanes import lane_of
from revector.registry.spending import spent
from revector.registry.watching import clock_jumped, encoder_fault
from revector.revisions import RevisionGraph
from revector.serving import shadow_rows
from revector.serving.shadow_rows import ShadowSums


class WaitingItems(Kept):
    """Items of an index's work set: of the live and the bulk lane, dead ones, and those of them that are waived."""

    live: int
    bulk: int
    dead: int
    waived: int


class SlotStatus(Kept):
    """A live generation: what it is of, how far it is, and what waits for it."""

    generation: int
    revision: str
    message: str
    model: str
    dim: int
    index: str
    index_kind: str
    encoder_fp: str
    fidelity: dict[str, object]
    phase: Phase
    state: str
    registered_at: str
    live_at: str | None
    bytes: int
    waiting: WaitingItems
    lag_s: float
    encoder_fault: str | None
    cutoffs: Mapping[str, float | None] = Field(default_factory=dict)
    """Name → the score from which the application shows a hit, None where the gate could not tell it."""


class Slots(Kept):
    """The generations of a collection by role."""

    active: SlotStatus | None
    standby: SlotStatus | None
    building: SlotStatus | None

    @property
    def roles(self) -> dict[str, SlotStatus | None]:
        """Role → what fills it."""
        return {"active": self.active, "standby": self.standby, "building": self.building}

    @property
    def filled(self) -> dict[str, SlotStatus]:
        """The roles that something fills."""
        return {role: slot for role, slot in self.roles.items() if slot is not None}


class StepState(Kept):
    """A step of ``lifecycle.FORWARD``: ``state`` is done, current or waiting."""

    name: str
    does: str
    state: str


class BulkProgress(Kept):
    """Documents of the backfill, its rate over the last minute, and the share of the time that it may work."""

    planned: int
    published: int
    chunks: int
    documents_per_s: float
    eta_s: float | None
    share: float | None


class ShardStatus(Kept):
    """One shard of the backfill."""

    shard: int
    documents: int
    seeded: bool
    done: bool


class MigrationStatus(Kept):
    """The migration that is open: being built, or inside its rollback window."""

    revision: str
    generation: int
    phase: Phase
    building: bool
    needs_approval: bool
    steps: tuple[StepState, ...]
    progress: BulkProgress
    shards: tuple[ShardStatus, ...]
    gate: GateResult | None
    verify: GateResult | None


class RollbackWindow(Kept):
    """Until when one can go back."""

    deadline: str
    seconds_left: float
    clock_jumped: bool


class RefusedRecords(Kept):
    """Records refused at ingestion, and those of them that are later versions of what is served."""

    records: int
    behind: int


class ProviderSpending(Kept):
    """What a provider was paid over all days, and in this calendar month (UTC)."""

    provider: str
    requests: int
    tokens: int
    usd: float
    month_usd: float


class WaitingRevision(Kept):
    """The head of the migration files, where no slot holds it."""

    revision: str
    message: str
    model: str
    dim: int


class UnusableFiles(Kept):
    """Why the migration files cannot be read."""

    problem: str


class Status(Kept):
    """Where a collection stands. Its data's keys are stable: ``--json``, HTTP and the Airflow page send them."""

    collection: str
    epoch: int
    database_time: str
    documents: int
    slots: Slots
    migration: MigrationStatus | None
    rollback: RollbackWindow | None
    dead_letters: int
    refused: RefusedRecords
    labels: str | None
    spending: tuple[ProviderSpending, ...]
    shadow: tuple[ShadowSums, ...]
    adoption: AdoptionStatus | None = None
    next: WaitingRevision | UnusableFiles | None = None

    @property
    def gate(self) -> GateResult | None:
        """The latest verdict of the gate on the open migration."""
        return None if self.migration is None else self.migration.gate


def read_status(connection: sa.Connection, name: str, *, labels: str | None = None, recount: bool = True) -> Status:
    """Return where a collection stands: slots, open migration with progress and lag, rollback window, dead letters.

    With ``recount=False``, for callers that poll, the number of documents of a large collection is the one counted in
    the last hour (``indexing.loads``).
    """
    collection = read_collection(connection, name)
    now: datetime = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
    deadline = collection.rollback_deadline
    letters = deadletters.open_letters(connection, collection.cid)
    building = collection.building_gen
    return Status(
        collection=name,
        epoch=collection.epoch,
        database_time=now.isoformat(),
        documents=loads.documents(connection, collection.cid, recount=recount),
        slots=Slots(
            active=_slot(connection, "active", collection.active_gen),
            standby=_slot(connection, "standby", collection.standby_gen),
            building=_slot(connection, "building", building),
        ),
        migration=_migration(connection, collection),
        rollback=None
        if deadline is None
        else RollbackWindow(
            deadline=deadline.isoformat(),
            seconds_left=max(0.0, (deadline - now).total_seconds()),
            clock_jumped=clock_jumped(connection, collection.cid),
        ),
        dead_letters=letters.letters,
        refused=RefusedRecords(records=letters.refused, behind=letters.behind),
        labels=labels,
        spending=tuple(ProviderSpending.model_validate(one) for one in spent(connection)),
        shadow=() if building is None else tuple(shadow_rows.read(connection, building)),
        adoption=read_standing(connection, collection.cid, name),
    )


def waiting_revision(folder: Path, slots: Slots) -> WaitingRevision | UnusableFiles | None:
    """Return the head of the migration files where no slot holds it: the revision that waits for its migration.

    None where nothing waits. Files that cannot be read give a ``problem`` instead: a status must not fail over them.
    """
    try:
        head = RevisionGraph.from_folder(folder).head
    except SpecError as error:
        return UnusableFiles(problem=str(error)) if any(folder.glob("*.py")) else None
    if head.revision in {slot.revision for slot in slots.filled.values()}:
        return None
    return WaitingRevision(revision=head.revision, message=head.message, model=head.model.name, dim=head.model.dim)


def _slot(connection: sa.Connection, role: str, gen: int | None) -> SlotStatus | None:
    if gen is None:
        return None
    generation = read_generation(connection, gen)
    waiting = work.backlog(connection, gen)
    return SlotStatus(
        generation=gen,
        revision=generation.revision,
        message=generation.spec.message,
        model=generation.spec.model.name,
        dim=generation.spec.model.dim,
        index=generation.physical_name,
        index_kind=generation.spec.index.kind,
        encoder_fp=generation.encoder_fp,
        fidelity=dict(generation.fidelity),
        phase=generation.phase,
        state=state_of(role, generation.phase),
        registered_at=generation.registered_at.isoformat(),
        live_at=None if generation.live_at is None else generation.live_at.isoformat(),
        bytes=lane_of(generation).size_bytes(connection),
        waiting=WaitingItems(live=waiting.due, bulk=waiting.bulk, dead=waiting.dead, waived=waiting.waived),
        lag_s=round(waiting.oldest_s, 1),
        encoder_fault=encoder_fault(connection, gen),
        cutoffs={name: one.score for name, one in read_cutoffs(connection, gen).items()},
    )


def _migration(connection: sa.Connection, collection: Collection) -> MigrationStatus | None:
    """Return the migration that is open: being built, or inside its rollback window."""
    generation = _subject(connection, collection)
    if generation is None:
        return None
    left = {step.name for step in remaining(generation.phase)}
    current = next((name for name in FORWARD if name in left), None)
    shards = sharding.read_shards(connection, generation.gen)
    return MigrationStatus(
        revision=generation.revision,
        generation=generation.gen,
        phase=generation.phase,
        building=generation.phase in BUILDING,
        needs_approval=generation.needs_approval,
        steps=tuple(
            StepState(
                name=name,
                does=STEPS[name].does,
                state="done" if name not in left else "current" if name == current else "waiting",
            )
            for name in FORWARD
        ),
        progress=_progress(connection, generation),
        shards=tuple(
            ShardStatus(shard=one.shard, documents=one.documents, seeded=one.seeded, done=one.done) for one in shards
        ),
        gate=latest_result(connection, generation.gen, "recall"),
        verify=latest_result(connection, generation.gen, "verify"),
    )


def _progress(connection: sa.Connection, generation: Generation) -> BulkProgress:
    """Return how far the backfill is, and the time left at its rate while it runs."""
    share = read_share(connection, generation.gen)
    found = BulkProgress.model_validate(
        {**sharding.shard_progress(connection, generation.gen), "eta_s": None, "share": share}
    )
    if found.documents_per_s <= 0 or generation.phase != Phase.PROVISIONED:
        return found
    return found.model_copy(update={"eta_s": max(0, found.planned - found.published) / found.documents_per_s})


def _subject(connection: sa.Connection, collection: Collection) -> Generation | None:
    if collection.building_gen is not None:
        return read_generation(connection, collection.building_gen)
    if collection.standby_gen is None or collection.active_gen is None:
        return None
    return read_generation(connection, max(collection.active_gen, collection.standby_gen))
