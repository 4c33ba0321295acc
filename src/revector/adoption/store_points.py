"""Owns how the points of a collection are read from Qdrant, Milvus, Chroma and Redis, which stay as they are.

A point that is there all the time is read once, whatever is written meanwhile: pages go by id in Qdrant and Milvus; in
Chroma and Redis they go by a list of all ids that is made first.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from revector.errors import SourceError
from revector.stores.chroma import ChromaStore
from revector.stores.milvus import MilvusStore
from revector.stores.qdrant import QdrantStore
from revector.stores.redis import RedisStore
from revector.stores.seam import Store
from revector.stores.settings import StoreSettings

ID, TEXT, VECTOR = "point_id", "point_text", "point_vector"
"""What a point has beside its fields: its id, Chroma's document, and the vector that is adopted."""

PAGE = 256


@dataclass(frozen=True, slots=True)
class CollectionTerms:
    """What a collection says of itself: the column of ids, vectors by name, and those of types that are not read."""

    key: str
    vectors: Sequence[str]
    unread: Sequence[str] = ()


class PointReader(Protocol):
    """One collection of a store. Raises ``IndexGone`` where there is none, ``StoreUnavailable`` for the rest."""

    @property
    def store(self) -> Store:
        """The connection, to be closed."""

    def names(self) -> Sequence[str]:
        """Return what collections there are."""

    def about(self) -> CollectionTerms:
        """Return what the collection says of itself."""

    def points(self, vector: str | None) -> Generator[dict[str, Any], None, None]:
        """Yield all points: their fields, ``ID``, ``TEXT``, and one vector as ``VECTOR``, as far as they have them."""


def _point(fields: Mapping[str, Any] | None, **own: object) -> dict[str, Any]:
    """Return what a point is read as. Raises ``SourceError`` for a field that has a name of ours."""
    if both := own.keys() & (fields or {}).keys():
        raise SourceError(
            f"the point {own[ID]} has a field {', '.join(sorted(both))}, which revector calls something of its own. "
            "Nothing was stored; rename it."
        )
    return {**(fields or {}), **own}


@dataclass(frozen=True, slots=True)
class QdrantPoints:
    """Points of a collection of Qdrant, by id; vectors by their names, that without one as an empty name."""

    store: QdrantStore
    collection: str

    def names(self) -> Sequence[str]:
        """Return what collections there are."""
        with self.store.asked("its collections") as client:
            return [str(one.name) for one in client.get_collections().collections]

    def about(self) -> CollectionTerms:
        """Ask for the vectors; sparse ones and those of several rows are not read."""
        with self.store.asked(f"the collection {self.collection}") as client:
            params = client.get_collection(self.collection).config.params
        dense = params.vectors if isinstance(params.vectors, dict) else {"": params.vectors} if params.vectors else {}
        several = [name for name, one in dense.items() if one.multivector_config is not None]
        return CollectionTerms(
            ID, [name for name in dense if name not in several], [*several, *(params.sparse_vectors or ())]
        )

    def points(self, vector: str | None) -> Generator[dict[str, Any], None, None]:
        """Scroll, which goes by id."""
        offset: Any = None
        while True:
            with self.store.asked(f"points of {self.collection}") as client:
                found, offset = client.scroll(
                    self.collection,
                    limit=PAGE,
                    offset=offset,
                    with_payload=True,
                    with_vectors=[vector] if vector else vector is not None,
                )
            for one in found:
                own = {} if vector is None else {VECTOR: one.vector if vector == "" else (one.vector or {}).get(vector)}
                yield _point(one.payload, **{ID: one.id}, **own)
            if offset is None:
                return


@dataclass(frozen=True, slots=True)
class MilvusPoints:
    """Entities of a collection of Milvus, by their primary key."""

    store: MilvusStore
    collection: str
    in_file: bool

    def names(self) -> Sequence[str]:
        """Return what collections there are."""
        with self.store.asked("its collections") as client:
            return [str(one) for one in client.list_collections(timeout=self.store.timeout_s)]

    def about(self) -> CollectionTerms:
        """Ask for the schema; vectors of float32 are read."""
        fields = self._fields()
        vectors = [one["name"] for one in fields if one["type"].name == "FLOAT_VECTOR"]
        unread = [one["name"] for one in fields if "VECTOR" in one["type"].name and one["name"] not in vectors]
        return CollectionTerms(next(one["name"] for one in fields if one.get("is_primary")), vectors, unread)

    def _fields(self) -> list[dict[str, Any]]:
        with self.store.asked(f"the collection {self.collection}") as client:
            return list(client.describe_collection(self.collection, timeout=self.store.timeout_s)["fields"])

    def points(self, vector: str | None) -> Generator[dict[str, Any], None, None]:
        """Query by pages of the key. milvus-lite has to load a collection first; a server is not asked to."""
        about, what = self.about(), f"points of {self.collection}"
        with self.store.asked(what) as client:
            if self.in_file:
                client.load_collection(self.collection, timeout=self.store.timeout_s)
            pages = client.query_iterator(
                self.collection,
                batch_size=PAGE,
                output_fields=["*"],
                consistency_level="Strong",
                timeout=self.store.timeout_s,
            )
        with closing(pages):
            while True:
                with self.store.asked(what):
                    found = pages.next()
                if not found:
                    return
                for one in found:
                    own = {VECTOR: one[vector]} if vector is not None else {}
                    fields = {key: value for key, value in one.items() if key not in (*about.vectors, *about.unread)}
                    yield {**fields, **own}


@dataclass(frozen=True, slots=True)
class ChromaPoints:
    """Records of a collection of Chroma, by a list of all ids."""

    store: ChromaStore
    collection: str

    def names(self) -> Sequence[str]:
        """Return what collections there are."""
        found = self.store.request("GET", f"{self.store.database}/collections?limit=100", None, "its collections")
        return [str(one["name"]) for one in found]

    def about(self) -> CollectionTerms:
        """Ask whether it is there; it has one vector, without a name."""
        self._path()
        return CollectionTerms(ID, [""])

    def _path(self) -> str:
        path = f"{self.store.database}/collections"
        return f"{path}/{self.store.request('GET', f'{path}/{self.collection}', None, 'a collection')['id']}/get"

    def points(self, vector: str | None) -> Generator[dict[str, Any], None, None]:
        """Get by id: a page by number would skip a point for each that is deleted before it."""
        path, what = self._path(), f"points of {self.collection}"
        wanted = ["documents", "metadatas", *(["embeddings"] if vector is not None else [])]
        ids = self.store.request("POST", path, {"include": []}, what)["ids"]
        for first in range(0, len(ids), PAGE):
            found = self.store.request("POST", path, {"ids": ids[first : first + PAGE], "include": wanted}, what)
            for n, one in enumerate(found["ids"]):
                own = {VECTOR: found["embeddings"][n]} if vector is not None else {}
                yield _point(found["metadatas"][n], **{ID: one, TEXT: found["documents"][n]}, **own)


@dataclass(frozen=True, slots=True)
class RedisPoints:
    """Hashes of an index of Redis' search module, by a list of all their keys."""

    store: RedisStore
    collection: str

    def names(self) -> Sequence[str]:
        """Return what indexes there are."""
        with self.store.asked("its indexes") as client:
            return [one.decode() for one in client.execute_command("FT._LIST")]

    def about(self) -> CollectionTerms:
        """Ask for the index."""
        types = self._vectors(self._index())
        read = [name for name, dtype in types.items() if dtype is not None]
        return CollectionTerms(ID, read, [name for name in types if name not in read])

    def _index(self) -> dict[bytes, Any]:
        with self.store.asked(f"the index {self.collection}") as client:
            found: dict[bytes, Any] = client.execute_command("FT.INFO", self.collection)
        over = found[b"index_definition"]
        if over[b"key_type"] != b"HASH" or over.get(b"filter"):
            what = "has a FILTER" if over[b"key_type"] == b"HASH" else "is over JSON documents"
            raise SourceError(
                f"the index {self.collection} {what}; indexes over all hashes of their prefixes are read. Nothing was "
                "read there or changed; export it to a file, and adopt that."
            )
        return found

    @staticmethod
    def _vectors(index: Mapping[bytes, Any]) -> dict[str, str | None]:
        """Return the fields of vectors, each with the type of its numbers; None for one that NumPy has not."""
        fields = [one for one in index[b"attributes"] if one[b"type"] == b"VECTOR"]
        return {one[b"identifier"].decode(): REDIS_TYPES.get(one[b"data_type"]) for one in fields}

    def points(self, vector: str | None) -> Generator[dict[str, Any], None, None]:
        """Scan for keys, which may repeat some, and get the hashes; an id is its key without the prefix."""
        index, what = self._index(), f"hashes of {self.collection}"
        vectors, prefixes = self._vectors(index), index[b"index_definition"][b"prefixes"]
        keys = set[bytes]()
        for prefix in prefixes:
            with self.store.asked(what) as client:
                keys |= set(client.scan_iter(match=_escaped(prefix) + b"*", count=1_000, _type="hash"))
        some, start = sorted(keys), prefixes[0] if len(prefixes) == 1 else b""
        for first in range(0, len(some), PAGE):
            with self.store.asked(what) as client, client.pipeline(transaction=False) as all_:
                for key in some[first : first + PAGE]:
                    all_.hgetall(key)
                found = all_.execute()
            for key, fields in zip(some[first : first + PAGE], found, strict=True):
                if not fields:  # gone meanwhile
                    continue
                named = {_text(name): value for name, value in fields.items()}
                own = {VECTOR: _numbers(named.get(vector), vectors[vector])} if vector is not None else {}
                plain = {name: _text(value) for name, value in named.items() if name not in vectors}
                yield _point(plain, **{ID: _text(key.removeprefix(start).removeprefix(b":" if start else b""))}, **own)


REDIS_TYPES = {b"FLOAT32": "<f4", b"FLOAT64": "<f8", b"FLOAT16": "<f2"}


def _escaped(prefix: bytes) -> bytes:
    return re.sub(rb"([*?\[\]\\^])", rb"\\\1", prefix)


def _text(value: bytes) -> Any:
    """Return a text; what is none stays bytes, which metadata refuses."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _numbers(value: bytes | None, dtype: str | None) -> Any:
    """Return a vector as it is in the index; what has no whole numbers stays bytes, which count as damaged."""
    fits = value is not None and len(value) > 0 and len(value) % np.dtype(dtype).itemsize == 0
    return np.frombuffer(value or b"", dtype) if fits else value


def open_reader(shown_as: str, settings: StoreSettings, collection: str) -> PointReader:
    """Return a connection to a collection of the kind that ``settings`` have; nothing is asked yet."""
    match settings.kind:
        case "qdrant":
            return QdrantPoints(QdrantStore(shown_as, settings), collection)
        case "milvus":
            return MilvusPoints(MilvusStore(shown_as, settings), collection, "://" not in str(settings.url))
        case "chroma":
            return ChromaPoints(ChromaStore(shown_as, settings), collection)
    return RedisPoints(RedisStore(shown_as, settings), collection)
