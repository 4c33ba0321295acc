"""Runs a reading of a place that is adopted by copy: documents in pages, and at first vectors into the archive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from revector.adoption import copies
from revector.adoption.copies import CopiedPlace
from revector.adoption.copying import CopyReport
from revector.adoption.places import open_place
from revector.adoption.presets import AdoptionRequest
from revector.adoption.proof import ModelProof, SampledRow, TextForm
from revector.adoption.rows import DocumentSample, PlaceRows, Row
from revector.archive import Columns, Importer, ImportReport, Target
from revector.archive.importing import FOLDER, NORM_TOLERANCE
from revector.archive.layouts import id_bytes
from revector.archive.storage import working_folder
from revector.crash import crash_at
from revector.database.engine import transaction
from revector.documents.documents import Documents
from revector.documents.text import clean, is_id
from revector.errors import DocumentError, EncoderMismatch
from revector.indexing.chunking import make_chunker
from revector.indexing.encoding import Encoders
from revector.interfaces import Content, Document, Progress, Vectors
from revector.registry import archived
from revector.registry.work import read_items
from revector.spec import Chunking, ModelSpec, Revision
from revector.upkeep.rereading import reread_source

BLOCK_ROWS = 8_192


def stored_text(document: Document, max_mib: int) -> str | None:
    """Return what is stored of a document's text; None where it is refused."""
    try:
        return clean(document.text, max_mib=max_mib) if is_id(document.id) else None
    except DocumentError:
        return None


def is_changed(there: str, stored: str) -> bool:
    """Whether a stored text differs by more than white space from what is there, so that its vector is of another."""
    return there != stored and there.split() != stored.split()


@dataclass(frozen=True, slots=True)
class PlaceReader:
    """Reads adopted places into a collection. ``check`` proves sampled rows again, in the form that was proved."""

    engine: sa.Engine
    documents: Documents
    archive: Path
    encoders: Encoders
    max_mib: int
    actor: str
    progress: Progress
    check: Callable[[list[SampledRow], TextForm, ModelSpec], ModelProof]

    def read(
        self,
        adoption: CopiedPlace,
        request: AdoptionRequest,
        revision: Callable[[], Revision],
        *,
        max_missing: float,
    ) -> CopyReport:
        """Write what changed there, and delete what is gone from it: a share of ``max_missing`` at most.

        The first reading also takes the vectors, for the ``revision`` that it asks for; it may be repeated. Raises
        ``TooManyMissing`` before anything is written, ``EncoderMismatch`` where the vectors are no more what they were
        when they were proved, and as ``open_place``.
        """
        folder = self.archive / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        with working_folder(folder, "adopt") as scratch:
            unpacked = scratch / "unpacked"
            unpacked.mkdir()
            place, model = open_place(request, unpacked), ModelSpec(**adoption.proof["model"])
            spool = _Spool(scratch, model, self.max_mib) if adoption.vectors_fp and not adoption.copied else None
            rows = PlaceRows(place, adoption.terms, model.dim, *([] if spool is None else [spool.add]))
            done = reread_source(
                self.engine,
                adoption.cid,
                self.documents,
                rows,
                actor=self.actor,
                max_missing=max_missing if adoption.copied else 1.0,
                copies=True,
                progress=self.progress,
            )
            crash_at("adopt.after_read")
            if spool is not None:
                self._seal(adoption, model, spool, revision())
            elif not adoption.copied:
                with transaction(self.engine) as connection:
                    copies.finish(connection, adoption.cid)
        spared = 0 if done.ingested is None else done.ingested.spared
        return CopyReport(done.read, done.changed, done.deleted, spared, done.rejected)

    def _seal(self, adoption: CopiedPlace, model: ModelSpec, spool: _Spool, revision: Revision) -> None:
        form = TextForm(
            adoption.terms.text,
            adoption.terms.separator,
            model.document_prompt,
            Chunking(**adoption.proof["chunking"]),
        )
        proof = self.check(spool.sample.rows(model.dim), form, model)
        if proof.verdict != "same":
            raise EncoderMismatch(
                f"the vectors of {adoption.origin} are no more what they were when they were proved: {proof.said}. Its "
                "texts are documents here, no vector was taken and nothing is served; `revector unadopt "
                "--drop-copies`, then adopt it again."
            )
        encoder = self.encoders.fresh(model)
        identity: dict[str, str | int] = {
            "encoder_fp": encoder.fingerprint,
            "chunker_fp": revision.chunker_fp,
            "dim": model.dim,
        }
        importer = Importer(
            self.archive,
            Target(
                revision.revision,
                model.dim,
                model.normalize,
                revision.lengths_count,
                model.max_unknown_tokens,
                identity,
            ),
            look=lambda ids: read_items(self.engine, adoption.cid, ids),
            chunker=make_chunker(revision.chunking, encoder.tokenizer),
            encoder=encoder,
            progress=self.progress,
        )
        importer.take(spool.columns(Path(adoption.origin)), register=lambda done: self._register(adoption, model, done))

    def _register(self, adoption: CopiedPlace, model: ModelSpec, done: ImportReport) -> None:
        crash_at("adopt.after_seal")
        with transaction(self.engine) as connection:
            copies.finish(connection, adoption.cid)
            archived.add_imported(
                connection,
                adoption.cid,
                done.sealed,
                vectors_fp=adoption.vectors_fp,
                chunker_fp=adoption.chunker_fp,
                dim=model.dim,
            )


class _Spool:
    """The vectors of one reading on the disk, with the id and the text's hash of each, and the rows of the proof."""

    def __init__(self, folder: Path, model: ModelSpec, max_mib: int) -> None:
        self._path, self._model, self._max_mib = folder / "vectors.f4", model, max_mib
        self._file = self._path.open("wb")
        self.sample = DocumentSample()
        self._open: list[tuple[str, int, str]] = []
        self._ids: list[npt.NDArray[np.bytes_]] = []
        self._hashes: list[npt.NDArray[np.bytes_]] = []
        self._numbers: list[npt.NDArray[np.int32]] = []

    def add(self, row: Row) -> None:
        """Keep the vectors of a row that can be taken for what is stored of its text."""
        self.sample.offer(row)
        stored = stored_text(row.document, self._max_mib)
        if row.vectors is None or stored is None or not self._fit(row.vectors):
            return
        if is_changed(str(row.document.text), stored):
            return
        self._file.write(row.vectors.astype("<f4").tobytes())
        digest = Content("text", stored).sha256
        self._open += [(row.document.id, n, digest) for n in range(len(row.vectors))]
        if len(self._open) >= BLOCK_ROWS:
            self._close()

    def _fit(self, vectors: Vectors) -> bool:
        if vectors.shape[1] != self._model.dim:
            return False
        lengths = np.linalg.norm(vectors, axis=1)
        return not self._model.normalize or bool((np.abs(lengths - 1) <= NORM_TOLERANCE).all())

    def _close(self) -> None:
        self._ids.append(id_bytes(np.array([doc_id for doc_id, _, _ in self._open], object)))
        self._numbers.append(np.array([n for _, n, _ in self._open], np.int32))
        self._hashes.append(np.array([digest for _, _, digest in self._open], "S64"))
        self._open.clear()

    def columns(self, origin: Path) -> Columns:
        """Return all of them, mapped, as an import takes them."""
        self._close()
        self._file.close()
        ids = np.concatenate(self._ids)
        shape = (len(ids), self._model.dim)
        mapped = np.memmap(self._path, "<f4", "r", shape=shape) if len(ids) else np.zeros(shape, np.float32)
        return Columns(
            origin, ids, np.asarray(mapped), np.concatenate(self._numbers), None, None,
            np.concatenate(self._hashes), {}, {}, None,
        )  # fmt: skip
