"""The copy that a rehearsal moves: taken through the steps of a real migration, written to, rolled back and forward."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import sqlalchemy as sa

from revector.documents import deadletters
from revector.documents.documents import Documents
from revector.errors import GateFailed, StateError, VerificationFailed
from revector.gate.evidence import KINDS
from revector.gate.figures import GateResult
from revector.gate.results import latest_result
from revector.indexing.encoding import Encoders
from revector.indexing.worker import Worker
from revector.interfaces import Document, Progress
from revector.migration.migrator import Migrator
from revector.migration.settings import MigratorSettings
from revector.registry import cutoffs, work
from revector.registry.collections import Generation, ensure_collection, read_collection, read_generation
from revector.registry.control import control
from revector.registry.lanes import lane_of
from revector.rehearsal.report import RehearsedRollback
from revector.rehearsal.sampling import SampleStratum, measure
from revector.rehearsal.scratch import Scratch
from revector.serving.searcher import Searcher
from revector.spec import Revision
from revector.stores.metrics import nearest_score
from revector.verify.readback import INVARIANTS
from revector.verify.verification import verify_live

WINDOW_HOURS = 24.0
MARK = "revector_rehearsal"
"""Metadata field of the documents that a rehearsal writes, so that a filter finds exactly those."""

QUERY_CHARACTERS = 500
REEMBEDDED = 16
"""Documents of each index that are re-embedded after a move, to compare."""

WHY = "rehearsal"
LANES = ("live", "bulk")


@dataclass(slots=True)
class Findings:
    """What a rehearsal measured on the copy."""

    seconds: dict[str, float] = field(default_factory=dict)
    pauses_ms: dict[str, float] = field(default_factory=dict)
    letters: list[deadletters.DeadLetter] = field(default_factory=list)
    strata: dict[bool, SampleStratum] = field(default_factory=dict)
    index_bytes: int = 0
    memory_bytes: int = 0
    archive_bytes: int = 0
    verify: GateResult | None = None
    gate: GateResult | None = None
    rollback: RehearsedRollback | None = None
    cutoffs: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)

    @property
    def verified(self) -> GateResult:
        """The verdict of the verification, which every rehearsal reaches."""
        assert self.verify is not None
        return self.verify


@dataclass(frozen=True, slots=True)
class _TrialDocuments:
    """Documents that were written to the copy and must be found, and ones that were deleted, with what they said."""

    there: frozenset[str] = frozenset()
    gone: Mapping[str, str] = field(default_factory=dict)
    query: str = WHY


class Trial:
    """A collection in a scratch schema. Nobody else writes to it, and nobody is served by it.

    ``served``: the generation that serves the real one.
    """

    def __init__(
        self,
        scratch: Scratch,
        folder: Path,
        *,
        settings: MigratorSettings,
        encoders: Encoders,
        actor: str,
        progress: Progress,
        served: Generation | None = None,
    ) -> None:
        self.engine, self._name = scratch.engine, scratch.name
        self._actor, self._progress = actor, progress
        # Proofs of encoders are kept by the number of a generation, and the copy has numbers of its own.
        self._encoders = Encoders(encoders.fresh)
        migrations = folder / "migrations"
        migrations.mkdir(parents=True)
        for path in settings.migrations.glob("*.py"):
            shutil.copy(path, migrations)
        self._settings = replace(
            settings,
            migrations=migrations,
            archive=folder / "archive",
            labels=None,
            window_hours=WINDOW_HOURS,
            served_encoder=None if served is None else served.encoder_fp,
            drain_s=0.0,
        )
        with self.engine.begin() as connection:
            self.cid = ensure_collection(connection, self._name).cid
        self._documents = Documents(self.engine, self.cid)
        self._worker = Worker(self.engine, self._encoders)
        self._searcher = Searcher(self.engine, self._name, self._encoders)
        self.found = Findings()

    def serve(self, revision: str, scores: Mapping[str, float]) -> None:
        """Make the served revision the copy's own, with its cut-offs: what is rehearsed is the migration from it."""
        migrator = self._migrator(None, revision)
        migrator.run("provision", revision)
        self._embed(migrator, revision)
        for step in ("index", "verify", "gate", "approve", "swap"):
            migrator.run(step, revision)
        if scores:
            self._choose(scores)

    def migrate(self, target: Revision, labels: Path | None) -> None:
        """Run the steps up to the swap; what a gate refuses is noted and goes on, overridden in the copy."""
        revision, found = target.revision, self.found
        migrator = self._migrator(labels, revision)
        with self._timed("provision"):
            migrator.run("provision", revision)
        generation = self._generation("building")
        with self._timed("backfill"):
            found.letters = self._embed(migrator, revision)
        self._measure(generation)
        with self._timed("index"):
            migrator.run("index", revision)
        self._weigh(generation)
        found.verify = self._judge(migrator, generation, "verify")
        if not found.verify.passed:
            return
        found.gate = self._judge(migrator, generation, "gate")
        if not found.gate.passed:
            migrator.override(WHY)
        self._carry_over(generation)
        migrator.run("approve", revision)
        with self._timed("swap"):
            found.pauses_ms["swap"] = migrator.run("swap", revision).facts["pause_ms"]

    def back_and_forth(self, revision: str, labels: Path | None) -> None:
        """Write, roll back, write, go forward again, and retire; note everything that is not as promised."""
        old, new = self._generation("standby"), self._generation("active")
        migrator, found = self._migrator(labels, revision), self.found
        before = self._write()
        wrong = self._unlike()
        try:
            with self._timed("rollback"):
                found.pauses_ms["rollback"] = migrator.rollback(WHY).facts["pause_ms"]
            wrong += self._not_served(old, before)
            after = self._write_once_more(before)
            wrong += self._unlike()
            found.pauses_ms["forward again"] = migrator.run("swap", revision).facts["pause_ms"]
            wrong += self._not_served(new, after)
            with self._timed("retire"):
                migrator.retire(WHY, now=True)
        except StateError as error:
            wrong.append(str(error))
        found.rollback = RehearsedRollback(not wrong, wrong, len(before.there) + 1, len(before.gone))

    # Steps ------------------------------------------------------------------------------------------------------------

    def _migrator(self, labels: Path | None, revision: str) -> Migrator:
        return Migrator(
            self.engine,
            self._name,
            settings=replace(self._settings, labels=labels),
            encoders=self._encoders,
            actor=self._actor,
            progress=_Named(self._progress, revision),
        )

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.found.seconds[step] = time.perf_counter() - started

    def _embed(self, migrator: Migrator, revision: str) -> list[deadletters.DeadLetter]:
        """Backfill shard by shard, as the DAG does; return the dead letters, waived so that they do not end it."""
        for shard in migrator.shards(revision):
            migrator.embed_shard(revision, shard)
        generation = self._generation("building")
        self._settle(generation)
        with self.engine.begin() as connection:
            letters = [
                letter
                for letter in deadletters.dead_letters(connection, self.cid, limit=2**31 - 1)
                if letter.gen == generation.gen
            ]
            if letters:
                dead = [letter.doc_id for letter in letters]
                deadletters.waive(connection, self.cid, dead, actor=self._actor, why=WHY)
        migrator.run("backfill", revision)
        return letters

    def _settle(self, *generations: Generation) -> None:
        """Apply everything that is due, retries at once: waiting for them would tell nothing new."""
        for generation in generations:
            while True:
                with self.engine.begin() as connection:
                    connection.execute(
                        sa.text("UPDATE pending SET due_at = clock_timestamp() WHERE gen = :gen AND state = 'due'"),
                        {"gen": generation.gen},
                    )
                    waiting = work.backlog(connection, generation.gen)
                if not waiting.due + waiting.bulk:
                    break
                self._worker.apply_some(generation, lanes=LANES)

    def _judge(self, migrator: Migrator, generation: Generation, step: str) -> GateResult:
        with suppress(VerificationFailed, GateFailed), self._timed(step):
            migrator.run(step, generation.revision)
        with self.engine.connect() as connection:
            kept = latest_result(connection, generation.gen, KINDS[step])
        assert kept is not None  # the step keeps what it found either way
        return kept

    def _choose(self, scores: Mapping[str, float], revision: str | None = None) -> None:
        with control(self.engine, self.cid, actor=self._actor) as held:
            cutoffs.choose(held, scores, revision)

    def _carry_over(self, generation: Generation) -> None:
        """Note what the gate mapped; what it could not gets the least score there is, for the copy shows nobody."""
        with self.engine.connect() as connection:
            found = cutoffs.read_cutoffs(connection, generation.gen)
        self.found.cutoffs = {name: (one.original, one.score) for name, one in found.items()}
        lowest = nearest_score(-math.inf, generation.spec.index.metric)
        if untold := {name: lowest for name, one in found.items() if one.score is None}:
            self._choose(untold, generation.revision)

    def _measure(self, generation: Generation) -> None:
        self._progress.start("count tokens", self._documents.count())
        encoder = self._encoders.of(generation)
        self.found.strata = measure(self.engine, generation, encoder, self._progress)
        self._progress.done()

    def _weigh(self, generation: Generation) -> None:
        """Note what the index takes on disk, what of it every search walks through, and what the archive took."""
        searched = generation.physical_name + ("_hnsw" if generation.spec.index.kind == "hnsw" else "")
        with self.engine.connect() as connection:
            self.found.index_bytes = lane_of(generation).size_bytes(connection)
            walked = connection.scalar(
                sa.text("SELECT pg_relation_size(to_regclass(:searched))"), {"searched": searched}
            )
            self.found.memory_bytes = self.found.index_bytes if walked is None else int(walked)
            paths = connection.scalars(sa.text("SELECT path FROM part WHERE gen = :gen"), {"gen": generation.gen})
            self.found.archive_bytes = sum(Path(path).stat().st_size for path in paths)

    def _generation(self, role: str) -> Generation:
        with self.engine.connect() as connection:
            collection = read_collection(connection, self._name)
            return read_generation(connection, int(getattr(collection, f"{role}_gen")))

    # Writes and what must come of them --------------------------------------------------------------------------------

    def _write(self) -> _TrialDocuments:
        """Create, replace and delete documents, each delete of one that is shown already."""
        self._progress.start("put and delete", 2, unit="rounds")
        with self.engine.connect() as connection:
            # Short ones that every live index shows: their text is known to embed.
            models = connection.execute(
                sa.text(
                    "SELECT d.doc_id, d.content FROM document d JOIN sample s USING (doc_id) WHERE d.content <> '' "
                    "AND NOT EXISTS (SELECT 1 FROM slot LEFT JOIN ledger l ON l.gen = slot.gen AND l.doc_id = d.doc_id "
                    "WHERE l.version IS DISTINCT FROM d.version) ORDER BY s.labelled, octet_length(d.content), "
                    "d.doc_id LIMIT 50"
                )
            ).all()
        models = self._askable(models)[:3]
        if not models:
            self._progress.done("nothing to write like")
            return _TrialDocuments()
        first, last, text = f"{self._name}-1", f"{self._name}-2", models[0].content
        put = [Document(first, text), Document(last, text), Document(models[0].doc_id, models[-1].content)]
        self._documents.put_many([replace(one, meta={MARK: self._name}) for one in put])
        self._settle(self._generation("active"), self._generation("standby"))
        self._progress.advance()
        gone = {last: text, **{row.doc_id: row.content for row in models[1:2]}}
        self._documents.delete_many(list(gone))
        self._settle(self._generation("active"), self._generation("standby"))
        self._progress.done()
        return _TrialDocuments(frozenset({first, models[0].doc_id}), gone, _query(text))

    def _askable(self, rows: Sequence[sa.Row[tuple[object, ...]]]) -> list[sa.Row[tuple[object, ...]]]:
        """Return the documents whose beginning both models take as a query."""
        asked = {row.doc_id: _query(row.content) for row in rows}
        for role in ("active", "standby"):
            asked = self._searcher.askable(self._generation(role), asked)[0]
        return [row for row in rows if row.doc_id in asked]

    def _write_once_more(self, before: _TrialDocuments) -> _TrialDocuments:
        more = f"{self._name}-3"
        self._documents.put(more, before.query, {MARK: self._name})
        self._settle(self._generation("active"), self._generation("standby"))
        return replace(before, there=before.there | {more})

    def _unlike(self) -> list[str]:
        """Say in what the live indexes do not equal the documents, with nothing left to be done."""
        report = verify_live(
            self.engine,
            self._name,
            self._encoders,
            actor=self._actor,
            reembed=REEMBEDDED,
            seed=0,
            progress=_Named(self._progress, "copy"),
        )
        wrong = [f"{broken.count:,} {INVARIANTS[view]}" for view, broken in report.invariants.items()]
        with self.engine.connect() as connection:
            for found in report.generations:
                reasons = list(found.reasons)
                if waiting := work.backlog(connection, found.generation).blocking:
                    reasons.append(f"{waiting:,} documents were not brought up to date")
                wrong += [f"index of {found.revision}: {reason}" for reason in reasons]
        return wrong

    def _not_served(self, generation: Generation, written: _TrialDocuments) -> list[str]:
        """Say what is not as it must be for someone who searches through the alias."""
        wrong = []
        answer = self._searcher.search(written.query, len(written.there) + 2, where={MARK: self._name})
        found = {hit.id for hit in answer.hits}
        if answer.generation != generation.gen:
            wrong.append(f"revision {answer.revision} answered where {generation.revision} was to serve")
        if found != written.there:
            lost, extra = sorted(written.there - found), sorted(found - written.there)
            wrong.append(f"revision {generation.revision} lost {lost} of what was written and shows {extra} beyond it")
        for doc_id, text in written.gone.items():
            hits = self._searcher.search(_query(text), 100, exact=True).hits
            if doc_id in {hit.id for hit in hits}:
                wrong.append(f"revision {generation.revision} shows the deleted document {doc_id!r}")
        return wrong


def _query(text: str) -> str:
    return text.strip()[:QUERY_CHARACTERS]


class _Named:
    """Reports work under the name of the revision it is for."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._name, self.advance, self.done, self._start = name, progress.advance, progress.done, progress.start

    def start(self, what: str, total: int | None = None, unit: str = "documents") -> None:
        self._start(f"{self._name}: {what}", total, unit)
