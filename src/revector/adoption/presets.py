"""Owns what is known of tables that frameworks make, and how columns are found by their types where nothing is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Self

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from revector.adoption.table import Column, read_columns, read_table
from revector.adoption.terms import AdoptedTable
from revector.errors import ConfigError

Preset = Literal["langchain", "llamaindex", "supabase", "pgai", "django", "rails"]


class AdoptionRequest(BaseModel):
    """What a person says of an adoption; what is left out is found in the table (``[collections.X.adopt]``)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: str = ""
    """``SCHEMA.NAME``, in the database of the project, or in that of ``source``."""
    source: str | None = Field(default=None, repr=False)
    """A file, or the SQLAlchemy URL of another database: what is there is copied, and read again when it is asked."""
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
    """Columns that become metadata."""
    where: str | None = None
    """SQL condition of the rows that are documents."""
    vector: str | None = None
    """Column of vectors; default: the only one."""
    vectors: bool = True
    """Whether vectors are taken; else all texts are embedded."""

    @model_validator(mode="after")
    def _from_somewhere(self) -> Self:
        if not self.table and self.source is None:
            raise ValueError("a table, or the source that is copied, must be named")
        return self


_KEY = """
SELECT a.attname FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY k(number, place)
  JOIN pg_attribute a ON a.attnum = k.number AND a.attrelid = i.indrelid
WHERE i.indrelid = :oid AND i.indisprimary ORDER BY k.place
"""
_TEXTS = ("text", "character varying", "citext")
_PLAIN = ("integer", "bigint", "smallint", "boolean", "numeric", "real", "double precision", "uuid", "date",
          "timestamp with time zone", "timestamp without time zone", "json", "jsonb", *_TEXTS)  # fmt: skip


def terms_of(connection: sa.Connection, request: AdoptionRequest) -> AdoptedTable:
    """Return the terms: what was said, then what the preset knows, then key and vector by their types.

    Raises ``ConfigError`` where no text column is named or known, or the table is not as the preset has it.
    """
    row = read_table(connection, request.table)
    columns = read_columns(connection, row.oid)
    key = tuple(connection.scalars(sa.text(_KEY), {"oid": row.oid}))
    said = request.model_dump(include={"id", "text", "separator", "meta", "where", "vector"})
    found: dict[str, object] = {"id": key, **_by_preset(request.like, str(row.name), columns, key)}
    found |= {name: value for name, value in said.items() if value}
    found["vector"] = _vector_of(request, str(row.name), columns, found.get("vector"))
    if not found.get("text"):
        texts = [name for name, column in columns.items() if column.type in _TEXTS and name not in key]
        raise ConfigError(
            f"--text is missing: which columns of {row.name} are the text? Of a text type are: "
            f"{', '.join(texts) or 'none'}. Nothing was changed."
        )
    if not found["id"]:
        raise ConfigError(
            f"{row.name} has no primary key. Nothing was changed; add one, or name a unique key with --id."
        )
    return AdoptedTable.model_validate({"table": row.name, **found})


def _vector_of(request: AdoptionRequest, table: str, columns: Mapping[str, Column], known: object) -> object:
    if not request.vectors:
        return None
    of_vectors = [name for name, column in columns.items() if column.type in ("vector", "halfvec")]
    if known is None and len(of_vectors) > 1:
        raise ConfigError(
            f"{table} has several columns of vectors ({', '.join(of_vectors)}). Nothing was changed; name one with "
            "--vector, or embed all texts with --no-vectors."
        )
    return known or (of_vectors[0] if of_vectors else None)


def _by_preset(
    preset: Preset | None, table: str, columns: Mapping[str, Column], key: Sequence[str]
) -> Mapping[str, object]:
    if preset is None:
        return {}
    for layout in _KNOWN[preset]:
        found = layout(columns, key)
        if found is not None:
            return found
    raise ConfigError(
        f"{table} is not a table as {preset} makes them; its columns: {', '.join(columns)}. Nothing was changed; name "
        "the columns with --id, --text, --meta and --vector."
    )


_Layout = Callable[[Mapping[str, Column], Sequence[str]], Mapping[str, object] | None]


def _named(**roles: str) -> _Layout:
    """Return a layout of fixed names; several columns of metadata are separated by commas."""

    def layout(columns: Mapping[str, Column], key: Sequence[str]) -> Mapping[str, object] | None:
        del key
        names = {role: tuple(names.split(",")) for role, names in roles.items()}
        if any(name not in columns for several in names.values() for name in several):
            return None
        return {**names, "vector": names["vector"][0]}

    return layout


def _by_types(columns: Mapping[str, Column], key: Sequence[str]) -> Mapping[str, object] | None:
    """Return the layout of a model of an application: long texts are the text, what is short is metadata."""
    vectors = [name for name, column in columns.items() if column.type in ("vector", "halfvec")]
    texts = [name for name, column in columns.items() if column.type == "text" and name not in key]
    short = [name for name, column in columns.items() if column.type in _TEXTS and name not in key]
    if len(vectors) != 1 or not short:
        return None
    used = texts or short
    meta = [name for name, column in columns.items() if column.type in _PLAIN and name not in used and name not in key]
    return {"text": tuple(used), "meta": tuple(meta), "vector": vectors[0]}


_KNOWN: Mapping[Preset, Sequence[_Layout]] = {
    "langchain": (
        _named(id="id", text="document", meta="cmetadata", vector="embedding"),
        _named(id="uuid", text="document", meta="cmetadata", vector="embedding"),
        _named(id="langchain_id", text="content", meta="langchain_metadata", vector="embedding"),
    ),
    "llamaindex": (_named(id="id", text="text", meta="metadata_,node_id", vector="embedding"),),
    "supabase": (_named(id="id", text="content", meta="metadata", vector="embedding"),),
    "pgai": (_named(id="embedding_uuid", text="chunk", meta="chunk_seq", vector="embedding"),),
    "django": (_by_types,),
    "rails": (_by_types,),
}
