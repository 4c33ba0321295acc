"""Owns precomputed vectors on their way into the archive: matched with the documents of today, proved, and sealed."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from revector.archive.comparing import RowSample, SpotCheck
from revector.archive.folder import SealedFile
from revector.archive.foreign import Columns, open_columns, vectors_sha256
from revector.archive.part import Part, write_part
from revector.archive.storage import Dtype, fsync, working_folder
from revector.encoders.vocabulary import Vocabulary
from revector.errors import EncoderMismatch, SourceError
from revector.interfaces import Chunker, Content, Encoder, NoProgress, Piece, Progress, locators_of, read_to_the_end

FOLDER = "imports"
PROBLEMS = {
    "unknown": "not among the documents, or deleted",
    "changed": "made from another text than the document has today",
    "cut": "not the chunks that this revision cuts the text into",
    "unreadable": "of more unknown tokens than this revision's max_unknown_tokens allows",
}
"""Why a document of a file may not fit, and what that means; each can be skipped by choice."""

PART_DOCUMENTS, PART_CHUNKS = 4_096, 32_768
LOOK_DOCUMENTS = 256
FIRST_LOOK = 4
"""Documents of the first part that are embedded at once, so that a file of another model is refused early."""

NORM_TOLERANCE = 0.01
"""As in verification: what is further from length 1 would be reported as damage once it is published."""

NAMED = 10


class CurrentDocument(Protocol):
    """A document as it stands today; a deleted one holds nothing and has no hash."""

    @property
    def doc_id(self) -> str:
        """The id."""
        ...

    @property
    def version(self) -> int:
        """Its version in the registry."""
        ...

    @property
    def contents(self) -> Sequence[Content]:
        """What it holds: its cleaned text."""
        ...

    @property
    def content_hash(self) -> str | None:
        """SHA-256 (hex) of all that it holds."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """The revision that vectors are imported for, and what its parts are named by."""

    revision: str
    dim: int
    normalize: bool
    lengths_count: bool
    """Whether vectors of other lengths than the model's would be searched in another order."""
    max_unknown_tokens: float
    attributes: Mapping[str, str | int]
    """At least ``encoder_fp``, ``chunker_fp`` and ``dim``."""


@dataclass(slots=True)
class ImportReport:
    """What an import did: parts that were sealed, and by problem how many documents were left out and the first ids."""

    sealed: list[SealedFile] = field(default_factory=list)
    documents: int = 0
    chunks: int = 0
    compared: dict[str, SpotCheck] = field(default_factory=dict)
    """By file, how many rows were embedded and compared: a file does not prove by itself which model made it."""
    vectors_sha256: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    first: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, problem: str, doc_id: str) -> None:
        """Count a document that does not fit."""
        self.skipped[problem] = self.skipped.get(problem, 0) + 1
        named = self.first.setdefault(problem, [])
        if len(named) < NAMED:
            named.append(doc_id)


class Importer:
    """Takes vectors for one revision into ``folder``/imports: all of the files, or nothing.

    ``look`` returns the documents of some ids as they are today. ``chunker`` and ``encoder`` are the revision's own:
    vectors are taken only for the very chunks that it cuts, and a sample is embedded and compared (``comparing``).
    """

    def __init__(
        self,
        folder: Path,
        target: Target,
        *,
        look: Callable[[Sequence[str]], Sequence[CurrentDocument]],
        chunker: Chunker,
        encoder: Encoder,
        progress: Progress | None = None,
    ) -> None:
        self._folder, self._target = folder / FOLDER, target
        self._look, self._chunker, self._encoder = look, chunker, encoder
        self._vocabulary = Vocabulary(encoder.tokenizer)
        self._progress = progress or NoProgress()

    def run(
        self,
        paths: Sequence[Path],
        *,
        skip: Sequence[str] = (),
        dtype: Dtype = "float32",
        register: Callable[[ImportReport], None] = lambda _: None,
    ) -> ImportReport:
        """Import ``paths``; documents with a problem named in ``skip`` are left out, any other refuses everything.

        ``register`` is called once with what was done, after the files have their names and before this returns.
        Raises ``SourceError`` for files and documents that do not fit, ``EncoderMismatch`` for vectors of another
        model, ``ArchiveError`` for torn files and values beyond ``dtype``; the archive is as before then.
        """

        def opened(staging: Path) -> Iterator[Columns]:
            for path in paths:
                scratch = staging / "scratch"
                scratch.mkdir()
                yield open_columns(path, scratch)
                shutil.rmtree(scratch)

        return self._run(opened, skip, dtype, register, proved=False)

    def take(self, columns: Columns, *, register: Callable[[ImportReport], None]) -> ImportReport:
        """Import vectors that were proved to be the model's; documents that they do not fit are left out."""
        return self._run(lambda _: [columns], tuple(PROBLEMS), "float32", register, proved=True)

    def _run(
        self,
        opened: Callable[[Path], Iterable[Columns]],
        skip: Sequence[str],
        dtype: Dtype,
        register: Callable[[ImportReport], None],
        *,
        proved: bool,
    ) -> ImportReport:
        self._folder.mkdir(parents=True, exist_ok=True)
        done, staged = ImportReport(), []
        with working_folder(self._folder, "import") as staging:
            for columns in opened(staging):
                self._check_file(columns)
                done.vectors_sha256[str(columns.path)] = vectors_sha256(columns.vectors)
                sample = None if proved else RowSample(len(columns.ids))
                for part in self._parts(columns, done, skip, sample):
                    name = f"{self._target.revision}-{uuid.uuid4().hex}.h5"
                    sha256 = write_part(staging / name, part, attributes=self._target.attributes, dtype=dtype)
                    staged.append(SealedFile.of(staging / name, sha256, part))
                if sample is not None and not set(done.skipped) - set(skip):
                    done.compared[str(columns.path)] = sample.compare(
                        columns.path,
                        columns.vectors,
                        self._encoder,
                        self._target.revision,
                        self._progress,
                        lengths=self._target.lengths_count,
                    )
            self._refuse(done, skip)
            done.sealed = [self._settle(sealed) for sealed in staged]
            fsync(self._folder)
        done.documents = sum(sealed.documents for sealed in staged)
        done.chunks = sum(sealed.chunks for sealed in staged)
        try:
            register(done)
        except BaseException:
            for sealed in done.sealed:
                Path(sealed.path).unlink(missing_ok=True)
            raise
        return done

    def _check_file(self, columns: Columns) -> None:
        made_by, ours = columns.provenance.get("encoder_fp"), self._target.attributes["encoder_fp"]
        if made_by is not None and made_by != ours:
            raise EncoderMismatch(
                f"{columns.path} holds vectors of the encoder {str(made_by)[:12]}… (revision "
                f"{columns.provenance.get('revision', 'unknown')}), revision {self._target.revision} has "
                f"{str(ours)[:12]}…. Nothing was imported; name the revision whose model made them."
            )
        if columns.vectors.shape[1] != self._target.dim:
            raise SourceError(
                f"{columns.path} holds vectors of {columns.vectors.shape[1]} numbers, revision "
                f"{self._target.revision} has {self._target.dim}. Nothing was imported; name the revision whose model "
                "made them."
            )

    def _parts(
        self, columns: Columns, done: ImportReport, skip: Sequence[str], sample: RowSample | None
    ) -> Iterator[Part]:
        """Yield what fits, in id order; after a problem that is not to be skipped, only go on counting."""
        chunk = np.zeros(len(columns.ids), np.int8) if columns.chunk is None else columns.chunk
        order = np.lexsort((chunk, columns.ids))
        ids = columns.ids[order]
        firsts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]])) if len(ids) else np.zeros(0, np.int64)
        stops = np.append(firsts[1:], len(ids))
        self._progress.start(f"import {columns.path.name}", len(firsts))
        at = 0
        while at < len(firsts):
            end = int(np.searchsorted(stops, firsts[at] + PART_CHUNKS, side="right"))
            end = min(max(end, at + 1), at + PART_DOCUMENTS)
            rows = [order[first:stop] for first, stop in zip(firsts[at:end], stops[at:end], strict=True)]
            fitting = self._fitting(columns, [ids[first].decode() for first in firsts[at:end]], rows, done, sample)
            if fitting and not set(done.skipped) - set(skip):
                if at == 0 and sample is not None:
                    self._look_first(columns, fitting)
                yield self._part(columns, fitting)
            self._progress.advance(end - at)
            at = end
        self._progress.done()

    def _fitting(
        self,
        columns: Columns,
        doc_ids: Sequence[str],
        rows: Sequence[npt.NDArray[np.int64]],
        done: ImportReport,
        sample: RowSample | None,
    ) -> list[_Fit]:
        found: list[_Fit] = []
        for first in range(0, len(doc_ids), LOOK_DOCUMENTS):
            some = doc_ids[first : first + LOOK_DOCUMENTS]
            known = {one.doc_id: one for one in self._look(some) if one.contents}
            for doc_id, places in zip(some, rows[first : first + LOOK_DOCUMENTS], strict=True):
                document = known.get(doc_id)
                if document is None:
                    done.leave_out("unknown", doc_id)
                    continue
                said = columns.content_hash
                if said is not None and (said[places] != str(document.content_hash).encode()).any():
                    done.leave_out("changed", doc_id)
                    continue
                pieces = self._chunker.pieces(document.contents)
                locators = locators_of(pieces)
                whole = sample is not None or read_to_the_end(pieces, document.contents)  # a sample is compared
                if not (whole and _same_chunks(columns, places, locators)):
                    done.leave_out("cut", doc_id)
                    continue
                if self._vocabulary.unreadable({doc_id: pieces}, self._target.max_unknown_tokens):
                    done.leave_out("unreadable", doc_id)
                    continue
                if sample is not None:
                    sample.offer(doc_id, places, pieces)
                found.append(_Fit(doc_id, document.version, str(document.content_hash), places, locators, pieces))
        return found

    def _part(self, columns: Columns, fitting: Sequence[_Fit]) -> Part:
        rows = np.concatenate([one.rows for one in fitting])
        vectors = np.ascontiguousarray(columns.vectors[rows])
        self._check_vectors(columns.path, fitting, vectors)
        counts = np.array([len(one.rows) for one in fitting], np.int32)
        starts = np.cumsum(counts, dtype=np.int64) - counts
        chunk_starts, chunk_ends = np.ascontiguousarray(np.concatenate([one.locators for one in fitting]).T)
        return Part(
            doc_ids=[one.doc_id for one in fitting],
            versions=np.array([one.version for one in fitting], np.int64),
            content_hashes=[one.content_hash for one in fitting],
            starts=starts,
            counts=counts,
            chunk_starts=chunk_starts,
            chunk_ends=chunk_ends,
            embeddings=vectors.astype(np.float32) if vectors.dtype == np.float64 else vectors,
        )

    def _check_vectors(self, path: Path, fitting: Sequence[_Fit], vectors: npt.NDArray[np.generic]) -> None:
        lengths = np.linalg.norm(vectors.astype(np.float32), axis=1)
        bad = ~np.isfinite(lengths) | (lengths == 0)
        if self._target.normalize:
            bad |= np.abs(lengths - 1) > NORM_TOLERANCE
        if bad.any():
            of = np.repeat([one.doc_id for one in fitting], [len(one.rows) for one in fitting])[bad]
            wanted = "length 1" if self._target.normalize else "finite and not zero"
            raise SourceError(
                f"{path}: {int(bad.sum()):,} of {len(vectors):,} vectors looked at are not {wanted} (NaN, infinite, "
                f"zero or not normalised), such as those of {', '.join(map(repr, of[:5].tolist()))}. Nothing was "
                "imported; fix the file."
            )

    def _look_first(self, columns: Columns, fitting: Sequence[_Fit]) -> None:
        """Compare a few documents before any work; the whole sample is compared once the file was read."""
        few = RowSample(FIRST_LOOK)
        for n in sorted({int(n) for n in np.linspace(0, len(fitting) - 1, FIRST_LOOK)}):
            few.offer(fitting[n].doc_id, fitting[n].rows[:1], fitting[n].pieces)
        few.compare(
            columns.path,
            columns.vectors,
            self._encoder,
            self._target.revision,
            lengths=self._target.lengths_count,
        )

    def _refuse(self, done: ImportReport, skip: Sequence[str]) -> None:
        wrong = [problem for problem in done.skipped if problem not in skip]
        if not wrong:
            return
        said = "; ".join(
            f"{done.skipped[one]:,} are {PROBLEMS[one]}, such as {', '.join(map(repr, done.first[one]))}"
            for one in wrong
        )
        ways = " ".join(f"--skip {one}" for one in wrong)
        raise SourceError(f"documents of the files do not fit: {said}. Nothing was imported; {ways} leaves them out.")

    def _settle(self, sealed: SealedFile) -> SealedFile:
        path = self._folder / Path(sealed.path).name
        Path(sealed.path).replace(path)
        return SealedFile(str(path), *(getattr(sealed, name) for name in SealedFile.__slots__[1:]))


@dataclass(frozen=True, slots=True)
class _Fit:
    """A document whose vectors stand in ``rows`` of the file, with its pieces and where they are."""

    doc_id: str
    version: int
    content_hash: str
    rows: npt.NDArray[np.int64]
    locators: npt.NDArray[np.int32]
    pieces: Sequence[Piece]


def _same_chunks(columns: Columns, rows: npt.NDArray[np.int64], locators: npt.NDArray[np.int32]) -> bool:
    """Whether ``rows`` are just these chunks, by number and, where the file has them, places and offsets."""
    if len(rows) != len(locators) or not len(locators):
        return False
    if columns.chunk is not None and not np.array_equal(columns.chunk[rows], np.arange(len(locators))):
        return False
    if columns.start is None or columns.end is None:
        return True
    return np.array_equal(np.column_stack((columns.start[rows], columns.end[rows])), locators)
