"""Owns the small project that faults strike: one truth about its documents, an observer beside the wire, and checks.

Everything under test goes through ``place.wired``; ``place.direct`` looks on, and no fault touches it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from evaluation.reliability.application import Application
from evaluation.reliability.project import COLLECTION, LABELLED, OLD, _write_labels, _write_migrations, corpus

from revector.config import Project, load_project
from revector.encoders.check import PROBES
from revector.errors import GateBusy
from revector.indexing.encoding import Encoders
from revector.interfaces import Encoder, Vectors
from revector.registry.collections import Collection, Generation, read_collection, read_generation
from revector.registry.control import control
from revector.spec import ModelSpec

DOCUMENTS = LABELLED + 20
IDLE_S = 1.0
"""What ``idle_in_transaction_session_timeout`` is lowered to for the sessions under test."""

GATE_S = 10.0
"""What is not free after so long, with only faulty clients about, stays held."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A promise that did not hold: which, where, and what was seen."""

    promise: str
    scenario: str
    detail: str

    def __str__(self) -> str:
        return f"{self.scenario}: {self.promise}: {self.detail}"


class FaultyEncoder:
    """A library encoder that lets ``fault`` see, change or refuse each reply; probe texts pass, if alone."""

    def __init__(self, inner: Encoder) -> None:
        self.inner = inner
        self.fault: Callable[[Sequence[str], Vectors], Any] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def encode_document(self, texts: Sequence[str]) -> Any:
        """Embed and let the fault have its say."""
        return self._reply(texts, self.inner.encode_document(texts))

    def encode_query(self, texts: Sequence[str]) -> Any:
        """Embed and let the fault have its say."""
        return self._reply(texts, self.inner.encode_query(texts))

    def _reply(self, texts: Sequence[str], vectors: Vectors) -> Any:
        return vectors if self.fault is None or tuple(texts) == PROBES else self.fault(texts, vectors)


@dataclass
class Models:
    """Loads encoders for one process, each wrapped."""

    load: Callable[[ModelSpec], Encoder]
    loaded: dict[str, FaultyEncoder] = field(default_factory=dict)

    def __call__(self, model: ModelSpec) -> FaultyEncoder:
        """Load a model, once."""
        return self.loaded.setdefault(model.name, FaultyEncoder(self.load(model)))

    @contextmanager
    def faulty(self, fault: Callable[[Sequence[str], Vectors], Any]) -> Iterator[None]:
        """Let all loaded encoders suffer ``fault``."""
        for encoder in self.loaded.values():
            encoder.fault = fault
        try:
            yield
        finally:
            for encoder in self.loaded.values():
                encoder.fault = None


class Place:
    """A project with revision ``OLD`` live on a database, and what its application was told."""

    def __init__(self, root: Path, url: str, *, wired: str | None = None, documents: int = DOCUMENTS) -> None:
        root.mkdir(parents=True, exist_ok=True)
        (root / "revector.toml").write_text(
            f'database_url = "{url}"\ndrain_s = 0\narchive_days = 0\n'
            f'[collections.{COLLECTION}]\nqrels = "labels"\nshards = 2\n'
        )
        _write_migrations(root / "migrations" / COLLECTION)
        _write_labels(root / "labels")
        self.root, self.direct = root, load_project(root)
        self.direct.init()
        texts = {one.id: str(one.text) for one in corpus(documents)}
        self.direct.documents(COLLECTION).put_many(list(corpus(documents)))
        self.direct.migrator(COLLECTION, actor="place").upgrade(OLD)
        self.application = Application(self.direct, texts, seed=0)
        self.wired = self.connected(wired or url)

    def connected(self, url: str) -> Project:
        """Return the same project on another way to its database, with models of its own; idle sessions end soon."""
        project = Project(self.root, self.direct.settings.model_copy(update={"database_url": url}))
        project.__dict__["encoders"] = Encoders(Models(project.load_encoder))
        sa.event.listen(project.raw_engine, "connect", _end_idle_sessions_soon)
        return project

    @property
    def models(self) -> Models:
        """The models of ``wired``."""
        loader: Models = self.wired.encoders._load  # type: ignore[assignment]
        return loader

    def close(self) -> None:
        """Give all connections back."""
        self.wired.raw_engine.dispose()
        self.direct.raw_engine.dispose()

    # What the observer sees -------------------------------------------------------------------------------------------

    def rows(self, sql: str, **params: Any) -> list[Any]:
        """Run one statement beside the wire and return its rows."""
        with self.direct.engine.begin() as connection:
            found = connection.execute(sa.text(sql), params)
            return list(found.all()) if found.returns_rows else []

    def value(self, sql: str, **params: Any) -> Any:
        """Return the first value of a query beside the wire."""
        return self.rows(sql, **params)[0][0]

    def collection(self) -> Collection:
        """Return the collection row."""
        with self.direct.engine.connect() as connection:
            return read_collection(connection, COLLECTION)

    def generation(self, gen: int | None) -> Generation:
        """Return a generation that is expected to be there."""
        assert gen is not None
        with self.direct.engine.connect() as connection:
            return read_generation(connection, gen)

    def texts(self, doc_ids: Sequence[str]) -> dict[str, tuple[str | None, int]]:
        """Return text (None: deleted) and version of those of ``doc_ids`` that are in the table."""
        found = self.rows("SELECT doc_id, content, version FROM document WHERE doc_id = ANY(:ids)", ids=list(doc_ids))
        return {row.doc_id: (row.content, row.version) for row in found}

    def events(self) -> dict[str, int]:
        """Return how many events of each kind the history has."""
        return {row.kind: row.n for row in self.rows("SELECT kind, count(*) AS n FROM event GROUP BY kind")}

    def let_time_pass(self) -> None:
        """Make leases and pauses of all items end now."""
        self.rows(
            "UPDATE pending SET lease_until = least(lease_until, clock_timestamp()), due_at = least(due_at, "
            "clock_timestamp()) WHERE state = 'due'"
        )

    def settle(self) -> None:
        """Apply all that waits, beside the wire."""
        self.let_time_pass()
        worker = self.direct.worker()
        while worker.drain():
            pass

    # Checks -----------------------------------------------------------------------------------------------------------

    def invariants(self, scenario: str) -> list[Finding]:
        """Look at the views that must be empty at every instant, and at the slots."""
        views = {
            "i1_lost": "nothing is lost: a document is neither shown nor waited for",
            "i2_ahead": "nothing comes from the future",
            "i5_slots": "slots name live, complete generations",
        }
        counts = {view: self.value(f"SELECT count(*) FROM {view}") for view in views}
        return [Finding(views[view], scenario, f"{n} rows in {view}") for view, n in counts.items() if n]

    def gate_is_free(self, scenario: str) -> list[Finding]:
        """Take the gate as a move would, again and again, until the sessions under test have let go of it."""
        deadline = time.monotonic() + GATE_S
        while True:
            with suppress(GateBusy):
                with control(self.direct.engine, self.collection().cid, actor="observer"):
                    pass
                return []
            if time.monotonic() > deadline:
                return [Finding("a lost client does not hold the gate", scenario, f"held for {GATE_S:.0f} s")]

    def nothing_is_held(self, scenario: str) -> list[Finding]:
        """Wait until the server has ended every transaction: of clients that are lost, and of those that stall."""
        deadline = time.monotonic() + GATE_S
        while found := self.rows(
            "SELECT pid, state, wait_event, left(query, 80) AS query FROM pg_stat_activity WHERE datname = "
            "current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND backend_type = 'client "
            "backend'"
        ):
            if time.monotonic() > deadline:
                return [Finding("no session is left in a transaction", scenario, str(found))]
            time.sleep(0.02)
        return []

    def pool_is_whole(self, scenario: str) -> list[Finding]:
        """Look whether the engine under test has all its connections back."""
        out = self.wired.raw_engine.pool.checkedout()  # type: ignore[attr-defined]
        return [Finding("the pool gets its connections back", scenario, f"{out} are out")] if out else []

    def compare(self, scenario: str) -> list[Finding]:
        """Compare table and live indexes, whole, with what was acknowledged; every text is re-embedded."""
        found = []
        for place in self.application.compare():
            for promise, ids in (("lost", place.lost), ("stale", place.stale), ("resurrected", place.resurrected)):
                found += [Finding(promise, scenario, f"{place.place}: {', '.join(ids[:5])}")] if ids else []
        dead = self.value("SELECT count(*) FROM pending WHERE state = 'dead'")
        found += [Finding("a fault gives no document up", scenario, f"{dead} dead letters")] if dead else []
        waiting = self.value("SELECT count(*) FROM pending JOIN slot USING (gen)")
        return found + ([Finding("all work is done after heal", scenario, f"{waiting} items wait")] if waiting else [])


def _end_idle_sessions_soon(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{int(IDLE_S * 1_000)}ms'")
    connection.commit()


@dataclass
class Writes:
    """Draws writes on a place: documents of its own beside the labelled ones, each text like no other."""

    place: Place
    draw: random.Random
    number: int = 0

    def text(self) -> str:
        """Return a text that no other write has."""
        self.number += 1
        return f"note{self.number} {self.draw.getrandbits(64):x} written while something failed"

    def some(self, count: int) -> dict[str, str | None]:
        """Return new texts for documents, new and old ones mixed."""
        known = sorted(doc_id for doc_id in self.place.application.truth.texts if doc_id >= f"d{LABELLED:06d}")
        old = self.draw.sample(known, min(len(known), count // 2))
        new = [f"n{self.draw.getrandbits(40):010x}" for _ in range(count - len(old))]
        return {doc_id: self.text() for doc_id in [*old, *new]}

    def victim(self) -> Mapping[str, str | None]:
        """Return the deletion of one document that queries are not labelled with."""
        known = sorted(doc_id for doc_id in self.place.application.truth.texts if doc_id >= f"d{LABELLED:06d}")
        return {self.draw.choice(known): None}


def until_found(scenarios: Iterable[Callable[[], list[Finding]]]) -> list[Finding]:
    """Run scenarios one after another, up to the first that finds something: the next would find its traces."""
    return next(filter(None, (scenario() for scenario in scenarios)), [])
