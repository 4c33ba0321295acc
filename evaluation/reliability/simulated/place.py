"""Where histories take place: one database with a clock of its own, small limits, and collections to begin from."""

from __future__ import annotations

import itertools
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from evaluation.reliability.beginnings import Beginnings, read_once, write_revisions
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
from revector.indexing.encoding import Encoders
from revector.interfaces import Document
from revector.migration.migrator import Migrator
from revector.registry import ledgers, sharding, verdicts, work
from revector.spec import PGVECTOR

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

PARTS = {
    "a100": """\
model = ModelSpec(name="hashing", dim=8)
chunking = Chunking(max_tokens=8, overlap_tokens=2)
index = IndexSpec(kind="exact")""",
    "b200": """\
model = ModelSpec(name="hashing:seed2", dim=8)
chunking = Chunking(max_tokens=12, overlap_tokens=0)
index = IndexSpec(kind="exact")""",
    "c300": """\
model = ModelSpec(name="hashing:seed3", dim=12)
chunking = Chunking(unit="document", max_tokens=16, overlap_tokens=0)
index = IndexSpec(kind="exact", storage="halfvec")""",
    "d400": """\
model = ModelSpec(name="hashing:seed4", dim=8)
chunking = Chunking(max_tokens=8, overlap_tokens=0)
index = IndexSpec(kind="hnsw", m=4, ef_construction=16)""",
}
IN_STORE = {
    name: f'{parts.partition("index =")[0]}index = IndexSpec(kind="exact", store="late")' if name != "c300" else parts
    for name, parts in PARTS.items()
}
"""The same with a store: all but one are there, so that migrations lead into it, out of it and within it."""

WORDS = {"a": 20, "A": 3, "\u00e9": 1}
CORPUS = [
    Document(doc_id, " ".join(f"begin{n}" for n in range(words)), {"lang": "en"}) for doc_id, words in WORDS.items()
]


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
        self._numbers = itertools.count(1)
        self.tally: Counter[str] = Counter()
        """What was done here, over all histories."""
        self.clock.restart()
        parts = PARTS if store is None else IN_STORE
        self.beginnings = Beginnings(self.engine, folder, parts, CORPUS, Encoders(self.models.load), store)
        self.revisions, self.index = self.beginnings.revisions, self.beginnings.index
        edited = {name: lines.replace("Chunking(", "Chunking(min_sentences=2, ") for name, lines in parts.items()}
        write_revisions(folder / "edited", edited)

    def begin(self, beginning: str, seed: int = 0) -> tuple[int, str]:
        """Return number and name of a new collection that is where ``beginning`` says; a store is drawn by ``seed``."""
        name = f"h{next(self._numbers)}"
        self.clock.restart()
        cid = self.beginnings.copy(beginning, name)
        if self.store is not None:
            self.store.restart(seed)
        return cid, name

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
        for index in self.beginnings.indexes(cid):
            if index is not None:
                index.drop()

    def migrator(self, collection: str, actor: str, encoders: Encoders, *, edited: bool = False) -> Migrator:
        """Return a process that can run the steps of a migration."""
        return self.beginnings.migrator(collection, actor, encoders, self.folder / "edited" if edited else None)

    def close(self) -> None:
        """End everything."""
        self.stage.close()
        self.engine.dispose()
        self.database.close()

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
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(setattr, crash, "watcher", crash.watcher)
        stack.enter_context(read_once())
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
