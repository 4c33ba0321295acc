"""A rehearsal: the whole migration and a rollback on a sampled copy, what that says of the real one, and no trace."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa

from revector.documents.documents import Documents
from revector.errors import ArchiveError, ConfigError, EditedRevision, IllegalStep, RevectorError
from revector.gate.evidence import Evidence
from revector.gate.figures import Value
from revector.gate.query_set import usable_queries
from revector.indexing.encoding import Encoders
from revector.interfaces import NoProgress, Progress
from revector.labels import Labels, load_labels, write_beir
from revector.migration.migrator import Migrator
from revector.migration.settings import MigratorSettings
from revector.planning import outcomes
from revector.planning.estimate import Estimate
from revector.planning.forecast import MigrationPlan
from revector.registry import sharding
from revector.registry.collections import Collection, Generation, read_collection, read_generation
from revector.registry.control import add_event
from revector.registry.cutoffs import read_scores
from revector.rehearsal.growth import Growth, graph_growth, step_times
from revector.rehearsal.report import RehearsalReport, StepTime
from revector.rehearsal.sampling import (
    LABELLED_SHARE,
    RehearsalSample,
    SampleStratum,
    choose_queries,
    copy_documents,
    draw,
    whole,
)
from revector.rehearsal.scratch import Scratch, leftovers, remove
from revector.rehearsal.trial import Findings, Trial
from revector.revisions import RevisionGraph
from revector.serving.searcher import Searcher
from revector.spec import Revision

SAMPLE = 1_000
MOST_LETTERS = 20


@dataclass(frozen=True, slots=True)
class _Real:
    """The collection as it is: only read."""

    collection: Collection
    plan: MigrationPlan
    target: Revision
    active: Generation | None
    active_bytes: int
    labels: Labels | None
    qrels: Mapping[str, Mapping[str, int]]
    cutoffs: Mapping[str, float]


class Rehearsal:
    """Rehearses migrations of one collection; of the collection itself nothing is touched but its history."""

    def __init__(
        self,
        engine: sa.Engine,
        collection: str,
        *,
        settings: MigratorSettings,
        encoders: Encoders,
        actor: str,
        progress: Progress | None = None,
    ) -> None:
        self._engine, self._name, self._settings = engine, collection, settings
        self._encoders, self._actor, self._progress = encoders, actor, progress or NoProgress()

    def run(
        self,
        revision: str | None = None,
        *,
        size: int = SAMPLE,
        share: float | None = None,
        seed: int = 0,
        keep: bool = False,
    ) -> RehearsalReport:
        """Rehearse the migration to ``revision`` (default: the head) and return the report, which the history keeps.

        The sample has about ``size`` documents, or the ``share`` (0 to 1) of them; ``keep`` leaves the copy until the
        next rehearsal. Raises what would refuse the real migration before its first step, and ``EncoderError`` where a
        model cannot be used. The copy is removed whatever happens; after a kill, by the next rehearsal or `revector
        doctor`.
        """
        if size < 1 or not (share is None or 0 < share <= 1):
            raise ConfigError(
                "a sample is 1 document or more, or a share above 0 and up to 1; found "
                f"{size if share is None else share}. Nothing has run."
            )
        started = time.monotonic()
        real = self._look(revision)
        clear_leftovers(self._engine, self._settings.archive, kept_of=self._name)
        with Scratch(self._engine, self._name) as scratch:
            folder = self._settings.archive / scratch.schema
            try:
                wanted = size if share is None else math.ceil(share * real.plan.documents)
                report = self._rehearse(real, scratch, folder, wanted, seed)
                if keep:
                    scratch.keep()
                else:
                    _remove_folder(folder)
                    scratch.drop()
            except BaseException:
                # The first error is the one to tell; what cannot be removed now is removed as after a kill.
                with suppress(RevectorError, sa.exc.DBAPIError):
                    _remove_folder(folder)
                    scratch.drop()
                raise
        report = replace(report, wall_s=round(time.monotonic() - started, 3), kept=scratch.schema if keep else None)
        with self._engine.begin() as connection:
            add_event(connection, real.collection.cid, self._actor, "rehearse", None, report.as_data())
        return report

    def _look(self, revision: str | None) -> _Real:
        """Read what the real migration would begin with, and refuse what it would refuse."""
        encoders, folder = self._encoders, self._settings.labels
        real = Migrator(self._engine, self._name, settings=self._settings, encoders=encoders, actor=self._actor)
        plan = real.plan(revision)
        graph = RevisionGraph.from_folder(self._settings.migrations)
        target = graph[plan.revision]
        with self._engine.connect() as connection:
            collection = read_collection(connection, self._name)
            active = None if collection.active_gen is None else read_generation(connection, collection.active_gen)
            size = connection.scalar(
                sa.text("SELECT pg_total_relation_size(to_regclass(:name))"),
                {"name": "" if active is None else active.physical_name},
            )
            cutoffs = {} if active is None else read_scores(connection, active.gen)
        if active is not None:
            _refuse_unlike(active, graph, target)
            encoders.of(active)
        searcher = Searcher(self._engine, self._name, encoders)
        others = self._settings.queries
        evidence = Evidence(
            self._engine,
            collection.cid,
            searcher,
            folder,
            others,
            actor=self._actor,
            progress=self._progress,
            pipeline=self._settings.pipeline,
            judges=self._settings.judges,
        )
        evidence.refuse_unmeasurable(target, collection)
        if folder is None:
            return _Real(collection, plan, target, active, int(size or 0), None, {}, cutoffs)
        queries = usable_queries(load_labels(folder), Documents(self._engine, collection.cid))
        return _Real(collection, plan, target, active, int(size or 0), queries.labels, queries.qrels, cutoffs)

    def _rehearse(self, real: _Real, scratch: Scratch, folder: Path, size: int, seed: int) -> RehearsalReport:
        trial = Trial(
            scratch,
            folder,
            settings=self._settings,
            encoders=self._encoders,
            actor=self._actor,
            progress=self._progress,
            served=real.active,
        )
        queries, labelled = choose_queries(
            real.qrels,
            seed=seed,
            most_documents=int(size * LABELLED_SHARE),
            least_queries=real.target.gate.min_queries,
        )
        least = real.target.gate.k  # of fewer documents, no recall can be told
        sample = draw(trial.engine, real.collection.cid, sorted(labelled), size=max(size, least), seed=seed)
        self._progress.start("copy the sample", sample.labelled + sample.drawn)
        copy_documents(trial.engine, real.collection.cid, trial.cid, self._progress)
        self._progress.done()
        labels = None if real.labels is None else write_beir(folder / "labels", real.labels, queries)
        if real.active is not None:
            trial.serve(real.active.revision, real.cutoffs)
        trial.migrate(real.target, labels)
        if real.active is not None and trial.found.verified.passed:
            trial.back_and_forth(real.target.revision, labels)
        return self._report(real, sample, trial.found, seed=seed, queries=len(queries))

    def _times(self, real: _Real, found: Findings, growth: Growth, documents: int) -> tuple[StepTime, ...]:
        started = time.perf_counter()
        count = self._settings.shards or outcomes.LEAST_SHARDS
        sharding.plan_ranges(self._engine, real.collection.cid, count)  # what grows of a provision
        return step_times(
            found.seconds,
            growth,
            ranges_s=time.perf_counter() - started,
            drain_s=self._settings.drain_s,
            reembedded_s=found.seconds["backfill"] / max(1, documents) * found.verified.count("reembedded"),
        )

    def _report(
        self, real: _Real, sample: RehearsalSample, found: Findings, *, seed: int, queries: int
    ) -> RehearsalReport:
        certain, drawn = found.strata[True], found.strata[False]
        documents, rest = sample.labelled + sample.drawn, sample.documents - certain.chunks.n
        chunks = whole(certain.chunks, drawn.chunks, sample.documents)
        tokens = whole(certain.tokens, drawn.tokens, sample.documents)
        rehearsed_tokens = certain.tokens.total + drawn.tokens.total
        growth = _growth(chunks, tokens, found, len(real.qrels) / queries if queries else 1.0)
        steps = self._times(real, found, growth, documents)
        backfill = next(step for step in steps if step.step == "backfill")
        forward = [step.estimated_s for step in steps if step.step not in ("rollback", "retire")]
        cuts = real.target.chunking.unit == "document"  # the other units cover every character
        return RehearsalReport(
            collection=self._name,
            revision=real.target.revision,
            active_revision=None if real.active is None else real.active.revision,
            seed=seed,
            documents=sample.documents,
            sampled=documents,
            labelled=sample.labelled,
            queries_usable=len(real.qrels),
            steps=steps,
            total_s=Estimate(*(sum(getattr(one, end) for one in forward) for end in ("value", "low", "high"))),
            pauses_ms=found.pauses_ms,
            chunks=chunks,
            tokens=tokens,
            chunks_per_document=chunks.value / max(1, sample.documents),
            tokens_per_s=rehearsed_tokens / found.seconds["backfill"],
            documents_per_s=documents / found.seconds["backfill"],
            truncated=_whole_share(certain, drawn, rest, "truncated") if cuts else _exactly(0),
            index_bytes=growth.chunks.times(found.index_bytes),
            memory_bytes=growth.chunks.times(found.memory_bytes),
            archive_bytes=growth.chunks.times(found.archive_bytes),
            active_bytes=real.active_bytes,
            embedding_hours=backfill.estimated_s.times(1 / 3_600),
            gate=found.gate,
            verify=found.verified,
            rollback=found.rollback,
            dead_letters=len(found.letters),
            dead_expected=_whole_share(certain, drawn, rest, "dead"),
            dead_reasons={letter.doc_id: letter.reason[:300] for letter in found.letters[:MOST_LETTERS]},
            refusals=_refusals(found, all_queries=queries == len(real.qrels)),
            warnings=real.plan.warnings,
            notes=_notes(real, sample, found, queries),
            cutoffs=found.cutoffs,
        )


def clear_leftovers(engine: sa.Engine, archive: Path, *, kept_of: str | None = None) -> list[str]:
    """Remove what dead rehearsals left behind, and kept ones of the collection ``kept_of``; return their schemas."""
    removed = []
    for one in leftovers(engine):
        if one.kept and one.collection != kept_of:
            continue
        _remove_folder(archive / one.schema)  # before the schema, by whose name it is found
        if remove(engine, one.schema):
            removed.append(one.schema)
    return removed


def _remove_folder(folder: Path) -> None:
    try:
        if folder.is_dir():
            shutil.rmtree(folder)
    except OSError as error:
        raise ArchiveError(
            f"{folder} of a rehearsal cannot be removed: {error}. The collection is untouched; remove the folder, then "
            "run `revector doctor`."
        ) from error


def _refuse_unlike(active: Generation, graph: RevisionGraph, target: Revision) -> None:
    if active.revision == target.revision:
        raise IllegalStep(
            f"revision {target.revision} was to be rehearsed, and it is what is served. Nothing was changed; name "
            "another, or write one with `revector revision`."
        )
    if graph[active.revision].config_hash != active.config_hash:
        raise EditedRevision(
            f"the file of the served revision {active.revision} was edited after generation {active.gen} was "
            "registered from it, so a copy would not be what is served. Nothing was changed; restore "
            f"{graph[active.revision].path}."
        )


def _growth(chunks: Estimate, tokens: Estimate, found: Findings, by_queries: float) -> Growth:
    rehearsed_chunks = sum(stratum.chunks.total for stratum in found.strata.values())
    rehearsed_tokens = sum(stratum.tokens.total for stratum in found.strata.values())
    return Growth(
        chunks=chunks.times(1 / max(1.0, rehearsed_chunks)),
        tokens=tokens.times(1 / max(1.0, rehearsed_tokens)),
        graph=graph_growth(chunks, rehearsed_chunks),
        queries=_exactly(by_queries),
    )


def _exactly(value: float) -> Estimate:
    return Estimate(value, value, value)


def _whole_share(certain: SampleStratum, drawn: SampleStratum, rest: int, what: str) -> Estimate:
    return Estimate.of_count(getattr(certain, what), getattr(drawn, what), drawn.chunks.n, rest)


def _refusals(found: Findings, *, all_queries: bool) -> tuple[str, ...]:
    """Say why the real migration would be refused, as far as the copy shows it."""
    reasons = []
    if found.letters:
        reasons.append(f"{len(found.letters)} documents of the sample cannot be embedded: cure them, or waive each")
    if not found.verified.passed:
        reasons += [f"verification: {reason}" for reason in found.verified.reasons]
    if found.gate is not None and (found.gate.verdict is Value.FAIL or (all_queries and not found.gate.passed)):
        reasons += [f"gate: {reason}" for reason in found.gate.reasons]
    if found.rollback is not None:
        reasons += [f"rollback: {reason}" for reason in found.rollback.reasons]
    return tuple(reasons)


def _notes(real: _Real, sample: RehearsalSample, found: Findings, queries: int) -> tuple[str, ...]:
    """Say what the figures cannot show."""
    notes = [
        "times are of this machine, this process and this hour; k processes share the backfill",
        "pauses were measured while nobody else wrote; under load a writer also waits for those before it",
    ]
    if sample.labelled + sample.drawn < sample.documents and queries:
        notes.append(
            f"recall is an upper bound, old and new alike: {sample.documents - sample.labelled - sample.drawn:,} "
            "documents that could push a relevant one down are not in the sample, so a gate that passes here may still "
            "fail there, the more so the smaller the sample"
        )
    if 0 < queries < len(real.qrels):
        notes.append(f"recall was measured on {queries:,} of {len(real.qrels):,} labelled queries, drawn by the seed")
        if found.gate is not None and found.gate.verdict is Value.INCONCLUSIVE:
            notes.append(f"so few cannot tell whether the gate will pass: {'; '.join(found.gate.reasons)}")
    if sample.drawn < 30 and sample.labelled + sample.drawn < sample.documents:
        notes.append(f"only {sample.drawn} documents were drawn at random: intervals are too narrow")
    return tuple(notes)
