"""Owns which stores this process knows, by the name that a migration file gives: ``IndexSpec(store="memory")``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from revector.errors import ConfigError, SpecError, StoreUnavailable
from revector.spec import PGVECTOR, Revision
from revector.stores import pgvector
from revector.stores.memory import MemoryStore
from revector.stores.seam import Index, Store, StoreTraits

StoreT = TypeVar("StoreT", bound=Store)

_known: dict[str, Store] = {"memory": MemoryStore()}


def open_index(store: str, name: str, dim: int) -> Index:
    """Return an index of a store outside of PostgreSQL. Raises ``StoreUnavailable`` for one that is not known here."""
    if store not in _known:
        raise StoreUnavailable(
            f"the store {store!r} is not known to this process (known: {', '.join(stores())}). Nothing was changed; "
            "run this where it is."
        )
    return _known[store].open(name, dim)


def stores() -> list[str]:
    """Return the names of all stores that a migration file may name."""
    return [PGVECTOR, *sorted(_known)]


@contextmanager
def added(name: str, store: StoreT) -> Iterator[StoreT]:
    """Know another store while the block runs, in this process. Raises ``ConfigError`` for a name that is taken."""
    if name in stores():
        raise ConfigError(f"a store was to be added as {name!r}, but one has that name. Nothing was changed.")
    _known[name] = store
    try:
        yield store
    finally:
        del _known[name]


def warnings_of(revision: Revision) -> list[str]:
    """Return what a person should know about the store before a migration to ``revision``."""
    if is_lasting(revision):
        return []
    said = f"the store {revision.index.store!r} keeps vectors in the memory of one process: others cannot search them"
    return [f"{said}, and when it ends every document is embedded again"]


def is_lasting(revision: Revision) -> bool:
    """Whether the index outlives the process that makes it. Raises as ``check_revision``."""
    check_revision(revision)
    return _traits(revision.index.store).lasting


def _traits(store: str) -> StoreTraits:
    return pgvector.TRAITS if store == PGVECTOR else _known[store].traits


def check_revision(revision: Revision) -> None:
    """Raise ``SpecError`` for an index that its store does not have."""
    index, name = revision.index, revision.revision
    if index.store not in stores():
        raise SpecError(
            f"revision {name}: index.store must be one of {', '.join(stores())}, found {index.store!r}. Nothing was "
            "changed; correct the migration file."
        )
    traits = _traits(index.store)
    for setting, allowed in (("kind", traits.kinds), ("storage", traits.storages), ("quantize", traits.quantizes)):
        found = getattr(index, setting)
        if found not in allowed:
            raise SpecError(
                f"revision {name}: the store {index.store!r} has index.{setting} {' or '.join(sorted(allowed))}, found "
                f"{found!r}. Nothing was changed; correct the migration file."
            )
    if revision.model.dim > traits.max_dim:
        raise SpecError(
            f"revision {name}: the store {index.store!r} takes vectors of up to {traits.max_dim:,} numbers, model.dim "
            f"is {revision.model.dim:,}. Nothing was changed; cut the dimension or name another store."
        )
