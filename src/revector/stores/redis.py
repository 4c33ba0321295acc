"""Indexes in Redis with its search module: an index each over hashes, which hold a point each.

A hash is written only where the hash named as the index is there, so that no late request leaves anything behind a
dropped index. One server: the search module's cluster is another thing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import numpy as np
import numpy.typing as npt

from revector.errors import IndexGone, StoreRefused, StoreUnavailable
from revector.interfaces import Progress
from revector.spec import IndexSpec, Metric
from revector.stores.clients import ClientStore, Made, batches, gone, make_once, may_drop
from revector.stores.metrics import minus_root
from revector.stores.seam import ALL_METRICS, IndexDescription, NearPoint, Points, StoreCosts, StoreTraits
from revector.stores.settings import StoreSettings

PUT_POINTS, READ_POINTS = 100, 1_000
"""Of one request. Nothing else runs in Redis while it puts points into a graph: 0.1 s for as many."""

TESTED = "tested with 8.2.3 and its search module 2.10.5"

FIELDS = struct.Struct(">16siii")
"""What a point's field ``p`` holds beside the vector ``v``: attempt, chunk, start, stop."""

PUT = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for i = 1, #ARGV, 3 do redis.call('HSET', KEYS[1] .. ':' .. ARGV[i], 'p', ARGV[i + 1], 'v', ARGV[i + 2]) end
return 1"""

NOT_THERE = ("no such index", "unknown index name", "index not found")

TRAITS = StoreTraits(
    in_sql=False,
    kinds=frozenset({"hnsw", "exact"}),
    storages=frozenset({"vector", "halfvec"}),
    quantizes=frozenset({"none"}),
    metrics=ALL_METRICS,
    max_dim=32_768,
    exact_with=frozenset({"exact"}),
    most_near=10_000,
    among=READ_POINTS,
    # In memory. 10,000 × 384 and × 64, M 16, evaluation/bench/README.md
    costs=StoreCosts(point_bytes=640, number_bytes=9.3, link_bytes=11, put_cpu_s=0.34e-3),
)


_NUMBERS: Mapping[str, tuple[str, str]] = {"vector": ("FLOAT32", "<f4"), "halfvec": ("FLOAT16", "<f2")}
"""What Redis calls numbers, and numpy."""

_METRICS: Mapping[Metric, str] = {"cosine": "COSINE", "dot": "IP", "l2": "L2"}


class RedisStore(ClientStore):
    """A Redis server; any number of threads may use it."""

    traits, kind, server = TRAITS, "redis", "Redis"

    def open(self, name: str, dim: int, index: IndexSpec) -> RedisIndex:
        """Return the index of that name; nothing is asked of the server yet."""
        return RedisIndex(self, name, dim, index)

    def ask(self) -> str:
        """Ask for the version, and for what would lose points: eviction, no append-only file, a replica."""
        with self.asked("its version") as client:
            about = client.info("everything")
            modules = {_text(one[b"name"]): one[b"ver"] for one in client.execute_command("MODULE", "LIST")}
        if about.get("loading"):  # until then it says of its append-only file that there is none
            raise StoreUnavailable(
                f"{self.was_asked('its settings')}, and still loads its data since it was started. Nothing was "
                "changed; ask again."
            )
        wrong = ""
        if "search" not in modules:
            wrong = "it has no module search; load it, or start a Redis of 8 or newer, or Redis Stack"
        elif about.get("role") != "master":
            wrong = "it is a replica, which takes no writes; name the primary"
        elif about.get("maxmemory") and str(about.get("maxmemory_policy")).startswith("allkeys"):
            wrong = (
                f"when it is full it removes any key (maxmemory-policy {about['maxmemory_policy']}), points among "
                "them; set noeviction"
            )
        elif not about.get("aof_enabled"):
            wrong = "it keeps no append-only file, so a restart would lose acknowledged points; set appendonly yes"
        if wrong:
            raise StoreRefused(f"{self.was_asked('its settings')}: {wrong}. Nothing was changed.")
        number = int(modules["search"])  # 21005 is 2.10.5
        module = f"{number // 10_000}.{number // 100 % 100}.{number % 100}"
        version = f"{about['redis_version']} with its search module {module}"
        return f"Redis {version} at {self.settings.url} ({TESTED})"

    @contextmanager
    def asked(self, what: str) -> Iterator[Any]:
        """Yield the client. Whatever it raises is raised as an error of ours that says ``what`` was asked."""
        client = self.client
        from redis.exceptions import RedisError

        try:
            yield client
        except (RedisError, OSError) as error:
            raise self.said(error, what) from error

    def leads_to(self, alias: str) -> str | None:
        """Return the name of the index that answers to ``alias``; of an index and an alias of one name, the index."""
        try:
            with self.asked(f"the alias {alias}") as client:
                return _text(client.execute_command("FT.INFO", alias)[b"index_name"])
        except IndexGone:
            return None

    def lead(self, alias: str, index: str | None) -> None:
        """Have ``alias`` lead to an index; one that is there is moved at once."""
        there = self.leads_to(alias)
        with self.asked(f"an alias {alias}") as client:
            if index is not None:
                client.execute_command("FT.ALIASADD" if there is None else "FT.ALIASUPDATE", alias, index)
            elif there is not None:
                client.execute_command("FT.ALIASDEL", alias)

    def said(self, error: Exception, what: str) -> Exception:
        """Return an error of ours for one of the client's."""
        from redis.exceptions import AuthenticationError, NoPermissionError, ReadOnlyError, ResponseError

        said = f"{self.was_asked(what)}: {type(error).__name__}: {str(error)[:200]}."
        if isinstance(error, AuthenticationError | NoPermissionError):
            return self.refuses_key(said)
        if isinstance(error, ReadOnlyError):
            return StoreRefused(
                f"{said} Nothing was published, and what is due stays due; name the primary as stores.{self.name}.url."
            )
        if isinstance(error, ResponseError) and any(words in str(error).lower() for words in NOT_THERE):
            return self.gone(what)
        return StoreUnavailable(
            f"{said} Nothing was published, and what is due stays due; start it, make room in it, or correct "
            f"stores.{self.name}.url."
        )

    def gone(self, what: str) -> IndexGone:
        """Return the error of an index that is not there."""
        return gone(f"{self.was_asked(what)}: it has no such index.")

    def check_whole(self, found: dict[bytes, Any], what: str) -> None:
        """Raise ``StoreUnavailable`` for an answer that may be short: Redis calls that success."""
        wrong = [_text(one) for one in found.get(b"warning") or ()]
        if bare := sum(not one.get(b"extra_attributes") for one in found[b"results"]):
            wrong.append(f"{bare:,} points came without their fields")
        if wrong:
            raise StoreUnavailable(f"{self.was_asked(what)}: {'; '.join(wrong)}. Nothing was answered; ask again.")

    def connect(self) -> Any:
        """Return its client. Raises ``StoreRefused`` where it is not installed, and for a database without search."""
        try:
            from redis import Redis
            from redis.backoff import NoBackoff
            from redis.exceptions import ConnectionError as NotConnected
            from redis.retry import Retry
        except ImportError as error:
            raise self.lacks_client(error) from error
        url = self.settings.address(self.name, "redis", "rediss")
        database = self.settings.database or urlsplit(url).path.strip("/") or "0"
        if database != "0":
            raise StoreRefused(
                f"stores.{self.name} names database {database}; Redis searches its database 0 only. Nothing was sent; "
                "leave it out of url and database."
            )
        return Redis.from_url(
            url,
            password=self.settings.key(self.name),
            protocol=3,
            socket_timeout=self.settings.timeout_s,
            socket_connect_timeout=self.settings.timeout_s,
            # A connection of before a restart fails once. What was not answered in time is not tried again.
            retry=Retry(NoBackoff(), 1, supported_errors=(NotConnected,)),
        )


class RedisIndex:
    """One index, and the hashes under its name."""

    traits = TRAITS

    def __init__(self, store: RedisStore, name: str, dim: int, spec: IndexSpec) -> None:
        self.name, self._store, self._dim, self._spec = name, store, dim, spec
        self._type, self._number = _NUMBERS[spec.storage]

    def create(self, encoder_fp: str) -> None:
        """Create the index. Raises ``EncoderMismatch`` where one of another encoder or width has the name."""
        make_once(self.name, (encoder_fp, self._dim), self._made, lambda: self._create(encoder_fp))

    def _made(self) -> Made | None:
        about = self._about()
        if about is None:
            return None
        with self._store.asked(f"the index {self.name}") as client:
            encoder = client.hget(self.name, "encoder") or b""
        return _text(encoder), int(about[b"attributes"][0][b"dim"])

    def _create(self, encoder_fp: str) -> None:
        graph = self._spec.kind == "hnsw"
        options: list[object] = ["TYPE", self._type, "DIM", self._dim, "DISTANCE_METRIC", _METRICS[self._spec.metric]]
        options += ["M", self._spec.m, "EF_CONSTRUCTION", self._spec.ef_construction] if graph else []
        with self._store.asked(f"an index {self.name}") as client, client.pipeline(transaction=True) as both:
            both.hset(self.name, "encoder", encoder_fp)
            both.execute_command(
                *("FT.CREATE", self.name, "ON", "HASH", "PREFIX", 1, f"{self.name}:", "SKIPINITIALSCAN", "SCHEMA"),
                *("v", "VECTOR", "HNSW" if graph else "FLAT", len(options), *options),
            )
            both.execute()

    def describe(self) -> IndexDescription | None:
        """Return what is there; the bytes are those of memory, as Redis tells them of the index, measured of hashes."""
        about = self._about()
        if about is None:
            return None
        encoder, dim = self._made() or ("", self._dim)
        megabytes, points = sum(float(about.get(key, 0)) for key in _SIZES), int(about[b"num_docs"])
        size = int(megabytes * (1 << 20) + points * (HASH_BYTES + HASH_NUMBER_BYTES * dim))
        return IndexDescription(encoder, dim, points, size, _is_whole(about))

    def _about(self) -> dict[bytes, Any] | None:
        try:
            with self._store.asked(f"the index {self.name}") as client:
                found: dict[bytes, Any] = client.execute_command("FT.INFO", self.name)
                return found
        except IndexGone:
            return None

    def drop(self) -> None:
        """Drop the index with its hashes. Raises ``StoreRefused`` for one that is not ours."""
        if may_drop(self.name, self._made()):
            with self._store.asked(f"an end of {self.name}") as client, client.pipeline(transaction=True) as both:
                both.delete(self.name)
                both.execute_command("FT.DROPINDEX", self.name, "DD")
                both.execute()

    def put(self, points: Points) -> None:
        """Write hashes, ``PUT_POINTS`` at a time; Redis indexes each before it answers."""
        if points.vectors.shape[1] != self._dim:  # Redis would keep such a hash and never find it
            raise StoreRefused(
                f"points of width {points.vectors.shape[1]} were to be put into {self.name}, which is {self._dim} "
                "wide. Nothing was written."
            )
        what = f"points in {self.name}"
        for some in points.batches(PUT_POINTS):
            values = list[bytes | str]()
            for (one, attempt, *numbers), vector in zip(some, some.vectors, strict=True):
                values += [one.hex, FIELDS.pack(attempt.bytes, *numbers), np.asarray(vector, self._number).tobytes()]
            with self._store.asked(what) as client:
                written = client.eval(PUT, 1, self.name, *values)
            if not written:
                raise self._store.gone(what)

    def remove(self, ids: Sequence[UUID]) -> None:
        """Remove hashes by id, also of an index that is not there."""
        for some in batches(ids, READ_POINTS):
            with self._store.asked(f"points of {self.name} to be deleted") as client:
                client.unlink(*map(self._key, some))

    def near(
        self,
        vector: npt.NDArray[np.float32],
        n: int,
        *,
        exact: bool,
        effort: int = 0,
        among: Sequence[UUID] | None = None,
    ) -> list[NearPoint]:
        """Search; ``exact`` changes nothing, as what has a graph is not asked for it."""
        del exact
        graph = "" if self._spec.kind != "hnsw" else f" EF_RUNTIME {max(self._spec.ef_search, n, effort)}"
        keys = [] if among is None else ["INKEYS", len(among), *map(self._key, among)]
        if among is not None:
            graph = " HYBRID_POLICY ADHOC_BF"  # compares them, without the graph
        query = np.asarray(vector, self._number).tobytes()
        what = f"what is near in {self.name}"
        with self._store.asked(what) as client:
            found = client.execute_command(
                *(
                    "FT.SEARCH",
                    self.name,
                    f"*=>[KNN {n} @v $query{graph} AS distance]",
                    *keys,
                    "PARAMS",
                    2,
                    "query",
                    query,
                ),
                # No time limit of its own: where one is reached, Redis returns what it has, and calls that success.
                *("SORTBY", "distance", "RETURN", 2, "distance", "p", "LIMIT", 0, n, "TIMEOUT", 0, "DIALECT", 2),
            )
        self._store.check_whole(found, what)
        return [_near(one[b"extra_attributes"], self._spec.metric) for one in found[b"results"]]

    def read(self, ids: Sequence[UUID]) -> Points:
        """Read hashes by id."""
        found, what = list[tuple[UUID, bytes, bytes]](), f"points of {self.name}"
        for some in batches(ids, READ_POINTS):
            with self._store.asked(what) as client, client.pipeline(transaction=False) as all_:
                all_.exists(self.name)
                for one in some:
                    all_.hmget(self._key(one), "p", "v")
                there, *rows = all_.execute()
            if not there:
                raise self._store.gone(what)
            found += [(one, *row) for one, row in zip(some, rows, strict=True) if None not in row]
        vectors = np.frombuffer(b"".join(one[2] for one in found), self._number).reshape(-1, self._dim)
        rows = ((one, FIELDS.unpack(fields)) for one, fields, _ in found)
        return Points.of(((one, UUID(bytes=tried), *rest) for one, (tried, *rest) in rows), vectors.astype(np.float32))

    def finish(self, progress: Progress) -> bool:
        """Return False: the graph grows with each put."""
        del progress
        return False

    def _key(self, point: UUID) -> str:
        """Return the name of its hash: text, as the search module takes a name to end at its first zero byte."""
        return f"{self.name}:{point.hex}"


HASH_BYTES, HASH_NUMBER_BYTES = 500, 5.2
"""Of a hash, and for each number of its vector: what 10,000 took, with the allocator's slack."""

_SIZES = (b"vector_index_sz_mb", b"doc_table_size_mb", b"key_table_size_mb", b"inverted_sz_mb")


def _near(hit: dict[bytes, bytes], metric: Metric) -> NearPoint:
    """Return a point with its score: Redis says 1 less the cosine or the product, or the square of the distance."""
    attempt, chunk, start, stop = FIELDS.unpack(hit[b"p"])
    distance = float(hit[b"distance"])
    similarity = minus_root(distance) if metric == "l2" else 1.0 - distance
    return NearPoint(UUID(bytes=attempt), chunk, start, stop, similarity)


def _is_whole(about: dict[bytes, Any]) -> bool:
    return not int(about[b"indexing"]) and float(about[b"percent_indexed"]) >= 1.0


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def open_store(name: str, settings: StoreSettings) -> RedisStore:
    """Return the store that settings describe."""
    return RedisStore(name, settings)
