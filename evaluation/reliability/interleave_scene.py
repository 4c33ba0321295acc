"""Owns one run of the interleavings: a collection of its own, its migrator, what is written there, and its history."""

from __future__ import annotations

import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from evaluation.reliability import judge, observer
from evaluation.reliability.beginnings import Beginnings
from evaluation.reliability.checker import Finding
from evaluation.reliability.history import Recorder
from evaluation.reliability.moves_seen import watched_moves
from evaluation.reliability.points import ATTEMPTS, Attempt, attempts_held, lose
from evaluation.reliability.site import name_of
from evaluation.reliability.stepping import Stage, current
from evaluation.reliability.traffic import Writes, first, recorded, text_of, token_of
from evaluation.reliability.truth import Truth

from revector.documents.documents import Documents
from revector.indexing.encoding import Encoders
from revector.interfaces import Document
from revector.lifecycle import Outcome
from revector.migration.migrator import Migrator
from revector.registry.collections import Collection, Generation
from revector.stores.memory import MemoryIndex

MOST_WORDS = 22
MODELS, REVISIONS = 3, 12
WINDOWS_HOURS = (48.0, 48.0, 48.0, 1e-9)
"""Mostly the usual window; one of a few microseconds is over by the next statement."""

OPENINGS = {"documents": 1, "served": 3, "provisioned": 3, "approved": 4, "swapped": 4, "rolled back": 2}
"""Where the actors meet a collection, and how often."""

CORPUS = [Document(doc_id, text_of(first(doc_id), MOST_WORDS)) for doc_id in ("d0", "d1", "d2", "d3")]
_noted = threading.local()


def parts(*, stored: bool) -> dict[str, str]:
    """Return revisions in a row; ``stored``: two of three have their index in the store.

    Neighbours differ in model and chunks, never in width: no mix-up of theirs is an error of the database.
    """
    exact = 'IndexSpec(kind="exact", store="late")' if stored else 'IndexSpec(kind="exact")'
    return {
        name_of(n): f"""\
model = ModelSpec(name="hashing:seed{1 + n % MODELS}", dim=8)
chunking = Chunking(max_tokens={8 + 4 * (n % 2)}, overlap_tokens=0)
index = {'IndexSpec(kind="hnsw")' if n % MODELS == 2 else exact}"""
        for n in range(REVISIONS)
    }


class Scene:
    """What the actors of one run share. ``puts``: document → tokens ever put."""

    def __init__(self, stage: Stage, seed: int, beginnings: Beginnings, encoders: Encoders) -> None:
        self.beginnings = beginnings
        self.store = store = beginnings.store
        self.near: dict[str, dict[int, set[str]]] = {}
        """By session: what could be found, by generation, when it last asked the store."""
        self.asking: set[str] = set()
        """Sessions with a query under way."""
        self.lost = False
        """Whether the store has lost points."""
        if store is not None:
            store.restart(seed)
            store.at = self._at_store
        self.stage, self.seed, self.encoders = stage, seed, encoders
        self.engine, self.name = stage.engine, f"c{seed}_{uuid.uuid4().hex[:6]}"
        self.random = random.Random(f"scene {seed}")
        self.recorder = Recorder(lambda: float(stage.steps))
        self.puts: dict[str, list[str]] = {}
        others = [self.own(name_of(number)) for number in range(MODELS)]
        self.judge = judge.Judge(
            self.own, self.text, lambda doc_id, _: self.puts.get(doc_id, ())[::-1], others, rows=self._rows
        )
        self.counts: Counter[str] = Counter()
        self.findings: list[Finding] = []
        self.building: str | None = None
        self.over = False
        self.window_hours = self.random.choice(WINDOWS_HOURS)
        self.ids = [f"d{n}" for n in range(self.random.randint(3, 8))]
        self.cid = 0

    def own(self, revision: str) -> Truth:
        """Return what a revision must make of texts."""
        return Truth.of(self.beginnings.revisions[revision])

    def migrator(self, actor: str) -> Migrator:
        """Return a process that can run the steps of a migration."""
        options = {"window_hours": self.window_hours, "drain_s": 0.0}
        return self.beginnings.migrator(self.name, actor, self.encoders, **options)

    def found(self, promise: str, detail: str) -> None:
        """Note a broken promise."""
        self.findings.append(Finding(promise, detail))

    def slots(self) -> tuple[Collection, dict[int, Generation]]:
        """Return the collection and its live generations, as they are now."""
        return observer.slots(self.engine, self.name)

    # The store --------------------------------------------------------------------------------------------------------

    def stored(self) -> dict[int, tuple[Generation, MemoryIndex]]:
        """Return the live generations in the store, each with its index past the network."""
        live = self.slots()[1] if self.store is not None else {}
        found = ((gen, one, self.beginnings.index(one.physical_name, one.revision)) for gen, one in live.items())
        return {gen: (one, index) for gen, one, index in found if index is not None}

    def attempts(self, gen: int) -> list[Attempt]:
        """Return the intents of a generation."""
        return [Attempt(*row) for row in observer.rows(self.engine, f"{ATTEMPTS}{gen}")]

    def lose(self, index: MemoryIndex, attempts: Sequence[Attempt], chance: random.Random) -> None:
        """Have the store lose points that it had acknowledged, and what is under way to it."""
        assert self.store is not None
        self.store.cut()
        lose(index, attempts, chance)
        self.lost = True
        self.counts["losses"] += 1

    def _at_store(self, name: str) -> None:
        """Stand before a request; before a search, note what it can find."""
        if (actor := current()) is None:
            return
        actor.stand(f"store {name}")
        if name == "near":
            with actor.at_once():
                self.near[actor.name] = {
                    gen: {
                        one.doc_id
                        for one, held in attempts_held(index, self.attempts(gen))
                        if one.shown and len(held) == one.n_chunks
                    }
                    for gen, (_, index) in self.stored().items()
                }

    def _rows(self, connection: sa.Connection, name: str) -> Mapping[str, Sequence[judge.Row]]:
        for gen, (generation, index) in self.stored().items():
            if generation.physical_name == name:
                return {one.doc_id: held for one, held in attempts_held(index, self.attempts(gen)) if one.shown}
        return judge.read_rows(connection, name)

    # Writes -----------------------------------------------------------------------------------------------------------

    def text(self, token: str) -> str:
        """Return the text of a put."""
        return text_of(token, MOST_WORDS)

    def put(self, *doc_ids: str) -> dict[str, str | None]:
        """Return new contents for documents."""
        for doc_id in doc_ids:
            made = self.puts.setdefault(doc_id, [])
            made.append(token_of(doc_id, self.seed, len(made)))
        return {doc_id: self.puts[doc_id][-1] for doc_id in doc_ids}

    @contextmanager
    def writing(self, process: str, writes: Writes) -> Iterator[dict[str, int]]:
        """Record writes of documents; the block fills in the versions that it was told."""
        done = False
        with recorded(self.recorder, process, writes, survives=()) as told:
            yield told
            done = True
        self.counts["writes" if done else "refused writes"] += len(writes) if done else 1

    # Moves ------------------------------------------------------------------------------------------------------------

    def move(self, op: str, process: str, run: Callable[[], Outcome]) -> Outcome:
        """Run a move of the alias or the slots, and record it with what its own transaction saw."""
        call = self.recorder.invoke(op, process)
        _noted.facts = None
        try:
            outcome = run()
        except BaseException:
            # Once the move itself has been made, what follows it may fail before or after the commit.
            (self.recorder.fail if _noted.facts is None else self.recorder.info)(call, op, process)
            raise
        facts = _noted.facts if outcome.changed else None
        if facts is None:
            self.recorder.fail(call, op, process)
            return outcome
        self.recorder.ok(call, op, process, **facts)
        self.counts[op] += 1
        if facts["detail"]["taken_over"]:
            self.found("swap history", f"{op} of generation {facts['gen']} by a run that had been taken over")
        if op == "rollback" and facts["detail"]["waiting"] > facts["detail"]["waived"]:
            self.found("went back", f"rollback to generation {facts['gen']} while {facts['detail']['waiting']} waited")
        return outcome

    def forward(self, migrator: Migrator, process: str, step: str, target: str) -> Outcome:
        """Run one forward step of a migration."""
        op = {"provision": "register", "swap": "swap"}.get(step)
        if op is None:
            return migrator.run(step, target)
        return self.move(op, process, lambda: migrator.run(step, target))

    def open(self) -> None:
        """Bring the collection to where the actors meet it."""
        [opening] = self.random.choices(list(OPENINGS), list(OPENINGS.values()))
        self.cid = self.beginnings.copy(opening, self.name)
        self.building = name_of(1) if opening in ("provisioned", "approved") else None
        self.puts = {one.id: [first(one.id)] for one in CORPUS}
        observer.rows(self.engine, _WINDOW, hours=self.window_hours, cid=self.cid)
        with self.engine.connect() as connection:
            for hit in self.judge.table(connection, self.cid).values():
                call = self.recorder.invoke("put", "opening", doc_id=hit.doc_id, content=hit.content)
                self.recorder.ok(call, "put", "opening", doc_id=hit.doc_id, version=hit.version)

    @contextmanager
    def calm(self) -> Iterator[None]:
        """Let every request to the store arrive at once."""
        if self.store is not None:
            self.store.calm = True
        yield
        if self.store is not None:
            self.store.calm = False

    def documents(self) -> Documents:
        """Return the write path."""
        return Documents(self.engine, self.cid)


_WINDOW = """
WITH made AS (UPDATE generation SET window_hours = :hours WHERE cid = :cid)
UPDATE collection SET rollback_deadline = clock_timestamp() + :hours * interval '1 hour'
WHERE cid = :cid AND rollback_deadline IS NOT NULL
"""


@contextmanager
def noted_moves() -> Iterator[None]:
    """Note what each move finds in its own transaction, for ``Scene.move``."""

    def note(facts: dict[str, Any]) -> None:
        del facts["op"]
        _noted.facts = facts

    with watched_moves(note, quiet=_quiet):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    actor = current()
    if actor is None:
        yield
    else:
        with actor.at_once():
            yield
