"""What proofs ask a database, past the library: rows, one value, and who is in which slot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from revector.registry.collections import Collection, Generation, read_collection, read_generation

if TYPE_CHECKING:
    from revector.config import Project


def rows(engine: sa.Engine, sql: str, **values: Any) -> list[Any]:
    """Run one statement in a transaction of its own and return its rows, if it gives any."""
    with engine.begin() as connection:
        found = connection.execute(sa.text(sql), values)
        return list(found.all()) if found.returns_rows else []


def value(engine: sa.Engine, sql: str, **values: Any) -> Any:
    """Return the first value of a query, or None."""
    found = rows(engine, sql, **values)
    return found[0][0] if found else None


def slots(engine: sa.Engine, name: str) -> tuple[Collection, dict[int, Generation]]:
    """Return a collection and its live generations, as they are now."""
    with engine.connect() as connection:
        collection = read_collection(connection, name)
        return collection, {gen: read_generation(connection, gen) for gen in collection.live}


def apply_all(project: Project) -> None:
    """Let a worker of a project apply all that is due."""
    worker = project.worker()
    while worker.drain():
        pass
