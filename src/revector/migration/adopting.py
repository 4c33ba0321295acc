"""Runs an adoption: looks, proves the model, takes over, copies, and migrates to the vectors that are there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from revector.adoption import adoptions
from revector.adoption.adoptions import Adoption, ProvedVectors, read_adoption
from revector.adoption.checking import trigger_faults
from revector.adoption.copying import Copy, CopyReport, drop_documents
from revector.adoption.presets import AdoptionRequest, terms_of
from revector.adoption.proof import ModelProof, Prover, SampledRow, sample
from revector.adoption.table import TableLook, look
from revector.crash import crash_at
from revector.database.engine import repeated, transaction
from revector.encoders.check import vectors_fp
from revector.errors import ConfigError, EncoderMismatch
from revector.indexing.chunking import make_chunker
from revector.indexing.encoding import Encoders
from revector.interfaces import Content, NoProgress, Progress, Vectors, whole_texts
from revector.lifecycle import Outcome
from revector.migration.migrator import Migrator
from revector.migration_files import migration_files
from revector.planning.capacity import index_bytes
from revector.planning.estimating import data_folder
from revector.planning.forecast import Disk
from revector.registry.collections import ensure_collection
from revector.revisions import write_revision
from revector.spec import Chunking, Gate, IndexSpec, ModelSpec, stable_hash

ID_BYTES = 12
"""Mean length of an id that the room for an index is reckoned with."""


@dataclass(frozen=True, slots=True)
class AdoptionPlan:
    """What an adoption would do. ``refusals`` keep it from being done; ``model`` is what the first revision names."""

    collection: str
    look: TableLook
    model: ModelSpec
    proof: ModelProof
    needed_bytes: int
    refusals: tuple[str, ...]

    def check(self) -> None:
        """Raise ``EncoderMismatch`` where the vectors are not the model's, ``ConfigError`` for any other refusal."""
        if self.refusals:
            kind = EncoderMismatch if self.proof.verdict in ("mixture", "other", "family") else ConfigError
            raise kind(f"{self.look.terms.table} is not adopted: {'; '.join(self.refusals)}. Nothing was changed.")

    @property
    def embeds(self) -> int:
        """Documents that have no vector to be taken, and are embedded."""
        found = self.look
        if self.proof.verdict != "same" or found.dim is None:
            return found.documents
        return found.documents - found.widths[found.dim] + found.bad_vectors

    def as_data(self) -> dict[str, Any]:
        """Return it for ``--json`` and the history."""
        found = self.look
        return {
            "collection": self.collection,
            "terms": found.terms.model_dump(mode="json"),
            "rows": found.rows,
            "documents": found.documents,
            "without_text": found.without_text,
            "without_vector": found.without_vector,
            "bad_vectors": found.bad_vectors,
            "widths": found.widths,
            "embeds": self.embeds,
            "model": asdict(self.model),
            "proof": self.proof.as_data(),
            "needed_bytes": self.needed_bytes,
            "refusals": list(self.refusals),
            "notes": found.notes,
            "grants": found.grants,
        }


@dataclass(frozen=True, slots=True)
class AdoptionReport:
    """What an adoption did: rows copied by this call, the migration file, and the steps of the migration to it."""

    collection: str
    table: str
    documents: int
    reused: int
    """Documents whose vectors were taken from the table, by this call."""
    copied: CopyReport
    file: Path | None
    steps: Sequence[Outcome]

    def as_data(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        return asdict(self)


class Adopter:
    """Adoptions of one collection. Everything it knows is in the database: it can be killed, and run again."""

    def __init__(
        self,
        engine: sa.Engine,
        collection: str,
        *,
        migrator: Callable[[], Migrator],
        migrations: Path,
        encoders: Encoders,
        specify: Callable[[str, int | None], ModelSpec],
        max_bytes: int,
        actor: str,
        progress: Progress | None = None,
    ) -> None:
        """``specify`` returns a model as its own files say, cut to a width if vectors of that width are there."""
        self._specify = specify
        self._engine, self._name, self._migrator, self._migrations = engine, collection, migrator, migrations
        self._encoders, self._max_bytes, self._actor = encoders, max_bytes, actor
        self._progress = progress or NoProgress()

    @cached_property
    def _cid(self) -> int:
        with self._engine.begin() as connection:
            return ensure_collection(connection, self._name).cid

    def adoption(self) -> Adoption | None:
        """Return the adoption that was begun; None where none was."""
        with self._engine.connect() as connection:
            known = connection.scalar(sa.text("SELECT cid FROM collection WHERE name = :name"), {"name": self._name})
            return None if known is None else read_adoption(connection, known)

    # Before anything is changed -------------------------------------------------------------------------------------

    def plan(self, request: AdoptionRequest) -> AdoptionPlan:
        """Look at the table and prove the model; change nothing. Raises ``ConfigError`` for no such table."""
        with self._engine.connect() as connection:
            terms = terms_of(connection, request)
            found = look(connection, terms)
            model = self._specify(request.model, found.dim)
            rows = [] if found.problems else sample(connection, found)
            disk = self._room(connection, found, model.dim)
        # Outside of any transaction: a model takes its time.
        proof = self._prove(rows, found, model)
        refusals = [*found.problems, *_refusals(found, proof, model)]
        if disk.too_small:
            refusals.append(disk.said)
        if proof.form is not None and proof.verdict == "same":
            form = {"text": proof.form.columns, "separator": proof.form.separator}
            found.terms = found.terms.model_copy(update=form)
            model = replace(model, document_prompt=proof.form.prompt, normalize=proof.unit)
        return AdoptionPlan(self._name, found, model, proof, disk.needed_bytes, tuple(refusals))

    def _prove(self, rows: Sequence[SampledRow], found: TableLook, model: ModelSpec) -> ModelProof:
        if not rows:
            return ModelProof("none", None, 0, 0.0, None, None)
        encoder = self._encoders.fresh(replace(model, document_prompt=""))
        cut = make_chunker(Chunking(unit="document", max_tokens=model.max_tokens, overlap_tokens=0), encoder.tokenizer)

        def encode(prompt: str, texts: Sequence[str]) -> Vectors:
            seen = (cut.pieces([Content("text", text)]) for text in texts)
            read = [prompt + (pieces[0].text if pieces else text) for text, pieces in zip(texts, seen, strict=True)]
            return encoder.encode("document", whole_texts(read))

        return Prover(found.terms, encode, self._progress).prove(rows, model.document_prompt)

    def _room(self, connection: sa.Connection, found: TableLook, dim: int) -> Disk:
        """Return what documents and index will take, and what is free; texts are taken as they lie in the table."""
        texts = connection.scalar(
            sa.text("SELECT pg_table_size(CAST(:table AS regclass))"), {"table": found.terms.table}
        )
        each = index_bytes(dim, IndexSpec(), ID_BYTES)
        needed = round(int(texts or 0) + found.documents * each)
        folder = data_folder(self._engine)
        free = shutil.disk_usage(folder).free if folder else None
        return Disk("PostgreSQL", folder or "", needed, free)

    # Taking over ----------------------------------------------------------------------------------------------------

    def run(self, plan: AdoptionPlan) -> AdoptionReport:
        """Take over by ``plan``. Raises ``ConfigError`` or ``EncoderMismatch`` for one that is refused."""
        self.begin(plan)
        return self.resume()

    def begin(self, plan: AdoptionPlan) -> None:
        """Follow the table from now on; its rows are copied by ``resume``. Raises as ``run``."""
        plan.check()
        proof = {**plan.proof.as_data(), "model": asdict(plan.model)}
        proved = ProvedVectors("", "", proof)
        if plan.proof.verdict == "same":
            encoder = self._encoders.fresh(plan.model)
            chunker_fp = stable_hash(asdict(_chunking(plan.model)))
            proved = ProvedVectors(vectors_fp(encoder.components), chunker_fp, proof)
        _begin(self._engine, self._cid, plan.look, proved, self._max_bytes, self._actor)
        crash_at("adopt.after_begin")

    def resume(self) -> AdoptionReport:
        """Go on with an adoption that was begun, to its end; triggers that are missing or off are made again.

        Raises ``ConfigError`` where none was begun, or its table or a column is gone.
        """
        adoption = self.adoption()
        if adoption is None:
            raise ConfigError(f"collection {self._name!r} has adopted no table. Nothing was changed; name the table.")
        copied = self._copy(adoption)
        file = self._write_revision(adoption)
        crash_at("adopt.after_file")
        migrator = self._migrator()
        steps = [] if migrator.status().slots.active else migrator.upgrade()
        reused = sum(int(step.facts.get("reused", 0)) for step in steps if step.step == "backfill")
        with self._engine.connect() as connection:
            documents = connection.scalar(
                sa.text("SELECT count(*) FROM document WHERE cid = :cid AND NOT deleted"), {"cid": adoption.cid}
            )
        return AdoptionReport(self._name, adoption.terms.table, int(documents or 0), reused, copied, file, tuple(steps))

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

    def _write_revision(self, adoption: Adoption) -> Path | None:
        if migration_files(self._migrations):
            return None
        model = ModelSpec(**adoption.proof["model"])
        return write_revision(
            self._migrations,
            message=f"adopt {adoption.terms.table}",
            model=model,
            chunking=_chunking(model),
            index=IndexSpec(),
            gate=Gate(),
            down_revision=None,
        )

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
def _begin(engine: sa.Engine, cid: int, look: TableLook, proved: ProvedVectors, max_bytes: int, actor: str) -> None:
    with transaction(engine) as connection:
        adoptions.begin(connection, cid, look, proved, max_bytes=max_bytes, actor=actor)


@repeated
def _follow_again(engine: sa.Engine, adoption: Adoption) -> None:
    with transaction(engine) as connection:
        adoptions.follow_again(connection, adoption)


@repeated
def _end(engine: sa.Engine, cid: int, actor: str) -> None:
    with transaction(engine) as connection:
        adoptions.end(connection, cid, actor=actor)


def _chunking(model: ModelSpec) -> Chunking:
    """Return the chunking of vectors that are there: one for each text, cut where the model's sight ends."""
    return Chunking(unit="document", max_tokens=model.max_tokens, overlap_tokens=0)


def _refusals(found: TableLook, proof: ModelProof, model: ModelSpec) -> list[str]:
    if proof.verdict in ("same", "none"):
        return []
    width = f" (the vectors have {found.dim} numbers, the model gives {model.dim})" if found.dim != model.dim else ""
    return [f"{proof.said}{width}. Name the model that made them, or embed all texts with --no-vectors"]
