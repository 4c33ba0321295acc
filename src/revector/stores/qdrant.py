"""Indexes in Qdrant: a collection each, over its REST interface, by ``qdrant-client``.

Qdrant keeps vectors of a collection of distance ``Cosine`` at length 1, so their lengths lie beside them. A write is
acknowledged once it is applied (``wait``); less counts as no acknowledgement.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt

from revector.errors import IndexGone, StoreRefused, StoreUnavailable
from revector.interfaces import Progress, Vectors
from revector.spec import IndexSpec, Metric
from revector.stores.clients import ClientStore, Made, batches, gone, make_once, may_drop
from revector.stores.seam import ALL_METRICS, IndexDescription, NearPoint, Points, StoreCosts, StoreTraits
from revector.stores.settings import StoreSettings

ENCODER = "revector_encoder"
"""Key in a collection's metadata: the fingerprint of its encoder. One without it is not ours."""

OLDEST = (1, 16)
"""The first version whose collections have metadata (https://qdrant.tech/documentation/manage-data/collections)."""

REQUEST_POINTS, REQUEST_BYTES = 1_000, 16 << 20
"""Of one request; a server with standard settings takes 32 MiB."""

NUMBER_BYTES = 24
"""Of a number in JSON, at most."""

POLL_S = 0.5

TESTED = "not tested on a server"

NOT_FOUND = 404
REFUSED = (400, 413, 422)
"""Answers that stay the same however often one asks."""

TRAITS = StoreTraits(
    in_sql=False,
    kinds=frozenset({"hnsw", "exact"}),
    storages=frozenset({"vector"}),
    quantizes=frozenset({"none", "int8"}),
    metrics=ALL_METRICS,
    max_dim=65_535,
    among=1_000,
    # In qdrant-edge, its log included, and of the client; no server. 5,000 and 10,000, evaluation/bench/README.md
    costs=StoreCosts(point_bytes=300, number_bytes=9, link_bytes=2, put_cpu_s=0.1e-3, build_cpu_s=0.62e-3),
)


_DISTANCES: Mapping[Metric, str] = {"cosine": "COSINE", "dot": "DOT", "l2": "EUCLID"}


class QdrantStore(ClientStore):
    """A Qdrant server; any number of threads may use it."""

    traits, kind, server = TRAITS, "qdrant", "Qdrant"

    def open(self, name: str, dim: int, index: IndexSpec) -> QdrantIndex:
        """Return the index of that name; nothing is asked of the server yet."""
        return QdrantIndex(self, name, dim, index)

    def ask(self) -> str:
        """Ask for the version, and for the collections with the key."""
        with self.asked("its version") as client:
            version = str(client.info().version)
            client.get_collections()
        if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < OLDEST:
            raise StoreRefused(
                f"{self.was_asked('its version')}: {version}. Collections need metadata, which {OLDEST[0]}.{OLDEST[1]} "
                "and newer have. Nothing was changed; upgrade it, or name another store."
            )
        return f"Qdrant {version} at {self.settings.url} ({TESTED})"

    @contextmanager
    def asked(self, what: str) -> Iterator[Any]:
        """Yield the client. Whatever it raises is raised as an error of ours that says ``what`` was asked."""
        client = self.client
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import ApiException

        try:
            yield client
        except (ApiException, QdrantException, OSError) as error:
            raise self._said(error, what) from error

    def leads_to(self, alias: str) -> str | None:
        """Return the name of the collection that answers to ``alias``."""
        with self.asked(f"the alias {alias}") as client:
            found = {one.alias_name: str(one.collection_name) for one in client.get_aliases().aliases}
            return found.get(alias) or (alias if client.collection_exists(alias) else None)

    def lead(self, alias: str, index: str | None) -> None:
        """Have ``alias`` lead to a collection: by one action, for of several some may be done."""
        with self.asked(f"an alias {alias}") as client:
            from qdrant_client import models

            change: Any = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
            if index is not None:
                made = models.CreateAlias(collection_name=index, alias_name=alias)  # or moved, if it is there
                change = models.CreateAliasOperation(create_alias=made)
            client.update_collection_aliases([change])

    def applied(self, result: Any, what: str) -> None:
        """Raise ``StoreUnavailable`` unless a write is applied: it may be on its way, or in a log."""
        if str(result.status) != "completed":
            raise StoreUnavailable(
                f"{self.was_asked(what)}: it says {str(result.status)!r} instead of 'completed'. Nothing was "
                "published, and what is due stays due."
            )

    def _said(self, error: Exception, what: str) -> Exception:
        status, reason = getattr(error, "status_code", None), getattr(error, "source", error)
        if status is not None:
            with suppress(ValueError, LookupError, TypeError):
                reason = error.structured()["status"]["error"]  # type: ignore[attr-defined]
        said = f"{self.was_asked(what)}: {status or type(reason).__name__}: {str(reason).splitlines()[0]:.200}."
        if status == NOT_FOUND:
            return gone(said)
        if status in (401, 403):
            return self.refuses_key(said)
        if status in REFUSED:
            return StoreRefused(f"{said} Nothing was published; correct what it says, here or in the server.")
        return StoreUnavailable(
            f"{said} Nothing was published, and what is due stays due; start it, or correct stores.{self.name}.url."
        )

    def connect(self) -> Any:
        """Return its client. Raises ``StoreRefused`` where that is not installed, and for settings it does not have."""
        try:
            from qdrant_client import QdrantClient
        except ImportError as error:
            raise self.lacks_client(error) from error
        if self.settings.database is not None:
            raise StoreRefused(
                f"stores.{self.name}.database is {self.settings.database!r}, and Qdrant has no databases. Nothing "
                "was sent; leave it out."
            )
        key = self.settings.key(self.name)
        return QdrantClient(
            url=self.settings.address(self.name, "http", "https"),
            headers={} if key is None else {"api-key": key},
            timeout=math.ceil(self.settings.timeout_s),
            check_compatibility=False,  # it asks in a thread of its own, and warns
        )


class QdrantIndex:
    """One collection."""

    traits = TRAITS

    def __init__(self, store: QdrantStore, name: str, dim: int, spec: IndexSpec) -> None:
        self.name, self._store, self._dim, self._spec = name, store, dim, spec
        self._rows = max(1, min(REQUEST_POINTS, REQUEST_BYTES // (NUMBER_BYTES * dim)))

    def create(self, encoder_fp: str) -> None:
        """Create the collection. Raises ``EncoderMismatch`` where one of another encoder or width has the name."""
        make_once(self.name, (encoder_fp, self._dim), self._made, lambda: self._create(encoder_fp))

    def _made(self) -> Made | None:
        about = self._about()
        return None if about is None else (_encoder(about), int(about.config.params.vectors.size))

    def _create(self, encoder_fp: str) -> None:
        with self._store.asked(f"a collection {self.name}") as client:
            from qdrant_client import models

            graph = self._spec.kind == "hnsw"  # m = 0: none is built
            client.create_collection(
                self.name,
                vectors_config=models.VectorParams(
                    size=self._dim, distance=models.Distance[_DISTANCES[self._spec.metric]]
                ),
                hnsw_config=models.HnswConfigDiff(
                    m=self._spec.m if graph else 0, ef_construct=self._spec.ef_construction
                ),
                quantization_config=self._bytes(models),
                metadata={ENCODER: encoder_fp},
            )

    def _bytes(self, models: Any) -> Any:
        """Return what has the graph compare bytes; where they are, the vectors themselves are on disk and in cache."""
        if self._spec.quantize == "none":
            return None
        return models.ScalarQuantization(scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8))

    def describe(self) -> IndexDescription | None:
        """Return what is there; the bytes are those of ids, fields, vectors and graph, as Qdrant tells none."""
        about = self._about()
        if about is None:
            return None
        with self._store.asked(f"the points of {self.name}") as client:
            points = int(client.count(self.name, exact=True).count)
        width = int(about.config.params.vectors.size)
        each = 4 * width + 2 * 16 + 3 * 8 + 2 * 4 * (self._spec.m if self._spec.kind == "hnsw" else 0)
        return IndexDescription(_encoder(about), width, points, points * each, str(about.status) == "green")

    def _about(self) -> Any:
        try:
            with self._store.asked(f"the collection {self.name}") as client:
                return client.get_collection(self.name)
        except IndexGone:
            return None

    def drop(self) -> None:
        """Drop the collection. Raises ``StoreRefused`` for one that is not ours."""
        if may_drop(self.name, self._made()):
            with self._store.asked(f"an end of {self.name}") as client:
                client.delete_collection(self.name)

    def put(self, points: Points) -> None:
        """Upsert points, at most ``REQUEST_POINTS`` at a time."""
        for some in points.batches(self._rows):
            what = f"points in {self.name}"
            fields = zip(some, self._lengths(some.vectors).tolist(), strict=True)
            with self._store.asked(what) as client:
                from qdrant_client import models

                batch = models.Batch(
                    ids=[str(one) for one in some.ids],
                    vectors=some.vectors.tolist(),
                    payloads=[
                        dict(zip(_FIELDS, (str(attempt), *rest, length), strict=True))
                        for (_, attempt, *rest), length in fields
                    ],
                )
                self._store.applied(client.upsert(self.name, batch, wait=True), what)

    def remove(self, ids: Sequence[UUID]) -> None:
        """Delete points by id, also from a collection that is not there."""
        what = f"points of {self.name} to be deleted"
        for some in batches(list(map(str, ids)), REQUEST_POINTS):
            try:
                with self._store.asked(what) as client:
                    self._store.applied(client.delete(self.name, list(some), wait=True), what)
            except IndexGone:
                return

    def near(
        self,
        vector: npt.NDArray[np.float32],
        n: int,
        *,
        exact: bool,
        effort: int = 0,
        among: Sequence[UUID] | None = None,
    ) -> list[NearPoint]:
        """Search the graph, and what is not in it yet by comparing; or all by comparing."""
        with self._store.asked(f"what is near in {self.name}") as client:
            from qdrant_client import models

            compared = exact or self._spec.kind == "exact" or among is not None
            ids = None if among is None else models.Filter(must=[models.HasIdCondition(has_id=list(map(str, among)))])
            found = client.query_points(
                self.name,
                query=np.asarray(vector, np.float32).tolist(),
                limit=n,
                query_filter=ids,
                search_params=models.SearchParams(
                    hnsw_ef=max(self._spec.ef_search, n, effort),
                    exact=compared,
                    quantization=None
                    if self._spec.quantize == "none"
                    else models.QuantizationSearchParams(
                        ignore=compared, rescore=True, oversampling=float(self._spec.rerank)
                    ),
                ),
                with_payload=list(_FIELDS[:4]),
            )
        sign = -1.0 if self._spec.metric == "l2" else 1.0  # its score by Euclid is the distance
        hits = map(_hit, found.points)
        return [NearPoint(UUID(a), int(c), int(b), int(e), sign * float(s)) for (a, c, b, e), s in hits]

    def _lengths(self, vectors: Vectors) -> npt.NDArray[np.float32]:
        """Return by what vectors that come back must be multiplied: by the lengths that Qdrant takes from them."""
        by_cosine = self._spec.metric == "cosine"
        return np.asarray(np.linalg.norm(vectors, axis=1) if by_cosine else np.ones(len(vectors)), np.float32)

    def read(self, ids: Sequence[UUID]) -> Points:
        """Retrieve points by id, with vectors of their own lengths."""
        found = list[Any]()
        for some in batches(list(map(str, ids)), self._rows):
            with self._store.asked(f"points of {self.name}") as client:
                found += client.retrieve(self.name, some, with_vectors=True)
        fields = [one.payload for one in found]
        vectors = np.array([one.vector for one in found], np.float32).reshape(-1, self._dim)
        lengths = np.array([one["length"] for one in fields], np.float32).reshape(-1, 1)
        rows = [
            (UUID(str(one.id)), UUID(field["attempt"]), *(field[number] for number in _FIELDS[1:4]))
            for one, field in zip(found, fields, strict=True)
        ]
        return Points.of(rows, vectors * lengths)

    def finish(self, progress: Progress) -> bool:
        """Wait until its optimizer has built the graphs of all segments that are to have one."""
        if self._spec.kind != "hnsw":
            return False
        progress.start(f"index: Qdrant builds graphs of {self.name}", None, unit="points")
        while (status := str(self._optimized().status)) != "green":
            if status == "red":
                raise StoreRefused(
                    f"the collection {self.name} is red: an operation failed in the server and was not recovered. "
                    "Nothing was published; the server's own log says more."
                )
            time.sleep(POLL_S)
        progress.done()
        return True

    def _optimized(self) -> Any:
        """Return what is there; an optimizer that waits for a write ("grey", after a start) is told to go on."""
        with self._store.asked(f"graphs of {self.name}") as client:
            about = client.get_collection(self.name)
            if str(about.status) == "grey":
                from qdrant_client import models

                client.update_collection(self.name, optimizers_config=models.OptimizersConfigDiff())
        return about


_FIELDS = ("attempt", "chunk", "start", "stop", "length")


def _encoder(about: Any) -> str:
    return str((about.config.metadata or {}).get(ENCODER, ""))


def _hit(found: Any) -> tuple[tuple[Any, ...], float]:
    return tuple(found.payload[field] for field in _FIELDS[:4]), found.score


def open_store(name: str, settings: StoreSettings) -> QdrantStore:
    """Return the store that settings describe."""
    return QdrantStore(name, settings)
