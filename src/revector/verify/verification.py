"""Proof, at any time and without holding anybody up, that the live indexes equal the documents; and their repair.

What "equal" means stands here and in ``verify.readback``: the registry's invariants, every id's rows against its
document, and a sample re-chunked and re-embedded. No count, statistic or earlier verdict is trusted.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from revector.adoption.adoptions import read_adoption, tolerance_of
from revector.adoption.checking import TableFindings, compare
from revector.adoption.copying import Copy
from revector.encoders.check import check_vectors
from revector.encoders.probes import probes_of
from revector.errors import (
    ConfigError,
    DatabaseError,
    DocumentError,
    EncoderMismatch,
    GateBusy,
    IndexGone,
    RevectorError,
)
from revector.history.events import broken_links
from revector.indexing.encoding import Encoders
from revector.indexing.rearm import rearm
from revector.interfaces import Chunker, Encoder, NoProgress, Piece, Progress, Vectors, locators_of
from revector.registry import lanes, ledgers
from revector.registry.collections import Generation, read_collection, read_generation
from revector.registry.control import add_event
from revector.registry.lane import NORM_TOLERANCE
from revector.verify import readback
from revector.verify.alike import find_alike
from revector.verify.readback import WRONG, IdState, ShownDocument
from revector.verify.verified import FIRST, IndexFindings, VerificationReport, WrongDocument

T = TypeVar("T")

PAGE_IDS = 2_000
BATCH_DOCUMENTS = 32
REEMBEDDED = 500
MOST_SUSPECTS = 1_000

LEAST_TOLERANCE = 1e-5
NOISE_FACTOR = 10.0
"""A re-embedded vector may differ by this cosine distance, or by this multiple of what the probe texts differ.

Measured with all-MiniLM-L6-v2 on a CPU, 150 texts alone and in batches: chunks differ by 4e-13 in float32, 7e-7 in
float16 and 5e-5 in bfloat16; the probe texts by 7e-13, 9e-7 and 6e-5. Storage as halfvec adds 5e-8, and never more
than 2^-23 by its rounding. One edited word moves a chunk by 1e-3 (median).
"""

_MODEL_ERRORS = (RevectorError, RuntimeError, ValueError, TypeError, IndexError, MemoryError, OSError, ImportError)


class IndexComparison:
    """Compares one generation with the documents; no transaction is longer than one page, and none holds a lock."""

    def __init__(
        self,
        engine: sa.Engine,
        generation: Generation,
        encoders: Encoders,
        *,
        role: str,
        seed: int = 0,
        repair_as: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        """``seed`` draws the sample; ``repair_as`` is who re-arms what is found wrong, None leaves it."""
        self._engine, self._generation, self._encoders = engine, generation, encoders
        self._draw = random.Random(f"{seed}/{generation.gen}")  # noqa: S311 - a sample, not a secret
        self._repair_as, self._progress = repair_as, progress or NoProgress()
        self.found = IndexFindings(generation.gen, generation.revision, role)

    def run(self, *, reembed: int, after: str = "", sample: float | None = None) -> IndexFindings:
        """Look at every id, or at a ``sample`` from ``after`` on and round again; re-embed up to ``reembed``."""
        found = self.found
        with self._engine.connect() as connection:
            if not self._has_rows(connection):
                return found
            total = readback.count_documents(connection, self._generation.cid)
            most = None if sample is None else _rows(sample, total)
            suspects = [] if most is None else readback.suspects(connection, found.generation, MOST_SUSPECTS)
        self._progress.start(f"verify {found.revision}", total if most is None else min(most, total))
        # Whatever the invariants name is looked at, also by a sample that would not come across it.
        known = {one.doc_id for one in self._take(self._read(readback.look_at, suspects))}
        drawn: list[str] = []
        sound = 0
        for page in self._pages(after, most):
            for one in self._take([one for one in page if one.doc_id not in known]):
                if one.state == "sound":  # reservoir sampling: Vitter's algorithm R (1985)
                    place = sound if sound < reembed else self._draw.randrange(sound + 1)
                    drawn[place : place + 1] = [one.doc_id] if place < reembed else []
                    sound += 1
            found.through = page[-1].doc_id
            self._progress.advance(len(page))
        self._progress.done()
        if reembed and drawn:
            self._embed_anew(sorted(drawn))
        if most is None:
            found.alike = self._read(find_alike, found.tolerance or LEAST_TOLERANCE)
        return found

    # Rows -------------------------------------------------------------------------------------------------------------

    def _has_rows(self, connection: sa.Connection) -> bool:
        """Note what is wrong with the table as a whole; return whether there is one to read."""
        self.found.faults += (faults := lanes.faults(connection, self._generation))
        return not any(one.endswith(ledgers.MISSING) for one in faults)

    def _pages(self, after: str, most: int | None) -> Iterator[list[IdState]]:
        """Yield pages in key order; only a page that was read and is empty is the end."""
        begin, again, left = after, after == "", math.inf if most is None else most
        while left > 0:
            page = self._read(readback.look_at_next, after, min(PAGE_IDS, left))
            if again and begin:
                page = [one for one in page if one.doc_id <= begin]
            if page:
                yield page
                after, left = page[-1].doc_id, left - len(page)
            elif again:
                return
            else:
                after, again = "", True

    def _read(self, read: Callable[..., list[T]], *what: object) -> list[T]:
        """Read in a transaction of its own; nothing from a generation that was retired and dropped meanwhile."""
        try:
            with self._engine.connect() as connection:
                return read(connection, self._generation, *what)
        except IndexGone:
            with self._engine.connect() as connection:
                if readback.is_live(connection, self._generation.gen):
                    raise
            return []

    def _take(self, looked: list[IdState]) -> list[IdState]:
        found, states = self.found, Counter(one.state for one in looked)
        found.checked += len(looked)
        found.chunks += sum(one.chunks for one in looked)
        found.deleted += states["deleted"]
        found.in_flight += states["in flight"]
        found.dead_letters += states["dead"]
        self._note([WrongDocument(one.state, one.doc_id, one.reason) for one in looked if one.state in WRONG])
        return looked

    def _note(self, wrong: Sequence[WrongDocument]) -> None:
        """Count what is wrong and, where that was asked for, make it due again at once."""
        ids: dict[str, list[str]] = {}
        for one in wrong:
            self.found.note(one)
            ids.setdefault(one.kind, []).append(one.id)
        if ids and self._repair_as is not None:
            cid, gen = self._generation.cid, self._generation.gen
            try:
                self.found.rearmed += rearm(self._engine, cid, gen, ids, actor=self._repair_as)
            except GateBusy:
                return  # someone writes these documents at length; the next repair has them

    # Vectors ----------------------------------------------------------------------------------------------------------

    def _embed_anew(self, doc_ids: Sequence[str]) -> None:
        found = self.found
        self._progress.start(f"re-embed {found.revision}", len(doc_ids))
        try:
            encoder, chunker = self._encoder()
            for at in range(0, len(doc_ids), BATCH_DOCUMENTS):
                batch = doc_ids[at : at + BATCH_DOCUMENTS]
                shown = self._read(readback.read_shown, batch)
                try:
                    wrong = self._unlike(encoder, chunker, shown)
                except DocumentError:  # an image that was swept since: its document has changed, and is read again
                    shown = self._read(readback.read_shown, batch)
                    wrong = self._unlike(encoder, chunker, shown)
                self._note(wrong)
                found.reembedded += len(shown)
                self._progress.advance(len(batch))
        except DatabaseError:
            raise
        except _MODEL_ERRORS as error:
            found.faults.append(f"its encoder cannot be used, so no vector was compared: {error}")
        self._progress.done()

    def _encoder(self) -> tuple[Encoder, Chunker]:
        """Load the generation's encoder, prove it by the stored probe vectors, and measure how exactly it repeats."""
        generation = self._generation
        encoder = self._encoders.of(generation)
        if encoder.fingerprint != generation.encoder_fp:
            raise EncoderMismatch(f"its fingerprint is {encoder.fingerprint}, the generation's {generation.encoder_fp}")
        self._encoders.probe(generation)
        alone = np.concatenate([encoder.encode("document", [probe]) for probe in probes_of(encoder.kinds)])
        noise = float(_distances(generation.probes, alone).max())
        with self._engine.connect() as connection:
            adopted = tolerance_of(connection, generation.cid, generation.vectors_fp, generation.chunker_fp)
        self.found.tolerance = max(LEAST_TOLERANCE, NOISE_FACTOR * noise, adopted)
        return encoder, self._encoders.chunker_of(generation)

    def _unlike(self, encoder: Encoder, chunker: Chunker, shown: Sequence[ShownDocument]) -> list[WrongDocument]:
        """Re-chunk and re-embed texts; return the documents whose rows differ, text and rows being of one snapshot."""
        wrong: list[WrongDocument] = []
        same: list[tuple[ShownDocument, list[Piece]]] = []
        limit = self._generation.spec.model.max_unknown_tokens
        vocabulary = self._encoders.vocabulary_of(self._generation)
        for one in shown:
            pieces = chunker.pieces(one.contents)
            refused = vocabulary.unreadable({one.doc_id: pieces}, limit)
            self.found.unreadable |= {doc_id: bad.said for doc_id, bad in refused.items()}
            if np.array_equal(locators_of(pieces), one.locators):
                same.append((one, pieces))
            else:
                reason = f"its {len(one.locators)} chunks are not where its text is cut into {len(pieces)}"
                wrong.append(WrongDocument("stale", one.doc_id, reason))
        every = [piece for _, pieces in same for piece in pieces]
        fresh = check_vectors(encoder.encode("document", every) if every else [], len(every), encoder.dim)
        at = 0
        for one, pieces in same:
            reason = self._unlike_vectors(one.vectors, fresh[at : at + len(pieces)])
            at += len(pieces)
            if reason:
                wrong.append(WrongDocument("damaged", one.doc_id, reason))
        return wrong

    def _unlike_vectors(self, stored: Vectors, fresh: Vectors) -> str:
        """Say which stored vector is not its text's; empty if all are."""
        allowed = self.found.tolerance or LEAST_TOLERANCE
        for chunk, (vector, wanted) in enumerate(zip(stored, fresh, strict=True)):
            if vector.shape != wanted.shape:
                return f"chunk {chunk} is {len(vector)} wide"
            distance = float(_distances(vector[None], wanted[None])[0])
            stretch = float(np.linalg.norm(vector) / np.linalg.norm(wanted))
            if not (distance <= allowed and abs(stretch - 1) <= NORM_TOLERANCE):
                found = f"cosine {1 - distance:.6f} and {stretch:.4f} of the length"
                return f"chunk {chunk} has {found} of its text's vector, {1 - allowed:.6f} and 1 are wanted"
            self.found.farthest = max(self.found.farthest, distance)
        return ""


def _distances(stored: Vectors, fresh: Vectors) -> npt.NDArray[np.float64]:
    """Return the cosine distance of each row, in float64: ``(n,)``; NaN for a zero row."""
    a, b = stored.astype(np.float64), fresh.astype(np.float64)
    with np.errstate(invalid="ignore"):
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        return np.asarray(1 - (a * b).sum(axis=1) / lengths)


def _table(engine: sa.Engine, cid: int, *, whole: bool, repair: bool, progress: Progress) -> TableFindings | None:
    """Look at an adopted table's triggers and, if ``whole``, at every row; ``repair`` writes what was missed."""
    with engine.connect() as connection:
        adoption = read_adoption(connection, cid)
    if adoption is None:
        return None
    found = compare(engine, adoption, whole=whole)
    if repair and (found.differing or found.vanished):
        Copy(engine, adoption, first=False).run(progress)
    return found


def _rows(sample: float, total: int) -> int:
    """Return how many ids a sample has: a share below 1 of ``total``, or as many as it says."""
    return max(1, math.ceil(sample * total)) if sample < 1 else int(sample)


def verify_live(
    engine: sa.Engine,
    name: str,
    encoders: Encoders,
    *,
    actor: str,
    sample: float | None = None,
    reembed: int = REEMBEDDED,
    repair: bool = False,
    seed: int | None = None,
    progress: Progress | None = None,
) -> VerificationReport:
    """Verify every seeded generation in a slot of collection ``name`` while everybody works on; keep it as an event.

    ``sample``: a share below 1 or a number of ids per generation, going on where the newest sample in the history
    ended and round again, so that successive runs come across every id; None looks at all. ``reembed``: how many of
    those are re-embedded per generation; 0 loads no model. ``repair`` makes the wrong documents due again: a worker
    replaces their rows, which are served until then. Raises ``ConfigError`` for numbers out of range.
    """
    if reembed < 0 or (sample is not None and not sample > 0):
        raise ConfigError(f"a sample must be above 0 and reembed 0 or more, found {sample} and {reembed}.")
    started = time.monotonic()
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    with engine.connect() as connection:
        collection = read_collection(connection, name)
        live = [read_generation(connection, gen) for gen in collection.live]
        cursors = readback.sample_ends(connection, collection.cid)
        chain = tuple(broken_links(connection, name))
        invariants = readback.broken_invariants(connection, collection.cid, collection.live, first=FIRST)
    left_out = {one.gen: "it is still being filled" for one in live if not one.seeded}
    found = []
    for one in live:
        if one.gen in left_out:
            continue
        role = collection.role(one.gen) or ""
        repair_as = actor if repair else None
        comparison = IndexComparison(
            engine, one, encoders, role=role, seed=seed, repair_as=repair_as, progress=progress
        )
        found.append(comparison.run(reembed=reembed, after=cursors.get(str(one.gen), ""), sample=sample))
        with engine.connect() as connection:
            if not readback.is_live(connection, one.gen):
                left_out[one.gen] = "it left its slot meanwhile"
                comparison.found.faults.clear()
    table = _table(engine, collection.cid, whole=sample is None, repair=repair, progress=progress or NoProgress())
    wall_s = round(time.monotonic() - started, 3)
    report = VerificationReport(name, sample, seed, chain, invariants, tuple(found), left_out, wall_s, table)
    with engine.begin() as connection:
        add_event(connection, collection.cid, actor, "verify_live", None, report.for_history())
    return report
