"""Indexes in Redis with its search module: an index each over hashes, which hold a point each.

A hash is written only where the hash named as the index is there, so that no late request leaves anything behind a
dropped index. One server: the search module's cluster is another thing.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import numpy as np
import numpy.typing as npt

from revector.errors import EncoderMismatch, IndexGone, StoreRefused, StoreUnavailable
from revector.interfaces import Progress
from revector.spec import IndexSpec, Metric
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
    storages=frozenset({"vector"}),
    quantizes=frozenset({"none"}),
    metrics=ALL_METRICS,
    max_dim=32_768,
    exact_with=frozenset({"exact"}),
    most_near=10_000,
    # In memory. 10,000 × 384 and × 64, M 16, evaluation/bench/README.md
    costs=StoreCosts(point_bytes=640, number_bytes=9.3, link_bytes=11, put_cpu_s=0.34e-3),
)


_METRICS: Mapping[Metric, str] = {"cosine": "COSINE", "dot": "IP", "l2": "L2"}


class RedisStore:
    """A Redis server; any number of threads may use it."""

    traits = TRAITS

    def __init__(self, name: str, settings: StoreSettings) -> None:
        self._name, self._settings = name, settings
        self._lock, self._connected = threading.Lock(), None

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
                f"{self._asked('its settings')}, and still loads its data since it was started. Nothing was changed; "
                "ask again."
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
            raise StoreRefused(f"{self._asked('its settings')}: {wrong}. Nothing was changed.")
        number = int(modules["search"])  # 21005 is 2.10.5
        module = f"{number // 10_000}.{number // 100 % 100}.{number % 100}"
        version = f"{about['redis_version']} with its search module {module}"
        return f"Redis {version} at {self._settings.url} ({TESTED})"

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            client, self._connected = self._connected, None
        if client is not None:
            client.close()

    @contextmanager
    def asked(self, what: str) -> Iterator[Any]:
        """Yield the client. Whatever it raises is raised as an error of ours that says ``what`` was asked."""
        client = self._client()
        from redis.exceptions import RedisError

        try:
            yield client
        except (RedisError, OSError) as error:
            raise self.said(error, what) from error

    def said(self, error: Exception, what: str) -> Exception:
        """Return an error of ours for one of the client's."""
        from redis.exceptions import AuthenticationError, NoPermissionError, ReadOnlyError, ResponseError

        said = f"{self._asked(what)}: {type(error).__name__}: {str(error)[:200]}."
        if isinstance(error, AuthenticationError | NoPermissionError):
            return StoreRefused(
                f"{said} Nothing was published; correct stores.{self._name}.api_key_env, what the variable holds, or "
                "the rights of that user."
            )
        if isinstance(error, ReadOnlyError):
            return StoreRefused(
                f"{said} Nothing was published, and what is due stays due; name the primary as stores.{self._name}.url."
            )
        if isinstance(error, ResponseError) and any(words in str(error).lower() for words in NOT_THERE):
            return self.gone(what)
        return StoreUnavailable(
            f"{said} Nothing was published, and what is due stays due; start it, make room in it, or correct "
            f"stores.{self._name}.url."
        )

    def gone(self, what: str) -> IndexGone:
        """Return the error of an index that is not there."""
        return IndexGone(
            f"{self._asked(what)}: it has no such index. It was dropped meanwhile, or the store lost it. Nothing was "
            "changed; a worker that reaches the store makes it again and re-embeds its documents."
        )

    def check_whole(self, found: dict[bytes, Any], what: str) -> None:
        """Raise ``StoreUnavailable`` for an answer that may be short: Redis calls that success."""
        wrong = [_text(one) for one in found.get(b"warning") or ()]
        if bare := sum(not one.get(b"extra_attributes") for one in found[b"results"]):
            wrong.append(f"{bare:,} points came without their fields")
        if wrong:
            raise StoreUnavailable(f"{self._asked(what)}: {'; '.join(wrong)}. Nothing was answered; ask again.")

    def _asked(self, what: str) -> str:
        return f"the store {self._name!r} (Redis at {self._settings.url}) was asked for {what}"

    def _client(self) -> Any:
        with self._lock:
            if self._connected is None:
                self._connected = self._connect()
            return self._connected

    def _connect(self) -> Any:
        try:
            from redis import Redis
            from redis.backoff import NoBackoff
            from redis.exceptions import ConnectionError as NotConnected
            from redis.retry import Retry
        except ImportError as error:
            raise StoreRefused(
                f"the store {self._name!r} is of the kind redis, and {error.name} is not installed here. Nothing was "
                "changed; run `pip install 'revector[redis]'`."
            ) from error
        url = self._settings.address(self._name, "redis", "rediss")
        database = self._settings.database or urlsplit(url).path.strip("/") or "0"
        if database != "0":
            raise StoreRefused(
                f"stores.{self._name} names database {database}; Redis searches its database 0 only. Nothing was sent; "
                "leave it out of url and database."
            )
        return Redis.from_url(
            url,
            password=self._settings.key(self._name),
            protocol=3,
            socket_timeout=self._settings.timeout_s,
            socket_connect_timeout=self._settings.timeout_s,
            # A connection of before a restart fails once. What was not answered in time is not tried again.
            retry=Retry(NoBackoff(), 1, supported_errors=(NotConnected,)),
        )


class RedisIndex:
    """One index, and the hashes under its name."""

    traits = TRAITS

    def __init__(self, store: RedisStore, name: str, dim: int, spec: IndexSpec) -> None:
        self.name, self._store, self._dim, self._spec = name, store, dim, spec

    def create(self, encoder_fp: str) -> None:
        """Create the index. Raises ``EncoderMismatch`` where one of another encoder or width has the name."""
        if self._about() is None:
            try:
                self._create(encoder_fp)
            except StoreUnavailable:
                if self._about() is None:
                    raise  # else another process has just made it
        there = self.describe()
        if there is None or (there.encoder_fp, there.dim) != (encoder_fp, self._dim):
            found = "it is gone again" if there is None else f"one of encoder {there.encoder_fp!r}, width {there.dim},"
            raise EncoderMismatch(
                f"the index {self.name} was to be created for encoder {encoder_fp} of width {self._dim}; {found} has "
                "that name. Nothing was changed."
            )

    def _create(self, encoder_fp: str) -> None:
        graph = self._spec.kind == "hnsw"
        options: list[object] = ["TYPE", "FLOAT32", "DIM", self._dim, "DISTANCE_METRIC", _METRICS[self._spec.metric]]
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
        with self._store.asked(f"the index {self.name}") as client:
            encoder = client.hget(self.name, "encoder") or b""
        megabytes = sum(float(value) for key, value in about.items() if key in _SIZES)
        dim, points = int(about[b"attributes"][0][b"dim"]), int(about[b"num_docs"])
        size = int(megabytes * (1 << 20) + points * (HASH_BYTES + HASH_NUMBER_BYTES * dim))
        return IndexDescription(_text(encoder), dim, points, size, _is_whole(about))

    def _about(self) -> dict[bytes, Any] | None:
        try:
            with self._store.asked(f"the index {self.name}") as client:
                found: dict[bytes, Any] = client.execute_command("FT.INFO", self.name)
                return found
        except IndexGone:
            return None

    def drop(self) -> None:
        """Drop the index with its hashes. Raises ``StoreRefused`` for one that is not ours."""
        if self._about() is None:
            return
        with self._store.asked(f"an end of {self.name}") as client:
            if not client.exists(self.name):
                raise StoreRefused(
                    f"the index {self.name} was to be dropped, and revector did not make it. It was left alone."
                )
            with client.pipeline(transaction=True) as both:
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
        for first in range(0, len(points.ids), PUT_POINTS):
            some = points.rows(slice(first, first + PUT_POINTS))
            columns = (some.attempts, some.chunks.tolist(), some.starts.tolist(), some.stops.tolist(), some.vectors)
            values = list[bytes | str]()
            for one, attempt, chunk, start, stop, vector in zip(some.ids, *columns, strict=True):
                fields = FIELDS.pack(attempt.bytes, chunk, start, stop)
                values += [one.hex, fields, np.asarray(vector, "<f4").tobytes()]
            with self._store.asked(what) as client:
                written = client.eval(PUT, 1, self.name, *values)
            if not written:
                raise self._store.gone(what)

    def remove(self, ids: Sequence[UUID]) -> None:
        """Remove hashes by id, also of an index that is not there."""
        for first in range(0, len(ids), READ_POINTS):
            with self._store.asked(f"points of {self.name} to be deleted") as client:
                client.unlink(*(self._key(one) for one in ids[first : first + READ_POINTS]))

    def near(self, vector: npt.NDArray[np.float32], n: int, *, exact: bool) -> list[NearPoint]:
        """Search; ``exact`` changes nothing, as what has a graph is not asked for it."""
        del exact
        ef = f" EF_RUNTIME {max(self._spec.ef_search, n)}" if self._spec.kind == "hnsw" else ""
        query = np.asarray(vector, "<f4").tobytes()
        what = f"what is near in {self.name}"
        with self._store.asked(what) as client:
            found = client.execute_command(
                *("FT.SEARCH", self.name, f"*=>[KNN {n} @v $query{ef} AS distance]", "PARAMS", 2, "query", query),
                # No time limit of its own: where one is reached, Redis returns what it has, and calls that success.
                *("SORTBY", "distance", "RETURN", 2, "distance", "p", "LIMIT", 0, n, "TIMEOUT", 0, "DIALECT", 2),
            )
        self._store.check_whole(found, what)
        return [_near(one[b"extra_attributes"], self._spec.metric) for one in found[b"results"]]

    def read(self, ids: Sequence[UUID]) -> Points:
        """Read hashes by id."""
        found, what = list[tuple[UUID, bytes, bytes]](), f"points of {self.name}"
        for first in range(0, len(ids), READ_POINTS):
            some = ids[first : first + READ_POINTS]
            with self._store.asked(what) as client, client.pipeline(transaction=False) as all_:
                all_.exists(self.name)
                for one in some:
                    all_.hmget(self._key(one), "p", "v")
                there, *rows = all_.execute()
            if not there:
                raise self._store.gone(what)
            found += [(one, *row) for one, row in zip(some, rows, strict=True) if None not in row]
        fields = [FIELDS.unpack(one[1]) for one in found]
        vectors = np.frombuffer(b"".join(one[2] for one in found), "<f4").reshape(-1, self._dim)
        return Points(
            [one[0] for one in found],
            [UUID(bytes=one[0]) for one in fields],
            np.array([one[1] for one in fields], np.int32),
            np.array([one[2] for one in fields], np.int32),
            np.array([one[3] for one in fields], np.int32),
            vectors.astype(np.float32),
        )

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
