"""Collections to begin from: made once by the library itself, then copied for each history and each interleaving."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from secrets import token_hex
from typing import Any

import sqlalchemy as sa
from evaluation.reliability.late import LateStore
from evaluation.reliability.observer import rows, value

from revector.documents.documents import Documents
from revector.gate import gate
from revector.gate.evidence import Evidence
from revector.gate.figures import Value
from revector.indexing.encoding import Encoders
from revector.interfaces import Document, NoProgress
from revector.migration.migrator import Migrator
from revector.migration.settings import MigratorSettings
from revector.registry.collections import Collection, ensure_collection
from revector.registry.intents import point_ids
from revector.revisions import RevisionGraph
from revector.serving.searcher import Searcher
from revector.spec import PGVECTOR, Revision
from revector.stores.memory import MemoryIndex

GATE = "gate = Gate(min_queries=1, max_drop=1.0, min_overlap=None)"
STEPS: tuple[tuple[str, str], ...] = (
    ("provisioned", "provision"),
    ("backfilled", "backfill"),
    ("indexed", "index"),
    ("verified", "verify"),
    ("gated", "gate"),
    ("approved", "approve"),
    ("swapped", "swap"),
    ("rolled back", "rollback"),
)
BEGINNINGS = ("documents", "served", *(name for name, _ in STEPS))
"""What has happened when a history begins: documents were written, one revision serves, and how far the next is."""


class Unmeasured(Evidence):
    """Evidence whose gate is passed or failed at will: recall is not what is tried."""

    passes = True

    def refuse_unmeasurable(self, target: Revision, collection: Collection) -> None:
        """Measure anything."""

    def _compare(self, *_: Any) -> gate.GateVerdict:
        return gate.GateVerdict(
            Value.PASS if self.passes else Value.FAIL, () if self.passes else ("a rule says so",), {}
        )


def write_revisions(folder: Path, parts: Mapping[str, str]) -> Mapping[str, Revision]:
    """Write revisions in a row, each with these lines of its file, and return them."""
    folder.mkdir()
    before = None
    for revision, lines in parts.items():
        (folder / f"{revision}.py").write_text(
            f'"""{revision}"""\nfrom revector import Chunking, Gate, IndexSpec, ModelSpec\n'
            f"revision = {revision!r}\ndown_revision = {before!r}\n{lines}\n{GATE}\n"
        )
        before = revision
    graph = RevisionGraph.from_folder(folder)
    return {revision: graph[revision] for revision in parts}


@contextmanager
def read_once() -> Iterator[None]:
    """Read each folder of migrations once: nobody edits one meanwhile."""
    from_folder = RevisionGraph.__dict__["from_folder"]
    RevisionGraph.from_folder = cache(RevisionGraph.from_folder)  # type: ignore[method-assign]
    try:
        yield
    finally:
        RevisionGraph.from_folder = from_folder  # type: ignore[method-assign]


class Beginnings:
    """Templates on one database, in which nobody works yet.

    They hold ``corpus``, of which the last document is deleted again, and the first two of ``parts`` (revisions and the
    lines of their files) are what serves and what comes next. ``store``: where the indexes of the store ``late`` are.
    """

    def __init__(
        self,
        engine: sa.Engine,
        folder: Path,
        parts: Mapping[str, str],
        corpus: Sequence[Document],
        encoders: Encoders,
        store: LateStore | None = None,
    ) -> None:
        self.engine, self.folder, self.store = engine, folder, store
        self.revisions = write_revisions(folder / "migrations", parts)
        schema = Path(__file__).with_name("beginnings.sql").read_text(encoding="utf-8")
        with engine.begin() as connection:
            connection.exec_driver_sql(schema.replace("%", "%%"))
        if store is not None:
            store.calm = True
        self._templates = self._make(corpus, encoders)

    def index(self, name: str, revision: str) -> MemoryIndex | None:
        """Return a generation's index as it is in the store, past the network; None where it is in PostgreSQL."""
        spec = self.revisions[revision]
        if self.store is None or spec.index.store == PGVECTOR:
            return None
        return self.store.inner.open(name, spec.model.dim, spec.index)

    def indexes(self, cid: int) -> list[MemoryIndex | None]:
        """Return the indexes of all generations that a collection ever had."""
        named = "SELECT physical_name, revision FROM generation WHERE cid = :cid ORDER BY gen"
        return [self.index(*row) for row in rows(self.engine, named, cid=cid)]

    def migrator(
        self, collection: str, actor: str, encoders: Encoders, migrations: Path | None = None, **settings: Any
    ) -> Migrator:
        """Return a process that can run the steps of a migration: the real one, but for the recall."""
        with self.engine.begin() as connection:
            cid = ensure_collection(connection, collection).cid
        searcher = Searcher(self.engine, collection, encoders)
        return Migrator(
            self.engine,
            collection,
            settings=MigratorSettings(
                migrations or self.folder / "migrations", self.folder / "archive", shards=2, overlap=False, **settings
            ),
            encoders=encoders,
            actor=actor,
            evidence=Unmeasured(self.engine, cid, searcher, None, actor=actor, progress=NoProgress()),
        )

    def copy(self, beginning: str, name: str) -> int:
        """Return the number of a new collection that is where ``beginning`` says."""
        return self._copy(self._templates[beginning], name)

    def _copy(self, template: int, name: str) -> int:
        cid = int(value(self.engine, "SELECT simulated.copy(:template, :name)", template=template, name=name))
        shown = "SELECT attempt, n_chunks FROM intent JOIN generation USING (gen) WHERE cid = :cid"
        for old, new in zip(self.indexes(template), self.indexes(cid), strict=True) if self.store is not None else ():
            if old is not None and new is not None and (there := old.describe()) is not None:
                new.create(there.encoder_fp)
                new.put(old.read(point_ids(tuple(row) for row in rows(self.engine, shown, cid=cid))))
        return cid

    def _make(self, corpus: Sequence[Document], encoders: Encoders) -> dict[str, int]:
        first, following, *_ = self.revisions
        migrator = self.migrator(f"documents_{token_hex(4)}", "nobody", encoders)
        documents = Documents(self.engine, migrator._cid)
        for one in corpus:
            documents.put(one.id, one.text, one.meta)
        documents.delete(corpus[-1].id)
        made = {"documents": migrator._cid}
        for name, revision, step in (("served", first, "swap"), *((name, following, step) for name, step in STEPS)):
            collection = f"{name.split(' ')[0]}_{token_hex(4)}"
            made[name] = self._copy(list(made.values())[-1], collection)
            migrator = self.migrator(collection, "nobody", encoders)
            if step == "rollback":
                migrator.rollback("to begin with")
            else:
                migrator.upgrade(revision, to=step)
        return made
