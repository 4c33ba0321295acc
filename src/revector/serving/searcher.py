"""The query path: one read gives index and encoder together, so a query never meets an index of another model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from revector.database.sessions import alone
from revector.documents import documents
from revector.encoders.check import check_vectors
from revector.errors import (
    ConfigError,
    EncoderError,
    EncoderUnavailable,
    IndexGone,
    NotCaughtUp,
    StateError,
    UnknownDocument,
)
from revector.formats.images import ImageLimits
from revector.indexing.encoding import MODEL_ERRORS, Encoders
from revector.interfaces import Kind, Side, Vectors
from revector.registry.collections import Generation, read_collection, read_generation
from revector.registry.cutoffs import read_scores
from revector.registry.lane import SearchRequest
from revector.registry.lanes import lane_of
from revector.serving.asked import MinScore, check_asked, given_vector, least_score, usable_vector
from revector.serving.bounds import Stop, bounded, check_filter
from revector.serving.filters import compile_filter, why_nothing
from revector.serving.queries import askable, check_query, check_seen, piece_of, ready
from revector.serving.widening import Widths, effort, keeps_few
from revector.spec import Metric
from revector.stores.metrics import ZERO

ENCODE_ROWS = 64
MOST_CHARACTERS = 100_000
"""Of a query; every tokenizer cuts it far earlier."""

_SHOWN = ("chunk", "start", "stop", "text", "version", "meta", "kind")
MOVED = 5
"""How often a query is asked again because the alias moved under it; a swap needs seconds, a query milliseconds."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One result; the larger its ``score``, the nearer: by the metric of the index, see ``stores.metrics``.

    ``text`` is the chunk, none of an image, or the whole document where a newer version of it waits to be embedded.
    """

    id: str
    score: float
    chunk: int
    start: int
    stop: int
    text: str
    version: int
    meta: Mapping[str, object]
    kind: Kind | None = "text"
    """What of the document matched, its text or its image; None where a newer version of it waits."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Hits, best first, and who answered: the pair (generation, encoder) that was resolved in one read."""

    hits: tuple[Hit, ...]
    generation: int
    revision: str
    encoder_fp: str
    exact: bool
    encode_ms: float
    search_ms: float
    asked: int
    """Statements that were needed: more when a filter or duplicates called for more candidates."""
    warnings: tuple[str, ...] = ()
    """Where nothing was found: each field of the filter that no document has, or has only with other types."""
    metric: Metric = "cosine"
    """What the scores are, see ``Hit``."""
    cutoffs: Mapping[str, float] = field(default_factory=dict)
    """Name → the similarity from which the application shows a hit, on the scores of this generation."""

    def at_least(self, min_score: MinScore) -> Answer:
        """Return the hits of ``min_score`` and above. Raises ``ConfigError`` for a name that is no cut-off."""
        if min_score is None:
            return self
        least = least_score(min_score, self.cutoffs, self.revision, self.metric)
        return replace(self, hits=tuple(hit for hit in self.hits if hit.score >= least))


class Offer(Protocol):
    """Called with each query that the alias answered; must neither wait nor raise."""

    def __call__(
        self, query: str, answer: Answer, *, k: int, where: Mapping[str, object] | None = None, by: str = "document"
    ) -> None:
        """Take note."""


class Searcher:
    """Searches one collection through its alias, or a named generation; ``offer`` is called with the alias's answers.

    ``limit_s``: how long ``search``, ``search_like`` and ``search_given`` may take in the database. A ``stop`` that is
    given to them ends them from another thread.
    """

    def __init__(
        self,
        engine: sa.Engine,
        collection: str,
        encoders: Encoders,
        *,
        offer: Offer | None = None,
        limit_s: float | None = None,
        images: ImageLimits | None = None,
    ) -> None:
        self.engine, self.collection, self.encoders, self._offer = engine, collection, encoders, offer
        self._limit_s, self._images = limit_s, images or ImageLimits()
        self._generations: dict[int, Generation] = {}
        self._widths = Widths()

    def search(
        self,
        query: str | bytes,
        k: int = 10,
        *,
        where: Mapping[str, object] | None = None,
        by: str = "document",
        generation: int | None = None,
        exact: bool = False,
        min_score: MinScore = None,
        stop: Stop | None = None,
    ) -> Answer:
        """Return the ``k`` best documents (``by="document"``, best chunk each) or chunks (``by="chunk"``).

        ``query``: a text, or the bytes of an image, where the model has a tower for images.
        Exactly ``k`` come back whenever ``k`` match ``where``; with ``min_score``, a similarity or the name of a
        cut-off of the generation that answers, those of them that reach it. ``generation`` asks that one instead of
        the alias; ``exact`` bypasses the ANN index. Raises ``ConfigError`` for bad arguments, ``QueryRefused`` as
        ``ready``, ``StateError`` when nothing is live, ``EncoderMismatch`` when the encoder at hand is not the
        generation's, ``SearchTooLong`` beyond ``limit_s``.
        """
        if isinstance(query, str) and len(query) > MOST_CHARACTERS:
            raise ConfigError(
                f"a query may have {MOST_CHARACTERS:,} characters, found {len(query):,}. Nothing was searched."
            )
        query = check_query(query, self._images)
        options: dict[str, Any] = {"where": where, "by": by, "exact": exact, "stop": stop, "min_score": min_score}
        answer = self._follow(lambda pinned: self._embed(pinned, query), k, generation=generation, **options)
        if self._offer is not None and generation is None and isinstance(query, str):
            self._offer(query, answer, k=k, where=where, by=by)
        return answer.at_least(min_score)

    def search_like(
        self,
        doc_id: str,
        k: int = 10,
        *,
        where: Mapping[str, object] | None = None,
        by: str = "document",
        min_score: MinScore = None,
        stop: Stop | None = None,
    ) -> Answer:
        """Return what is most like a stored document: like the mean of its chunks in the active generation's index.

        Itself is not among the hits. Raises ``UnknownDocument``, ``NotCaughtUp`` where the index does not show it yet,
        ``ConfigError`` where its chunks have no common direction.
        """
        options: dict[str, Any] = {"where": where, "by": by, "without": doc_id, "stop": stop, "min_score": min_score}
        return self._follow(lambda pinned: self._stored(pinned, doc_id), k, **options).at_least(min_score)

    def search_given(
        self,
        vector: Sequence[float],
        encoder_fp: str,
        k: int = 10,
        *,
        where: Mapping[str, object] | None = None,
        by: str = "document",
        min_score: MinScore = None,
        stop: Stop | None = None,
    ) -> Answer:
        """Return what is nearest to a vector that the encoder of fingerprint ``encoder_fp`` made, ``(dim,)``.

        Raises ``StateError`` unless that is the active generation's encoder, ``ConfigError`` for an unusable vector.
        """
        options: dict[str, Any] = {"where": where, "by": by, "stop": stop, "min_score": min_score}
        return self._follow(lambda pinned: given_vector(pinned, vector, encoder_fp), k, **options).at_least(min_score)

    def _follow(
        self,
        vector_for: Callable[[Generation], npt.NDArray[np.float32]],
        k: int,
        *,
        generation: int | None = None,
        min_score: MinScore = None,
        **options: Any,
    ) -> Answer:
        """Search with a vector made for the generation that answers, and again where the alias moved meanwhile."""
        check_asked(k, options["by"], min_score)
        check_filter(options.get("where"))
        for _ in range(MOVED):
            pinned, cutoffs = self._pin(generation)
            started = time.perf_counter()
            try:
                vector = vector_for(pinned)
                encode_ms = (time.perf_counter() - started) * 1_000
                answer = self.search_vector(
                    pinned,
                    vector,
                    k,
                    encode_ms=encode_ms,
                    follow_alias=generation is None,
                    limit_s=self._limit_s,
                    **options,
                )
            except IndexGone:
                # An index that was dropped while the query encoded: the alias had moved long before.
                if self.resolve(generation).gen == pinned.gen:
                    raise
                continue
            if answer is not None:
                return replace(answer, cutoffs=cutoffs)
        raise StateError(
            f"the alias of {self.collection!r} moved {MOVED} times during one query. Nothing was answered; ask again."
        )

    def resolve(self, generation: int | None = None) -> Generation:
        """Return the active generation, index and encoder in one read; or the named live one."""
        return self._pin(generation)[0]

    def _pin(self, generation: int | None) -> tuple[Generation, Mapping[str, float]]:
        """Return the generation that is meant, with its cut-offs; those of the active one come with its number."""
        with alone(self.engine) as connection:
            collection = read_collection(connection, self.collection)
            gen = collection.active_gen if generation is None else generation
            if gen is None:
                raise StateError(
                    f"collection {self.collection!r} serves nothing yet. Nothing was searched; run `revector upgrade`."
                )
            if gen not in collection.live:
                raise StateError(
                    f"generation {gen} of {self.collection!r} is in no slot (live: {list(collection.live)}). Nothing "
                    "was searched; name a live one."
                )
            if gen not in self._generations:  # identity never changes once registered
                self._generations[gen] = read_generation(connection, gen)
            cutoffs = collection.cutoffs if gen == collection.active_gen else read_scores(connection, gen)
            return self._generations[gen], cutoffs

    def ready(self, pinned: Generation, query: str) -> str:
        """Return the query as the generation is asked it; see ``queries.ready``. Raises ``QueryRefused``."""
        return ready(query, pinned.spec, self.encoders.vocabulary_of(pinned))

    def askable(self, pinned: Generation, queries: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """Return the queries that the generation can be asked, and why not the others; see ``queries.askable``."""
        return askable(queries, pinned.spec, self.encoders.vocabulary_of(pinned))

    def encode(self, pinned: Generation, queries: Sequence[str | bytes], side: Side = "query") -> Vectors:
        """Embed queries, or documents, with exactly the generation's encoder: float32 ``(len(queries), dim)``.

        Raises ``EncoderError``: another encoder, unusable vectors, or a model that fails.
        """
        encoder = self.encoders.of(pinned)
        try:
            pieces = [piece_of(query) for query in queries]
            return check_vectors(encoder.encode(side, pieces), len(pieces), pinned.spec.model.dim)
        except EncoderError:
            raise
        except MODEL_ERRORS as error:
            raise EncoderUnavailable(
                f"the encoder of revision {pinned.revision} failed: {type(error).__name__}: {error}. Nothing was "
                "searched; ask again, or fix the encoder."
            ) from error

    def encode_all(
        self, pinned: Generation, queries: Mapping[str, str]
    ) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        """Yield id and vector ``(dim,)`` of each query, embedded ``ENCODE_ROWS`` at a time; raises as ``encode``."""
        ids, texts = list(queries), list(queries.values())
        for at in range(0, len(ids), ENCODE_ROWS):
            part = slice(at, at + ENCODE_ROWS)
            yield from zip(ids[part], self.encode(pinned, texts[part]), strict=True)

    def _embed(self, pinned: Generation, query: str | bytes) -> npt.NDArray[np.float32]:
        if isinstance(query, str):
            query = self.ready(pinned, query)
        else:
            check_seen(pinned.spec, self.encoders.of(pinned).kinds)
        vector: npt.NDArray[np.float32] = self.encode(pinned, [query])[0]
        return vector

    def _stored(self, pinned: Generation, doc_id: str) -> npt.NDArray[np.float32]:
        with self.engine.connect() as connection:
            found = lane_of(pinned).direction(connection, doc_id)
            if found is None and documents.exists(connection, pinned.cid, doc_id):
                raise NotCaughtUp(
                    f"document {doc_id!r} is stored, and the active generation does not show it yet. Nothing was "
                    "searched; ask again."
                )
        if found is None:
            raise UnknownDocument(f"collection {self.collection!r} has no document {doc_id!r}. Nothing was searched.")
        return usable_vector(found, pinned)

    def search_vector(
        self,
        pinned: Generation,
        vector: npt.NDArray[np.float32],
        k: int,
        *,
        where: Mapping[str, object] | None = None,
        by: str = "document",
        exact: bool = False,
        encode_ms: float = 0.0,
        follow_alias: bool = False,
        without: str | None = None,
        limit_s: float | None = None,
        stop: Stop | None = None,
    ) -> Answer | None:
        """Search with a vector of ``pinned``'s own encoder; None when ``follow_alias`` and the alias has moved on.

        The document ``without`` is left out. ``limit_s`` and ``stop`` bound its time in the database.
        Asks for more candidates until ``k`` are found, and searches exactly where the ANN index cannot give them.
        """
        filter_sql, filter_params = compile_filter(where)
        exact, by_document = exact or pinned.spec.index.kind == "exact", by == "document"
        started = time.perf_counter()
        lane, untimed = lane_of(pinned), limit_s is None
        # A limit, and pgvector's ef_search, are settings of a transaction; else it saves two ways to have none.
        opened = alone(self.engine) if untimed and not lane.traits.in_sql else self.engine.connect()
        with opened as connection, bounded(connection, limit_s, stop) as check_time:
            few = bool(filter_sql) and not exact and keeps_few(connection, pinned, filter_sql, filter_params)
            if without is not None:
                filter_sql = " AND ".join(filter(None, (filter_sql, "d.doc_id <> :without")))
                filter_params = {**filter_params, "without": without}
            wanted = SearchRequest(
                k,
                self._widths.first(pinned, k, by_document=by_document, filtered=bool(filter_sql)),
                by_document=by_document,
                exact=exact or few,
                few=few,
                effort=effort(pinned, k, by_document=by_document, filtered=bool(filter_sql)),
                filter_sql=filter_sql,
                filter_params=filter_params,
                check_time=check_time,
            )
            found, wanted, asked = self._widths.widen(pinned, partial(lane.search, connection, vector), wanted)
            if follow_alias and found.active_gen != pinned.gen:
                return None
            warnings = () if found.rows else why_nothing(connection, pinned.cid, where)
        search_ms = (time.perf_counter() - started) * 1_000
        metric, who = pinned.spec.index.metric, (pinned.gen, pinned.revision, pinned.encoder_fp)
        hits = tuple(_hit(row, ZERO[metric]) for row in found.rows)
        return Answer(hits, *who, wanted.exact, encode_ms, search_ms, asked, warnings, metric)


def _hit(row: Mapping[str, Any], zero: float) -> Hit:
    score = zero - float(row["distance"])
    return Hit(row["doc_id"], score, *(row[name] for name in _SHOWN))
