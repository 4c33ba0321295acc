"""Collections in vector stores, as applications make and fill them with clients of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from uuid import NAMESPACE_URL, uuid4, uuid5

import httpx
import numpy as np
import pytest

from adoption.test_copies import COUNT, texts, vectors
from outside import ChromaServer, RedisServer, shared
from qdrant_wire import EdgeShard, LocalShard, QdrantWire

DIM = 64


class Collection(Protocol):
    """A collection of one application; ``source`` and ``name`` are what an adoption is told."""

    source: str
    name: str

    def put(self, n: int, text: str, vector: Any, lang: str) -> None:
        """Write the point of a number."""

    def delete(self, n: int) -> None:
        """Delete it."""

    def key(self, n: int) -> str:
        """The id of its document."""

    def all(self) -> list[Any]:
        """Everything that is there, vectors included."""


def fill(collection: Collection, count: int = COUNT) -> Collection:
    for n, (text, vector) in enumerate(zip(texts(count), vectors(texts(count)), strict=True)):
        collection.put(n, text, vector, lang_of(n))
    return collection


def lang_of(n: int) -> str:
    return "de" if n % 4 == 0 else "en"


class InQdrant:
    """As LangChain writes it: the text is ``page_content``, and ``metadata`` an object."""

    def __init__(self, wire: QdrantWire, config: Any = None, **more: Any) -> None:
        from qdrant_client import QdrantClient, models

        self.models, self.wire = models, wire
        self.name, self.source = f"articles_{uuid4().hex[:8]}", wire.url.replace("http://", "qdrant://")
        self.client = QdrantClient(url=wire.url, check_compatibility=False)
        plain = models.VectorParams(size=DIM, distance=models.Distance.COSINE)
        graph = models.HnswConfigDiff(m=16, ef_construct=100)
        self.client.create_collection(self.name, vectors_config=config or plain, hnsw_config=graph, **more)

    def put(self, n: int, text: str, vector: Any, lang: str) -> None:
        self.point(self.key(n), {"page_content": text, "metadata": {"lang": lang}}, vector.tolist())

    def point(self, key: Any, payload: dict[str, Any], vector: Any) -> None:
        vectors: Any = {name: [one] for name, one in vector.items()} if isinstance(vector, dict) else [vector]
        batch = self.models.Batch(ids=[key], vectors=vectors, payloads=[payload])
        self.client.upsert(self.name, batch, wait=True)

    def delete(self, n: int) -> None:
        self.client.delete(self.name, [self.key(n)], wait=True)

    def key(self, n: int) -> str:
        return str(uuid5(NAMESPACE_URL, str(n)))

    def all(self) -> list[Any]:
        found, _ = self.client.scroll(self.name, limit=1_000, with_vectors=True)
        return [one.model_dump() for one in found]


class InMilvus:
    """As LangChain writes it: ``pk``, ``text``, ``vector``, and the rest in fields that the schema does not name."""

    def __init__(self, url: str, source: str) -> None:
        from pymilvus import DataType, MilvusClient

        self.name, self.source, self._url = f"articles_{uuid4().hex[:8]}", source, url
        client = MilvusClient(url)
        schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
        schema.add_field("pk", DataType.VARCHAR, is_primary=True, max_length=100)
        schema.add_field("text", DataType.VARCHAR, max_length=1_000)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
        params = client.prepare_index_params()
        params.add_index("vector", index_type="FLAT", metric_type="COSINE")
        client.create_collection(self.name, schema=schema, index_params=params, consistency_level="Strong")
        self._let_go(client)

    def _do(self, act: Callable[[Any], Any]) -> Any:
        """A file is open in one place at a time: the application closes it after each request."""
        from pymilvus import MilvusClient

        client = MilvusClient(self._url)
        client.load_collection(self.name)
        done = act(client)
        self._let_go(client)
        return done

    def _let_go(self, client: Any) -> None:
        client.close()
        if "://" not in self._url:
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(str(Path(self._url).absolute()))

    def fill(self, rows: Sequence[dict[str, Any]]) -> None:
        self._do(lambda client: client.upsert(self.name, list(rows)))

    def put(self, n: int, text: str, vector: Any, lang: str) -> None:
        self.fill([{"pk": self.key(n), "text": text, "vector": vector, "lang": lang}])

    def delete(self, n: int) -> None:
        self._do(lambda client: client.delete(self.name, ids=[self.key(n)]))

    def key(self, n: int) -> str:
        return f"d{n}"

    def all(self) -> list[Any]:
        found = self._do(lambda client: client.query(self.name, filter="pk != ''", output_fields=["*"], limit=1_000))
        return sorted(found, key=lambda one: str(one["pk"]))


class InChroma:
    """As Chroma's own client writes it: a text is the record's document."""

    def __init__(self, url: str) -> None:
        self.name, self.source = f"articles_{uuid4().hex[:8]}", url.replace("http://", "chroma://")
        every = f"{url}/api/v2/tenants/default_tenant/databases/default_database/collections"
        made = httpx.post(every, json={"name": self.name, "configuration": {"hnsw": {"space": "cosine"}}}).json()
        self._url = f"{every}/{made['id']}"

    def ask(self, what: str, **body: Any) -> Any:
        return httpx.post(f"{self._url}/{what}", json=body).raise_for_status().json()

    def put(self, n: int, text: str, vector: Any, lang: str) -> None:
        self.record(self.key(n), text, {"lang": lang}, vector)

    def record(self, key: str, text: str | None, meta: dict[str, Any] | None, vector: Any) -> None:
        self.ask("upsert", ids=[key], documents=[text], metadatas=[meta], embeddings=[vector.tolist()])

    def delete(self, n: int) -> None:
        self.ask("delete", ids=[self.key(n)])

    def key(self, n: int) -> str:
        return f"d{n}"

    def all(self) -> list[Any]:
        found = self.ask("get", include=["embeddings", "metadatas", "documents"])
        return [found[kind] for kind in ("ids", "embeddings", "metadatas", "documents")]


class InRedis:
    """As redisvl and LangChain write it: a hash for each text, under the prefix of an index."""

    def __init__(self, url: str, *options: Any) -> None:
        from redis import Redis

        self.name, self.source, self.client = f"articles_{uuid4().hex[:8]}", url, Redis.from_url(url, protocol=3)
        self.prefix = f"[{self.name}]*"
        vector = ("VECTOR", "FLAT", 6, "TYPE", "FLOAT32", "DIM", DIM, "DISTANCE_METRIC", "COSINE")
        fields = ("text", "TEXT", "lang", "TAG", "embedding", "AS", "e", *vector)
        of = ("ON", "HASH", "PREFIX", 1, self.prefix, *options)
        self.client.execute_command("FT.CREATE", self.name, *of, "SCHEMA", *fields)
        self.client.hset(f"{self.name}*x:1", "text", "of another application")

    def put(self, n: int, text: str, vector: Any, lang: str) -> None:
        self.hash(n, text=text, lang=lang, embedding=np.asarray(vector, "<f4").tobytes())

    def hash(self, n: int, **fields: Any) -> None:
        self.client.hset(f"{self.prefix}:{self.key(n)}", mapping=fields)

    def delete(self, n: int) -> None:
        self.client.delete(f"{self.prefix}:{self.key(n)}")

    def key(self, n: int) -> str:
        return f"d{n}"

    def all(self) -> list[Any]:
        return [(key, self.client.hgetall(key)) for key in sorted(self.client.keys()) if self.name.encode() in key]


@cache
def wire(make: Callable[[dict[str, Any]], Any]) -> QdrantWire:
    return QdrantWire(make)


def in_qdrant(package: str, make: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Collection]:
    def made(_: Path) -> Collection:
        if find_spec("qdrant_client") is None or find_spec(package) is None:
            pytest.skip(f"{package} is not installed: make test-stores")
        return InQdrant(wire(make))

    return made


def in_milvus_lite(folder: Path) -> Collection:
    if find_spec("milvus_lite") is None:
        pytest.skip("milvus-lite is not installed: make test-stores")
    return InMilvus(str(folder / "wares.db"), f"milvus:///{folder / 'wares.db'}")


def in_milvus(_: Path) -> Collection:
    if not (url := os.environ.get("REVECTOR_TEST_MILVUS_URL")):
        pytest.skip("no Milvus: REVECTOR_TEST_MILVUS_URL is not set (make test-milvus)")
    return InMilvus(url, url.replace("http://", "milvus://"))


COLLECTIONS: dict[str, Callable[[Path], Collection]] = {
    "qdrant-local": in_qdrant("qdrant_client", LocalShard),
    "qdrant-edge": in_qdrant("qdrant_edge", EdgeShard),
    "milvus-lite": in_milvus_lite,
    "milvus": in_milvus,
    "chroma": lambda _: InChroma(shared(ChromaServer).url),
    "redis": lambda _: InRedis(shared(RedisServer).url),
}
"""How each is made, empty; a store that is not here is skipped, and says so."""
