"""Owns the faults of encoders: exceptions, hangs, bad replies and other models under the same name.

Each strikes the worker, a part of a backfill, or a query. While it lasts, only lag may grow: nothing wrong is shown, no
document is given up for a fault of the model, and the process goes on. After it everything converges.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from evaluation.reliability.checker import Finding
from evaluation.reliability.faults_place import (
    QUESTION,
    FaultyEncoder,
    Place,
    Scenario,
    ends,
)
from evaluation.reliability.site import COLLECTION, NEW, OLD

from revector.errors import EncoderError, EncoderMismatch, EncoderUnavailable
from revector.indexing.encoding import Encoders
from revector.interfaces import Encoder, Piece, Side, Vectors
from revector.revisions import RevisionGraph
from revector.spec import ModelSpec

Reply = Callable[[Sequence[str], Vectors], Any]
LIMIT_S = 60.0

RAISED: Mapping[str, Exception] = {
    type(error).__name__: error
    for error in (
        RuntimeError("CUDA error: device-side assert triggered"),
        MemoryError("out of memory"),
        ValueError("sequence too long"),
        TypeError("expected str"),
        IndexError("index out of range in self"),
        KeyError("input_ids"),
        AssertionError("torch not compiled with CUDA enabled"),
        OSError(5, "Input/output error"),
        TimeoutError("the model did not answer"),
        ConnectionResetError(104, "Connection reset by peer"),
        EncoderError("refused"),
        EncoderUnavailable("429 Too Many Requests"),
    )
}
"""What models raise, by class."""


def raising(error: Exception) -> Reply:
    """Return a fault that raises for every text."""

    def reply(_texts: Sequence[str], _vectors: Vectors) -> Any:
        raise error

    return reply


def refusing(error: Exception, poison: str) -> Reply:
    """Return a fault that raises for batches with a poisonous word."""

    def reply(texts: Sequence[str], vectors: Vectors) -> Any:
        if any(poison in text for text in texts):
            raise error
        return vectors

    return reply


def _with(value: float) -> Reply:
    def reply(_texts: Sequence[str], vectors: Vectors) -> Any:
        spoiled = vectors.copy()
        spoiled[-1] = value
        return spoiled

    return reply


REPLIES: Mapping[str, Reply] = {
    "one vector short": lambda _, vectors: vectors[:-1],
    "one vector too many": lambda _, vectors: np.concatenate([vectors, vectors[:1]]),
    "cut vectors": lambda _, vectors: vectors[:, :-3],
    "wider vectors": lambda _, vectors: np.concatenate([vectors, vectors], axis=1),
    "no table": lambda _, vectors: [list(map(float, row[: 3 + n])) for n, row in enumerate(vectors)] or None,
    "nothing": lambda _, __: None,
    "NaN": _with(float("nan")),
    "infinite": _with(float("inf")),
    "zero": _with(0.0),
}
"""Replies that a look at their shape and values tells."""

ORDERS: Mapping[str, Reply] = {
    "reversed": lambda _, vectors: vectors[::-1],
    "shifted by one": lambda _, vectors: np.roll(vectors, 1, axis=0),
    "sorted by length": lambda texts, vectors: vectors[sorted(range(len(texts)), key=lambda n: len(texts[n]))],
}
"""Replies of good vectors in another order."""


class Struck:
    """A place whose models fail on demand."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def down(self, reply: Reply, where: str) -> list[Finding]:
        """Strike with a fault that no text escapes, then heal. Lag only, and an error of our tree."""
        operation = self._operation(where)
        with self._faulty(reply):
            found = ends(operation, must_fail="a bad reply is refused" * (where != "worker"))
        found += self.place.invariants() + self.place.pool_is_whole()
        return found + self._heal(where, operation)

    def poison(self, error: Exception) -> list[Finding]:
        """Strike one text of several: it alone waits or becomes a dead letter, by its reason; the others are shown."""
        writes = self.place.some(5)
        ids = self.place.put(writes)
        worker = self.place.wired.worker()
        with self._faulty(refusing(error, str(writes[ids[0]]))):
            found = ends(worker.drain)
        left = self.place.rows(
            "SELECT doc_id, last_error FROM pending JOIN slot USING (gen) WHERE doc_id = ANY(:ids)", ids=ids
        )
        if {row.doc_id for row in left} != {ids[0]} or not left[0].last_error:
            found.append(Finding("a poison text costs only itself", f"{left} wait"))
        self.place.rows("UPDATE pending SET state = 'due', attempts = 0")
        return found + self._heal("worker", worker.drain)

    def hang(self) -> list[Finding]:
        """Let a worker hang in its model, holding nothing; another takes over, and the late result is not shown."""
        place = self.place
        (doc_id,) = place.put(1)
        self._load()
        with place.models.hanging(place.wired.worker().drain):
            found = place.nothing_is_held() + place.gate_is_free() + place.pool_is_whole()
            place.put(place.author.put(doc_id))
            place.settle()  # the new version ended the lease
        return found + place.compare()

    def impostor(self, load: Callable[[ModelSpec], Encoder], *, told: bool) -> list[Finding]:
        """Let a new process load something else under a model's name: it may publish nothing.

        ``told`` by its fingerprint, a query is refused, too. A running process keeps its own.
        """
        place = self.place
        place.put(5)
        place.wired.worker().drain()  # its model is loaded
        place.put(5)
        fresh = place.connected(str(place.wired.settings.database_url))
        fresh.__dict__["encoders"] = Encoders(load)
        published = fresh.worker().drain()
        found = [Finding("wrong model", f"{published} published")] if published else []
        if told:
            ask = partial(fresh.searcher(COLLECTION).search, QUESTION)
            found += ends(ask, EncoderMismatch, must_fail="wrong model: a query is refused")
        fresh.raw_engine.dispose()
        return found + self._heal("worker", place.wired.worker().drain)

    def other_model(self) -> list[Finding]:
        """Put another model under the same name."""
        load = self.place.wired.load_encoder
        return self.impostor(lambda model: load(replace(model, name="hashing:seed9")), told=True)

    def silent_change(self) -> list[Finding]:
        """Change what a model answers, with its files and settings as they were."""
        load = self.place.wired.load_encoder
        return self.impostor(lambda model: _Negated(load(model)), told=False)

    def _faulty(self, reply: Reply) -> AbstractContextManager[None]:
        self._load()
        return self.place.models.faulty(reply)

    def _load(self) -> None:
        graph = RevisionGraph.from_folder(self.place.wired.migrations(COLLECTION))
        for revision in (OLD, NEW):
            self.place.wired.encoders.fresh(graph[revision].model)

    def _operation(self, where: str) -> Callable[[], object]:
        migrator = self.place.wired.migrator(COLLECTION, actor="struck")
        if where == "backfill":
            migrator.run("provision", NEW)
            return lambda: migrator.embed_shard(NEW, 0)
        if where == "worker":
            self.place.put(5)
            return self.place.wired.worker().drain
        searcher = self.place.wired.searcher(COLLECTION)
        return lambda: searcher.search(QUESTION)

    def _heal(self, where: str, operation: Callable[[], object]) -> list[Finding]:
        self.place.let_time_pass()
        found = ends(operation)
        self.place.settle()
        if where == "backfill":
            self.place.direct.migrator(COLLECTION, actor="healed").upgrade(NEW, to="backfill")
            found += self.place.compare()
            self.place.direct.migrator(COLLECTION, actor="healed").abort("the trial is over")
        return found + self.place.compare()


class _Negated(FaultyEncoder):
    """Answers with the opposite of each vector, and says nothing of it."""

    def encode(self, side: Side, pieces: Sequence[Piece]) -> Any:
        """Embed, and turn each vector round."""
        return -self.inner.encode(side, pieces)


def scenarios(place: Place, draw: random.Random) -> Iterator[Scenario]:
    """Yield each fault once, on an operation drawn at random."""
    struck = Struck(place)
    yield "hang", "worker", struck.hang
    yield "other model", "worker", struck.other_model
    yield "silent change", "worker", struck.silent_change
    for name, error in RAISED.items():
        where = draw.choice(("worker", "backfill", "query"))
        yield name, where, partial(struck.down, raising(error), where)
        yield f"{name} for one text", "worker", partial(struck.poison, error)
    for name, reply in (*REPLIES.items(), *ORDERS.items()):
        yield name, "worker", partial(struck.down, reply, "worker")
    for name, reply in REPLIES.items():
        where = draw.choice(("backfill", "query"))
        yield name, where, partial(struck.down, reply, where)
