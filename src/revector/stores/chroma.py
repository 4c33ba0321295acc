"""Indexes in a Chroma server: a collection each, over its REST interface (v2).

Not through Chroma's own client, which waits for a server that hangs without limit, so that a worker would hang with it.
Chroma has HNSW only, with an ``ef_search`` that is the collection's own.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import numpy.typing as npt

from revector.errors import IndexGone, StoreUnavailable
from revector.interfaces import Progress
from revector.spec import IndexSpec, Metric
from revector.stores.clients import ClientStore, Made, batches, gone, make_once, may_drop
from revector.stores.metrics import minus_root
from revector.stores.seam import ALL_METRICS, IndexDescription, NearPoint, Points, StoreCosts, StoreTraits
from revector.stores.settings import StoreSettings

ENCODER = "revector_encoder"
"""Key in a collection's metadata: the fingerprint of its encoder. One without it is not ours."""
DIM = "revector_dim"

REQUEST_POINTS, REQUEST_BYTES = 1_000, 16 << 20
"""Of one request: a server with standard settings takes 5,461 points and 40 MiB."""

TENANT, DATABASE = "default_tenant", "default_database"
TESTED = "tested with 1.5.9"

TRAITS = StoreTraits(
    in_sql=False,
    kinds=frozenset({"hnsw"}),
    storages=frozenset({"vector"}),
    quantizes=frozenset({"none"}),
    metrics=ALL_METRICS,
    max_dim=16_000,
    exact_with=frozenset(),
    most_near=10_000,
    ef_per_search=False,
    # 20,000 × 384, M 16, evaluation/bench/README.md
    costs=StoreCosts(point_bytes=80, link_bytes=8, put_cpu_s=1.2e-3),
)


_SPACES: Mapping[Metric, str] = {"cosine": "cosine", "dot": "ip", "l2": "l2"}


class ChromaStore(ClientStore):
    """A Chroma server; any number of threads may use it."""

    traits, kind, server = TRAITS, "chroma", "Chroma"

    def __init__(self, name: str, settings: StoreSettings) -> None:
        super().__init__(name, settings)
        self.ids: dict[str, str] = {}
        """Of collections, by their names, as requests name them."""

    def open(self, name: str, dim: int, index: IndexSpec) -> ChromaIndex:
        """Return the index of that name; nothing is asked of the server yet."""
        return ChromaIndex(self, name, dim, index)

    def ask(self) -> str:
        """Ask for the version, and for the database with the key."""
        version = self.request("GET", "/version", None, "its version")
        self.request("GET", self.database, None, "its database")
        return f"Chroma, interface {version}, at {self.settings.url} ({TESTED})"

    @property
    def database(self) -> str:
        """The path of the database that collections are in."""
        tenant, _, database = (self.settings.database or DATABASE).rpartition("/")
        return f"/tenants/{tenant or TENANT}/databases/{database}"

    def request(self, method: str, path: str, body: Mapping[str, object] | None, what: str) -> Any:
        """Return the JSON of an answer; whatever goes wrong is an error of ours that says ``what`` was asked."""
        try:
            found = self.client.request(method, f"/api/v2{path}", json=body)
        except (httpx.HTTPError, OSError) as error:
            raise StoreUnavailable(
                f"{self.was_asked(what)}: {type(error).__name__}: {error}. Nothing was published, and "
                f"what is due stays due; start it, or correct stores.{self.name}.url."
            ) from error
        if found.status_code == httpx.codes.NOT_FOUND:
            raise gone(f"{self.was_asked(what)}: it has none.")
        if found.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise self.refuses_key(f"{self.was_asked(what)}: {found.status_code}.")
        try:
            answer = found.json()
        except ValueError:
            answer = {"message": "an answer that is no JSON"}
        if not found.is_success:
            reason = answer.get("message", "") if isinstance(answer, dict) else ""
            raise StoreUnavailable(
                f"{self.was_asked(what)}: {found.status_code} {reason:.200}. Nothing was published, and what is due "
                "stays due; the server's own log may say more."
            )
        return answer

    def connect(self) -> httpx.Client:
        """Return a client."""
        key = self.settings.key(self.name)
        return httpx.Client(
            base_url=self.settings.address(self.name, "http", "https"),
            headers={} if key is None else {"X-Chroma-Token": key},
            timeout=self.settings.timeout_s,
        )


class ChromaIndex:
    """One collection."""

    traits = TRAITS

    def __init__(self, store: ChromaStore, name: str, dim: int, spec: IndexSpec) -> None:
        self.name, self._store, self._dim, self._spec = name, store, dim, spec
        self._rows = max(1, min(REQUEST_POINTS, REQUEST_BYTES // (6 * dim)))

    def create(self, encoder_fp: str) -> None:
        """Create the collection. Raises ``EncoderMismatch`` where one of another encoder or width has the name."""
        make_once(self.name, (encoder_fp, self._dim), self._made, lambda: self._create(encoder_fp))

    def _made(self) -> Made | None:
        about = self._about()
        if about is None:
            return None
        found = about.get("metadata") or {}
        return str(found.get(ENCODER, "")), int(found.get(DIM, 0))

    def _create(self, encoder_fp: str) -> None:
        graph = {
            "space": _SPACES[self._spec.metric],
            "max_neighbors": self._spec.m,
            "ef_construction": self._spec.ef_construction,
            "ef_search": self._spec.ef_search,
        }
        body = {
            "name": self.name,
            "metadata": {ENCODER: encoder_fp, DIM: self._dim},
            "configuration": {"hnsw": graph},
            "get_or_create": True,
        }
        self._store.request("POST", self._all, body, f"a collection {self.name}")

    def describe(self) -> IndexDescription | None:
        """Return what is there; the bytes are those of ids, fields, vectors and graph, as Chroma tells none."""
        made = self._made()
        if made is None:
            return None
        points = int(self._ask("GET", "/count", None, f"the points of {self.name}"))
        each = 2 * 4 * self._dim + 36 + 36 + 12 + 8 * self._spec.m
        return IndexDescription(*made, points, points * each, ready=True)

    def _about(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._named("GET", f"the collection {self.name}")
        except IndexGone:
            return None
        return found

    def drop(self) -> None:
        """Drop the collection. Raises ``StoreRefused`` for one that is not ours."""
        if may_drop(self.name, self._made()):
            with suppress(IndexGone):
                self._named("DELETE", f"an end of {self.name}")

    def put(self, points: Points) -> None:
        """Upsert points, at most ``REQUEST_POINTS`` at a time."""
        for some in points.batches(self._rows):
            body = {
                "ids": [str(one) for one in some.ids],
                "embeddings": [base64.b64encode(one).decode() for one in np.ascontiguousarray(some.vectors, "<f4")],
                "metadatas": [
                    {"attempt": str(attempt), "chunk": chunk, "start": start, "stop": stop}
                    for _, attempt, chunk, start, stop in some
                ],
            }
            self._ask("POST", "/upsert", body, f"{len(some.ids):,} points in {self.name}")

    def remove(self, ids: Sequence[UUID]) -> None:
        """Delete points by id, also from a collection that is not there."""
        for some in batches(list(map(str, ids)), REQUEST_POINTS):
            try:
                self._ask("POST", "/delete", {"ids": some}, f"points of {self.name} to be deleted")
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
        """Search the graph; ``exact`` is never asked of it, and its ``ef_search`` grows only with what it returns."""
        del exact, among  # nor for points by id: it fails where one of them is not there
        query = np.asarray(vector, np.float32).tolist()
        asked = n if effort <= self._spec.ef_search else max(n, effort)
        body = {"query_embeddings": [query], "n_results": asked, "include": ["metadatas", "distances"]}
        found = self._ask("POST", "/query", body, f"what is near in {self.name}")
        return [
            NearPoint(UUID(one["attempt"]), one["chunk"], one["start"], one["stop"], self._similarity(distance))
            for one, distance in zip(found["metadatas"][0][:n], found["distances"][0][:n], strict=True)
        ]

    def _similarity(self, distance: float) -> float:
        """Return a score for Chroma's distance: 1 less the cosine or the product, or the square of the distance."""
        return minus_root(distance) if self._spec.metric == "l2" else 1.0 - distance

    def read(self, ids: Sequence[UUID]) -> Points:
        """Get points by id."""
        there, fields, vectors = list[str](), list[dict[str, Any]](), list[list[float]]()
        for some in batches(list(map(str, ids)), self._rows):
            body = {"ids": some, "include": ["embeddings", "metadatas"]}
            found = self._ask("POST", "/get", body, f"points of {self.name}")
            there += found["ids"]
            fields += found["metadatas"]
            vectors += found["embeddings"]
        rows = (
            (UUID(one), UUID(field["attempt"]), field["chunk"], field["start"], field["stop"])
            for one, field in zip(there, fields, strict=True)
        )
        return Points.of(rows, np.array(vectors, np.float32).reshape(-1, self._dim))

    def finish(self, progress: Progress) -> bool:
        """Return False: the graph grows with each put."""
        del progress
        return False

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None, what: str) -> Any:
        """Ask of the collection by the id that it is known by; and by its new one where that is gone."""
        known = self._store.ids.get(self.name)
        if known is not None:
            try:
                return self._store.request(method, f"{self._all}/{known}{path}", body, what)
            except IndexGone:
                self._store.ids.pop(self.name, None)
        now = self._named("GET", what)["id"]
        self._store.ids[self.name] = str(now)
        return self._store.request(method, f"{self._all}/{now}{path}", body, what)

    def _named(self, method: str, what: str) -> Any:
        return self._store.request(method, f"{self._all}/{self.name}", None, what)

    @property
    def _all(self) -> str:
        return f"{self._store.database}/collections"


def open_store(name: str, settings: StoreSettings) -> ChromaStore:
    """Return the store that settings describe."""
    return ChromaStore(name, settings)
