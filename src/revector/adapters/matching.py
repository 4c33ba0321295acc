"""Owns which stored documents meet conditions on their metadata, page by page, for frameworks that ask by filter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from revector.config import Project
from revector.documents.documents import StoredDocument
from revector.errors import ConfigError
from revector.serving.filters import compile_filter

PAGE = 500


def ids_where(project: Project, collection: str, where: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the ids of the documents that meet ``where``, sorted, ``PAGE`` at a time; see ``documents_where``."""
    for page in _pages(project, collection, where, "d.doc_id"):
        yield [row.doc_id for row in page]


def documents_where(project: Project, collection: str, where: Mapping[str, Any]) -> Iterator[StoredDocument]:
    """Yield the documents that meet ``where`` (as ``Searcher.search`` takes it), by id.

    Each page is read when it is asked for, so what is deleted meanwhile is left out. Raises ``ConfigError`` for a
    filter that cannot be.
    """
    for page in _pages(project, collection, where, "d.doc_id, d.version, d.content, d.meta, d.external_version"):
        yield from (StoredDocument(*row) for row in page)


def joined(where: Mapping[str, Any], key: str, wanted: object) -> dict[str, Any]:
    """Return ``where`` with one more condition. Raises ``ConfigError`` where the field has one that it cannot join."""
    before = where.get(key)
    if isinstance(before, dict) and isinstance(wanted, dict) and not before.keys() & wanted.keys():
        return {**where, key: {**before, **wanted}}
    if key in where:
        raise ConfigError(f"filter {key!r} has two conditions that cannot be joined. Nothing was done; ask twice.")
    return {**where, key: wanted}


def _pages(project: Project, collection: str, where: Mapping[str, Any], columns: str) -> Iterator[Sequence[Any]]:
    condition, values = compile_filter(where)
    sql = sa.text(
        f"SELECT {columns} FROM document d JOIN collection c USING (cid) WHERE c.name = :name AND NOT d.deleted AND "
        f"d.doc_id > :after AND {condition or 'true'} ORDER BY d.doc_id LIMIT {PAGE}"
    )
    after = ""
    while True:
        with project.engine.connect() as connection:
            found = connection.execute(sql, {"name": collection, "after": after, **values}).all()
        if not found:
            return
        yield found
        after = found[-1].doc_id
