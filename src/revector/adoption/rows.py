"""Owns the rows of a place that is adopted by copy: each as a document with its vectors, counted and sampled."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from revector.adoption.look import AdoptionLook
from revector.adoption.places import VECTOR, SourcePlace
from revector.adoption.presets import AdoptionRequest
from revector.adoption.proof import SAMPLED, SampledRow
from revector.adoption.terms import AdoptedTable
from revector.errors import ConfigError
from revector.formats.vectors import NoVector, VectorForm, form_of, looks_like_vector
from revector.interfaces import Document, Progress, Vectors
from revector.sources import ALL, Fields

PEEKED = 64
"""Rows by which the columns of a place are told."""

TEXTS = ("text", "texts", "content", "document", "body")
NAMES = (VECTOR, "embedding", "embeddings", "vectors")


@dataclass(frozen=True, slots=True)
class Row:
    """A row that is a document; ``vectors`` ``(c, dim)`` float32, None where there are none that could be used.

    ``width`` is that of its vectors, None where it has none; ``texts``: what is in each text column.
    """

    document: Document
    texts: tuple[str | None, ...]
    vectors: Vectors | None
    width: int | None


def terms_of(place: SourcePlace, request: AdoptionRequest) -> AdoptedTable:
    """Return what was said, and what is found of the rest in the first rows. Raises ``ConfigError``."""
    first = [record for _, record in place.read(place.columns, PEEKED)]
    if not first:
        raise ConfigError(f"{place.name} holds no rows. Nothing was changed.")
    meta = request.with_chunk_of(request.meta or place.meta)
    named = [*request.id, *request.text, *meta, *([request.vector] if request.vector and not place.vector else [])]
    if absent := [name for name in named if name not in (*place.columns, *place.meta)]:
        raise ConfigError(
            f"{place.name} has no column {', '.join(map(repr, absent))}; it has {', '.join(map(repr, place.columns))}. "
            "Nothing was changed."
        )
    if request.like is not None:
        raise ConfigError("--like is for tables of the project's own database. Nothing was changed; name the columns.")
    key = request.id or place.key or tuple(name for name in ("id", "_id") if name in place.columns)[:1]
    if not key:
        raise ConfigError(
            f"which column of {place.name} names a row? It has {', '.join(map(repr, place.columns))}. Nothing was "
            "changed; name a unique one with --id."
        )
    text = request.text or place.text or tuple(name for name in TEXTS if name in place.columns)[:1]
    if not text:
        raise ConfigError(
            f"--text is missing: which columns of {place.name} are the text? It has "
            f"{', '.join(map(repr, place.columns))}. Nothing was changed."
        )
    return AdoptedTable(
        table=place.name,
        id=key,
        text=text,
        separator=request.separator,
        meta=meta,
        where=request.where,
        vector=_vector_of(place, request, first, {*key, *text}),
    )


def _vector_of(
    place: SourcePlace, request: AdoptionRequest, first: Sequence[Mapping[str, object]], others: set[str]
) -> str | None:
    if not request.vectors:
        return None
    if found := place.vector or request.vector or (VECTOR if place.by_id is not None else None):
        return found
    seen = [
        name
        for name in place.columns
        if name not in others
        and (values := [record[name] for record in first if record.get(name) is not None])
        and all(map(looks_like_vector, values))
    ]
    usual = [name for name in NAMES if name in seen]
    if len(seen) > 1 and not usual:
        raise ConfigError(
            f"{place.name} has several columns of vectors ({', '.join(seen)}). Nothing was changed; name one with "
            "--vector, or embed all texts with --no-vectors."
        )
    return next(iter((*usual, *seen)), None)


class PlaceRows:
    """The documents of a place, by the terms of its adoption: a Source that can be read again and again.

    ``dim``: the width of the model, None where it has any; it tells raw bytes apart. ``seen`` is called with each row.
    """

    def __init__(
        self, place: SourcePlace, terms: AdoptedTable, dim: int | None, seen: Callable[[Row], None] = lambda _: None
    ) -> None:
        self.name, self._place, self._terms, self._seen = place.name, place, terms, seen
        self.without_text = 0
        inside = [] if terms.vector is None or place.by_id is not None else [terms.vector]
        meta = [name for name in terms.meta if name != ALL]
        self._columns = list(dict.fromkeys((*terms.id, *terms.text, *meta, *inside)))
        metas = None if ALL in terms.meta else terms.meta
        self._fields = Fields(terms.id, terms.text, metas, separator=terms.separator, aside=tuple(inside))
        self.form = self._form(inside, dim)

    def _form(self, inside: Sequence[str], dim: int | None) -> VectorForm:
        if not inside:
            return VectorForm("an array")
        values = [record.get(inside[0]) for _, record in self._place.read(self._columns, PEEKED)]
        values = [value for value in values if value is not None]
        if not values:
            return VectorForm("nothing in the first rows")
        if isinstance(values[0], np.ndarray):
            return VectorForm(f"{values[0].dtype.name} arrays")
        try:
            return form_of(values, dim)
        except NoVector as error:
            raise ConfigError(
                f"column {inside[0]!r} of {self.name} holds {error}, and no vectors. Nothing was changed; vectors are "
                "read from bytes of float16, float32 or float64 numbers, .npy bytes, JSON, text such as [1,2], and "
                "lists. Name another with --vector, or embed all texts with --no-vectors."
            ) from error

    def __iter__(self) -> Iterator[Document]:
        """Yield the rows that have a text."""
        terms = self._terms
        self.without_text = 0
        for document, record in self._place.records(self._fields, self._columns).rows():
            if document.text is None or not document.text.strip():
                self.without_text += 1
                continue
            vectors, width = self._vectors(document.id, record)
            texts = tuple(None if record.get(name) is None else str(record[name]) for name in terms.text)
            self._seen(Row(document, texts, vectors, width))
            yield document

    def _vectors(self, doc_id: str, record: Mapping[str, object]) -> tuple[Vectors | None, int | None]:
        """Return sound vectors and their width; of damaged ones the width alone, of none neither."""
        if self._terms.vector is None:
            return None, None
        found = record.get(self._terms.vector) if self._place.by_id is None else self._place.by_id.find(doc_id)
        if found is None:
            return None, None
        try:
            vectors = self.form.read(found)
        except NoVector:
            return None, 0
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        sound = bool(np.isfinite(lengths).all() and (lengths > 0).all())
        return (vectors if sound else None), vectors.shape[1]


@dataclass(slots=True, kw_only=True)
class PlaceLook(AdoptionLook):
    """What a place holds, and the rows that the model is proved on: those of the lowest hashes, at each reading."""

    form: str
    """How the vectors are written there."""
    text_bytes: int = 0
    sampled: Sequence[SampledRow] = field(default_factory=list)

    @property
    def taken(self) -> int:
        """Documents whose vectors can be taken: ``widths`` counts those that are sound."""
        return 0 if self.dim is None else self.widths[self.dim]


class DocumentSample:
    """Keeps the ``SAMPLED`` rows with sound vectors whose ids have the lowest hashes: the same at each reading."""

    def __init__(self) -> None:
        self._held: list[tuple[int, int, Row]] = []
        self._count = 0

    def offer(self, row: Row) -> None:
        """Let a row take part."""
        if row.vectors is None:
            return
        draw, self._count = -hash_of(row.document.id), self._count + 1
        if len(self._held) < SAMPLED:
            heapq.heappush(self._held, (draw, self._count, row))
        elif draw > self._held[0][0]:
            heapq.heapreplace(self._held, (draw, self._count, row))

    def rows(self, dim: int | None) -> list[SampledRow]:
        """Return those of the usual width, lowest hash first."""
        held = [row for _, _, row in sorted(self._held, reverse=True)]
        return [SampledRow(row.vectors, row.texts) for row in held if row.vectors is not None and row.width == dim]


def hash_of(doc_id: str) -> int:
    """Return 63 bits of an id's hash."""
    return int.from_bytes(hashlib.blake2b(doc_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()) >> 1


def look(
    place: SourcePlace,
    terms: AdoptedTable,
    dim: int | None,
    stored: Callable[[Document], str | None],
    is_changed: Callable[[str, str], bool],
    progress: Progress,
) -> PlaceLook:
    """Read the place once, and return what it holds.

    ``stored``: what is stored of a document's text, None where it is refused; ``is_changed``: whether that is another
    text. Raises ``SourceError`` for what cannot be read, or has no id.
    """
    counting = _Counting(terms)
    rows = PlaceRows(place, terms, dim, counting.add)
    found = counting.found = PlaceLook(terms, form=rows.form.said)
    progress.start(f"read {place.name}", unit="rows")
    for document in rows:
        text = stored(document)
        counting.refused += text is None
        counting.changed += text is not None and is_changed(str(document.text), text)
        found.documents += 1
        if found.documents % PEEKED == 0:
            progress.advance(PEEKED)
    progress.done()
    found.rows, found.without_text = found.documents + rows.without_text, rows.without_text
    found.sampled = counting.sample.rows(found.dim)
    _judge(found, place, rows, counting)
    return found


class _Counting:
    """What is counted as the rows pass by."""

    found: PlaceLook

    def __init__(self, terms: AdoptedTable) -> None:
        self._takes = terms.vector is not None
        self.sample, self.hashes = DocumentSample(), _Blocks()
        self.refused = self.changed = self.matched = 0

    def add(self, row: Row) -> None:
        """Count a row."""
        found = self.found
        self.hashes.add(hash_of(row.document.id))
        self.sample.offer(row)
        self.matched += row.width is not None
        found.text_bytes += len(str(row.document.text))
        if row.width is None:
            found.without_vector += self._takes
        elif row.vectors is None:
            found.bad_vectors += 1
        else:
            found.widths[row.width] = found.widths.get(row.width, 0) + 1


def _judge(found: PlaceLook, place: SourcePlace, rows: PlaceRows, counted: _Counting) -> None:
    terms = found.terms
    if not found.documents:
        found.problems.append(
            f"no row of {found.rows:,} has a text in {', '.join(terms.text)}" if found.rows else "there are no rows"
        )
    if twice := counted.hashes.twice():
        named = next((one.id for one in rows if hash_of(one.id) in twice), "")
        found.problems.append(
            f"ids are repeated, such as {named!r}: ({', '.join(terms.id)}) does not name one row; name the columns "
            "that do with --id"
        )
    if place.by_id is not None:
        if not counted.matched:
            found.problems.append(f"none of the {place.by_id.count:,} ids of vectors is among those of the texts")
        elif counted.matched < place.by_id.count:
            found.notes.append(
                f"{place.by_id.count - counted.matched:,} ids have vectors and no text: they are left out"
            )
    if counted.refused:
        found.notes.append(f"{counted.refused:,} rows cannot be stored and become dead letters (`revector dlq list`)")
    if counted.changed:
        found.notes.append(
            f"{counted.changed:,} texts are stored fixed (mojibake, entities, control characters), and are embedded"
        )
    found.notes.append(
        "writes there are not followed: from now on they go through revector, or the place is read again by the same "
        "command"
    )


class _Blocks:
    """Numbers of 63 bits in arrays: 8 bytes for each row that was read."""

    def __init__(self) -> None:
        self._whole: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
        self._open: list[int] = []

    def add(self, number: int) -> None:
        self._open.append(number)
        if len(self._open) == 1 << 16:
            self._whole.append(np.array(self._open, np.int64))
            self._open.clear()

    def twice(self) -> set[int]:
        """Return those that occur more than once."""
        found, counts = np.unique(np.concatenate([*self._whole, np.array(self._open, np.int64)]), return_counts=True)
        return set(found[counts > 1].tolist())
