"""Owns what is known of tables that frameworks make, and how columns are found by their types where nothing is said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from revector.adoption import nodes
from revector.adoption.table import Column, TableLook, read_columns, read_table
from revector.adoption.terms import AdoptedTable
from revector.errors import ConfigError

Preset = Literal["langchain", "llamaindex", "supabase", "pgai", "django", "rails", "vecshift"]


class AdoptionRequest(BaseModel):
    """What a person says of an adoption; what is left out is found in the table (``[collections.X.adopt]``)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: str = ""
    """``SCHEMA.NAME``, in the database of the project, or in that of ``source``; a collection of a vector store."""
    source: str | None = Field(default=None, repr=False)
    """A file, or the URL of another database or a vector store: what is there is copied, and read again when asked."""
    texts: str | None = None
    """File with the texts, where that of ``source`` holds ids and vectors alone."""
    model: str
    """The model that made the vectors, or is to make them: ``org/name``, ``./folder``, ``package:name``."""
    like: Preset | None = None
    """Whose tables look so: finds the columns."""
    id: tuple[str, ...] = ()
    """Columns of a unique key; default: the primary key."""
    text: tuple[str, ...] = ()
    """Columns that are the text, in order."""
    separator: str = "\n"
    """What joins them."""
    meta: tuple[str, ...] = ()
    """Columns that become metadata; of a vector store, default: every field but id and text."""
    where: str | None = None
    """SQL condition of the rows that are documents."""
    vector: str | None = None
    """Column of vectors, of Qdrant a vector's name; default: the only one."""
    vectors: bool = True
    """Whether vectors are taken; else all texts are embedded."""
    chunk_of: str | None = None
    """Column that names what a row is a chunk of: metadata, by which searches are filtered and hits grouped."""
    store: str | None = None
    """Store that the first index lies in, of what is copied; default: beside the documents."""
    view: str | None = None
    """``SCHEMA.NAME`` of a view to make: the table's rows beside the vectors of the model that serves."""

    def with_chunk_of(self, meta: Iterable[str]) -> tuple[str, ...]:
        """Return columns that become metadata, that of what a row is a chunk of among them."""
        return tuple(dict.fromkeys((*meta, *([self.chunk_of] if self.chunk_of else []))))

    @model_validator(mode="after")
    def _from_somewhere(self) -> Self:
        if not self.table and self.source is None:
            raise ValueError("a table, or the source that is copied, must be named")
        if self.view is not None and self.source is not None:
            raise ValueError("a view is of a table of the project's own database, and what is copied has none here")
        if self.store is not None and self.source is None:
            raise ValueError("a store is named for what is copied; the vectors of a table come to lie beside it")
        return self


_KEY = """
SELECT a.attname FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY k(number, place)
  JOIN pg_attribute a ON a.attnum = k.number AND a.attrelid = i.indrelid
WHERE i.indrelid = :oid AND i.indisprimary ORDER BY k.place
"""
_TRIGGERS = "SELECT tgname FROM pg_trigger WHERE tgrelid = :oid AND NOT tgisinternal"
_TEXTS = ("text", "character varying", "citext")
_VECTORS = ("vector", "halfvec")
_PLAIN = ("integer", "bigint", "smallint", "boolean", "numeric", "real", "double precision", "uuid", "date",
          "timestamp with time zone", "timestamp without time zone", "json", "jsonb", *_TEXTS)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _SeenTable:
    """What a layout is found in: a table's columns by name, its primary key, and the names of its triggers."""

    columns: Mapping[str, Column]
    key: Sequence[str]
    triggers: frozenset[str]

    def of_type(self, *types: str) -> list[str]:
        """Return the columns of these types that are not in the key, in the order of the table."""
        return [name for name, column in self.columns.items() if column.type in types and name not in self.key]

    def vectors(self) -> list[str]:
        """Return the columns of vectors that an application may be searching.

        VecShift keeps a second one beside it, which its trigger empties where the text changes, or which it left
        behind as ``…_old``.
        """
        return [
            name
            for name in self.of_type(*_VECTORS)
            if f"vecshift_sync_{name}"[:63] not in self.triggers
            and not (name.endswith("_old") and name.removesuffix("_old") in self.columns)
        ]


def terms_of(connection: sa.Connection, request: AdoptionRequest) -> AdoptedTable:
    """Return the terms: what was said, then what the preset knows, then key and vector by their types.

    Raises ``ConfigError`` where no text column is named or known, the table is not as the preset has it, or it holds
    several collections of LangChain and nobody said which.
    """
    row = read_table(connection, request.table)
    key = tuple(connection.scalars(sa.text(_KEY), {"oid": row.oid}))
    triggers = frozenset(connection.scalars(sa.text(_TRIGGERS), {"oid": row.oid}))
    seen = _SeenTable(read_columns(connection, row.oid), key, triggers)
    said = request.model_dump(include={"id", "text", "separator", "meta", "where", "vector"})
    said = {name: value for name, value in said.items() if value}
    found: dict[str, Any] = {"id": key, **_by_preset(request, str(row.name), seen), **said}
    found["meta"] = request.with_chunk_of(found.get("meta", ()))
    found["vector"] = _vector_of(request, str(row.name), seen, found.get("vector"))
    if not found.get("text"):
        texts = seen.of_type(*_TEXTS)
        raise ConfigError(
            f"--text is missing: which columns of {row.name} are the text? Of a text type are: "
            f"{', '.join(texts) or 'none'}. Nothing was changed."
        )
    if not found["id"]:
        raise ConfigError(
            f"{row.name} has no primary key. Nothing was changed; add one, or name a unique key with --id."
        )
    if _server(connection) < nodes.MIN_SERVER:
        found.pop("node", None)
    terms = AdoptedTable.model_validate({"table": row.name, **found})
    if request.like == "langchain" and terms.where is None and _COLLECTION in seen.columns:
        _check_one_collection(connection, terms)
    return terms


def text_candidates(request: AdoptionRequest, look: TableLook) -> tuple[str, ...]:
    """Return the columns that an application's own model may have made its text of, where nobody said which."""
    if request.text or request.like not in ("django", "rails"):
        return ()
    return tuple(name for name, one in look.columns.items() if one.type in _TEXTS and name not in look.terms.id)


def _server(connection: sa.Connection) -> int:
    return int(connection.scalar(sa.text("SHOW server_version_num")) or 0)


def _vector_of(request: AdoptionRequest, table: str, seen: _SeenTable, known: object) -> object:
    if not request.vectors:
        return None
    of_vectors = seen.vectors()
    if known is None and len(of_vectors) > 1:
        raise ConfigError(
            f"{table} has several columns of vectors ({', '.join(of_vectors)}). Nothing was changed; name one with "
            "--vector, or embed all texts with --no-vectors."
        )
    return known or (of_vectors[0] if of_vectors else None)


# Several collections of LangChain in one table ------------------------------------------------------------------------

_COLLECTION = "collection_id"
_NAMES = "langchain_pg_collection"
_MOST_NAMED = 5


def _check_one_collection(connection: sa.Connection, terms: AdoptedTable) -> None:
    """Raise ``ConfigError`` for several: as one, each would answer what the others are asked."""
    count = f"SELECT CAST({_COLLECTION} AS text) AS id, count(*) AS rows FROM {terms.table} GROUP BY 1 ORDER BY 2 DESC"
    found = connection.execute(sa.text(count)).all()
    if len(found) < 2:
        return
    names = dict[str, str]()
    if connection.scalar(sa.text(f"SELECT has_table_privilege(to_regclass('{_NAMES}'), 'SELECT')")):
        for row in connection.execute(sa.text(f"SELECT CAST(uuid AS text) AS id, name FROM {_NAMES}")):
            names[row.id] = f"{row.name!r}, "
    each = [f"{one.id} ({names.get(one.id, '')}{one.rows:,} rows)" for one in found[:_MOST_NAMED]]
    raise ConfigError(
        f"{terms.table} holds {len(found)} collections of LangChain: {', '.join(each)}"
        f"{' …' if len(found) > _MOST_NAMED else ''}. Nothing was changed; take one with "
        f"--where \"{_COLLECTION} = '{found[0].id}'\", or all as one with --where true."
    )


# Layouts --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Layout:
    """Columns of a table as a framework makes it; what a person named takes the place of a name here.

    ``meta`` are taken if they are there. ``rest``: so is every other column that JSON can hold. Without ``id`` it is
    the primary key. ``text`` and ``vector``: the first that is there of several names.
    """

    text: Sequence[str]
    vector: Sequence[str]
    id: str | None = None
    meta: Sequence[str] = ()
    needs: Sequence[str] = ()
    """Columns by which it is told from others."""
    rest: bool = False
    node: str | None = None

    def found_in(self, seen: _SeenTable, request: AdoptionRequest) -> dict[str, object] | None:
        """Return the terms of a table that looks so; None for another."""
        text = request.text or _first(self.text, seen.of_type(*_TEXTS))
        vector = (request.vector,) if request.vector else _first(self.vector, seen.vectors())
        key = request.id or ((self.id,) if self.id else tuple(seen.key))
        if (
            not text
            or not (vector or not request.vectors)
            or any(one not in seen.columns for one in (*self.needs, *key))
        ):
            return None
        meta = [name for name in self.meta if name in seen.columns]
        if self.rest:
            meta += [name for name in seen.of_type(*_PLAIN) if name not in {*text, *key, *meta}]
        return {"id": key, "text": text, "vector": next(iter(vector), None), "meta": tuple(meta), "node": self.node}


@dataclass(frozen=True, slots=True)
class _ByTypes:
    """A table of an application's own: long texts are the text, what is short is metadata."""

    def found_in(self, seen: _SeenTable, request: AdoptionRequest) -> dict[str, object] | None:
        """Return the terms; None where there is no text, or not one column of vectors."""
        vectors = (request.vector,) if request.vector else tuple(seen.vectors())
        text = request.text or tuple(seen.of_type("text") or seen.of_type(*_TEXTS))
        if not text or (len(vectors) != 1 and request.vectors):
            return None
        meta = tuple(name for name in seen.of_type(*_PLAIN) if name not in text)
        return {"text": text, "meta": meta, "vector": vectors[0] if vectors else None}


def _first(names: Sequence[str], there: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in there)[:1]


def _by_preset(request: AdoptionRequest, table: str, seen: _SeenTable) -> Mapping[str, object]:
    if request.like is None:
        return {}
    for layout in _KNOWN[request.like]:
        found = layout.found_in(seen, request)
        if found is not None:
            return found
    raise ConfigError(
        f"{table} is not a table as {request.like} makes them; its columns: {', '.join(seen.columns)}. Nothing was "
        "changed; name the columns with --id, --text, --meta and --vector."
    )


_EMBEDDING = ("embedding",)
_KNOWN: Mapping[Preset, Sequence[_Layout | _ByTypes]] = {
    "langchain": (
        _Layout(("document",), _EMBEDDING, "id", meta=("cmetadata",), needs=(_COLLECTION,)),
        # Before langchain-postgres: the application's own id was no key.
        _Layout(("document",), _EMBEDDING, "uuid", meta=("cmetadata", "custom_id"), needs=(_COLLECTION,)),
        # PGVectorStore: what was a column of its own is a document's metadata too.
        _Layout(("content",), _EMBEDDING, meta=("langchain_metadata",), rest=True),
    ),
    "llamaindex": (
        _Layout(("text",), _EMBEDDING, "id", meta=("metadata_", "node_id"), needs=("metadata_",), node="metadata_"),
    ),
    "supabase": (_Layout(("content",), _EMBEDDING, meta=("metadata",), rest=True), _ByTypes()),
    # What pgai adds to the key of the source are the chunk's number and text.
    "pgai": (_Layout(("chunk",), _EMBEDDING, "embedding_uuid", rest=True),),
    "django": (_ByTypes(),),
    "rails": (_ByTypes(),),
    # The names that it looks for itself.
    "vecshift": (
        _Layout(("content", "text", "page_content", "document", "chunk", "chunk_text", "body"), _EMBEDDING, rest=True),
        _ByTypes(),
    ),
}
