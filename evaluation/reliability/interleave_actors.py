"""Owns the actors of the interleavings: writers, workers, shards, controllers, queries, all on the library's code."""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from evaluation.reliability.interleave_judged import AGE, answered
from evaluation.reliability.interleave_scene import Scene
from evaluation.reliability.observer import rows
from evaluation.reliability.site import name_of
from evaluation.reliability.stepping import current
from evaluation.reliability.traffic import NotDone, Writes, do, token_in

from revector.errors import (
    ArchiveError,
    GateBusy,
    GenerationGone,
    IndexGone,
    SourceError,
    StateError,
    StoreUnavailable,
    VerificationFailed,
)
from revector.indexing.keeping import StoreKeeper
from revector.indexing.worker import Worker
from revector.lifecycle import BUILDING, Phase, remaining
from revector.migration.migrator import Migrator
from revector.registry.collections import Collection, Generation
from revector.serving.searcher import Searcher

STORE_ERRORS = StoreUnavailable, IndexGone
REFUSALS = (StateError, GateBusy, SourceError, ArchiveError, *STORE_ERRORS)
"""What a controller may be told; everything else that ends an actor is a finding.

An ``ArchiveError`` where the folder of parts went with its generation.
"""

ISOLATION = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
REPEAT = ("40001", "40P01")
FOREIGN_ATTEMPTS = 6


@dataclass
class Role(ABC):
    """What an actor does, by its own random numbers, so that its choices do not depend on when it is chosen."""

    scene: Scene
    name: str

    def __post_init__(self) -> None:
        self.random = random.Random(f"{self.scene.seed} {self.name}")

    @abstractmethod
    def __call__(self) -> None:
        """Run; called again after a kill, it goes on as a new process would."""

    def wait_for(self, needs: Callable[[], bool]) -> None:
        """Wait for something outside the database, or for the end of the run."""
        actor = current()
        assert actor is not None
        actor.needs = lambda: needs() or self.scene.over
        actor.stand("waits")
        actor.needs = None

    def pause(self, *sleeps: int) -> None:
        """Let some time pass, so that writes and questions spread over the run."""
        for _ in range(self.random.choice(sleeps or (0, 0, 1, 3, 6))):
            time.sleep(1.0)


class Writer(Role):
    """Puts, shrinks, deletes and re-creates documents through the library, one at a time or several."""

    def __call__(self) -> None:
        """Do two to four writes."""
        documents = self.scene.documents()
        for _ in range(self.random.randint(2, 4)):
            self.pause()
            what = self.random.choices(("put", "many", "delete", "delete many", "meta"), (6, 3, 3, 1, 2))[0]
            ids = self.random.sample(self.scene.ids, self.random.randint(2, 3) if "many" in what else 1)
            if what == "meta":
                self._change_metadata(documents, ids[0])
            else:
                writes = dict.fromkeys(ids) if what.startswith("delete") else self.scene.put(*ids)
                with self.scene.writing(self.name, writes) as told:
                    told.update(do(documents, writes, self.scene.text))

    def _change_metadata(self, documents: Any, doc_id: str) -> None:
        stored = documents.get(doc_id)
        if stored is not None:
            token = token_in(stored.text)
            with self.scene.writing(self.name, {doc_id: token}) as told:
                told.update(documents.put(doc_id, stored.text, {"n": self.random.random()}).versions)


class ForeignWriter(Role):
    """Writes to the table by SQL of its own, at any isolation level; repeats what PostgreSQL asks to repeat."""

    def __call__(self) -> None:
        """Do two or three transactions of one or two writes, in any order of documents."""
        isolation = self.random.choice(ISOLATION)
        for _ in range(self.random.randint(2, 3)):
            self.pause()
            writes: dict[str, str | None] = {}
            for doc_id in self.random.sample(self.scene.ids, self.random.randint(1, 2)):
                writes |= {doc_id: None} if self.random.random() < 0.3 else self.scene.put(doc_id)
            by_update = self.random.random() < 0.5
            with self.scene.writing(self.name, writes) as told:
                for _ in range(FOREIGN_ATTEMPTS):
                    try:
                        told.update(self._transaction(isolation, writes, by_update=by_update))
                        break
                    except sa.exc.DBAPIError as error:
                        if getattr(error.orig, "sqlstate", None) not in REPEAT:
                            raise
                        self.scene.counts["transactions that PostgreSQL asked to repeat"] += 1
                else:
                    raise NotDone

    def _transaction(self, isolation: str, writes: Writes, *, by_update: bool) -> dict[str, int]:
        told: dict[str, int] = {}
        with self.scene.engine.connect().execution_options(isolation_level=isolation) as connection, connection.begin():
            if self.random.random() < 0.6:  # from here on it has a snapshot
                connection.execute(sa.text("SELECT count(*) FROM document WHERE cid = :cid"), {"cid": self.scene.cid})
                self.pause(0, 2, 8, 16)
            for doc_id, token in writes.items():
                values = {
                    "cid": self.scene.cid,
                    "id": doc_id,
                    "text": token and self.scene.text(token),
                }
                statement = _DELETE if token is None else _UPDATE if by_update else _INSERT
                version = connection.scalar(sa.text(statement), values)
                if version is not None:
                    told[doc_id] = version
            if self.random.random() < 0.3:
                self.pause()
        return told


_DELETE = "UPDATE document SET deleted = true WHERE cid = :cid AND doc_id = :id AND NOT deleted RETURNING version"
_UPDATE = "UPDATE document SET deleted = false, content = :text WHERE cid = :cid AND doc_id = :id RETURNING version"
_INSERT = (
    "INSERT INTO document (cid, doc_id, content) VALUES (:cid, :id, :text) ON CONFLICT (cid, doc_id) DO UPDATE SET "
    "deleted = false, content = EXCLUDED.content RETURNING version"
)


class Applying(Role):
    """A worker: claims and applies a few documents at a time."""

    def __call__(self) -> None:
        """Work for a few rounds, and for as long as anybody writes or moves."""
        worker = Worker(self.scene.engine, self.scene.encoders)
        for _ in range(self.random.randint(3, 6)):
            if self.scene.over:
                return
            if self.random.random() < 0.3:
                worker.drain(collections=[self.scene.name])
            else:
                for generation, _ in worker._live([self.scene.name]):
                    try:
                        worker.apply_some(generation, rows=self.random.randint(1, 3))
                    except GenerationGone:
                        self.scene.counts["results of ended generations dropped"] += 1
                    except STORE_ERRORS:
                        self.scene.counts["batches that a store kept from being shown"] += 1
            time.sleep(0.2)


class Sharding(Role):
    """A task of the bulk lane; two of them may be at one shard."""

    def __call__(self) -> None:
        """Take a shard of what is being built."""
        self.wait_for(lambda: self.scene.building is not None)
        target = self.scene.building
        if target is None or self.scene.over:
            return
        migrator = self.scene.migrator(self.name)
        try:
            left = migrator.shards(target)
            if left:
                migrator.embed_shard(target, left[0])
                self.scene.counts["shards run"] += 1
        except REFUSALS:
            self.scene.counts["refused moves"] += 1


class Controller(Role):
    """Moves the collection on, by what it saw a moment ago; a second one makes either of them a zombie."""

    def __call__(self) -> None:
        """Do a few steps of migrations, rollbacks and retirements."""
        migrator = self.scene.migrator(self.name)
        for _ in range(self.random.randint(2, 4)):
            if self.scene.over:
                return
            collection, live = self.scene.slots()
            try:
                self._move(migrator, collection, live)
            except REFUSALS as error:
                self.scene.counts["refused moves"] += 1
                self.scene.counts[f"refused: {type(error).__name__}"] += 1
                time.sleep(1.0)
            except VerificationFailed:
                if not self.scene.lost:
                    raise

    def _move(self, migrator: Migrator, collection: Collection, live: dict[int, Generation]) -> None:
        building = live.get(collection.building_gen or -1)
        chance = self.random.random()
        if building is not None and building.phase in BUILDING and not (collection.standby_gen and chance < 0.6):
            if chance > 0.95:
                self.scene.move("abort", self.name, lambda: migrator.abort("chaos"))
                return
            step = remaining(building.phase)[0].name
            self.scene.building = building.revision
            self.scene.forward(migrator, self.name, step, building.revision)
        elif collection.standby_gen is not None:
            self._move_back_and_forth(migrator, live[collection.standby_gen], chance / 0.6 if building else chance)
        else:
            numbers = [int(generation.revision[1:]) for generation in live.values()]
            target = name_of(max(numbers, default=-1) + 1)
            self.scene.forward(migrator, self.name, "provision", target)
            self.scene.building = target

    def _move_back_and_forth(self, migrator: Migrator, standby: Generation, chance: float) -> None:
        if chance < 0.25:
            now = self.scene.window_hours > 1
            self.scene.move("retire", self.name, lambda: migrator.retire("chaos", now=now))
        elif chance < 0.3:
            self.scene.move("retire", self.name, migrator.retire_due)
        elif standby.phase == Phase.ROLLED_BACK:
            self.scene.forward(migrator, self.name, "swap", standby.revision)
        else:
            self.scene.move("rollback", self.name, lambda: migrator.rollback("chaos"))


class Asking(Role):
    """A session that asks a few questions."""

    def __call__(self) -> None:
        """Ask, and have every answer judged in the step in which it was given."""
        searcher = Searcher(self.scene.engine, self.scene.name, self.scene.encoders)
        actor = current()
        assert actor is not None
        for _ in range(self.random.randint(2, 5)):
            self.pause()
            question, by = (
                f"q{self.random.randrange(1000)} q{self.random.randrange(1000)}",
                self.random.choice(("document", "chunk")),
            )
            call = self.scene.recorder.invoke("query", self.name)
            self.scene.asking.add(self.name)
            self.scene.near.pop(self.name, None)
            try:
                answer = searcher.search(question, 100, by=by)
            except (StateError, *STORE_ERRORS):
                self.scene.recorder.fail(call, "query", self.name)
                self.scene.counts["queries refused"] += 1
                continue
            finally:
                self.scene.asking.discard(self.name)
            with actor.at_once():
                answered(self.scene, call, self.name, question, answer, by=by)


class Keeping(Role):
    """Looks after the store: removes garbage, and has made again what the store now and then loses."""

    def __call__(self) -> None:
        """Look a few times at every live index there."""
        actor = current()
        assert actor is not None
        for _ in range(self.random.randint(3, 6)):
            time.sleep(1.0)
            if self.scene.over:
                return
            for gen, (generation, index) in self.scene.stored().items():
                with actor.at_once():
                    if self.random.random() < 0.08 and (attempts := self.scene.attempts(gen)):
                        self.scene.lose(index, attempts, self.random)
                try:
                    StoreKeeper(self.scene.engine).look(generation)
                except REFUSALS:
                    self.scene.counts["looks of a keeper that failed"] += 1


class Time(Role):
    """Lets leases and pauses after failures end, as an hour would; and a day pass for a store, where no query runs."""

    def __call__(self) -> None:
        """Do so now and then."""
        for _ in range(self.random.randint(1, 3)):
            time.sleep(1.0)
            if self.scene.over:
                return
            rows(self.scene.engine, _EXPIRE, cid=self.scene.cid)
            if self.scene.store is not None and not self.scene.asking:
                rows(self.scene.engine, AGE.format(""), cid=self.scene.cid)


_EXPIRE = """
UPDATE pending p SET lease_until = NULL, due_at = clock_timestamp() FROM (
  SELECT gen, doc_id FROM pending JOIN generation g USING (gen) WHERE g.cid = :cid AND lease_until IS NOT NULL
  FOR UPDATE OF pending SKIP LOCKED) l WHERE (p.gen, p.doc_id) = (l.gen, l.doc_id)
"""


def cast(scene: Scene) -> list[Role]:
    """Return the actors of a run: eight to eleven."""
    draw = scene.random
    roles: list[Role] = [Writer(scene, f"writer{n}") for n in range(2)]
    roles += [ForeignWriter(scene, f"foreign{n}") for n in range(draw.randint(1, 2))]
    roles += [Applying(scene, f"worker{n}") for n in range(2)]
    roles += [Controller(scene, f"controller{n}") for n in range(draw.choice((1, 2, 2)))]
    roles += [Sharding(scene, f"shard{n}") for n in range(draw.choice((0, 0, 2)))]
    roles += [Asking(scene, f"session{n}") for n in range(draw.randint(1, 2))]
    if scene.store is not None:
        roles += [Keeping(scene, f"keeper{n}") for n in range(draw.choice((1, 2)))]
    return [*roles, Time(scene, "time")]
