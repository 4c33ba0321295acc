"""Where histories take place: one database with a clock of its own, small limits, and collections to begin from."""

from __future__ import annotations

import itertools
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import sqlalchemy as sa
from evaluation.reliability.late import LateStore, late_store
from evaluation.reliability.simulated.clock import Clock
from evaluation.reliability.simulated.encoders import Models
from evaluation.reliability.simulated.stage import OUTSIDE, Stage
from evaluation.temporary import owned

import revector.indexing.backfill
import revector.migration.catch_up
import revector.migration.migrator
from revector import crash
from revector.database.engine import make_engine
from revector.documents.documents import Documents
from revector.gate import gate
from revector.gate.evidence import Evidence
from revector.gate.figures import Value
from revector.indexing.encoding import Encoders
from revector.interfaces import NoProgress
from revector.migration.migrator import Migrator
from revector.migration.settings import MigratorSettings
from revector.registry import ledgers, sharding, verdicts, work
from revector.registry.collections import Collection, ensure_collection
from revector.registry.intents import point_ids
from revector.revisions import RevisionGraph
from revector.serving.searcher import Searcher
from revector.spec import PGVECTOR, Revision
from revector.stores.memory import MemoryIndex

SEARCH_PATH = "revector, simulated, pg_catalog, public"
"""Our clock shadows PostgreSQL's own, because pg_catalog is named after it."""

MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own in it
"""Where sealed parts cost no disk."""

LIMITS: tuple[tuple[Any, str, int], ...] = (
    (sharding, "SEED_ROWS", 2),
    (work, "MAX_ATTEMPTS", 3),
    (revector.indexing.backfill, "PART_DOCUMENTS", 2),
    (revector.migration.catch_up, "FEW_WAITING", 2),
    (revector.migration.catch_up, "MOVE_ATTEMPTS", 4),
    (verdicts, "EVIDENCE_CHANGED_FLOOR", 3),
)
"""Limits of the library, small enough that four documents meet them."""

MODELS = {
    "a100": 'ModelSpec(name="hashing", dim=8)',
    "b200": 'ModelSpec(name="hashing:seed2", dim=8)',
    "c300": 'ModelSpec(name="hashing:seed3", dim=12)',
    "d400": 'ModelSpec(name="hashing:seed4", dim=8)',
}
PARTS = {
    "a100": 'chunking = Chunking(max_tokens=8, overlap_tokens=2)\nindex = IndexSpec(kind="exact")',
    "b200": 'chunking = Chunking(max_tokens=12, overlap_tokens=0)\nindex = IndexSpec(kind="exact")',
    "c300": (
        'chunking = Chunking(unit="document", max_tokens=16, overlap_tokens=0)\n'
        'index = IndexSpec(kind="exact", storage="halfvec")'
    ),
    "d400": (
        'chunking = Chunking(max_tokens=8, overlap_tokens=0)\nindex = IndexSpec(kind="hnsw", m=4, ef_construction=16)'
    ),
}
IN_STORE = {
    name: f'{parts.partition("index =")[0]}index = IndexSpec(kind="exact", store="late")' if name != "c300" else parts
    for name, parts in PARTS.items()
}
"""The same with a store: all but one are there, so that migrations lead into it, out of it and within it."""

GATE = "gate = Gate(min_queries=1, max_drop=1.0, min_overlap=None)"
WORDS = {"a": 20, "A": 3, "\u00e9": 1}
BEGINNINGS: dict[str, tuple[str, str, str]] = {
    "documents": ("", "", ""),
    "served": ("documents", "a100", "swap"),
    "provisioned": ("served", "b200", "provision"),
    "backfilled": ("provisioned", "b200", "backfill"),
    "indexed": ("backfilled", "b200", "index"),
    "verified": ("indexed", "b200", "verify"),
    "gated": ("verified", "b200", "gate"),
    "approved": ("gated", "b200", "approve"),
    "swapped": ("approved", "b200", "swap"),
    "rolled back": ("swapped", "b200", "rollback"),
}
"""What has happened when a history begins: what it was before, and how far a revision was then moved."""


class Unmeasured(Evidence):
    """Evidence whose gate is passed or failed at will: recall is not what is simulated."""

    passes = True

    def refuse_unmeasurable(self, target: Revision, collection: Collection) -> None:
        """Measure anything."""

    def _compare(self, *_: Any) -> gate.GateVerdict:
        return gate.GateVerdict(
            Value.PASS if self.passes else Value.FAIL, () if self.passes else ("a rule says so",), {}
        )


class Place:
    """A database prepared for any number of histories, one after the other."""

    def __init__(self, url: str, folder: Path, store: LateStore | None) -> None:
        self.folder, self.store = folder, store
        self.engine = make_engine(url)
        sa.event.listen(self.engine, "connect", _see_simulated)
        at = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self.database = psycopg.connect(at, autocommit=True, application_name="oracle")
        schema = Path(__file__).with_name("schema.sql").read_text(encoding="utf-8")
        self.database.execute(f"SET search_path = {SEARCH_PATH}".encode())
        self.database.execute("SET plan_cache_mode = force_generic_plan")  # planning a look takes longer than looking
        self.database.execute(schema.encode())
        self.clock = Clock(self.database)
        self.stage = Stage(self.engine, self._cut)
        self.clock.woken = lambda: self.stage.at("outside sleep")
        if store is not None:
            store.now_s, store.at = self.clock.monotonic, lambda name: self.stage.at(f"{OUTSIDE}store {name}")
        self.models = Models(self.stage.at)
        self.migrations = self._write_migrations("migrations")
        self.edited = self._write_migrations("edited", "min_sentences=2, ")
        graph = RevisionGraph.from_folder(self.migrations)
        self.revisions: Mapping[str, Revision] = {name: graph[name] for name in MODELS}
        self._numbers = itertools.count(1)
        self.tally: Counter[str] = Counter()
        """What was done here, over all histories."""
        self.clock.restart()
        self._templates: dict[str, int] = {}
        for name, way in BEGINNINGS.items():
            self._templates[name] = self._make(*way)

    def begin(self, beginning: str, seed: int = 0) -> tuple[int, str]:
        """Return number and name of a new collection that is where ``beginning`` says; a store is drawn by ``seed``."""
        name = f"h{next(self._numbers)}"
        self.clock.restart()
        row = self.database.execute(
            "SELECT simulated.copy(%s, %s)", (self._templates[beginning], name), prepare=True
        ).fetchone()
        assert row is not None
        cid = int(row[0])
        if self.store is not None:
            for old, new in zip(self._indexes(self._templates[beginning]), self._indexes(cid), strict=True):
                if old is not None and new is not None and (there := old.describe()) is not None:
                    new.create(there.encoder_fp)
                    new.put(old.read(point_ids(self._shown(cid))))
            self.store.restart(seed)
        return cid, name

    def index(self, name: str, revision: str) -> MemoryIndex | None:
        """Return a generation's index as it is in the store, past the network; None where it is in PostgreSQL."""
        spec = self.revisions[revision]
        if self.store is None or spec.index.store == PGVECTOR:
            return None
        return self.store.inner.open(name, spec.model.dim, spec.index)

    def _indexes(self, cid: int) -> list[MemoryIndex | None]:
        named = "SELECT physical_name, revision FROM generation WHERE cid = %s ORDER BY gen"
        return [self.index(*row) for row in self.database.execute(named, (cid,)).fetchall()]

    def _shown(self, cid: int) -> list[tuple[UUID, int]]:
        named = "SELECT attempt, n_chunks FROM intent JOIN generation USING (gen) WHERE cid = %s"
        return self.database.execute(named, (cid,)).fetchall()

    def end(self, cid: int) -> None:
        """Leave a collection behind, in no one's way."""
        for standing in self.stage.standing:
            self.stage.kill(standing)
        self.database.execute(
            "UPDATE collection SET active_gen = NULL, standby_gen = NULL, building_gen = NULL, rollback_deadline = "
            "NULL WHERE cid = %s",
            (cid,),
        )
        # A sweep asks all ledgers that there are, and after a thousand histories that would be most of its time.
        for (gen,) in self.database.execute("SELECT gen FROM generation WHERE cid = %s", (cid,)).fetchall():
            self.database.execute(f"DROP TABLE IF EXISTS {ledgers.table(gen)}, intent_g{gen}".encode())
        for index in self._indexes(cid):
            if index is not None:
                index.drop()

    def migrator(self, collection: str, actor: str, encoders: Encoders, *, edited: bool = False) -> Migrator:
        """Return a process that can run the steps of a migration."""
        with self.engine.begin() as connection:
            cid = ensure_collection(connection, collection).cid
        searcher = Searcher(self.engine, collection, encoders)
        return Migrator(
            self.engine,
            collection,
            settings=MigratorSettings(
                migrations=self.edited if edited else self.migrations,
                archive=self.folder / "archive",
                shards=2,
                overlap=False,
            ),
            encoders=encoders,
            actor=actor,
            evidence=Unmeasured(self.engine, cid, searcher, None, actor=actor, progress=NoProgress()),
        )

    def close(self) -> None:
        """End everything."""
        self.stage.close()
        self.engine.dispose()
        self.database.close()

    def _make(self, before: str, revision: str, step: str) -> int:
        """Make a collection to begin from, by the library itself."""
        name = self.begin(before)[1] if before else f"h{next(self._numbers)}"
        if self.store is not None:
            self.store.calm = True
        migrator = self.migrator(name, "nobody", Encoders(self.models.load))
        if not before:
            documents = Documents(self.engine, migrator._cid)
            for doc_id, words in WORDS.items():
                documents.put(doc_id, " ".join(f"begin{n}" for n in range(words)), {"lang": "en"})
            documents.delete("\u00e9")
        elif step == "rollback":
            migrator.rollback("to begin with")
        else:
            migrator.upgrade(revision, to=step)
        return migrator._cid

    def _write_migrations(self, name: str, edit: str = "") -> Path:
        folder = self.folder / name
        folder.mkdir()
        before = None
        for revision, model in MODELS.items():
            parts = (PARTS if self.store is None else IN_STORE)[revision].replace("Chunking(", f"Chunking({edit}")
            (folder / f"{revision}.py").write_text(
                f'"""{revision}"""\nfrom revector import Chunking, Gate, IndexSpec, ModelSpec\n'
                f"revision = {revision!r}\ndown_revision = {before!r}\nmodel = {model}\n{parts}\n{GATE}\n"
            )
            before = revision
        return folder

    def _cut(self) -> None:
        self.database.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'revector' AND "
            "datname = current_database()"
        )


def _see_simulated(connection: Any, _: Any) -> None:
    connection.execute(f"SET search_path = {SEARCH_PATH}")
    connection.execute("SET lock_timeout = '5s'")
    connection.commit()


@contextmanager
def place(url: str, store: str = PGVECTOR) -> Iterator[Place]:
    """Prepare the database of ``url``, which has this version's tables, and live in its time with small limits.

    With the ``store`` ``memory``, indexes are in that one, behind a network at its worst.
    """
    folder = owned(Path(tempfile.mkdtemp(prefix="revector-simulated-", dir=MEMORY if MEMORY.is_dir() else None)))
    before = [(module, name, getattr(module, name)) for module, name, _ in LIMITS]
    from_folder = RevisionGraph.__dict__["from_folder"]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(setattr, crash, "watcher", crash.watcher)
        stack.callback(setattr, RevisionGraph, "from_folder", from_folder)
        RevisionGraph.from_folder = cache(RevisionGraph.from_folder)  # type: ignore[method-assign]
        for module, name, limit in LIMITS:
            setattr(module, name, limit)
        for module, name, limit in before:
            stack.callback(setattr, module, name, limit)
        log = logging.getLogger("revector")
        stack.callback(log.setLevel, log.level)
        log.setLevel(logging.CRITICAL)  # workers say much of faults that rules make
        late = None
        if store != PGVECTOR:
            late = stack.enter_context(late_store())
        made = Place(url, folder, late)
        stack.callback(made.close)
        stack.enter_context(made.clock.installed())
        crash.watcher = made.stage.at
        yield made
