"""Runs the steps of a migration: each is idempotent, resumable after a kill, and fenced against an older run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from revector.errors import IllegalStep, StateError
from revector.gate.draws import NextLabels, read_draws
from revector.gate.evidence import STEP_REEMBEDDED, Evidence
from revector.gate.gate import GateMeasurement
from revector.gate.query_set import QuerySet
from revector.indexing.encoding import Encoders
from revector.interfaces import NoProgress, Progress
from revector.labels.judges.proxying import Candidates
from revector.lifecycle import BUILDING, FORWARD, STEPS, Outcome, Phase, remaining
from revector.migration.back_moves import BackMoves
from revector.migration.leftovers import Leftovers
from revector.migration.opening import Opening
from revector.migration.settings import MigratorSettings
from revector.migration.steps import ForwardSteps
from revector.migration.target import Standing
from revector.planning.estimating import PROBE_S, Means
from revector.planning.forecast import MigrationPlan
from revector.registry import sharding, verdicts
from revector.registry.collections import Generation, ensure_collection, read_generation
from revector.registry.control import Control, control
from revector.revisions import RevisionGraph
from revector.serving.searcher import Searcher
from revector.spec import Revision
from revector.status import Status, read_status


class Migrator:
    """The moves of one collection. Everything it knows is in the database: any process may take over at any point."""

    def __init__(
        self,
        engine: sa.Engine,
        collection: str,
        *,
        settings: MigratorSettings,
        encoders: Encoders,
        actor: str,
        progress: Progress | None = None,
        tell: Callable[[], object] | None = None,
        standing: Standing | None = None,
        evidence: Evidence | None = None,
    ) -> None:
        """``standing`` and ``evidence``: for proofs, others than the migration files and labels of the project."""
        self._engine, self._name, self._settings, self._tell = engine, collection, settings, tell or (lambda: None)
        self._encoders, self._actor, self._progress = encoders, actor, progress or NoProgress()
        with engine.begin() as connection:
            self._cid = ensure_collection(connection, collection).cid
        self._standing = standing or Standing(engine, collection, self._cid, settings.migrations)
        self._leftovers = Leftovers(
            engine,
            self._cid,
            archive=settings.archive,
            archive_days=settings.archive_days,
            drain_s=settings.drain_s,
            actor=actor,
            progress=self._progress,
        )
        self._searcher = Searcher(engine, collection, encoders)
        asked = (engine, self._cid, self._searcher, settings.labels, settings.queries)
        self._evidence = evidence or Evidence(
            *asked, actor=actor, progress=self._progress, pipeline=settings.pipeline, judges=settings.judges
        )
        self._forward = ForwardSteps(
            engine,
            self._standing,
            self._evidence,
            encoders,
            settings=settings,
            cid=self._cid,
            actor=actor,
            progress=self._progress,
        )
        self._catch_up = self._forward.catch_up
        self._back = BackMoves(engine, self._standing, self._leftovers, self._catch_up, cid=self._cid, actor=actor)

    # What users call --------------------------------------------------------------------------------------------------

    def plan(self, revision: str | None = None, *, probe_s: float = PROBE_S) -> MigrationPlan:
        """Return what migrating to ``revision`` (default: the head) would do and need; nothing is changed.

        The encoder is tried on texts of the collection for about ``probe_s`` seconds at most.
        """
        return self._opening.plan(lambda: self._standing.target(revision), probe_s=probe_s)

    def run(self, step: str, revision: str | None = None, *, began: int | None = None, **options: Any) -> Outcome:
        """Run one step; a step that was done before is a success that does nothing.

        Options: ``plan(swaps)``, False where the run ends before the swap; ``provision(shards, window_hours,
        approval)``, ``approve(reason, by)``, ``swap(reason)``,
        ``rollback(reason, force, epoch)``, ``retire(reason, now, epoch)``, ``abort(reason)``. ``began`` and ``epoch``
        are what ``epoch()`` gave when the run began, or when the caller decided: what was moved since is left as it is.
        Raises what the step raises; nothing half-done is left behind. ``tell`` is called at the end, also of a failure.
        """
        try:
            return self._run(step, revision, began=began, **options)
        finally:
            self._tell()

    def _run(self, step: str, revision: str | None, *, began: int | None, **options: Any) -> Outcome:
        if step not in STEPS:
            raise IllegalStep(f"step {step!r} was asked for; steps are {', '.join(STEPS)}. Nothing was changed.")
        if step in ("rollback", "retire", "abort"):
            return self._back.run(step, **options)
        epoch = self.epoch()
        target = self._standing.target(revision)
        generation = self._standing.generation_of(target)
        phase = Phase.NONE if generation is None else generation.phase
        if step == "plan":
            self._back.clear_way(target, generation, swaps=options.get("swaps", True))
            planned = asdict(self._opening.keep_plan(target)) if generation is None else {}
            return Outcome(step, target.revision, phase, False, planned)
        if step == "provision":
            return self._opening.provision(target, generation, epoch, **options)
        if generation is None:
            raise IllegalStep(
                f"step {step} of revision {target.revision}: no generation of it is in a slot. Nothing was changed; "
                "run the step provision first."
            )
        if step == "swap":
            return self._forward.swap(target, generation, epoch if began is None else began, **options)
        if not self._is_due(step, generation, target):
            return Outcome(step, target.revision, phase, False)
        with self._standing.while_there(generation):
            facts = self._forward.building[step](generation, self._forward.take_over(), **options)
        return Outcome(step, target.revision, self._standing.phase(generation), True, facts)

    def _is_due(self, step: str, generation: Generation, target: Revision) -> bool:
        """Whether a forward step is still to do; evidence that aged is due again until the swap."""
        if generation.phase in STEPS[step].needs:
            return True
        if generation.phase not in BUILDING:
            return False
        if step in {left.name for left in remaining(generation.phase)}:
            STEPS[step].check(generation.revision, generation.phase)
        return step in ("verify", "gate") and self._evidence.is_stale(generation, step, target)

    def upgrade(
        self,
        revision: str | None = None,
        *,
        to: str | None = None,
        on_step: Callable[[Outcome], None] | None = None,
        **options: Any,
    ) -> list[Outcome]:
        """Run all forward steps up to and including ``to``; after a kill or an error, calling it again resumes.

        A rollback window that is over is closed first. Raises ``WindowOpen``, before any work, where one is open that
        the swap would meet, and ``ApprovalWanted`` where a person must approve.
        """
        target = self._standing.target(revision).revision
        steps = FORWARD if to is None else FORWARD[: FORWARD.index(to) + 1] if to in FORWARD else None
        if steps is None:
            raise IllegalStep(f"--to {to!r}: the forward steps are {', '.join(FORWARD)}. Nothing was changed.")
        outcomes, began = [], self.epoch()
        given = {"provision": options, "plan": {"swaps": "swap" in steps}}
        for step in steps:
            outcomes.append(self.run(step, target, began=began, **given.get(step, {})))
            if on_step:
                on_step(outcomes[-1])
        return outcomes

    def shards(self, revision: str | None = None) -> list[int]:
        """Return the shards of the open migration that are still to do, in key order."""
        generation = self._standing.generation_of(self._standing.target(revision))
        if generation is None:
            raise StateError(
                "no migration is provisioned for this revision. Nothing was changed; run the step provision first."
            )
        with self._engine.connect() as connection:
            return [shard.shard for shard in sharding.read_shards(connection, generation.gen) if not shard.done]

    def embed_shard(self, revision: str | None, shard: int) -> Outcome:
        """Embed and publish one shard; several may run at once on several machines, and each resumes after a kill."""
        target = self._standing.target(revision)
        generation = self._standing.generation_of(target)
        if generation is None:
            raise StateError(
                f"revision {target.revision} is not provisioned. Nothing was changed; run provision first."
            )
        with self._engine.connect() as connection:
            found = {one.shard: one for one in sharding.read_shards(connection, generation.gen)}
        if shard not in found:
            raise StateError(
                f"shard {shard} of revision {target.revision} was asked for, it has {len(found)} from 0. Nothing was "
                "changed; ask for one of those."
            )
        if found[shard].done or generation.phase != Phase.PROVISIONED:
            return Outcome("backfill", target.revision, generation.phase, False, {"shard": shard})
        report = self._forward.bulk_lane(generation).run(found[shard])
        return Outcome(
            "backfill", target.revision, self._standing.phase(generation), True, {"shard": shard, **asdict(report)}
        )

    def rollback(self, reason: str, *, force: bool = False) -> Outcome:
        """Move the alias back to the standby generation; see ``registry.moves.rollback``."""
        return self.run("rollback", reason=reason, force=force)

    def abort(self, reason: str) -> Outcome:
        """End the open migration before its swap and drop its shadow index."""
        return self.run("abort", reason=reason)

    def approve(self, reason: str, *, by: str | None = None, revision: str | None = None) -> Outcome:
        """Record a person's approval of the open migration."""
        return self.run("approve", revision or self._standing.open_revision(), reason=reason, by=by)

    def override(self, reason: str, *, by: str | None = None) -> Outcome:
        """Let the alias move although the gate did not pass: a named person's decision, kept in the history.

        It holds for the latest result alone and as long as that one; raises ``StateError`` where there is none.
        """
        if not (why := reason.strip()):
            raise StateError("an override needs a reason for the history. Nothing was changed; give one.")
        with self._control(self._forward.take_over()) as held:
            building = held.collection.building_gen
            if building is None:
                raise StateError("no migration is open, so there is no gate to override. Nothing was changed.")
            generation = read_generation(held.connection, building)
            facts = verdicts.override(held, generation, by=by or self._actor, reason=why)
        self._tell()
        return Outcome("gate", generation.revision, self._standing.phase(generation), "already" not in facts, facts)

    def retire(self, reason: str = "window over", *, now: bool = False) -> Outcome:
        """Drop the standby generation: after its window, or ``now``, giving the window up.

        Waits until no query can be in flight on it. Without a standby it finishes interrupted retirements.
        """
        return self.run("retire", reason=reason, now=now)

    def retire_due(self, *, wait: bool = True) -> Outcome:
        """Retire what is past its window, by the database's clock; doing nothing is a success, for schedulers.

        Raises ``ClockJumped`` where only a person may end the window. ``wait``: as in ``retire``; else the next call
        drops what was retired.
        """
        try:
            return self._back.retire_due(wait=wait)
        finally:
            self._tell()

    def epoch(self) -> int:
        """Return the number of moves of the slots so far: a run that begins now remembers it (see ``run``)."""
        return self._standing.collection().epoch

    def base(self) -> str:
        """Return the id of the first revision."""
        return RevisionGraph.from_folder(self._settings.migrations).base.revision

    def edited(self) -> list[str]:
        """Return a sentence for each slot whose migration file was edited since; see ``Standing.edited``."""
        return self._standing.edited()

    def status(self) -> Status:
        """Return where the collection stands; see ``status.read_status``."""
        labels = self._settings.labels
        with self._engine.connect() as connection:
            return read_status(connection, self._name, labels=None if labels is None else labels.name)

    def queries(self) -> QuerySet:
        """Return the labelled queries that can be measured. Raises ``LabelError`` where there are none."""
        return self._evidence.queries()

    def next_labels(self, count: int = 25) -> NextLabels:
        """Draw queries to judge from those that the active and the building generation answer differently.

        Raises ``StateError`` without both of them, else as ``Evidence.next_labels``.
        """
        old, new = self._both()
        return self._evidence.next_labels(new, old, self._standing.target(new.revision).gate, count)

    def proxy_candidates(self) -> tuple[Candidates, dict[str, str]]:
        """Return what a judge is asked about, as ``Evidence.proxy_candidates``; raises as ``next_labels``."""
        old, new = self._both()
        return self._evidence.proxy_candidates(new, old, self._standing.target(new.revision).gate)

    def drawn_labels(self) -> frozenset[str]:
        """Return the queries that were drawn for the migration under way; none where there is none."""
        slots = self._standing.collection()
        if slots.active_gen is None or slots.building_gen is None:
            return frozenset()
        old, new = self._searcher.resolve(slots.active_gen), self._searcher.resolve(slots.building_gen)
        with self._engine.connect() as connection:
            gate = self._standing.target(new.revision).gate
            return frozenset(read_draws(connection, slots.cid, old.revision, new.revision, gate).order)

    def evaluate(
        self, *, generation: int | None = None, k: int = 10, exact: bool = False, queries: QuerySet | None = None
    ) -> GateMeasurement:
        """Measure one live generation (default: the active one) on ``queries`` (default: all that are usable)."""
        return self._evidence.measure(self._searcher.resolve(generation), k, exact=exact, queries=queries)

    # Helpers ----------------------------------------------------------------------------------------------------------

    def _both(self) -> tuple[Generation, Generation]:
        """Return the active and the building generation."""
        slots = self._standing.collection()
        if slots.active_gen is None or slots.building_gen is None:
            raise StateError(
                "queries are judged where the active and the building generation answer differently, and one of "
                "the two does not exist. Nothing was drawn or asked; run `revector upgrade --to index` first."
            )
        return self._searcher.resolve(slots.active_gen), self._searcher.resolve(slots.building_gen)

    @property
    def _opening(self) -> Opening:
        settings = self._settings
        return Opening(
            self._engine,
            self._standing,
            self._evidence,
            self._encoders,
            cid=self._cid,
            actor=self._actor,
            means=Means(
                settings.archive,
                settings.costs,
                settings.providers,
                settings.index_build,
                window_hours=settings.window_hours,
                reembedded=STEP_REEMBEDDED,
            ),
            shards=settings.shards,
            served_encoder=settings.served_encoder,
            shadow_share=settings.shadow_share,
            progress=self._progress,
        )

    def _control(self, token: int) -> AbstractContextManager[Control]:
        return control(self._engine, self._cid, actor=self._actor, token=token)
