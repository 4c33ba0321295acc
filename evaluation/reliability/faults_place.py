"""Owns the small project that faults strike: one site, an observer beside the wire, models that fail, and checks.

Everything under test goes through ``place.wired``; ``place.direct`` looks on, and no fault touches it.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from evaluation.reliability import checks, observer
from evaluation.reliability.checker import Finding
from evaluation.reliability.history import Recorder
from evaluation.reliability.judge import at_rest
from evaluation.reliability.site import COLLECTION, Shape, Site, doc_id_of
from evaluation.reliability.traffic import Author, Writes, do

from revector.config import Project
from revector.encoders.probes import PROBE_TEXTS
from revector.errors import GateBusy, RevectorError
from revector.indexing.encoding import Encoders
from revector.interfaces import Encoder, Piece, Side, Vectors
from revector.registry.collections import Collection, Generation
from revector.registry.control import control
from revector.spec import ModelSpec

SHAPE = Shape(80, 60, 512, 256, 32, 240, "IndexSpec()", of_collection="shards = 2\n")
QUESTION = doc_id_of(3)
IDLE_S = 1.0
"""What ``idle_in_transaction_session_timeout`` is lowered to for the sessions under test."""

LIMIT_S = 60.0
"""What takes longer hangs."""

GATE_S = 10.0
"""What is not free after so long, with only faulty clients about, stays held."""


Scenario = tuple[str, str, Callable[[], list[Finding]]]
"""A fault, what it strikes, and the call that strikes, heals and returns what did not hold."""


class FaultyEncoder:
    """A library encoder that lets ``fault`` see, change or refuse each reply; probe texts pass, if alone."""

    def __init__(self, inner: Encoder) -> None:
        self.inner = inner
        self.fault: Callable[[Sequence[str], Vectors], Any] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def encode(self, side: Side, pieces: Sequence[Piece]) -> Any:
        """Embed and let the fault have its say."""
        vectors, texts = self.inner.encode(side, pieces), [piece.text for piece in pieces]
        return vectors if self.fault is None or tuple(texts) == PROBE_TEXTS else self.fault(texts, vectors)


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

    @contextmanager
    def hanging(self, call: Callable[[], object]) -> Iterator[None]:
        """Let a call hang in its model while the block runs, and then end; other calls of the model are answered."""
        begun, end = threading.Event(), threading.Event()

        def reply(_texts: Sequence[str], vectors: Vectors) -> Vectors:
            if not begun.is_set():
                begun.set()
                end.wait(LIMIT_S)
            return vectors

        with self.faulty(reply), ThreadPoolExecutor(1) as thread:
            late = thread.submit(call)
            try:
                assert begun.wait(LIMIT_S), "the call found nothing to embed"
                yield
            finally:
                end.set()
            late.result(LIMIT_S)


class Place:
    """A site with its first revision live on a database, and what its application was told."""

    def __init__(self, root: Path, url: str, *, wired: str | None = None, seed: int = 0) -> None:
        self.site, self.recorder = Site(root / "project", url, SHAPE), Recorder()
        self.site.begin(self.recorder)
        self.direct = self.site.project
        self.author = Author("f", self.site.ids, self.site.kept, random.Random(seed))
        self.wired = self.connected(wired or url)

    def connected(self, url: str) -> Project:
        """Return the same project on another way to its database, with models of its own; idle sessions end soon."""
        project = Project(self.site.folder, self.direct.settings.model_copy(update={"database_url": url}))
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
        self.site.close()

    # Writes -----------------------------------------------------------------------------------------------------------

    def some(self, count: int) -> dict[str, str | None]:
        """Return new contents for documents, new and old ones mixed."""
        old = self.author.draw.sample(self._free, min(len(self._free), count // 2))
        new = [f"n{self.author.draw.getrandbits(40)}" for _ in range(count - len(old))]
        self.author.ids = [*self.author.ids, *new]
        return self.author.put(*old, *new)

    def doomed(self) -> dict[str, str | None]:
        """Return the deletion of one document that queries are not labelled with."""
        return {self.author.draw.choice(self._free): None}

    @property
    def _free(self) -> list[str]:
        return [doc_id for doc_id in self.author.ids if doc_id not in self.author.kept]

    def put(self, writes: int | Writes, by: Project | None = None) -> list[str]:
        """Write so many documents, or these, beside the wire or by another project; return their ids."""
        chosen = self.some(writes) if isinstance(writes, int) else writes
        calls = self.begin(chosen)
        do((by or self.direct).documents(COLLECTION), chosen, self.site.text)
        self.acknowledge(calls, chosen)
        return sorted(chosen)

    def begin(self, writes: Writes) -> dict[str, int]:
        """Record that writes begin; until they are acknowledged, nobody knows what comes of them."""
        ops = {doc_id: "delete" if token is None else "put" for doc_id, token in writes.items()}
        return {
            doc_id: self.recorder.invoke(op, "application", doc_id=doc_id, content=writes[doc_id])
            for doc_id, op in ops.items()
        }

    def acknowledge(self, calls: Mapping[str, int], writes: Writes) -> None:
        """Record that writes were answered; their versions are those that the table has, read beside the wire."""
        table = self.texts(list(writes))
        for doc_id, token in writes.items():
            version = table[doc_id][1] if doc_id in table else None
            op = "delete" if token is None else "put"
            self.recorder.ok(calls[doc_id], op, "application", doc_id=doc_id, content=token, version=version)

    def shown(self, writes: Writes, table: Mapping[str, tuple[str | None, int]]) -> list[str]:
        """Return whose write the table shows."""
        texts = {doc_id: token and self.site.text(token) for doc_id, token in writes.items()}
        return [doc_id for doc_id, text in texts.items() if table.get(doc_id, (None, 0))[0] == text]

    # What the observer sees -------------------------------------------------------------------------------------------

    def rows(self, sql: str, **params: Any) -> list[Any]:
        """Run one statement beside the wire and return its rows."""
        return observer.rows(self.direct.engine, sql, **params)

    def value(self, sql: str, **params: Any) -> Any:
        """Return the first value of a query beside the wire."""
        return observer.value(self.direct.engine, sql, **params)

    def collection(self) -> Collection:
        """Return the collection row."""
        return observer.slots(self.direct.engine, COLLECTION)[0]

    def generation(self, gen: int | None) -> Generation:
        """Return a generation that is expected to be there."""
        assert gen is not None
        return observer.slots(self.direct.engine, COLLECTION)[1][gen]

    def texts(self, doc_ids: Sequence[str]) -> dict[str, tuple[str | None, int]]:
        """Return text (None: deleted) and version of those of ``doc_ids`` that are in the table."""
        found = self.rows("SELECT doc_id, content, version FROM document WHERE doc_id = ANY(:ids)", ids=list(doc_ids))
        return {row.doc_id: (row.content, row.version) for row in found}

    def events(self) -> Counter[str]:
        """Return how many events of each kind the history has."""
        return checks.events(self.direct.engine, self.site.cid)

    def let_time_pass(self) -> None:
        """Make leases and pauses of all items end now."""
        self.rows(
            "UPDATE pending SET lease_until = least(lease_until, clock_timestamp()), due_at = least(due_at, "
            "clock_timestamp()) WHERE state = 'due'"
        )

    def settle(self) -> None:
        """Apply all that waits, beside the wire."""
        self.let_time_pass()
        observer.apply_all(self.direct)

    # Checks -----------------------------------------------------------------------------------------------------------

    def invariants(self) -> list[Finding]:
        """Look at what must be so at every instant."""
        return checks.instant(self.direct.engine, self.site.cid)

    def gate_is_free(self) -> list[Finding]:
        """Take the gate as a move would, again and again, until the sessions under test have let go of it."""
        deadline = time.monotonic() + GATE_S
        while True:
            with suppress(GateBusy):
                with control(self.direct.engine, self.collection().cid, actor="observer"):
                    pass
                return []
            if time.monotonic() > deadline:
                return [Finding("a lost client does not hold the gate", f"held for {GATE_S:.0f} s")]

    def nothing_is_held(self) -> list[Finding]:
        """Wait until the server has ended every transaction: of clients that are lost, and of those that stall."""
        return checks.transactions(self.direct.engine, GATE_S)

    def pool_is_whole(self) -> list[Finding]:
        """Look whether the engine under test has all its connections back."""
        out = self.wired.raw_engine.pool.checkedout()  # type: ignore[attr-defined]
        return [Finding("the pool gets its connections back", f"{out} are out")] if out else []

    def compare(self) -> list[Finding]:
        """Compare table and live indexes, whole, with what was acknowledged; every text is re-embedded."""
        judge = self.site.judge(self.recorder)
        found = at_rest(self.direct.engine, self.site.cid, judge, self.recorder)
        dead = self.value("SELECT count(*) FROM pending WHERE state = 'dead'")
        return found + ([Finding("a fault gives no document up", f"{dead} dead letters")] if dead else [])


def ends(
    call: Callable[[], object],
    kind: type[RevectorError] | tuple[type[RevectorError], ...] = RevectorError,
    *,
    must_fail: str = "",
    saying: str = "",
) -> list[Finding]:
    """Run a call that may fail, but only by an error of the library of this kind, saying this.

    ``must_fail``: the promise that is broken if it does not.
    """
    try:
        call()
    except kind as error:
        return [] if saying in str(error) else [Finding("an error says what is wrong", str(error))]
    except Exception as error:  # noqa: BLE001 - whatever comes here is the finding
        return [Finding("an error is of our tree", f"{type(error).__module__}: {error!r}"[:300])]
    return [Finding(must_fail, "no error")] if must_fail else []


def _end_idle_sessions_soon(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{int(IDLE_S * 1_000)}ms'")
    connection.commit()
