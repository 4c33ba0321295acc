"""Owns the faults of the SQL wire: every operation of the library, struck in mid-migration, healed and run again.

A round walks one collection through a whole migration, with rollback and retirement, and strikes every operation on the
way; each fault at least once. After each strike the database is looked at from beside the wire, then the operation is
run again, once: it must succeed, and have had its effect exactly once.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from evaluation.reliability.actors import Listed
from evaluation.reliability.checker import Finding
from evaluation.reliability.faults_place import LIMIT_S, QUESTION, Place
from evaluation.reliability.observer import apply_all
from evaluation.reliability.site import COLLECTION, NEW
from evaluation.reliability.traffic import Writes, do
from evaluation.reliability.wire import Proxy, State, Toxic

from revector.documents import ingesting
from revector.errors import DatabaseUnavailable, GateBusy, RevectorError
from revector.interfaces import Document
from revector.lifecycle import STEPS
from revector.registry import moves, sharding, work
from revector.registry.control import control

PAGE = 10
"""Rows of a page of ingestion here, so that a small source has several."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of the library: what it writes, and which events it records once."""

    name: str
    run: Callable[[], object]
    writes: Writes = field(default_factory=dict)
    events: Mapping[str, int] = field(default_factory=dict)
    page: int = 1 << 30
    """So many of its writes share a transaction."""


FAULTS: Mapping[str, Callable[[random.Random, State], Toxic]] = {
    "latency": lambda _, __: Toxic(latency_ms=1),
    "bandwidth": lambda _, __: Toxic(bytes_per_s=1_000_000),
    "slicer": lambda draw, _: Toxic(slice_bytes=draw.randint(50, 500)),
    "slow": lambda draw, _: Toxic(latency_ms=1, bytes_per_s=2_000_000, slice_bytes=draw.randint(500, 5_000)),
    "stall": lambda draw, seen: Toxic(action="stall", skip=draw.randrange(seen.statements)),
    "reset": lambda draw, seen: Toxic(action="reset", skip=draw.randrange(seen.statements)),
    "down": lambda draw, seen: Toxic(action="refuse", skip=draw.randrange(seen.statements)),
    "cut after N bytes": lambda draw, seen: Toxic(after_bytes=draw.randint(1, seen.bytes)),
    "cut before a statement": lambda draw, seen: Toxic(action="close", skip=draw.randrange(seen.statements)),
    "COMMIT lost": lambda draw, seen: Toxic(action="close", at="^COMMIT", skip=draw.randrange(seen.commits)),
    "answer to COMMIT lost": lambda draw, seen: Toxic(action="answer", at="^COMMIT", skip=draw.randrange(seen.commits)),
}
"""Every fault, drawn for an operation that passed so many statements, commits and bytes when it was last seen."""

TYPICAL = {
    "put": State(6, 1, 2_000),
    "delete": State(10, 1, 2_000),
    "put_many": State(6, 1, 5_000),
    "ingest": State(49, 9, 15_000),
    "apply": State(71, 6, 200_000),
    "search": State(10, 0, 80_000),
    "status": State(11, 0, 70_000),
    "provision": State(48, 2, 300_000),
    "abort": State(31, 3, 270_000),
    "seed": State(12, 2, 3_000),
    "shard": State(83, 6, 800_000),
    "backfill": State(108, 10, 650_000),
    "index": State(44, 3, 480_000),
    "verify": State(42, 2, 540_000),
    "gate": State(659, 2, 2_500_000),
    "approve": State(29, 2, 470_000),
    "swap": State(86, 5, 550_000),
    "rollback": State(31, 1, 280_000),
    "retire": State(37, 2, 200_000),
    "drop": State(19, 1, 200_000),
}
"""What each operation passed without a fault, when last looked at; a fault drawn beyond its end is no strike."""

SHAPING = ("latency", "bandwidth", "slicer", "slow")
READS = ("search", "status")
"""Operations that commit nothing."""

COUNTED = frozenset({*STEPS, "drop"})
"""Events of which an intended step leaves exactly one."""


class Walk:
    """The operations of one migration, in their order; each is bound to the project that is reached by wire."""

    def __init__(self, place: Place, draw: random.Random) -> None:
        self.place, self._draw = place, draw
        self._migrator = place.wired.migrator(COLLECTION, actor="struck")
        self._documents = place.wired.documents(COLLECTION)
        self._searcher, self._observer = (one.searcher(COLLECTION) for one in (place.wired, place.direct))

    def __iter__(self) -> Iterator[Operation]:
        yield from (self.put(), self.delete(), self.put_many(), self.ingest(), self.apply(), *self._reads())
        yield self.step("provision")
        yield self.abort()
        yield self.step("provision")
        yield from (self.put_many(), self.seed(0), self.seed(1), self.shard(), self.step("backfill"))
        yield self.step("index")
        yield from (self.step("verify"), self.step("gate"), self.step("approve"), self.delete(), self.step("swap"))
        yield from (self.put(), self.apply(), *self._reads(), self.rollback(), self.put(), self.step("swap"))
        yield self.rollback()
        yield self.retire() if self._draw.random() < 0.5 else self.drop()
        yield self.apply()

    def _written(self, name: str, writes: Writes) -> Operation:
        return Operation(name, lambda: do(self._documents, writes, self.place.site.text), writes)

    def put(self) -> Operation:
        """One document."""
        return self._written("put", self.place.some(1))

    def put_many(self) -> Operation:
        """Twenty documents in one transaction."""
        return self._written("put_many", self.place.some(20))

    def delete(self) -> Operation:
        """One document."""
        return self._written("delete", self.place.doomed())

    def ingest(self) -> Operation:
        """Three pages of a source."""
        writes, text = self.place.some(3 * PAGE), self.place.site.text
        source = Listed([Document(doc_id, text(str(token))) for doc_id, token in writes.items()])

        def run() -> object:
            with _pages_of(PAGE):
                return self._documents.ingest(source, actor="struck")

        return Operation("ingest", run, writes, page=PAGE)

    def apply(self) -> Operation:
        """A worker that publishes all that is due."""
        return Operation("apply", lambda: apply_all(self.place.wired))

    def _reads(self) -> Iterable[Operation]:
        def search() -> None:
            found, wanted = (one.search(QUESTION).hits for one in (self._searcher, self._observer))
            if found != wanted:
                raise LookupError(f"answered were {[hit.id for hit in found]}, not {[hit.id for hit in wanted]}")

        yield Operation("search", search)
        yield Operation("status", self._migrator.status)

    def seed(self, number: int) -> Operation:
        """All pages of one shard's seed."""

        def run() -> None:
            with self.place.direct.engine.connect() as connection:
                shard = sharding.read_shards(connection, int(self.place.collection().building_gen or 0))[number]
            while not sharding.seed_page(self.place.wired.engine, self.place.collection().cid, shard):
                pass

        return Operation("seed", run)

    def shard(self) -> Operation:
        """One shard, embedded into a sealed part and published."""
        return Operation("shard", lambda: self._migrator.embed_shard(NEW, 0))

    def step(self, name: str) -> Operation:
        """One forward step."""
        return Operation(name, lambda: self._migrator.run(name, NEW), events={name: 1})

    def abort(self) -> Operation:
        """The migration ended, its index dropped."""
        events = {"abort": 1, "drop": 1}
        return Operation("abort", lambda: self._migrator.abort("a trial"), events=events)

    def rollback(self) -> Operation:
        """The alias back."""
        return Operation("rollback", lambda: self._migrator.rollback("a trial"), events={"rollback": 1})

    def retire(self) -> Operation:
        """The window given up and the index dropped."""
        events = {"retire": 1, "drop": 1}
        return Operation("retire", lambda: self._migrator.retire("a trial", now=True), events=events)

    def drop(self) -> Operation:
        """Only the drop: the slot was emptied by one who ended there."""
        seen = self.place.collection()
        with control(self.place.direct.engine, seen.cid, actor="observer", epoch=seen.epoch) as held:
            moves.retire(held, reason="a trial", now=True)
        return Operation("drop", self._migrator.retire, events={"drop": 1})


@contextmanager
def _pages_of(rows: int) -> Iterator[None]:
    before, ingesting.BATCH_ROWS = ingesting.BATCH_ROWS, rows
    try:
        yield
    finally:
        ingesting.BATCH_ROWS = before


class Striker:
    """Strikes operations and says what did not hold; ``fired`` counts strikes by fault."""

    def __init__(self, place: Place, proxy: Proxy, fired: Counter[str]) -> None:
        self.place, self._proxy, self.fired = place, proxy, fired
        self._thread = ThreadPoolExecutor(1)

    def strike(self, operation: Operation, fault: str, toxic: Toxic) -> list[Finding]:
        """Run an operation under a fault, look, heal, run it again and count its effects."""
        scenario, calls = f"{fault} × {operation.name}", self.place.begin(operation.writes)
        events = self.place.events()
        self._proxy.arm(toxic)
        running = self._thread.submit(operation.run)
        found = self._while_stalled(running) if toxic.action == "stall" else []
        healed = self._proxy.clear() if toxic.action == "stall" else None
        error, raw = _outcome(running)
        state = healed or self._proxy.clear()
        if state.fired or fault in SHAPING:
            self.fired[fault] += 1
            scenario += f" (at {state.fired})" if state.fired else ""
        found += raw + self.place.nothing_is_held()
        before = self.place.texts(list(operation.writes))
        found += self._aftermath(operation, before, acknowledged=error is None)
        if error is not None:
            self.place.let_time_pass()
            error, raw = _outcome(self._thread.submit(operation.run))
            failed = [Finding("after heal the same call succeeds", repr(error))] if error else []
            found += raw + failed + self._repeated(operation, before)
        if error is None:
            self.place.acknowledge(calls, operation.writes)
        found += effects(self.place, operation, events)
        return [replace(one, where=scenario) for one in found]

    def _while_stalled(self, running: Future[object]) -> list[Finding]:
        """Wait for the stall, and then for the server to take back what the stalled client holds."""
        deadline = time.monotonic() + LIMIT_S
        while not running.done() and time.monotonic() < deadline:
            if self._proxy.state().fired:
                return self.place.nothing_is_held() + self.place.gate_is_free()
            time.sleep(0.005)
        return []

    def _aftermath(
        self, operation: Operation, table: Mapping[str, tuple[str | None, int]], *, acknowledged: bool
    ) -> list[Finding]:
        """Look before anything is repaired: done or not done, never half, and nothing held."""
        place = self.place
        found = place.gate_is_free() + place.pool_is_whole()
        done, all_of_it = len(place.shown(operation.writes, table)), len(operation.writes)
        if acknowledged and done < all_of_it:
            found.append(Finding("lost", f"{all_of_it - done} of {all_of_it} acknowledged writes"))
        if done % operation.page and done < all_of_it:
            found.append(Finding("a write is done or not done, never half", f"{done} of {all_of_it}"))
        return found + place.invariants()

    def _repeated(self, operation: Operation, before: Mapping[str, tuple[str | None, int]]) -> list[Finding]:
        """What was done before the second call keeps its version."""
        after = self.place.texts(list(operation.writes))
        twice = [doc_id for doc_id in self.place.shown(operation.writes, before) if after[doc_id] != before[doc_id]]
        return [Finding("one intended write, one version", f"{twice[:5]} changed twice")] if twice else []


def effects(place: Place, operation: Operation, before: Counter[str]) -> list[Finding]:
    """Compare the history with the one effect that was meant; that each move is one epoch is among the invariants."""
    new = {kind: count for kind, count in (place.events() - before).items() if kind in COUNTED}
    found = (
        [] if new == operation.events else [Finding("one intended step, one event", f"{new}, not {operation.events}")]
    )
    return found + place.invariants()


def _outcome(running: Future[object]) -> tuple[Exception | None, list[Finding]]:
    """Return what a call ended with, and what was wrong with that."""
    try:
        running.result(LIMIT_S)
    except (DatabaseUnavailable, GateBusy) as error:
        return error, []
    except RevectorError as error:
        return error, [Finding("a lost connection is DatabaseUnavailable", repr(error))]
    except Exception as error:  # noqa: BLE001 - whatever comes here is the finding
        return error, [Finding("an error is of our tree", f"{type(error).__module__}: {error!r}")]
    return None, []


def keep_cutting(place: Place, proxy: Proxy) -> list[Finding]:
    """Cut the wire whenever one document is in a worker's hands, more often than a document is tried.

    A lost database is no fault of the document: it must not become a dead letter.
    """
    place.put(1)
    for _ in range(2 * work.MAX_ATTEMPTS + 1):
        place.let_time_pass()
        proxy.arm(Toxic(action="close", at="DELETE FROM pending"))
        with suppress(DatabaseUnavailable):
            place.wired.worker().drain()
        proxy.clear()
    place.settle()
    found = place.compare()
    place.rows("UPDATE pending SET state = 'due', attempts = 0, lease_until = NULL")
    place.settle()
    return found


def strike_all(place: Place, proxy: Proxy, draw: random.Random, tally: Counter[str]) -> list[Finding]:
    """Walk through a migration and strike each operation by a fault from a bag that holds all of them.

    Ends with the first operation at which something is found, and returns that. ``tally`` counts strikes by fault.
    """
    striker, found, bag = Striker(place, proxy, tally), list[Finding](), list[str]()
    for operation in Walk(place, draw):
        if operation.name == "rollback":
            place.settle()
            found += place.compare()
        fault = _next(bag, operation, draw)
        found += striker.strike(operation, fault, FAULTS[fault](draw, TYPICAL[operation.name]))
        if found:
            return found
    place.settle()
    return place.compare() or keep_cutting(place, proxy)


def _next(bag: list[str], operation: Operation, draw: random.Random) -> str:
    """Take a fault out of the bag that can strike the operation; without one, the bag is filled again."""
    while True:
        for fault in bag:
            if operation.name not in READS or "COMMIT" not in fault:
                bag.remove(fault)
                return fault
        bag[:] = draw.sample(sorted(FAULTS), len(FAULTS))
