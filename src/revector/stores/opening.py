"""Owns which stores a project knows, by the name that a migration file gives: ``IndexSpec(store="vectors")``.

``memory`` is always there; the others are the ``[stores.NAME]`` tables of revector.toml, each of one of ``KINDS``. They
belong to the engine of the project's database, so that whatever reads a generation opens its index where it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import sqlalchemy as sa

from revector.errors import ConfigError, SpecError, StoreRefused
from revector.spec import PGVECTOR, IndexSpec, Revision
from revector.stores import chroma, elsewhere, memory, milvus, pgvector, qdrant, redis
from revector.stores.seam import AliasedStore, Index, Store, StoreTraits
from revector.stores.settings import StoreSettings

StoreT = TypeVar("StoreT", bound=Store)

MEMORY = "memory"

KINDS: dict[str, Callable[[str, StoreSettings], Store]] = {
    MEMORY: memory.open_store,
    "chroma": chroma.open_store,
    "milvus": milvus.open_store,
    "pgvector": elsewhere.open_store,
    "qdrant": qdrant.open_store,
    "redis": redis.open_store,
}
"""How a store of each kind is opened, by its name and settings; nothing is asked of it yet."""

_OPTION = "revector_stores"

_known: dict[str, Store] = {MEMORY: memory.MemoryStore()}


class Stores:
    """The stores of one project; each is opened when it is first asked for, by any thread."""

    def __init__(self, tables: Mapping[str, StoreSettings] | None = None) -> None:
        """Raises ``ConfigError`` for a name that is taken and a kind that there is not."""
        self._tables, self._open, self._lock = dict(tables or {}), dict[str, Store](), threading.Lock()
        for name, table in self._tables.items():
            if name in (PGVECTOR, MEMORY):
                raise ConfigError(f"stores.{name}: every project has a store {name!r}. Nothing has run; name it else.")
            if table.kind not in KINDS:
                raise ConfigError(
                    f"stores.{name}.kind must be one of {', '.join(sorted(KINDS))}, found {table.kind!r}. Nothing has "
                    "run; correct it."
                )

    @property
    def configured(self) -> list[str]:
        """The names of the tables."""
        return sorted(self._tables)

    @property
    def names(self) -> list[str]:
        """All that a migration file may name."""
        return [PGVECTOR, *sorted({*_known, *self._tables})]

    def open_index(self, store: str, name: str, dim: int, index: IndexSpec) -> Index:
        """Return an index of a store outside of PostgreSQL. Raises ``StoreRefused`` for one that is not known here."""
        return self._store(store).open(name, dim, index)

    def ask(self, store: str) -> str:
        """Return what answers there, with its version. Raises ``StoreUnavailable`` where nothing does."""
        return "rows of this database" if store == PGVECTOR else self._store(store).ask()

    @property
    def aliased(self) -> list[str]:
        """Those that keep aliases for readers outside of revector."""
        return sorted(name for name, table in self._tables.items() if table.native_alias)

    def aliases_of(self, store: str) -> AliasedStore:
        """Return a store to ask of its aliases. Raises ``StoreRefused`` for one that has none."""
        found = self._store(store)
        if not isinstance(found, AliasedStore):
            raise StoreRefused(
                f"stores.{store}.native_alias is set, and the kind {self._tables[store].kind} has no aliases of its "
                "own. Nothing was changed; leave it out: readers outside of revector ask its database which index is "
                "active (docs/stores.md)."
            )
        return found

    def close(self) -> None:
        """Let go of all connections; what is asked again is opened again."""
        with self._lock:
            for store in self._open.values():
                store.close()
            self._open.clear()

    def _store(self, name: str) -> Store:
        if name in _known:
            return _known[name]
        if name not in self._tables:
            raise StoreRefused(
                f"the store {name!r} is not known to this process (known: {', '.join(self.names)}). Nothing was "
                f"changed; add a [stores.{name}] table to revector.toml where this runs."
            )
        with self._lock:
            if name not in self._open:
                table = self._tables[name]
                self._open[name] = KINDS[table.kind](name, table)
            return self._open[name]

    def traits(self, store: str) -> StoreTraits:
        """Return what indexes of a store can do; nothing is asked of it. Raises as ``open_index``."""
        return pgvector.TRAITS if store == PGVECTOR else self._store(store).traits

    def warnings_of(self, revision: Revision) -> list[str]:
        """Return what a person should know about the store before a migration to ``revision``."""
        store = revision.index.store
        if self.is_lasting(revision):
            return list(self.traits(store).warnings)
        said = f"the store {store!r} keeps vectors in the memory of one process: others cannot search them"
        return [f"{said}, and when it ends every document is embedded again"]

    def is_lasting(self, revision: Revision) -> bool:
        """Whether the index outlives the process that makes it. Raises as ``check_revision``."""
        self.check_revision(revision)
        return self.traits(revision.index.store).lasting

    def check_revision(self, revision: Revision, *, answers: bool = False) -> None:
        """Raise ``SpecError`` for an index that its store does not have; ``StoreUnavailable`` unless it ``answers``.

        Raises ``StoreRefused`` where it is to keep aliases and has none.
        """
        index, name = revision.index, revision.revision
        if index.store not in self.names:
            raise SpecError(
                f"revision {name}: index.store must be one of {', '.join(self.names)}, found {index.store!r}. Nothing "
                f"was changed; correct the migration file, or add a [stores.{index.store}] table to revector.toml."
            )
        traits = self.traits(index.store)
        if lacks := traits.lacks(index):
            raise SpecError(
                f"revision {name}: the store {index.store!r} {lacks}. Nothing was changed; correct the migration file."
            )
        most = traits.hnsw_max_dim.get(index.graph, traits.max_dim) if index.kind == "hnsw" else traits.max_dim
        if revision.model.dim > most:
            raise SpecError(
                f"revision {name}: the store {index.store!r} takes vectors of up to {most:,} numbers in an index of "
                f"kind {index.kind}, model.dim is {revision.model.dim:,}. Nothing was changed; cut the dimension or "
                "name another store."
            )
        if index.store in self.aliased:
            self.aliases_of(index.store)
        if answers:
            self.ask(index.store)


def attach(engine: sa.Engine, stores: Stores) -> sa.Engine:
    """Have what is read through an engine find these stores; return it."""
    engine.update_execution_options(**{_OPTION: stores})
    return engine


def stores_of(at: sa.Engine | sa.Connection) -> Stores:
    """Return the stores of an engine's project; only those of this process where none were attached."""
    found: Stores = at.get_execution_options().get(_OPTION) or Stores()
    return found


@contextmanager
def added(name: str, store: StoreT) -> Iterator[StoreT]:
    """Know another store while the block runs, in this process. Raises ``ConfigError`` for a name that is taken."""
    if name in (PGVECTOR, *_known):
        raise ConfigError(f"a store was to be added as {name!r}, but one has that name. Nothing was changed.")
    _known[name] = store
    try:
        yield store
    finally:
        del _known[name]
