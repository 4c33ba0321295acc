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
from evaluation.reliability.checker import Finding
from evaluation.reliability.history import Recorder
from evaluation.reliability.stepping import Stage, current
from evaluation.reliability.truth import Truth

from revector.documents.documents import Documents
from revector.encoders.check import probe_vectors
from revector.encoders.loading import load_encoder
from revector.gate.evidence import Evidence
from revector.gate.gate import GateVerdict
from revector.indexing.chunking import make_chunker
from revector.indexing.encoding import Encoders
from revector.indexing.worker import Worker
from revector.interfaces import Chunk, Chunker, NoProgress, Vectors
from revector.lifecycle import Outcome
from revector.migration.migrator import Migrator
from revector.migration.settings import MigratorSettings
from revector.migration.target import Standing
from revector.registry import moves, sharding, verdicts, work
from revector.registry.collections import Collection, Generation, ensure_collection, read_collection, read_generation
from revector.registry.control import Control, control, take_lease
from revector.serving.searcher import Searcher
from revector.spec import Chunking, IndexSpec, ModelSpec, Revision

MODELS = 3
WINDOWS_HOURS = (48.0, 48.0, 48.0, 1e-9)
"""Mostly the usual window; one of a few microseconds is over by the next statement."""

OPENINGS = ((0, ""), (1, ""), (1, "provisioned"), (1, "approved"), (2, ""))
"""Generations that are live, and how far the next one is; with two, the first is on standby."""

_ALL = sharding.Range("", None, 0)
_noted = threading.local()


@cache
def revision(number: int) -> Revision:
    """Return the ``number``-th migration.

    Neighbours differ in model and chunks, never in width: no mix-up of theirs is an error of the database.
    """
    model = ModelSpec(f"hashing:seed{1 + number % MODELS}", dim=8)
    chunking = Chunking("tokens", max_tokens=8 + 4 * (number % 2), overlap_tokens=0)
    index = IndexSpec("hnsw" if number % MODELS == 2 else "exact")
    return Revision(f"r{number:03d}", f"r{number - 1:03d}", model, chunking, index)


class SharedEncoders(Encoders):
    """Encoders of all runs of a process, with chunkers and what they gave: runs write the same few hundred texts."""

    def __init__(self) -> None:
        super().__init__(lambda model: load_encoder(model, root=Path()))
        self._chunkers: dict[Chunking, Chunker] = {}
        self._chunks: dict[tuple[Chunking, str], list[Chunk]] = {}
        self._vectors: dict[tuple[ModelSpec, Chunking, str], Vectors] = {}

    def chunker_of(self, generation: Generation) -> Chunker:
        """Return the chunker of a generation; the hashing encoders share one tokenizer."""
        chunking = generation.spec.chunking
        if chunking not in self._chunkers:
            self._chunkers[chunking] = make_chunker(chunking, self.fresh(generation.spec.model).tokenizer)
        return self._chunkers[chunking]

    def chunks(self, spec: Revision, text: str) -> list[Chunk]:
        """Cut a text as a revision must, worked out without the library."""
        key = spec.chunking, text
        if key not in self._chunks:
            self._chunks[key] = Truth.of(spec).chunks(text)
        return self._chunks[key]

    def vectors(self, spec: Revision, text: str) -> Vectors:
        """Embed the chunks of a text as a revision must: float32 ``(chunks, 8)``."""
        key = spec.model, spec.chunking, text
        if key not in self._vectors:
            self._vectors[key] = Truth.of(spec).vectors([chunk.text for chunk in self.chunks(spec, text)])
        return self._vectors[key]


class Unlabelled(Evidence):
    """The real evidence, but for the recall, which always passes: there are no labelled queries."""

    def refuse_unmeasurable(self, target: Revision, collection: Collection) -> None:
        """Refuse nothing."""

    def _compare(self, target: Revision, _generation: Generation, active_gen: int | None) -> GateVerdict:
        return GateVerdict("pass", (), {"gate": asdict(target.gate), "old": active_gen})


class Unfiled(Standing):
    """The real standing, but for the migration files: a revision is made from its number."""

    def target(self, revision_id: str | None) -> Revision:
        """Return it, however often."""
        return revision(int((revision_id or "r000")[1:]))


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
            standing=Unfiled(scene.engine, scene.name, scene.cid, Path()),
            evidence=Unlabelled(scene.engine, scene.cid, searcher, None, actor=actor, progress=NoProgress()),
        )


class Scene:
    """What the actors of one run share. ``texts``: content token → text; ``puts``: document → tokens ever put."""

    def __init__(self, stage: Stage, seed: int, folder: Path, encoders: SharedEncoders) -> None:
        self.stage, self.seed, self.folder, self.encoders = stage, seed, folder, encoders
        self.engine, self.name = stage.engine, f"c{seed}_{uuid.uuid4().hex[:6]}"
        self.random = random.Random(f"scene {seed}")  # noqa: S311 - a simulation
        self.recorder = Recorder(lambda: float(stage.steps))
        self.texts: dict[str, str] = {}
        self.puts: dict[str, list[str]] = {}
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
        with self.engine.connect() as connection:
            collection = read_collection(connection, self.name)
            return collection, {gen: read_generation(connection, gen) for gen in collection.live}

    # Writes -----------------------------------------------------------------------------------------------------------

    def content(self, doc_id: str, words: int) -> tuple[str, str]:
        """Make a content that no other put has, every word of which names it; return its token and text."""
        token = f"t{len(self.texts)}"
        self.texts[token] = " ".join(f"{token}x{n}" for n in range(words))
        self.puts.setdefault(doc_id, []).append(token)
        return token, self.texts[token]

    @contextmanager
    def writing(self, process: str, writes: Mapping[str, str | None]) -> Iterator[dict[str, int]]:
        """Record writes of documents (None: a delete); the block fills in the versions that it was told."""
        calls = {doc_id: ("delete" if token is None else "put", token) for doc_id, token in writes.items()}
        begun = {
            doc_id: self.recorder.invoke(op, process, doc_id=doc_id, content=token)
            for doc_id, (op, token) in calls.items()
        }
        versions: dict[str, int] = {}
        try:
            yield versions
        except BaseException as error:
            end = self.recorder.fail if isinstance(error, GaveUp) else self.recorder.info
            for doc_id, call in begun.items():
                end(call, calls[doc_id][0], process, doc_id=doc_id)
            if isinstance(error, GaveUp):
                self.counts["refused writes"] += 1
                return
            raise
        self.counts["writes"] += len(writes)
        for doc_id, call in begun.items():
            self.recorder.ok(call, calls[doc_id][0], process, doc_id=doc_id, version=versions.get(doc_id))

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
            token, text = self.content(doc_id, self.random.randint(2, 20))
            with self.writing("opening", {doc_id: token}) as told:
                told.update(self.documents().put(doc_id, text).versions)
        live, then = self.random.choices(OPENINGS, (1, 3, 3, 4, 4))[0]
        for number in range(live):
            self._build(revision(number), "live")
        if then:
            self.building = self._build(revision(live), then).revision

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


class GaveUp(Exception):
    """A foreign writer was told to repeat its transaction too often: it did nothing."""


# What a move saw ------------------------------------------------------------------------------------------------------

_WAITING = """
SELECT count(*) AS waiting, count(w.gen) AS waived
FROM pending p LEFT JOIN waiver w ON (w.gen, w.doc_id, w.version) = (p.gen, p.doc_id, p.version) WHERE p.gen = :gen
"""
_PROVED = """
SELECT coalesce((SELECT passed FROM gate_result WHERE gen = :gen AND kind = 'verify' ORDER BY id DESC LIMIT 1), false)
  AS verified,
  coalesce((SELECT passed FROM gate_result WHERE gen = :gen AND kind = 'recall' ORDER BY id DESC LIMIT 1), false)
  AS recalled
"""


def _before(control: Control, gen: int | None) -> dict[str, Any]:
    collection = control.collection
    proved = control.connection.execute(sa.text(_PROVED), {"gen": gen}).one()
    over = control.scalar(
        "SELECT clock_timestamp() >= rollback_deadline FROM collection WHERE cid = :cid", cid=collection.cid
    )
    return {
        "old": collection.active_gen,
        "verified": proved.verified,
        "recalled": proved.recalled,
        "forced": False,
        "taken_over": control.token is not None
        and control.token != control.scalar("SELECT token FROM lease WHERE cid = :cid", cid=collection.cid),
        "deadline_passed": bool(over),
    }


def _gen_of(name: str, control: Control, arguments: Sequence[Any]) -> int | None:
    if name == "swap":
        return int(arguments[0].gen)
    return control.collection.building_gen if name == "abort" else control.collection.standby_gen


@contextmanager
def watched_moves() -> Iterator[None]:
    """Note what each move finds in its own transaction, by SQL of ours, whatever the move itself tests."""
    names = ("register", "swap", "rollback", "retire", "abort")
    originals = {name: getattr(moves, name) for name in names}

    def watched(name: str) -> Callable[..., Any]:
        def run(control: Control, *arguments: Any, **options: Any) -> Any:
            with _quiet():
                gen = _gen_of(name, control, arguments)
                seen = _before(control, gen) | {"given_up": bool(options.get("now"))}
            made = originals[name](control, *arguments, **options)
            # After it: workers go on under the gate, but nothing can be added there.
            with _quiet():
                seen |= control.connection.execute(sa.text(_WAITING), {"gen": gen}).one()._mapping
            if name == "register":
                gen = made.gen
            _noted.facts = {"gen": gen, "epoch": control.collection.epoch + 1, "detail": seen}
            return made

        return run

    for name in names:
        setattr(moves, name, watched(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(moves, name, original)


@contextmanager
def _quiet() -> Iterator[None]:
    actor = current()
    if actor is None:
        yield
    else:
        with actor.at_once():
            yield
