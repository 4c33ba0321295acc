"""Answers on loopback as Qdrant's REST interface does, over an engine of Qdrant's own: no server runs from packages.

The engine is the client's local mode, which compares all in numpy, or ``qdrant-edge``, the engine of the server without
its wire. What a real server adds stays untested: its queue of updates, its optimizer, replicas.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

from evaluation.reliability.late import LateNetwork

from revector.errors import StoreUnavailable

VERSION = "1.20.0"


class LocalShard:
    """Points of one collection in the client's local mode."""

    def __init__(self, config: dict[str, Any]) -> None:
        from qdrant_client import QdrantClient, models

        self._models, self._client = models, QdrantClient(":memory:")
        self._client.create_collection(
            "points",
            vectors_config=_each(models.VectorParams, config["vectors"]),
            sparse_vectors_config={one: models.SparseVectorParams() for one in config.get("sparse_vectors") or ()},
        )

    def upsert(self, batch: dict[str, Any]) -> None:
        self._client.upsert("points", self._models.Batch(**batch))

    def delete(self, ids: list[str]) -> None:
        self._client.delete("points", ids)

    def count(self) -> int:
        return int(self._client.count("points").count)

    def retrieve(self, ids: list[str]) -> list[Any]:
        return list(self._client.retrieve("points", ids, with_vectors=True))

    def query(self, vector: list[float], limit: int, params: dict[str, Any], among: list[str] | None) -> list[Any]:
        models = self._models
        ids = None if among is None else models.Filter(must=[models.HasIdCondition(has_id=among)])
        return list(self._client.query_points("points", vector, limit=limit, query_filter=ids).points)

    def scroll(self, limit: int, offset: Any, with_vector: Any) -> tuple[list[Any], Any]:
        return self._client.scroll("points", limit=limit, offset=offset, with_vectors=with_vector)


def _each(make: Callable[..., Any], vectors: dict[str, Any]) -> Any:
    return make(**vectors) if "size" in vectors else {name: make(**one) for name, one in vectors.items()}


class EdgeShard:
    """Points of one collection in the engine of the server, in a folder of its own."""

    def __init__(self, config: dict[str, Any]) -> None:
        import qdrant_edge

        self._edge, self._folder = qdrant_edge, tempfile.TemporaryDirectory(prefix="revector-qdrant-")
        graph = qdrant_edge.HnswIndexConfig(config["hnsw_config"]["m"], config["hnsw_config"]["ef_construct"], 1)
        distance = getattr(qdrant_edge.Distance, config["vectors"]["distance"])
        vectors = qdrant_edge.EdgeVectorParams(config["vectors"]["size"], distance)
        made = qdrant_edge.EdgeConfig(vectors=vectors, hnsw_config=graph)
        self._shard = qdrant_edge.EdgeShard.create(self._folder.name, made)

    def upsert(self, batch: dict[str, Any]) -> None:
        rows = zip(batch["ids"], batch["vectors"], batch["payloads"], strict=True)
        points = [self._edge.Point(UUID(one), vector, payload) for one, vector, payload in rows]
        self._shard.update(self._edge.UpdateOperation.upsert_points(points))

    def delete(self, ids: list[str]) -> None:
        self._shard.update(self._edge.UpdateOperation.delete_points([UUID(one) for one in ids]))

    def count(self) -> int:
        return int(self._shard.count(self._edge.CountRequest()))

    def retrieve(self, ids: list[str]) -> list[Any]:
        return list(self._shard.retrieve([UUID(one) for one in ids], True, True))

    def query(self, vector: list[float], limit: int, params: dict[str, Any], among: list[str] | None) -> list[Any]:
        edge = self._edge
        ids = None if among is None else edge.Filter(must=[edge.HasIdCondition({UUID(one) for one in among})])
        asked = edge.SearchParams(hnsw_ef=params["hnsw_ef"], exact=params["exact"])
        query = edge.Query.Nearest(vector)
        request = edge.QueryRequest(limit=limit, query=query, params=asked, with_payload=True, filter=ids)
        return list(self._shard.query(request))

    def scroll(self, limit: int, offset: Any, with_vector: Any) -> tuple[list[Any], Any]:
        first = None if offset is None else UUID(offset)
        request = self._edge.ScrollRequest(offset=first, limit=limit, with_payload=True, with_vector=with_vector)
        found: tuple[list[Any], Any] = self._shard.scroll(request)
        return found


class NotFoundError(Exception):
    """There is no such collection."""


@dataclass(slots=True)
class Collection:
    """One collection: what it was created with, and its points."""

    config: dict[str, Any]
    shard: Any


@dataclass
class QdrantWire:
    """The interface, with a network before it that drops, delays and repeats what is written where it ``fails``."""

    make: Callable[[dict[str, Any]], Any]
    network: LateNetwork = field(default_factory=lambda: LateNetwork(fails=0.0, twice=0.0))
    key: str | None = None
    status: str = "completed"
    health: list[str] = field(default_factory=lambda: ["green"])
    """What collections say of themselves, one after the other; the last one stays."""
    searched: list[dict[str, Any]] = field(default_factory=list)
    """The settings of each search."""
    prodded: int = 0
    """How often an optimizer was told to go on."""
    collections: dict[str, Collection] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        wire = self

        class Handler(_Handler):
            of = wire

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, body: dict[str, Any]) -> object:
        """Return the result of one request; whatever is asked of a collection that is not there raises."""
        if path == "/":
            return None
        if path == "/collections":
            return {"collections": [{"name": name} for name in self.collections]}
        if path == "/aliases":
            named = [{"alias_name": one, "collection_name": other} for one, other in self.aliases.items()]
            return {"aliases": named}
        if path == "/collections/aliases":
            return self._change_alias(*body["actions"])
        _, _, name, *rest = path.split("/")
        if rest == ["exists"]:
            return {"exists": name in self.collections}
        act: Callable[[], object] = partial(self._of_collection, method, name, body)
        if rest:
            act = partial(self._of_points, "/".join(rest), method, name, body)
        if method in ("PUT", "DELETE") or rest[-1:] == ["delete"]:
            return self.network.write(act) if rest else act()
        self.network.arrive()
        return act()

    def _change_alias(self, action: dict[str, Any]) -> bool:
        """One action; of a real server's several, those before a wrong one are done and stay."""
        [(what, given)] = action.items()
        if what == "delete_alias":
            del self.aliases[given["alias_name"]]
        elif given["alias_name"] in self.collections:
            raise ValueError(f"Wrong input: Alias `{given['alias_name']}` is the name of a collection")
        else:
            self._named(given["collection_name"])
            self.aliases[given["alias_name"]] = given["collection_name"]
        return True

    def _of_collection(self, method: str, name: str, body: dict[str, Any]) -> object:
        if method == "PUT":
            if name in self.collections:
                raise ValueError(f"Wrong input: Collection `{name}` already exists!")
            self.collections[name] = Collection(body, self.make(body))
            return True
        if method == "DELETE":
            self.aliases = {alias: other for alias, other in self.aliases.items() if other != name}
            return self.collections.pop(name, None) is not None
        config = self._named(name).config
        if method == "PATCH":
            self.prodded += 1
            return True
        params = {kind: config[kind] for kind in ("vectors", "sparse_vectors") if kind in config}
        graph = {"full_scan_threshold": 10_000, **config["hnsw_config"]}
        optimizers = {"deleted_threshold": 0.2, "vacuum_min_vector_number": 1_000, "default_segment_number": 0}
        return {
            "status": self.health.pop(0) if len(self.health) > 1 else self.health[0],
            "optimizer_status": "ok",
            "segments_count": 1,
            "payload_schema": {},
            "config": {
                "params": params,
                "hnsw_config": graph,
                "optimizer_config": {**optimizers, "flush_interval_sec": 5},
                "metadata": config.get("metadata"),
            },
        }

    def _of_points(self, what: str, method: str, name: str, body: dict[str, Any]) -> object:
        shard = self._named(name).shard
        if what == "points/count":
            return {"count": shard.count()}
        if what == "points/query":
            self.searched.append(body["params"])
            (condition,) = (body.get("filter") or {}).get("must") or [{}]
            found = shard.query(body["query"]["nearest"], body["limit"], body["params"], condition.get("has_id"))
            points = [{"id": str(one.id), "version": 0, "score": one.score, "payload": one.payload} for one in found]
            return {"points": points}
        if what == "points/scroll":
            found, following = shard.scroll(body["limit"], body.get("offset"), body["with_vector"])
            points = [_record(one) for one in found]
            return {"points": points, "next_page_offset": None if following is None else _id(following)}
        if what == "points/delete":
            shard.delete(body["points"])
        elif method == "PUT":
            shard.upsert(body["batch"])
        else:
            found = shard.retrieve(body["ids"])
            return [_record(one) for one in found]
        return {"operation_id": 0, "status": self.status}

    def _named(self, name: str) -> Collection:
        if name not in self.collections:
            raise NotFoundError(f"Not found: Collection `{name}` doesn't exist!")
        return self.collections[name]


def _record(found: Any) -> dict[str, Any]:
    vector = found.vector
    if vector is not None and not isinstance(vector, dict):
        vector = list(vector)
    return {"id": _id(found.id), "payload": found.payload, "vector": vector}


def _id(found: Any) -> int | str:
    return found if isinstance(found, int) else str(found)


class _Handler(BaseHTTPRequestHandler):
    of: QdrantWire

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        wire, path = self.of, self.path.partition("?")[0]
        if wire.key is not None and self.headers.get("api-key") != wire.key:
            self._say(401, {"status": {"error": "Invalid API key or JWT"}, "time": 0.0})
            return
        try:
            with wire.lock:
                result = wire.answer(self.command, path, json.loads(body or b"{}"))
        except StoreUnavailable:
            self.close_connection = True  # no answer: the connection ends
            return
        except NotFoundError as error:
            self._say(404, {"status": {"error": str(error)}, "time": 0.0})
        except Exception as error:  # noqa: BLE001 - the engines raise what they like
            self._say(400, {"status": {"error": str(error)}, "time": 0.0})
        else:
            about = {"title": "qdrant - vector search engine", "version": VERSION}
            self._say(200, about if path == "/" else {"result": result, "status": "ok", "time": 0.0})

    def _say(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass
