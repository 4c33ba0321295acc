"""Owns how a collection of Qdrant, Milvus, Chroma or Redis becomes rows: its URL and key, its text, its vector."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import Field
from sqlalchemy import URL, make_url

from revector.adoption.nodes import NODE, embedded_text
from revector.adoption.presets import AdoptionRequest
from revector.adoption.store_points import TEXT, VECTOR, CollectionTerms, PointReader, open_reader
from revector.errors import ConfigError, IndexGone, SourceError, StoreUnavailable
from revector.sources.files import Record
from revector.sources.sql import shown
from revector.stores.settings import StoreSettings

TEXTS = (NODE, "page_content", TEXT)
"""Fields that hold the text wherever they are: of LlamaIndex, of LangChain, of Chroma. Others are found by their names.

``_node_content`` becomes what LlamaIndex embedded: metadata and text, by the node's own templates.
"""

PEEKED = 64
"""Points by which the fields are told."""

MOST_NAMED = 20
"""Collections that a message names; of others it says how many there are."""

PORTS = {"qdrant": 6333, "milvus": 19530, "chroma": 8000, "redis": 6379}
KEY_NAME = "api_key_env"


class KeyedSettings(StoreSettings):
    """Settings whose key was said by a URL: it is held here, and kept nowhere."""

    secret: str | None = Field(default=None, repr=False)

    def key(self, store: str) -> str | None:
        """Return the key, or None where none was said."""
        del store
        return self.secret


@dataclass(frozen=True, slots=True)
class StoreRows:
    """The rows of a collection, as a place has them; ``vector``: its column, None where none is taken."""

    columns: tuple[str, ...]
    key: tuple[str, ...]
    text: tuple[str, ...]
    vector: str | None
    read: Callable[[Sequence[str], int | None], Iterator[Record]]


def is_store(source: str) -> bool:
    """Whether a URL names a vector store."""
    return _kind(source) in PORTS


def open_rows(request: AdoptionRequest) -> StoreRows:
    """Look at the collection that a request names. Raises ``ConfigError`` and ``SourceError``."""
    source, name = str(request.source), request.table
    if request.where is not None:
        raise ConfigError("--where is for databases that speak SQL. Nothing was changed; leave it out.")
    settings = _settings(source)
    with _connected(source, settings, name) as reader:
        about = _about(reader, f"{shown(source)} has no collection {name}")
        chosen = _choose(about, request)
        with closing(reader.points(None)) as points:
            seen = [_record(point, ()) for point in islice(points, PEEKED)]

    def read(columns: Sequence[str], limit: int | None) -> Iterator[Record]:
        vector = chosen if VECTOR in columns else None
        with _connected(source, settings, name) as reader, closing(reader.points(vector)) as points:
            for point in islice(points, limit):
                yield f"point {point[about.key]}", _record(point, columns)

    columns = dict.fromkeys(name for record in seen for name in record)
    text = tuple(name for name in TEXTS if name in columns)[:1]
    vector = None if chosen is None or not seen else VECTOR
    return StoreRows((*columns, *([vector] if vector else [])), (about.key,), text, vector, read)


@contextmanager
def _connected(source: str, settings: KeyedSettings, name: str) -> Iterator[PointReader]:
    reader = open_reader(shown(source), settings, name)
    with closing(reader.store):
        try:
            yield reader
        except (StoreUnavailable, IndexGone) as error:
            if isinstance(error.__cause__, ImportError):
                raise SourceError(str(error)) from error
            # What it says then to do is about revector.toml and workers.
            said = str(error).partition(" Nothing was ")[0].partition(" The index was dropped")[0]
            raise SourceError(
                f"{said} Nothing was read there or changed; check {shown(source)}, and run this again."
            ) from error


def _about(reader: PointReader, absent: str) -> CollectionTerms:
    try:
        return reader.about()
    except IndexGone as error:
        names = sorted(reader.names())
        more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
        there = ", ".join(names[:MOST_NAMED]) or "none"
        raise SourceError(f"{absent}; there are: {there}{more}. Nothing was read.") from error


def _record(point: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """Return a point with the entries of an object `metadata` beside its own fields, and every column that is asked.

    Where both have a name, its own field stays: who makes a document of the record refuses it if they differ.
    """
    inner = point.get("metadata")
    record = {**dict.fromkeys(columns), **(inner if isinstance(inner, Mapping) else {}), **point}
    if NODE in columns:
        beside = next((name for name in (TEXT, "text") if record.get(name)), NODE)
        record[NODE] = embedded_text(record[NODE], None if beside == NODE else record[beside])
        if beside not in columns:
            del record[beside]
    return record


def _choose(about: CollectionTerms, request: AdoptionRequest) -> str | None:
    """Return the name of the vector that is taken, which is empty where a store has one without a name."""
    if not request.vectors:
        return None
    named = ", ".join(map(repr, (*about.vectors, *about.unread))) or "none"
    named = "one without a name" if about.vectors == [""] else named
    if request.vector is not None and request.vector not in about.vectors:
        wanted = f"no vector {request.vector!r} of float numbers"
    elif request.vector is None and len(about.vectors) > 1:
        wanted = "several vectors"
    elif not about.vectors and about.unread:
        wanted = "no vector of float numbers"
    else:
        return request.vector or next(iter(about.vectors), None)
    raise ConfigError(
        f"{request.table} of {shown(str(request.source))} has {wanted}; there are: {named}. Nothing was changed; name "
        "one with --vector, or embed all texts with --no-vectors."
    )


# Where it is ---------------------------------------------------------------------------------------------------------


def _kind(source: str) -> str:
    return source.partition("://")[0].partition("+")[0].replace("rediss", "redis")


def _settings(source: str) -> KeyedSettings:
    """Return how a store is reached. Raises ``ConfigError``, which quotes nothing that could be a key."""
    url, kind = make_url(source), _kind(source)
    scheme = url.drivername.partition("+")[2] or "http" if kind != "redis" else url.drivername
    allowed = ("redis", "rediss") if kind == "redis" else ("http", "https")
    if scheme not in allowed or set(url.query) - {KEY_NAME} or (kind == "qdrant" and url.database):
        ways = "redis:// or rediss://" if kind == "redis" else f"{kind}:// or {kind}+https://"
        raise ConfigError(
            f"a URL of {kind} begins with {ways}, host and port, and may end with ?{KEY_NAME}=VARIABLE. Nothing was "
            "changed; correct it, and name the collection with --table."
        )
    key = _key(url, kind)
    if not url.host:
        if kind != "milvus" or not str(url.database).endswith(".db") or not Path(str(url.database)).exists():
            raise ConfigError(
                f"{shown(source)} names no host{', and no file of milvus-lite' if kind == 'milvus' else ''} that is "
                "there. Nothing was changed; correct it."
            )
        return KeyedSettings(kind=kind, url=str(Path(str(url.database)).absolute()), secret=key)
    host = f"[{url.host}]" if ":" in url.host else url.host
    user = f"{url.username}@" if kind == "redis" and url.username else ""
    address = f"{scheme}://{user}{host}:{url.port or PORTS[kind]}"
    return KeyedSettings(kind=kind, url=address, secret=key, database=url.database or None)


def _key(url: URL, kind: str) -> str | None:
    named = url.query.get(KEY_NAME)
    if url.username and not (url.password or named):
        raise ConfigError(
            f"the URL has a user and no password. Nothing was changed; write a key as {kind}://:KEY@HOST, or name its "
            f"variable: {kind}://HOST?{KEY_NAME}=VARIABLE."
        )
    if named is not None:
        if key := os.environ.get(str(named), "").strip():
            return key
        raise ConfigError(f"{KEY_NAME} names {named}, and that variable is not set. Nothing was changed; set it.")
    if kind == "milvus" and url.username:  # its token is of both
        return f"{url.username}:{url.password}"
    return None if url.password is None else str(url.password)
