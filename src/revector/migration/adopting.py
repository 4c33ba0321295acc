"""Runs an adoption: looks, proves the model, takes over, copies, and migrates to the vectors that are there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from revector.adoption import adoptions, copies, rows, table
from revector.adoption.adoptions import Adoption, ProvedVectors, read_adoption
from revector.adoption.checking import trigger_faults
from revector.adoption.copies import CopiedPlace, read_copied
from revector.adoption.copying import Copy, CopyReport, drop_documents
from revector.adoption.look import AdoptionLook
from revector.adoption.places import open_place, place_name
from revector.adoption.presets import AdoptionRequest, terms_of, text_candidates
from revector.adoption.proof import ModelProof, Prover, SampledRow, TextForm, sample, sampled_columns
from revector.adoption.table import TableLook
from revector.adoption.terms import AdoptedTable
from revector.archive.importing import FOLDER
from revector.archive.storage import working_folder
from revector.crash import crash_at
from revector.database.engine import repeated, transaction
from revector.documents.documents import Documents
from revector.encoders.check import vectors_fp
from revector.encoders.specify import metric_for
from revector.errors import ConfigError, SpecError
from revector.indexing.chunking import make_chunker
from revector.indexing.encoding import Encoders
from revector.interfaces import Content, NoProgress, Progress, Vectors, whole_texts
from revector.migration import viewing
from revector.migration.adoption_plan import AdoptionPlan, AdoptionReport, check_store
from revector.migration.migrator import Migrator
from revector.migration.reading import PlaceReader, is_changed, stored_text
from revector.migration_files import migration_files
from revector.planning.constants import index_bytes
from revector.planning.estimating import data_folder
from revector.planning.forecast import Disk
from revector.registry.collections import ensure_collection
from revector.revisions import RevisionGraph, write_revision
from revector.sources.sql import shown
from revector.spec import FIRST_GATE, PGVECTOR, Chunking, IndexSpec, ModelSpec, Revision, stable_hash
from revector.upkeep.rereading import MOST_MISSING

ID_BYTES = 12
"""Mean length of an id that the room for an index is reckoned with."""


class Adopter:
    """Adoptions of one collection. Everything it knows is in the database: it can be killed, and run again."""

    def __init__(
        self,
        engine: sa.Engine,
        collection: str,
        *,
        migrator: Callable[[], Migrator],
        documents: Callable[[], Documents],
        root: Path,
        migrations: Path,
        archive: Path,
        encoders: Encoders,
        specify: Callable[[str, int | None], ModelSpec],
        max_bytes: int,
        actor: str,
        progress: Progress | None = None,
    ) -> None:
        """``specify`` returns a model as its own files say, cut to a width if vectors of that width are there.

        ``root``: the folder that paths in a request are below.
        """
        self._specify, self._documents, self._root, self._archive = specify, documents, root, archive
        self._engine, self._name, self._migrator, self._migrations = engine, collection, migrator, migrations
        self._encoders, self._max_bytes, self._actor = encoders, max_bytes, actor
        self._progress = progress or NoProgress()

    @cached_property
    def _cid(self) -> int:
        with self._engine.begin() as connection:
            return ensure_collection(connection, self._name).cid

    def adoption(self) -> Adoption | CopiedPlace | None:
        """Return the adoption that was begun, of a table that is followed or a place that is copied; None: none was."""
        with self._engine.connect() as connection:
            known = connection.scalar(sa.text("SELECT cid FROM collection WHERE name = :name"), {"name": self._name})
            return None if known is None else read_adoption(connection, known) or read_copied(connection, known)

    # Before anything is changed -------------------------------------------------------------------------------------

    def plan(self, request: AdoptionRequest) -> AdoptionPlan:
        """Look at the rows and prove the model; change nothing. Raises ``ConfigError`` for no such table or place."""
        request = self._absolute(request)
        if request.source is None:
            found, model, sampled, disks = self._look_at_table(request)
        else:
            found, model, sampled, disks = self._look_at_place(request)
        # Outside of any transaction: a model takes its time.
        proof = self._prove(sampled, found, model)
        refusals = [*found.problems, *_refusals(found, proof, model), *(disk.said for disk in disks if disk.too_small)]
        chunking = Chunking(unit="document", max_tokens=model.max_tokens, overlap_tokens=0)
        if proof.form is not None and proof.verdict == "same":
            found.terms = _as_proved(found, proof.form)
            model = replace(model, document_prompt=proof.form.prompt, normalize=proof.unit)
            chunking = proof.form.chunking
        check_store(self._engine, self._migrations, request.store, model, chunking)
        needed = sum(disk.needed_bytes for disk in disks)
        return AdoptionPlan(self._name, request, found, model, chunking, proof, needed, tuple(refusals))

    def _absolute(self, request: AdoptionRequest) -> AdoptionRequest:
        named = {
            name: value for name in ("source", "texts") if (value := getattr(request, name)) and "://" not in value
        }
        return request.model_copy(update={name: str(self._root / Path(one)) for name, one in named.items()})

    def _look_at_table(
        self, request: AdoptionRequest
    ) -> tuple[AdoptionLook, ModelSpec, Sequence[SampledRow], Sequence[Disk]]:
        with self._engine.connect() as connection:
            found = table.look(connection, terms_of(connection, request))
            if request.chunk_of is not None and not found.problems:
                table.count_chunked(connection, found, request.chunk_of)
            if request.view is not None:
                viewing.look(connection, found, request.view, self._index())
            found.candidates = text_candidates(request, found)
            model = self._specify(request.model, found.dim)
            sampled = [] if found.problems else sample(connection, found)
            texts = connection.scalar(
                sa.text("SELECT pg_table_size(CAST(:table AS regclass))"), {"table": found.terms.table}
            )
        return found, model, sampled, [self._room(int(texts or 0), found.documents, model.dim)]

    def _index(self) -> IndexSpec:
        """Return the index that the first revision has, or will have."""
        files = migration_files(self._migrations)
        return RevisionGraph.from_folder(self._migrations).head.index if files else IndexSpec()

    def _look_at_place(
        self, request: AdoptionRequest
    ) -> tuple[AdoptionLook, ModelSpec, Sequence[SampledRow], Sequence[Disk]]:
        max_mib = self._max_bytes >> 20
        folder = self._archive / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        with working_folder(folder, "adopt") as scratch:
            place = open_place(request, scratch)
            own = self._specify(request.model, None)
            found = rows.look(
                place,
                rows.terms_of(place, request),
                own.dim,
                lambda document: stored_text(document, max_mib),
                is_changed,
                self._progress,
            )
            sampled = [] if found.problems else list(found.sampled)
        model = self._specify(request.model, found.dim)
        # The vectors lie there twice while they are sealed.
        copies_of = Disk("the archive", str(folder), 8 * model.dim * found.taken, shutil.disk_usage(folder).free)
        indexed = 0 if request.store else found.documents
        return found, model, sampled, [self._room(found.text_bytes, indexed, model.dim), copies_of]

    def _prove(self, sampled: Sequence[SampledRow], found: AdoptionLook, model: ModelSpec) -> ModelProof:
        if not sampled:
            return ModelProof("none", None, 0, 0.0, None, None)
        return self._prover(sampled_columns(found), model).prove(
            sampled, found.terms, found.candidates, model.document_prompt
        )

    def _prover(self, columns: Sequence[str], model: ModelSpec) -> Prover:
        encoder = self._encoders.fresh(replace(model, document_prompt=""))
        chunker = cache(lambda chunking: make_chunker(chunking, encoder.tokenizer))

        def cut(chunking: Chunking, text: str) -> list[str]:
            try:
                return [piece.text for piece in chunker(chunking).pieces([Content("text", text)])]
            except SpecError:  # the model's own tokens leave no room for so much in common
                return []

        def encode(prompt: str, texts: Sequence[str]) -> Vectors:
            return encoder.encode("document", whole_texts([prompt + text for text in texts]))

        return Prover(columns, encode, cut, model.max_tokens, self._progress)

    def _room(self, text_bytes: int, documents: int, dim: int) -> Disk:
        """Return what documents and index will take in the database, and what is free."""
        needed = round(text_bytes + documents * index_bytes(dim, IndexSpec(), ID_BYTES))
        folder = data_folder(self._engine)
        return Disk("PostgreSQL", folder or "", needed, shutil.disk_usage(folder).free if folder else None)

    # Taking over ----------------------------------------------------------------------------------------------------

    def run(self, plan: AdoptionPlan) -> AdoptionReport:
        """Take over by ``plan``. Raises ``ConfigError`` or ``EncoderMismatch`` for one that is refused."""
        self.begin(plan)
        return self.resume()

    def begin(self, plan: AdoptionPlan) -> None:
        """Follow the table from now on, or record the place; rows are copied by ``resume``. Raises as ``run``."""
        plan.check()
        proof = {**plan.proof.as_data(), "model": asdict(plan.model), "chunking": asdict(plan.chunking)}
        proved = ProvedVectors("", "", proof)
        if plan.proof.verdict == "same":
            encoder = self._encoders.fresh(plan.model)
            proved = ProvedVectors(vectors_fp(encoder.components), stable_hash(asdict(plan.chunking)), proof)
        if isinstance(plan.look, TableLook):
            view_of = None if plan.request.view is None else (plan.request.view, self._index().storage)
            _begin(self._engine, self._cid, plan.look, proved, view_of, self._max_bytes, self._actor)
        else:
            _begin_copy(self._engine, self._cid, plan.look.terms, _kept(plan.request), proved, self._actor)
        crash_at("adopt.after_begin")

    def resume(self, request: AdoptionRequest | None = None, *, max_missing: float = MOST_MISSING) -> AdoptionReport:
        """Go on with an adoption that was begun, to its end; triggers that are missing or off are made again.

        So is a view that is gone. A place that was copied is read again: what changed there is written, and what is
        gone from it is deleted, a share of ``max_missing`` (0 to 1) at most. ``request`` says where it is, where that
        holds a password, and names a view that is not there yet. Raises ``ConfigError`` where none was begun, or its
        table or a column is gone; ``TooManyMissing``.
        """
        adoption = self.adoption()
        if adoption is None:
            raise ConfigError(f"collection {self._name!r} has adopted no table. Nothing was changed; name the table.")
        had_one = bool(migration_files(self._migrations))
        if isinstance(adoption, CopiedPlace):
            copied = self._read(adoption, request, max_missing)
        else:
            copied = self._copy(adoption)
            viewing.ensure(
                self._engine,
                adoption,
                None if request is None else request.view,
                actor=self._actor,
                progress=self._progress,
            )
        self._write_revision(adoption)
        file = None if had_one else migration_files(self._migrations)[0]
        crash_at("adopt.after_file")
        migrator = self._migrator()
        steps = [] if migrator.status().slots.active else migrator.upgrade()
        reused = sum(int(step.facts.get("reused", 0)) for step in steps if step.step == "backfill")
        with self._engine.connect() as connection:
            documents = connection.scalar(
                sa.text("SELECT count(*) FROM document WHERE cid = :cid AND NOT deleted"), {"cid": adoption.cid}
            )
        return AdoptionReport(
            self._name, adoption.terms.table, int(documents or 0), reused, copied, file, tuple(steps),
            is_copy=isinstance(adoption, CopiedPlace), again=isinstance(adoption, CopiedPlace) and adoption.copied,
        )  # fmt: skip

    def _read(self, adoption: CopiedPlace, request: AdoptionRequest | None, max_missing: float) -> CopyReport:
        known = adoption.request
        if request is not None and request.source is not None:
            given = self._absolute(request)
            if place_name(given) != adoption.origin:
                raise ConfigError(
                    f"collection {self._name!r} has adopted {adoption.origin}, not {place_name(given)}. Nothing was "
                    "changed; name another collection with -c."
                )
            known = known.model_copy(update={"source": given.source})
        elif ":***@" in str(known.source):
            raise ConfigError(
                f"the password of {known.source} is not kept. Nothing was changed; name the URL again, with it."
            )

        def revision() -> Revision:
            self._write_revision(adoption)
            return RevisionGraph.from_folder(self._migrations).head

        reader = PlaceReader(
            self._engine,
            self._documents(),
            self._archive,
            self._encoders,
            self._max_bytes >> 20,
            self._actor,
            self._progress,
            lambda sampled, form, model: self._check(adoption.terms, sampled, form, model),
        )
        return reader.read(adoption, known, revision, max_missing=max_missing)

    def _check(
        self, terms: AdoptedTable, sampled: Sequence[SampledRow], form: TextForm, model: ModelSpec
    ) -> ModelProof:
        if not sampled:
            return ModelProof("none", None, 0, 0.0, None, None)
        return self._prover(terms.text, model).check(sampled, form)

    def _copy(self, adoption: Adoption) -> CopyReport:
        """Copy what is not copied yet, or what was missed while triggers were off or gone: these are made again."""
        with self._engine.connect() as connection:
            faults = trigger_faults(connection, adoption)
        if adoption.gone:
            raise ConfigError(f"{'; '.join(faults)}. Nothing was changed; `revector unadopt -c {self._name}` ends it.")
        if faults:
            _follow_again(self._engine, adoption)
            missed = Copy(self._engine, adoption, first=False).run(self._progress)
            if adoption.copied:
                return missed
        return CopyReport() if adoption.copied else Copy(self._engine, adoption, first=True).run(self._progress)

    def _write_revision(self, adoption: Adoption | CopiedPlace) -> None:
        if migration_files(self._migrations):
            return
        model = ModelSpec(**adoption.proof["model"])
        store, like = (adoption.request.store, None) if isinstance(adoption, CopiedPlace) else (None, adoption.terms)
        with self._engine.connect() as connection:
            own = None if like is None else table.index_like(connection, like)
        write_revision(
            self._migrations,
            message=f"adopt {adoption.terms.table}",
            model=model,
            chunking=_chunking(adoption.proof, model),
            index=own or IndexSpec(store=store or PGVECTOR, metric=metric_for(model, self._root)),
            gate=FIRST_GATE,
            down_revision=None,
        )

    def end_view(self) -> str | None:
        """Drop the view, and follow the table as before; return its name, None where there is none."""
        return viewing.drop(self._engine, self._cid, actor=self._actor)

    def end(self, *, drop_copies: bool = False) -> tuple[str | None, int]:
        """Give the table back as it was found; return its name, None where none was adopted, and documents deleted.

        Without ``drop_copies`` documents and indexes stay as they are, and are searched as before.
        """
        adoption = self.adoption()
        if adoption is not None:
            _end(self._engine, adoption.cid, self._actor)
        deleted = drop_documents(self._engine, self._cid, self._progress) if drop_copies else 0
        return None if adoption is None else adoption.terms.table, deleted


@repeated
def _begin(
    engine: sa.Engine,
    cid: int,
    look: TableLook,
    proved: ProvedVectors,
    view_of: tuple[str, str] | None,
    max_bytes: int,
    actor: str,
) -> None:
    with transaction(engine) as connection:
        adoptions.begin(connection, cid, look, proved, view_of, max_bytes=max_bytes, actor=actor)


@repeated
def _follow_again(engine: sa.Engine, adoption: Adoption) -> None:
    with transaction(engine) as connection:
        adoptions.follow_again(connection, adoption)


@repeated
def _end(engine: sa.Engine, cid: int, actor: str) -> None:
    with transaction(engine) as connection:
        adoptions.end(connection, cid, actor=actor)


@repeated
def _begin_copy(
    engine: sa.Engine, cid: int, terms: AdoptedTable, request: AdoptionRequest, proved: ProvedVectors, actor: str
) -> None:
    with transaction(engine) as connection:
        copies.begin(connection, cid, terms, request, proved, actor=actor)


def _kept(request: AdoptionRequest) -> AdoptionRequest:
    """Return a request as it is recorded: without a password."""
    source = str(request.source)
    return request.model_copy(update={"source": shown(source)}) if "://" in source else request


def _chunking(proof: Mapping[str, Any], model: ModelSpec) -> Chunking:
    """Return how the texts of an adoption are cut: one chunk for each where it does not say otherwise."""
    said = proof.get("chunking") or {"unit": "document", "max_tokens": model.max_tokens, "overlap_tokens": 0}
    return Chunking(**said)


def _as_proved(found: AdoptionLook, form: TextForm) -> AdoptedTable:
    """Return the terms by the proved form of the text; a column that was only guessed to be in it is metadata."""
    proved: dict[str, object] = {"text": form.columns, "separator": form.separator, "node": form.node}
    if found.candidates:
        named = (*found.terms.meta, *found.terms.text)
        proved["meta"] = tuple(name for name in named if name not in form.columns)
    return found.terms.model_copy(update=proved)


def _refusals(found: AdoptionLook, proof: ModelProof, model: ModelSpec) -> list[str]:
    if proof.verdict in ("same", "none"):
        return []
    width = f" (the vectors have {found.dim} numbers, the model gives {model.dim})" if found.dim != model.dim else ""
    return [f"{proof.said}{width}. Name the model that made them, or embed all texts with --no-vectors"]
