"""Opens a migration: what it will take, whether its model may serve, and the shadow index that it begins with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import sqlalchemy as sa

from revector.database.analyzing import analyze_grown
from revector.documents.documents import Documents
from revector.encoders.check import probe_vectors
from revector.errors import SourceError, StateError
from revector.gate import fidelity, shadow_time
from revector.gate.cross_modal import refuse_lone_tower
from revector.gate.evidence import Evidence
from revector.indexing.encoding import Encoders
from revector.indexing.keeping import StoreKeeper
from revector.indexing.mirroring import demand_free
from revector.interfaces import Encoder, Progress
from revector.lifecycle import BUILDING, Outcome
from revector.migration import viewing
from revector.migration.target import Standing
from revector.planning import outcomes
from revector.planning.estimating import Means
from revector.planning.forecast import MigrationPlan
from revector.planning.plan import make_plan, sample_pieces
from revector.registry import moves, sharding
from revector.registry.collections import Generation, read_collection, read_generation
from revector.registry.control import control, take_lease
from revector.spec import Revision
from revector.stores.opening import stores_of

MOST_WINDOW_HOURS = 24 * 365


class Opening:
    """The steps ``plan`` and ``provision`` of one collection; ``actor`` is named in the history.

    ``shards``, ``served_encoder`` and ``shadow_share`` are those of ``MigratorSettings``.
    """

    def __init__(
        self,
        engine: sa.Engine,
        standing: Standing,
        evidence: Evidence,
        encoders: Encoders,
        *,
        cid: int,
        actor: str,
        means: Means,
        shards: int | None,
        served_encoder: str | None,
        shadow_share: float,
        progress: Progress,
    ) -> None:
        self._engine, self._standing, self._evidence, self._encoders = engine, standing, evidence, encoders
        self._cid, self._actor, self._means, self._shards = cid, actor, means, shards
        self._served_encoder, self._shadow_share, self._progress = served_encoder, shadow_share, progress

    def plan(self, find: Callable[[], Revision], *, probe_s: float) -> MigrationPlan:
        """Return what migrating to the revision that ``find`` names would do and need; nothing is changed.

        The encoder is tried on texts of the collection for about ``probe_s`` seconds at most.
        """
        self._progress.start("plan: read the migration files and the labelled queries")
        target = find()
        stores = stores_of(self._engine)
        stores.check_revision(target, answers=True)
        demand_free(self._engine, self._cid, target.index.store)
        self._refuse_unseen(target)
        self._refuse_empty()
        labelled = self._evidence.labelled_queries()
        collection, active = self._standing.collection(), self._active()
        with self._engine.connect() as connection:
            already = outcomes.planned_and_actual(connection, self._cid, target.revision)
        self._progress.start(f"plan: load the model {target.model.name}")
        encoder = self._encoders.fresh(target.model)
        proof = self._proof(target, encoder)
        proof.refuse_similarity()
        refuse_lone_tower(target, active, encoder)
        plan = make_plan(
            self._engine,
            collection,
            active,
            target,
            encoder,
            labelled=labelled,
            beside=self._evidence.queries_beside(),
            means=replace(self._means, probe_s=probe_s),
            progress=self._progress,
        )
        foretold, known = proof.foretell()
        unread = shadow_time.unread(target, collection, share=self._shadow_share)
        risks = (*(said.rstrip(".") for said in self._standing.edited()), *plan.risks, *known)
        return replace(
            plan,
            already=already,
            warnings=(*plan.warnings, *foretold, *unread, *stores.warnings_of(target)),
            risks=risks,
        )

    def keep_plan(self, target: Revision) -> MigrationPlan:
        """Plan, refuse what would fill a disk, and keep the estimates in the history."""
        plan = self.plan(lambda: target, probe_s=self._means.probe_s)
        for disk in plan.disks:
            disk.check()
        outcomes.keep_plan(self._engine, self._cid, self._actor, plan)
        return plan

    def provision(
        self,
        target: Revision,
        generation: Generation | None,
        epoch: int,
        *,
        shards: int | None = None,
        window_hours: float | None = None,
        approval: bool = False,
    ) -> Outcome:
        """Register a generation of ``target`` and turn dual-write on, or find that ``generation`` is it already.

        ``epoch`` is that of when the run began. Raises ``StateError`` for options out of range, what
        ``fidelity.Proof.demand`` and ``moves.register`` raise.
        """
        if generation is not None:
            if approval and not generation.needs_approval and generation.phase in BUILDING:
                raise StateError(
                    f"revision {target.revision} was to wait for approval, but its migration was opened without. "
                    "Nothing was changed; `revector abort` it and begin again, or go on without asking for approval."
                )
            if generation.phase in BUILDING:
                # A run that was killed may have registered it and no more.
                StoreKeeper(self._engine).make_whole(generation)
            return Outcome("provision", target.revision, generation.phase, False, {"generation": generation.gen})
        stores_of(self._engine).check_revision(target, answers=True)
        demand_free(self._engine, self._cid, target.index.store)
        self._refuse_unseen(target)
        self._refuse_empty()
        count, hours = self._parts(target, shards), self._means.window_hours if window_hours is None else window_hours
        if count < 1 or not 0 < hours <= MOST_WINDOW_HOURS:
            raise StateError(
                f"provision takes at least 1 shard and a window of up to {MOST_WINDOW_HOURS:,} hours; found {count} "
                f"and {hours}. Nothing was changed."
            )
        collection = self._standing.collection()
        self._evidence.refuse_unmeasurable(target, collection)
        shadow_time.refuse_unread(target, collection, share=self._shadow_share)
        analyze_grown(self._engine, ("document",))
        return self._register(target, epoch, count, hours, approval=approval)

    def _register(self, target: Revision, epoch: int, shards: int, window_hours: float, *, approval: bool) -> Outcome:
        self._progress.start("provision: load the model and compare it with what its own files say")
        encoder = self._encoders.fresh(target.model)
        refuse_lone_tower(target, self._active(), encoder)
        found = self._proof(target, encoder).demand()
        self._progress.done()
        new = moves.Registration(
            target,
            encoder.fingerprint,
            encoder.components,
            probe_vectors(encoder),
            window_hours,
            approval,
            sharding.plan_ranges(self._engine, self._cid, shards),
            fidelity={} if found is None else found.as_data(),
        )
        token = take_lease(self._engine, self._cid, self._actor)
        with control(self._engine, self._cid, actor=self._actor, token=token) as held:
            if held.collection.epoch != epoch:  # while the encoder loaded, another run may have passed this revision
                self._standing.target(target.revision)
            made = moves.register(held, new)
        StoreKeeper(self._engine).make_whole(made)
        return Outcome(
            "provision",
            target.revision,
            made.phase,
            True,
            {"generation": made.gen, "index": made.physical_name, **({"fidelity": made.fidelity} if found else {})},
        )

    def _parts(self, target: Revision, asked: int | None) -> int:
        if asked is not None or self._shards is not None:
            return asked if asked is not None else self._shards or 0
        with self._engine.connect() as connection:
            return outcomes.shards_for(connection, self._cid, target.revision)

    def _active(self) -> Generation | None:
        with self._engine.connect() as connection:
            gen = read_collection(connection, self._standing.name).active_gen
            return None if gen is None else read_generation(connection, gen)

    def _proof(self, target: Revision, encoder: Encoder) -> fidelity.Proof:
        active = self._active()
        served = encoder.fingerprint in (None if active is None else active.encoder_fp, self._served_encoder)
        return fidelity.Proof(encoder, target, served, lambda: sample_pieces(self._engine, self._cid, target, encoder))

    def _refuse_unseen(self, target: Revision) -> None:
        with self._engine.connect() as connection:
            viewing.check_revision(connection, self._cid, target)

    def _refuse_empty(self) -> None:
        if Documents(self._engine, self._cid).count() == 0:
            raise SourceError(
                f"collection {self._standing.name!r} holds no documents, so there is nothing to migrate. Nothing was "
                "changed; run `revector ingest` first."
            )
