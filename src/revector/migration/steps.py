"""Owns what each forward step does to the generation that is being built: from the backfill to the swap."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import sqlalchemy as sa
import tenacity

from revector.crash import crash_at
from revector.errors import ApprovalWanted, EvidenceStale, StateError
from revector.gate import shadow_time
from revector.gate.evidence import Evidence
from revector.indexing.backfill import Backfill
from revector.indexing.encoding import Encoders
from revector.indexing.keeping import StoreKeeper
from revector.indexing.mirroring import follow_if_it_can
from revector.indexing.throttle import Throttle
from revector.indexing.worker import Worker
from revector.interfaces import Progress
from revector.lifecycle import STEPS, Outcome, Phase
from revector.migration.catch_up import CatchUp
from revector.migration.settings import MigratorSettings
from revector.migration.target import Standing
from revector.planning import outcomes
from revector.registry import moves, sharding
from revector.registry.collections import Generation
from revector.registry.control import control, take_lease
from revector.registry.lanes import lane_of
from revector.serving.servers import wait_until_warm
from revector.spec import Revision

MEASURE_ATTEMPTS = 5


class ForwardSteps:
    """The steps of one collection's migrations; each may be killed and run again, and says what it did."""

    def __init__(
        self,
        engine: sa.Engine,
        standing: Standing,
        evidence: Evidence,
        encoders: Encoders,
        *,
        settings: MigratorSettings,
        cid: int,
        actor: str,
        progress: Progress,
    ) -> None:
        self._engine, self._standing, self._encoders = engine, standing, encoders
        self._settings, self._cid, self._actor, self._progress = settings, cid, actor, progress
        self._worker = Worker(engine, encoders)
        self.evidence, self.catch_up = evidence, CatchUp(engine, self._worker)
        self.building: Mapping[str, Callable[..., Mapping[str, object]]] = {
            "backfill": self.backfill,
            "index": self.index,
            "verify": self.verify,
            "gate": self.gate,
            "approve": self.approve,
        }
        """The steps between provisioning and swap, by name."""

    def take_over(self) -> int:
        """Fence off every earlier run and return the token of this one."""
        return take_lease(self._engine, self._cid, self._actor)

    def backfill(self, generation: Generation, token: int) -> Mapping[str, object]:
        """Embed what no shard task has embedded, and end with every document in the index or in the work set."""
        with self._engine.connect() as connection:
            shards = sharding.read_shards(connection, generation.gen)
        StoreKeeper(self._engine).make_whole(generation)
        reports = [self.bulk_lane(generation).run(shard) for shard in shards]
        with self._engine.begin() as connection:
            if not sharding.mark_seeded(connection, generation.gen):
                raise StateError(
                    f"the shards of generation {generation.gen} do not cover every document. The alias was not moved; "
                    "run the step backfill again."
                )
        crash_at("backfill.after_seeded")
        self.catch_up.drain(generation)
        embedded, reused = sum(one.embedded for one in reports), sum(one.reused for one in reports)
        facts = {"shards": len(shards), "embedded": embedded, "reused": reused}
        return self._advance(generation, "backfill", token, **facts, **outcomes.backfilled(self._engine, generation))

    def index(self, generation: Generation, token: int) -> Mapping[str, object]:
        """Build the ANN index over what was loaded."""
        lane = lane_of(generation)
        built = lane.build(self._engine, self._progress, self._settings.index_build)
        lane.analyze(self._engine)
        crash_at("index.after_build")
        return self._advance(generation, "index", token, built=built, **outcomes.indexed(self._engine, generation))

    def verify(self, generation: Generation, token: int) -> Mapping[str, object]:
        """Prove that the index equals the documents; see ``Evidence``."""
        return self.evidence.verify(generation, token)

    def gate(self, generation: Generation, token: int) -> Mapping[str, object]:
        """Measure and judge the generation, after the shadow reads that its revision asks for."""
        target, collection = self._standing.target(generation.revision), self._standing.collection()
        if target.gate.shadow_hours and collection.active_gen is not None:
            shadow_time.wait_out(self._engine, generation, target.gate.shadow_hours, self._progress)
        return self.evidence.gate(generation, target, collection, token)

    def approve(
        self, generation: Generation, token: int, *, reason: str | None = None, by: str | None = None
    ) -> Mapping[str, object]:
        """Record a person's approval where the migration needs one. Raises ``ApprovalWanted`` without a reason."""
        if generation.needs_approval and not (reason or "").strip():
            raise ApprovalWanted(
                f"the migration to revision {generation.revision} waits for a person's approval. The alias was not "
                "moved; look at `revector status`, then run "
                f"`revector approve -c {self._standing.name} --reason …`, or `revector abort`."
            )
        asked_for, by = generation.needs_approval, by or self._actor
        return self._advance(generation, "approve", token, asked_for=asked_for, reason=reason, by=by)

    def swap(self, target: Revision, generation: Generation, began: int, *, reason: str | None = None) -> Outcome:
        """Move the alias; evidence that writes have outdated meanwhile is measured again first."""
        if generation.phase in (Phase.LIVE, Phase.COMPLETED):
            return Outcome("swap", target.revision, generation.phase, False)
        STEPS["swap"].check(target.revision, generation.phase)
        token = self.take_over()
        self._encoders.of(generation)
        lane_of(generation).demand(self._engine)
        wait_until_warm(
            self._engine,
            generation.gen,
            serving=self._standing.collection().active_gen,
            limit_s=self._settings.warm_wait_s,
        )

        def move(allowed_times: int) -> Mapping[str, object]:
            with control(self._engine, self._cid, actor=self._actor, token=token) as held:
                self.catch_up.finish_under_gate(generation)
                return moves.swap(held, generation, began=began, reason=reason, allowed_times=allowed_times)

        # Writers go on while recall is measured. Where so much changes meanwhile that the evidence is old when it is
        # there, twice as many changes are allowed each time that it was measured again, or no swap would ever come.
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(EvidenceStale),
            stop=tenacity.stop_after_attempt(MEASURE_ATTEMPTS),
            reraise=True,
        ):
            with attempt:
                self.evidence.renew(generation, target, self._standing.collection(), token)
                times = 2 ** (attempt.retry_state.attempt_number - 1)
                facts = self.catch_up.then(generation, partial(move, times))
        wrong = follow_if_it_can(self._engine, self._cid)
        facts = {**facts, **({"native_alias": wrong} if wrong else {})}
        return Outcome("swap", target.revision, self._standing.phase(generation), True, facts)

    def _advance(self, generation: Generation, step: str, token: int, **detail: object) -> Mapping[str, object]:
        with control(self._engine, self._cid, actor=self._actor, token=token) as held:
            moves.advance(held, generation.gen, step, **detail)
        return detail

    def bulk_lane(self, generation: Generation) -> Backfill:
        """Return what embeds and publishes shards of a generation."""
        return Backfill(
            self._engine,
            self._worker.applier(generation),
            self._settings.archive,
            self._progress,
            overlap=self._settings.overlap,
            throttle=Throttle(self._engine, generation, self._settings.bars) if self._settings.overlap else None,
        )
