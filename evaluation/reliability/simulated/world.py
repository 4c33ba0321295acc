"""One simulated world: a collection, the processes that work on it, and the oracle that judges every step."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from evaluation.reliability.beginnings import Unmeasured
from evaluation.reliability.points import attempts_held, wrong_points
from evaluation.reliability.simulated.look import Broken, Look, check_change, check_moves, check_state, demand, look
from evaluation.reliability.simulated.oracle import Held, Oracle, Query, Write, check_answer
from evaluation.reliability.simulated.place import Place
from evaluation.reliability.simulated.stage import Fate, Killed

from revector.documents.documents import Documents, WriteResult
from revector.errors import DatabaseUnavailable, GateBusy, RevectorError, SchemaMismatch, VerificationFailed
from revector.indexing.encoding import Encoders
from revector.indexing.worker import Worker
from revector.migration.migrator import Migrator
from revector.serving.searcher import Answer, Searcher
from revector.stores.memory import MemoryIndex

TICK_S = 0.01
"""What a step takes by the clocks."""

ALARMS = (VerificationFailed, SchemaMismatch, GateBusy)
"""Refusals that say that something is wrong: an index unlike the documents, tables gone, a gate that nobody let go."""


class Process:
    """What one process has in its memory; gone when it is killed. Made in its own calls, which may stand meanwhile."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name
        self.encoders = Encoders(world.place.models.load)
        self.worker = Worker(world.place.engine, self.encoders)
        self.searcher = Searcher(world.place.engine, world.name, self.encoders)
        self._migrator: Migrator | None = None

    def migrator(self) -> Migrator:
        """Return its migrator."""
        if self._migrator is None:
            self._migrator = self._world.place.migrator(self._world.name, self._name, self.encoders)
        return self._migrator


class World:
    """Begins where ``beginning`` says, changes by rules, and raises ``Broken`` as soon as a promise does not hold."""

    def __init__(self, place: Place, beginning: str, seed: int = 0) -> None:
        self.place, self.chance = place, random.Random(f"world {seed}")
        place.models.faults.clear()
        place.models.replaced.clear()
        Unmeasured.passes = True
        self.cid, self.name = place.begin(beginning, seed)
        self.documents = Documents(place.engine, self.cid)
        self._processes: dict[str, Process] = {}
        self._texts = 0
        self.latest_s = place.clock.now_s()
        self.turned_back = False
        """Whether the database's clock ever went back: what it says of the order of things is worth nothing then."""
        self.builds_hnsw = False
        """Whether an HNSW index may be under construction from now on."""
        self.lost = False
        """Whether a store has lost points: until that is dealt with, a verification may say so."""
        self.seen = look(place.database, self.cid, 0)
        self._events = Counter((event.kind, event.actor) for event in self.seen.events)
        self._acknowledged: Counter[tuple[str, str]] = Counter()
        self.oracle = Oracle(self.seen.documents)

    def close(self) -> None:
        """End all processes."""
        self.place.end(self.cid)

    def process(self, name: str) -> Process:
        """Return a process, started if it is not running."""
        if name not in self._processes:
            self._processes[name] = Process(self, name)
        return self._processes[name]

    def restart_all(self) -> None:
        """Kill all processes; they start again when they are needed."""
        for name in self.place.stage.standing:
            self.place.stage.kill(name)
        self._processes.clear()

    def text(self, words: int, extra: str = "") -> str:
        """Return a text that nobody has written before."""
        self._texts += 1
        return " ".join([f"w{self._texts}x{n}" for n in range(words)] + ([extra] if extra else []))

    # Looking ----------------------------------------------------------------------------------------------------------

    def judge(self) -> None:
        """Look at everything, and compare with what must be."""
        clock = self.place.clock
        clock.wait(TICK_S)
        self.latest_s = max(self.latest_s, clock.now_s())
        new, old = look(self.place.database, self.cid, self._events.total()), self.seen
        self.seen = new
        self._events.update((event.kind, event.actor) for event in new.events)
        self._count(new)
        demand(self._acknowledged <= self._events, "lost", self._acknowledged, "were acknowledged, not", self._events)
        self.oracle.settle(new.documents)
        check_state(new, self.oracle.contents)
        for gen, index in self.stored().items():
            for found in wrong_points(index, new.attempts.get(gen, [])):
                raise Broken(found.promise, f"generation {gen}: {found.detail}")
        check_change(old, new)
        check_moves(old, new, clock.now_s())
        unwaived = new.views["i13_unwaived"]
        demand(self.turned_back or not unwaived, "lost", "dead in the active generation, and nobody said so:", unwaived)
        if any(event.kind in ("swap", "rollback") for event in new.events):
            self.oracle.forget({doc_id for gen, doc_id in new.pending if gen == new.active})

    def _count(self, new: Look) -> None:
        tally = self.place.tally
        tally["steps"] += 1
        tally.update(event.kind for event in new.events)
        tally["windows"] += sum(event.kind == "retire" and not event.detail["window_given_up"] for event in new.events)

    def acknowledged(self, kind: str, actor: str) -> None:
        """Note that a move was reported as done: the history must have it."""
        self._acknowledged[kind, actor] += 1

    # Calling ----------------------------------------------------------------------------------------------------------

    def call(
        self,
        actor: str,
        what: Callable[[], Any],
        then: Callable[[Any], None] = lambda _: None,
        *,
        pace: int | str = 0,
        fate: Fate | None = None,
        refused: Callable[[BaseException], None] = lambda _: None,
        may_raise: tuple[type[Exception], ...] = (),
    ) -> None:
        """Let an actor begin a call of the library; ``then`` gets its answer, ``refused`` the error of a clean end.

        Clean are the library's own errors but for alarms, and what ``may_raise`` adds.
        """

        def ended(answer: Any, error: BaseException | None) -> None:
            if error is None:
                then(answer)
                return
            if isinstance(error, Killed):
                self._processes.pop(actor, None)
                self.place.tally["kills"] += 1
            elif isinstance(error, Broken):
                raise error
            elif (_alarming(error) and not (self.lost and isinstance(error, VerificationFailed))) or not isinstance(
                error, (RevectorError, *may_raise)
            ):
                raise Broken("unclean failure", f"{actor}: {type(error).__name__}: {error}") from error
            refused(error)

        self.place.stage.start(actor, what, ended, pace, fate)

    def write(self, writes: list[Write], how: Callable[[], WriteResult], fate: Fate | None = None) -> None:
        """Let an application write; the oracle believes what is acknowledged, and nothing else."""
        changed = self.oracle.changed_by(writes)

        def refused(error: BaseException) -> None:
            if isinstance(error, Killed | DatabaseUnavailable):
                self.oracle.unknown(changed)
            else:
                raise Broken("unclean failure", f"{writes} were refused: {error}") from error

        self.call(
            "writer",
            how,
            lambda written: self.oracle.acknowledged(changed, written.versions),
            fate=fate,
            refused=refused,
        )

    def query(self, session: str, query: Query, role: str | None, pace: int | str = 0) -> None:
        """Let a session ask, through the alias or a live generation by its role.

        It is judged by the last look: what answers is one statement of this very step.
        """
        generation = None if role is None else self.seen.slots[role]
        searcher = self.process(session).searcher
        where = None if query.lang is None else {"lang": query.lang}

        def answered(answer: Answer) -> None:
            self.place.tally["queries"] += 1
            held = self._held(answer.generation)
            check_answer(self.oracle, self.seen, self.place.revisions, query, answer, held)
            if role is None:
                demand(answer.generation == self.seen.active, "swap history", answer, "is not of", self.seen.active)
                shown = {hit.id: self.seen.ledger[answer.generation, hit.id].version for hit in answer.hits}
                self.oracle.saw(session, shown)

        self.call(
            session,
            lambda: searcher.search(query.text, query.k, where=where, by=query.by, generation=generation),
            answered,
            pace=pace,
        )

    def rows(self, gen: int) -> list[Any]:
        """Return every row of a physical index, with its vector."""
        if (index := self.index(gen)) is not None:
            shown = [one for one in self.seen.attempts.get(gen, ()) if one.shown]
            return [
                (one.doc_id, row.chunk, row.start, row.stop, row.vector)
                for one, held in attempts_held(index, shown)
                for row in held
            ]
        table = self.seen.generations[gen]["table"]
        found = self.place.database.execute(
            f"SELECT doc_id, chunk, start, stop, embedding::vector::real[] FROM {table}".encode()
        )
        return found.fetchall()

    def _held(self, gen: int) -> Held | None:
        if self.index(gen) is None:
            return None
        held: defaultdict[str, set[int]] = defaultdict(set)
        for doc_id, chunk, *_ in self.rows(gen):
            held[doc_id].add(chunk)
        return held

    def index(self, gen: int) -> MemoryIndex | None:
        """Return a generation's index in the store, past the network; None where it is in PostgreSQL."""
        generation = self.seen.generations[gen]
        return self.place.index(generation["table"], generation["revision"])

    def stored(self) -> dict[int, MemoryIndex]:
        """Return the indexes of live generations that are in the store."""
        found = {gen: self.index(gen) for gen in self.seen.slots.values()}
        return {gen: index for gen, index in found.items() if index is not None}

    def revision(self, gen: int) -> Any:
        """Return the revision of a generation."""
        return self.place.revisions[self.seen.generations[gen]["revision"]]

    def sealed_parts(self) -> list[str]:
        """Return the files of parts that are sealed and not yet marked as published."""
        found = self.place.database.execute(
            "SELECT path FROM part JOIN generation USING (gen) WHERE cid = %s AND published_at IS NULL ORDER BY gen, "
            "shard, part",
            (self.cid,),
        )
        return [row[0] for row in found]


def _alarming(error: BaseException) -> bool:
    """Whether a refusal says that something is wrong with the library, and not only with its encoder."""
    return isinstance(error, ALARMS) and "encoder cannot be used" not in str(error)
