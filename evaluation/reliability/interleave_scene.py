"""Owns one run of the interleavings: a collection of its own, its migrator, what is written there, and its history."""

from __future__ import annotations

import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from evaluation.reliability import judge, observer
from evaluation.reliability.checker import Finding
from evaluation.reliability.history import Recorder
from evaluation.reliability.late import LateStore
from evaluation.reliability.moves_seen import watched_moves
from evaluation.reliability.points import ATTEMPTS, Attempt, attempts_held, lose
from evaluation.reliability.stepping import Stage, current
from evaluation.reliability.traffic import Writes, recorded, text_of, token_of
from evaluation.reliability.truth import Truth

from revector.documents.documents import Documents
from revector.encoders.check import probe_vectors
from revector.encoders.loading import load_encoder
from revector.gate.evidence import Evidence
from revector.gate.figures import Value
from revector.gate.gate import GateVerdict
from revector.indexing.chunking import make_chunker
from revector.indexing.encoding import Encoders
from revector.indexing.keeping import StoreKeeper
from revector.indexing.worker import Worker
from revector.interfaces import Chunker, NoProgress
from revector.lifecycle import Outcome
from revector.migration.migrator import Migrator
from revector.migration.settings import MigratorSettings
from revector.migration.target import Standing
from revector.registry import moves, sharding, verdicts, work
from revector.registry.collections import Collection, Generation, ensure_collection
from revector.registry.control import control, take_lease
from revector.serving.searcher import Searcher
from revector.spec import PGVECTOR, Chunking, IndexSpec, ModelSpec, Revision
from revector.stores.memory import MemoryIndex

MOST_WORDS = 22
MODELS = 3
WINDOWS_HOURS = (48.0, 48.0, 48.0, 1e-9)
"""Mostly the usual window; one of a few microseconds is over by the next statement."""

OPENINGS = ((0, ""), (1, ""), (1, "provisioned"), (1, "approved"), (2, ""))
"""Generations that are live, and how far the next one is; with two, the first is on standby."""

_ALL = sharding.Range("", None, 0)
_noted = threading.local()


@cache
def revision(number: int, *, stored: bool = False) -> Revision:
    """Return the ``number``-th migration; ``stored``: two of three have their index in the store.

    Neighbours differ in model and chunks, never in width: no mix-up of theirs is an error of the database.
    """
    model = ModelSpec(f"hashing:seed{1 + number % MODELS}", dim=8)
    chunking = Chunking("tokens", max_tokens=8 + 4 * (number % 2), overlap_tokens=0)
    index = IndexSpec("hnsw") if number % MODELS == 2 else IndexSpec("exact", store="late" if stored else PGVECTOR)
    return Revision(f"r{number:03d}", f"r{number - 1:03d}", model, chunking, index)


class SharedEncoders(Encoders):
    """Encoders of all runs of a process, and their chunkers."""

    def __init__(self) -> None:
        super().__init__(lambda model: load_encoder(model, root=Path()))
        self._chunkers: dict[Chunking, Chunker] = {}

    def chunker_of(self, generation: Generation) -> Chunker:
        """Return the chunker of a generation; the hashing encoders share one tokenizer."""
        chunking = generation.spec.chunking
        if chunking not in self._chunkers:
            self._chunkers[chunking] = make_chunker(chunking, self.fresh(generation.spec.model).tokenizer)
        return self._chunkers[chunking]


class Unlabelled(Evidence):
    """The real evidence, but for the recall, which always passes: there are no labelled queries."""

    def refuse_unmeasurable(self, target: Revision, collection: Collection) -> None:
        """Refuse nothing."""

    def _compare(self, target: Revision, _generation: Generation, active_gen: int | None) -> GateVerdict:
        return GateVerdict(Value.PASS, (), {"gate": asdict(target.gate), "judged_against": active_gen})


class Unfiled(Standing):
    """The real standing, but for the migration files: a revision is made from its number."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene.engine, scene.name, scene.cid, Path())
        self._scene = scene

    def target(self, revision_id: str | None) -> Revision:
        """Return it, however often."""
        return self._scene.revision(int((revision_id or "r000")[1:]))


class TinyMigrator(Migrator):
    """The real migrator; only migration files and labelled queries are replaced."""

    def __init__(self, scene: Scene, actor: str) -> None:
        settings = MigratorSettings(
            Path(), scene.folder, window_hours=scene.window_hours, shards=2, drain_s=0.0, overlap=False
        )
        searcher = Searcher(scene.engine, scene.name, scene.encoders)
        super().__init__(
            scene.engine,
            scene.name,
            settings=settings,
            encoders=scene.encoders,
            actor=actor,
            standing=Unfiled(scene),
            evidence=Unlabelled(scene.engine, scene.cid, searcher, None, actor=actor, progress=NoProgress()),
        )


class Scene:
    """What the actors of one run share. ``puts``: document → tokens ever put."""

    def __init__(
        self, stage: Stage, seed: int, folder: Path, encoders: SharedEncoders, store: LateStore | None = None
    ) -> None:
        self.store = store
        self.near: dict[str, dict[int, set[str]]] = {}
        """By session: what could be found, by generation, when it last asked the store."""
        self.asking: set[str] = set()
        """Sessions with a query under way."""
        self.lost = False
        """Whether the store has lost points."""
        if store is not None:
            store.restart(seed)
            store.at = self._at_store
        self.stage, self.seed, self.folder, self.encoders = stage, seed, folder, encoders
        self.engine, self.name = stage.engine, f"c{seed}_{uuid.uuid4().hex[:6]}"
        self.random = random.Random(f"scene {seed}")
        self.recorder = Recorder(lambda: float(stage.steps))
        self.puts: dict[str, list[str]] = {}
        others = [own(revision(number).revision) for number in range(MODELS)]
        self.judge = judge.Judge(
            own, self.text, lambda doc_id, _: self.puts.get(doc_id, ())[::-1], others, rows=self._rows
        )
        self.counts: Counter[str] = Counter()
        self.findings: list[Finding] = []
        self.building: str | None = None
        self.over = False
        self.window_hours = self.random.choice(WINDOWS_HOURS)
        self.ids = [f"d{n}" for n in range(self.random.randint(3, 8))]
        with self.engine.begin() as connection:
            self.cid = ensure_collection(connection, self.name).cid

    def found(self, promise: str, detail: str) -> None:
        """Note a broken promise."""
        self.findings.append(Finding(promise, detail))

    def slots(self) -> tuple[Collection, dict[int, Generation]]:
        """Return the collection and its live generations, as they are now."""
        return observer.slots(self.engine, self.name)

    # The store --------------------------------------------------------------------------------------------------------

    def revision(self, number: int) -> Revision:
        """Return the ``number``-th migration of this scene."""
        return revision(number, stored=self.store is not None)

    def stored(self) -> dict[int, tuple[Generation, MemoryIndex]]:
        """Return the live generations in the store, each with its index past the network."""
        if self.store is None:
            return {}
        return {
            gen: (one, self.store.inner.open(one.physical_name, one.spec.model.dim, one.spec.index))
            for gen, one in self.slots()[1].items()
            if one.spec.index.store != PGVECTOR
        }

    def attempts(self, gen: int) -> list[Attempt]:
        """Return the intents of a generation."""
        return [Attempt(*row) for row in observer.rows(self.engine, f"{ATTEMPTS}{gen}")]

    def lose(self, index: MemoryIndex, attempts: Sequence[Attempt], chance: random.Random) -> None:
        """Have the store lose points that it had acknowledged, and what is under way to it."""
        assert self.store is not None
        self.store.cut()
        lose(index, attempts, chance)
        self.lost = True
        self.counts["losses"] += 1

    def _at_store(self, name: str) -> None:
        """Stand before a request; before a search, note what it can find."""
        if (actor := current()) is None:
            return
        actor.stand(f"store {name}")
        if name == "near":
            with actor.at_once():
                self.near[actor.name] = {
                    gen: {
                        one.doc_id
                        for one, held in attempts_held(index, self.attempts(gen))
                        if one.shown and len(held) == one.n_chunks
                    }
                    for gen, (_, index) in self.stored().items()
                }

    def _rows(self, connection: sa.Connection, name: str) -> Mapping[str, Sequence[judge.Row]]:
        for gen, (generation, index) in self.stored().items():
            if generation.physical_name == name:
                return {one.doc_id: held for one, held in attempts_held(index, self.attempts(gen)) if one.shown}
        return judge.read_rows(connection, name)

    # Writes -----------------------------------------------------------------------------------------------------------

    def text(self, token: str) -> str:
        """Return the text of a put."""
        return text_of(token, MOST_WORDS)

    def put(self, *doc_ids: str) -> dict[str, str | None]:
        """Return new contents for documents."""
        for doc_id in doc_ids:
            made = self.puts.setdefault(doc_id, [])
            made.append(token_of(doc_id, self.seed, len(made)))
        return {doc_id: self.puts[doc_id][-1] for doc_id in doc_ids}

    @contextmanager
    def writing(self, process: str, writes: Writes) -> Iterator[dict[str, int]]:
        """Record writes of documents; the block fills in the versions that it was told."""
        done = False
        with recorded(self.recorder, process, writes, survives=()) as told:
            yield told
            done = True
        self.counts["writes" if done else "refused writes"] += len(writes) if done else 1

    # Moves ------------------------------------------------------------------------------------------------------------

    def move(self, op: str, process: str, run: Callable[[], Outcome]) -> Outcome:
        """Run a move of the alias or the slots, and record it with what its own transaction saw."""
        call = self.recorder.invoke(op, process)
        _noted.facts = None
        try:
            outcome = run()
        except BaseException:
            # Once the move itself has been made, what follows it may fail before or after the commit.
            (self.recorder.fail if _noted.facts is None else self.recorder.info)(call, op, process)
            raise
        facts = _noted.facts if outcome.changed else None
        if facts is None:
            self.recorder.fail(call, op, process)
            return outcome
        self.recorder.ok(call, op, process, **facts)
        self.counts[op] += 1
        if facts["detail"]["taken_over"]:
            self.found("swap history", f"{op} of generation {facts['gen']} by a run that had been taken over")
        if op == "rollback" and facts["detail"]["waiting"] > facts["detail"]["waived"]:
            self.found("went back", f"rollback to generation {facts['gen']} while {facts['detail']['waiting']} waited")
        return outcome

    def forward(self, migrator: Migrator, process: str, step: str, target: str) -> Outcome:
        """Run one forward step of a migration."""
        op = {"provision": "register", "swap": "swap"}.get(step)
        if op is None:
            return migrator.run(step, target)
        return self.move(op, process, lambda: migrator.run(step, target))

    def open(self) -> None:
        """Bring the collection to where the actors meet it."""
        for doc_id in self.random.sample(self.ids, self.random.randint(2, len(self.ids))):
            writes = self.put(doc_id)
            with self.writing("opening", writes) as told:
                told.update(self.documents().put(doc_id, self.text(str(writes[doc_id]))).versions)
        live, then = self.random.choices(OPENINGS, (1, 3, 3, 4, 4))[0]
        with self.calm():
            for number in range(live):
                self._build(self.revision(number), "live")
            if then:
                self.building = self._build(self.revision(live), then).revision

    @contextmanager
    def calm(self) -> Iterator[None]:
        """Let every request to the store arrive at once."""
        if self.store is not None:
            self.store.calm = True
        yield
        if self.store is not None:
            self.store.calm = False

    def _build(self, spec: Revision, upto: str) -> Generation:
        """Build a generation by the library's own moves, without what makes them safe among others: nobody is here."""
        swap = upto == "live"
        encoder = self.encoders.fresh(spec.model)
        new = moves.Registration(
            spec, encoder.fingerprint, encoder.components, probe_vectors(encoder), self.window_hours, False, [_ALL]
        )
        token = take_lease(self.engine, self.cid, "opening")
        call = self.recorder.invoke("register", "opening")
        with control(self.engine, self.cid, actor="opening", token=token) as held:
            made = moves.register(held, new)
            facts = _noted.facts
        self.recorder.ok(call, "register", "opening", **facts)
        StoreKeeper(self.engine).look(made)
        if upto == "provisioned":
            return made
        [shard] = _shards(self.engine, made.gen)
        while not sharding.seed_page(self.engine, self.cid, shard):
            pass
        worker = Worker(self.engine, self.encoders)
        for generation, _ in worker._live([self.name]):
            worker.apply_some(generation, lanes=("live", "bulk"))
        if swap:
            call = self.recorder.invoke("swap", "opening")
        with control(self.engine, self.cid, actor="opening", token=token) as held:
            sharding.mark_shard_done(held.connection, shard)
            sharding.mark_seeded(held.connection, made.gen)
            seen = verdicts.ChangesSeen(work.newest_version(held.connection), len(self.ids))
            for kind in ("verify", "recall"):
                verdicts.save_result(held, made, kind, verdict="pass", detail={"gate": asdict(spec.gate)}, seen=seen)
            for step in ("backfill", "index", "verify", "gate", "approve"):
                moves.advance(held, made.gen, step)
            if swap:
                moves.swap(held, made)
                facts = _noted.facts
        if swap:
            self.recorder.ok(call, "swap", "opening", **facts)
        return made

    def documents(self) -> Documents:
        """Return the write path."""
        return Documents(self.engine, self.cid)


def _shards(engine: sa.Engine, gen: int) -> list[sharding.Shard]:
    with engine.connect() as connection:
        return sharding.read_shards(connection, gen)


def own(revision_id: str) -> Truth:
    """Return what a revision must make of texts."""
    return Truth.of(revision(int(revision_id[1:])))


@contextmanager
def noted_moves() -> Iterator[None]:
    """Note what each move finds in its own transaction, for ``Scene.move``."""

    def note(facts: dict[str, Any]) -> None:
        del facts["op"]
        _noted.facts = facts

    with watched_moves(note, quiet=_quiet):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    actor = current()
    if actor is None:
        yield
    else:
        with actor.at_once():
            yield
