"""Indexes in Milvus: a collection each, in a server, or in a file of milvus-lite, which one process may have open.

Reads are of consistency ``Strong``: a search finds what was acknowledged before it began, no matter who wrote it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt

from revector.errors import IndexGone, StoreUnavailable
from revector.interfaces import Progress
from revector.spec import IndexSpec, Metric
from revector.stores.clients import ClientStore, Made, batches, gone, make_once, may_drop
from revector.stores.metrics import minus_root, scores
from revector.stores.seam import ALL_METRICS, IndexDescription, NearPoint, Points, StoreCosts, StoreTraits
from revector.stores.settings import StoreSettings

ENCODER = "revector.encoder"
"""Property of a collection: the fingerprint of its encoder. One without it is not ours."""

REQUEST_POINTS, REQUEST_BYTES = 1_000, 16 << 20
"""Of one request; gRPC takes 64 MiB."""

POLL_S = 0.5

NO_COLLECTION, NOT_LOADED = 100, 101
TESTED = "tested with Milvus 2.3.5 and milvus-lite 3.2.2"
_FIELDS = ("attempt", "chunk", "start", "stop")

TRAITS = StoreTraits(
    in_sql=False,
    kinds=frozenset({"hnsw", "exact"}),
    storages=frozenset({"vector"}),
    quantizes=frozenset({"none"}),
    metrics=ALL_METRICS,
    max_dim=32_768,
    exact_with=frozenset({"exact"}),
    most_near=16_384,
    # 20,000 × 384, M 16, its log of messages included, evaluation/bench/README.md
    costs=StoreCosts(point_bytes=1_500, graph_number_bytes=4, link_bytes=8, put_cpu_s=0.25e-3, build_cpu_s=0.6e-3),
)


_ONE_PROCESS = (
    "the store {name!r} is a file of milvus-lite, which one process has open at a time: searches, workers and "
    "migrations of other processes are refused meanwhile"
)


_OWN = {"grpc.use_local_subchannel_pool": 1}
"""After a connection was refused, gRPC waits for up to two minutes before it looks again, and all that it makes to that
address meanwhile wait with it. A client of its own pool looks at once, as those of other stores do."""

_KINDS = {"none": "HNSW", "int8": "HNSW_SQ"}
_METRICS: Mapping[Metric, str] = {"cosine": "COSINE", "dot": "IP", "l2": "L2"}


class MilvusStore(ClientStore):
    """A Milvus server, or a file of milvus-lite; any number of threads may use it."""

    kind, server = "milvus", "Milvus"

    def __init__(self, name: str, settings: StoreSettings) -> None:
        super().__init__(name, settings)
        lite = {"warnings": (_ONE_PROCESS.format(name=name),), "quantizes": frozenset({"none", "int8"})}
        self.traits = TRAITS if self._path is None else replace(TRAITS, **lite)  # type: ignore[arg-type]

    def open(self, name: str, dim: int, index: IndexSpec) -> MilvusIndex:
        """Return the index of that name; nothing is asked of the server yet."""
        return MilvusIndex(self, name, dim, index)

    def ask(self) -> str:
        """Ask for the version."""
        with self.asked("its version") as client:
            version = client.get_server_version(timeout=self.timeout_s)
        return f"Milvus {str(version).removeprefix('v')} at {self.settings.url} ({TESTED})"

    def close(self) -> None:
        """Close the connection; of a file, the lock is given up."""
        used = self._client is not None
        super().close()
        if used and (path := self._path) is not None:
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(str(path.absolute()))

    def leads_to(self, alias: str) -> str | None:
        """Return the name of the collection that answers to ``alias``."""
        try:
            with self.asked(f"the alias {alias}") as client:
                return str(client.describe_collection(alias, timeout=self.timeout_s)["collection_name"])
        except IndexGone:
            return None

    def lead(self, alias: str, index: str | None) -> None:
        """Have ``alias`` lead to a collection; one that is there is moved at once."""
        there = self.leads_to(alias)
        with self.asked(f"an alias {alias}") as client:
            if index is None:
                client.drop_alias(alias, timeout=self.timeout_s)
            elif there is None:
                client.create_alias(index, alias, timeout=self.timeout_s)
            else:
                client.alter_alias(index, alias, timeout=self.timeout_s)

    @property
    def timeout_s(self) -> float:
        """How long one request may take."""
        return self.settings.timeout_s

    @contextmanager
    def asked(self, what: str) -> Iterator[Any]:
        """Yield the client. Whatever it raises is raised as an error of ours that says ``what`` was asked."""
        client = self.client
        import grpc
        from pymilvus.exceptions import MilvusException

        try:
            yield client
        except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError, OSError) as error:
            raise self._said(error, what) from error

    def _said(self, error: Exception, what: str) -> Exception:
        code = getattr(error, "code", None)
        reason = str(getattr(error, "message", None) or error).split("\n", 1)[0][:200]
        said = f"{self.was_asked(what)}: {reason}."
        if code == NO_COLLECTION:
            return gone(said)
        if any(word in reason.lower() for word in ("auth", "permission", "privilege")):
            return self.refuses_key(said)
        return StoreUnavailable(f"{said} Nothing was published, and what is due stays due.")

    def connect(self) -> Any:
        """Return its client. Raises ``StoreRefused`` where that is not installed."""
        path = self._path
        url = str(path) if path else self.settings.address(self.name, "http", "https")
        try:
            from pymilvus import MilvusClient
            from pymilvus.exceptions import MilvusException

            if path:
                import_module("milvus_lite")
        except ImportError as error:
            raise self.lacks_client(error, ", for a file `pip install milvus-lite` too") from error
        for library in ("pymilvus", "milvus_lite"):  # they log a traceback of whatever they raise
            logging.getLogger(library).setLevel(logging.CRITICAL)
        options = {"token": self.settings.key(self.name) or "", "db_name": self.settings.database or ""}
        try:
            return MilvusClient(url, timeout=self.timeout_s, grpc_options=_OWN, **options)
        except (MilvusException, OSError) as error:
            raise self._said(error, "a connection") from error
        except Exception as error:
            raise StoreUnavailable(
                f"the store {self.name!r} ({self.settings.url}) cannot be opened: {type(error).__name__}: "
                f"{str(error)[:200]}. Nothing was published. A file of milvus-lite is open in one process at a time."
            ) from error

    @property
    def _path(self) -> Path | None:
        """The file of milvus-lite; None for a server."""
        url = self.settings.url or ""
        return Path(url) if url.endswith(".db") and "://" not in url else None


class MilvusIndex:
    """One collection."""

    def __init__(self, store: MilvusStore, name: str, dim: int, spec: IndexSpec) -> None:
        self.traits = store.traits
        self.name, self._store, self._dim, self._spec = name, store, dim, spec
        self._rows = max(1, min(REQUEST_POINTS, REQUEST_BYTES // (4 * dim)))

    def create(self, encoder_fp: str) -> None:
        """Create the collection with its index, and load it. Raises ``EncoderMismatch`` for one that is another's."""
        make_once(self.name, (encoder_fp, self._dim), self._made, lambda: self._create(encoder_fp))
        with self._store.asked(f"an index over {self.name}") as client:
            if not client.list_indexes(self.name, field_name="vector"):
                client.create_index(self.name, self._index_params(client), timeout=self._store.timeout_s)
            client.load_collection(self.name, timeout=self._store.timeout_s)

    def _made(self) -> Made | None:
        about = self._about()
        return None if about is None else (_encoder(about), _width(about))

    def _create(self, encoder_fp: str) -> None:
        with self._store.asked(f"a collection {self.name}") as client:
            from pymilvus import DataType

            schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=36)
            schema.add_field("attempt", DataType.VARCHAR, max_length=36)
            for field in ("chunk", "start", "stop"):
                schema.add_field(field, DataType.INT32)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self._dim)
            client.create_collection(
                self.name,
                schema=schema,
                index_params=self._index_params(client),
                consistency_level="Strong",
                properties={ENCODER: encoder_fp},
                timeout=self._store.timeout_s,
            )

    def _index_params(self, client: Any) -> Any:
        graph = self._spec.kind == "hnsw"
        built: dict[str, object] = {"M": self._spec.m, "efConstruction": self._spec.ef_construction} if graph else {}
        built |= {"sq_type": "SQ8"} if self._spec.quantize == "int8" else {}
        params = client.prepare_index_params()
        params.add_index(
            "vector",
            index_type=_KINDS[self._spec.quantize] if graph else "FLAT",
            metric_type=_METRICS[self._spec.metric],
            params=built,
        )
        return params

    def describe(self) -> IndexDescription | None:
        """Return what is there; the bytes are those of ids, fields and vectors, as Milvus does not tell its own."""
        about = self._about()
        if about is None:
            return None
        width = _width(about)
        with self._store.asked(f"the points of {self.name}") as client:
            found = client.query(self.name, filter="", output_fields=["count(*)"], timeout=self._store.timeout_s)
            points = int(found[0]["count(*)"])
        size = points * (4 * width + 36 + 36 + 12)
        return IndexDescription(_encoder(about), width, points, size, self._pending() == 0)

    def _about(self) -> dict[str, Any] | None:
        try:
            with self._store.asked(f"the collection {self.name}") as client:
                found: dict[str, Any] = client.describe_collection(self.name, timeout=self._store.timeout_s)
                return found
        except IndexGone:
            return None

    def _pending(self) -> int:
        with self._store.asked(f"the index of {self.name}") as client:
            found = client.describe_index(self.name, "vector", timeout=self._store.timeout_s) or {}
        return int(found.get("pending_index_rows", 0))

    def drop(self) -> None:
        """Drop the collection, with aliases that lead to it. Raises ``StoreRefused`` for one that is not ours."""
        if may_drop(self.name, self._made()):
            with self._store.asked(f"an end of {self.name}") as client:
                for alias in client.list_aliases(self.name, timeout=self._store.timeout_s)["aliases"]:
                    client.drop_alias(alias, timeout=self._store.timeout_s)
                client.drop_collection(self.name, timeout=self._store.timeout_s)

    def put(self, points: Points) -> None:
        """Upsert points, ``REQUEST_POINTS`` at a time."""
        for some in points.batches(self._rows):
            rows = [
                dict(zip((*_FIELDS, "vector"), (str(attempt), *numbers, vector), strict=True), id=str(one))
                for (one, attempt, *numbers), vector in zip(some, some.vectors, strict=True)
            ]
            with self._store.asked(f"{len(rows):,} points in {self.name}") as client:
                client.upsert(self.name, rows, timeout=self._store.timeout_s)

    def remove(self, ids: Sequence[UUID]) -> None:
        """Delete points by id, also from a collection that is not there."""
        for some in batches(list(map(str, ids)), REQUEST_POINTS):
            try:
                with self._store.asked(f"points of {self.name} to be deleted") as client:
                    client.delete(self.name, ids=list(some), timeout=self._store.timeout_s)
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
        """Search; ``exact`` changes nothing, as what has a graph is not asked for it.

        Of bytes, ``rerank`` times as many are found, and the vectors themselves put them in order.
        """
        del exact, among  # nor for points by id: a graph that filters may miss some
        bytes_, spec, query = self._spec.quantize == "int8", self._spec, np.asarray(vector, np.float32)
        limit = min(n * spec.rerank, TRAITS.most_near or n) if bytes_ else n
        params = {"ef": max(spec.ef_search, limit, effort)} if spec.kind == "hnsw" else {}

        def search(client: Any) -> Any:
            return client.search(
                self.name,
                data=[query],
                anns_field="vector",
                limit=limit,
                output_fields=[*_FIELDS, "vector"] if bytes_ else list(_FIELDS),
                search_params={"metric_type": _METRICS[spec.metric], "params": params},
                timeout=self._store.timeout_s,
            )

        hits = self._loaded(f"what is near in {self.name}", search)[0]
        near = [self._similarity(float(hit["distance"])) for hit in hits]
        if bytes_ and hits:
            near = scores(np.array([hit["entity"]["vector"] for hit in hits], np.float32), query, spec.metric).tolist()
        best = sorted(range(len(near)), key=lambda at: -near[at])[:n]
        found = ((hits[at]["entity"], near[at]) for at in best)
        return [NearPoint(UUID(one["attempt"]), one["chunk"], one["start"], one["stop"], score) for one, score in found]

    def _similarity(self, said: float) -> float:
        """Return a score for what Milvus says: the cosine, the product, or the square of the distance."""
        return minus_root(said) if self._spec.metric == "l2" else said

    def read(self, ids: Sequence[UUID]) -> Points:
        """Get points by id."""
        found: list[dict[str, Any]] = []
        for some in batches(list(map(str, ids)), self._rows):

            def get(client: Any, some: Sequence[str] = some) -> Any:
                fields = ["id", *_FIELDS, "vector"]
                return client.get(self.name, ids=list(some), output_fields=fields, timeout=self._store.timeout_s)

            found += self._loaded(f"points of {self.name}", get)
        rows = [(UUID(one["id"]), UUID(one["attempt"]), *(one[number] for number in _FIELDS[1:])) for one in found]
        return Points.of(rows, np.array([one["vector"] for one in found], np.float32).reshape(-1, self._dim))

    def finish(self, progress: Progress) -> bool:
        """Have everything written to segments, and wait until their graphs are built."""
        if self._spec.kind != "hnsw":
            return False
        with self._store.asked(f"segments of {self.name}") as client:
            client.flush(self.name, timeout=self._store.timeout_s)
        waiting = self._pending()
        progress.start(f"index: Milvus builds graphs of {self.name}", waiting, unit="points")
        while (left := self._pending()) > 0:
            progress.advance(max(0, waiting - left))
            waiting = min(waiting, left)
            time.sleep(POLL_S)
        progress.done()
        return True

    def _loaded(self, what: str, ask: Any) -> Any:
        """Ask of a collection that is loaded; after a start of the server, milvus-lite has none that is."""
        try:
            with self._store.asked(what) as client:
                return ask(client)
        except StoreUnavailable as error:
            if getattr(error.__cause__, "code", None) != NOT_LOADED:
                raise
        with self._store.asked(f"a load of {self.name}") as client:
            client.load_collection(self.name, timeout=self._store.timeout_s)
            return ask(client)


def _encoder(about: Mapping[str, Any]) -> str:
    return str(about.get("properties", {}).get(ENCODER, ""))


def _width(about: Mapping[str, Any]) -> int:
    return next((int(one["params"]["dim"]) for one in about["fields"] if one["name"] == "vector"), 0)


def open_store(name: str, settings: StoreSettings) -> MilvusStore:
    """Return the store that settings describe."""
    return MilvusStore(name, settings)
