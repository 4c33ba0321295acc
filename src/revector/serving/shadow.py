"""Shadow reads: a share of live queries is also asked of the generation being built, without affecting users.

A query is offered after it was answered: that takes microseconds, and never waits, raises or keeps anything but ids
and the query's text until it was compared. One thread with one connection of its own does the rest; it works at most
half of the time, so that a slow model cannot fill the machine. What it cannot keep up with is shed and counted.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple, Self

import sqlalchemy as sa

from revector.database.engine import make_engine
from revector.errors import ConfigError
from revector.indexing.encoding import MODEL_ERRORS, Encoders
from revector.lifecycle import Phase
from revector.measure.agreement import AgreementTally, overlap_at_k, rank_biased_overlap
from revector.registry.collections import Generation, read_collection, read_generation
from revector.serving.searcher import Answer, Searcher
from revector.stores.opening import attach, stores_of

log = logging.getLogger("revector.shadow")

SEARCHABLE = frozenset({Phase.INDEXED, Phase.VERIFIED, Phase.GATED, Phase.APPROVED})
"""Before its ANN index is built, a generation lacks documents, and a query would read all of its rows."""

POLL_S = 2.0
SAVE_S = 30.0
STATEMENT_S = 5
KEPT = 1_000
FAILURES = 5
"""How many errors in a row open the circuit; after ``REST_S`` one query tries again."""

REST_S = 60.0

Save = Callable[[sa.Connection, Sequence[Mapping[str, object]]], None]
"""Adds rows to what is stored: ``gen``, ``against`` (who answered), ``k``, and ``AgreementTally.as_row``."""


State = Literal["idle", "reading", "resting", "stopped"]


@dataclass(frozen=True, slots=True)
class KeptComparison:
    """One compared query with its text, kept only where that was asked for; ids best first."""

    query: str
    generation: int
    against: int
    old: tuple[str, ...]
    new: tuple[str, ...]
    overlap: float


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """What the shadow reads of one process found since they began.

    ``state``: ``idle`` (no generation can be read), ``reading``, ``resting`` (too many errors in a row) or ``stopped``.
    ``generation`` is the one being read. ``busy_s``: how long the comparison under way has taken, which tells a model
    that hangs. ``tallies``: by generation and the one it was compared with. ``errors``: count by class; their messages
    may quote the query, and are not kept.
    """

    collection: str
    state: State
    generation: int | None
    share: float
    k: int
    queued: int
    busy_s: float
    tallies: Mapping[tuple[int, int], AgreementTally]
    errors: Mapping[str, int]
    kept: tuple[KeptComparison, ...]

    def as_data(self) -> dict[str, object]:
        """Return plain JSON data."""
        tallies = [{"generation": gen, "against": old, **t.as_data()} for (gen, old), t in self.tallies.items()]
        names = ("collection", "state", "generation", "share", "k", "queued", "busy_s")
        return {
            **{name: getattr(self, name) for name in names},
            "tallies": tallies,
            "errors": dict(self.errors),
            "kept": [asdict(one) for one in self.kept],
        }


class _Offered(NamedTuple):
    pair: tuple[int, int]
    query: str
    where: Mapping[str, object] | None
    ids: tuple[str, ...]
    ms: float


class ShadowReads:
    """Compares what one collection serves with what it builds; of one process, safe to offer to from any thread.

    ``encoders`` are those of the live queries: an encoder that is loaded for the swap is not loaded twice.
    """

    def __init__(
        self,
        engine: sa.Engine,
        collection: str,
        encoders: Encoders,
        *,
        share: float = 0.01,
        k: int = 10,
        room: int = 64,
        seed: int | None = None,
        keep_queries: bool = False,
        save: Save | None = None,
    ) -> None:
        """Set up without connecting; ``start`` begins. Of ``engine`` only the address is used.

        ``share``: of the queries offered, 0 to 1, sampled by ``seed``. ``k``: depth of the comparison; queries for
        fewer documents are skipped. ``room``: queries that may wait, at least 1. ``keep_queries``: keep the newest
        ``KEPT`` with their text, for the report. ``save`` is called every ``SAVE_S`` seconds and at the end with what
        was counted since, in a transaction of the thread's own connection; what it cannot store is handed over again.
        Raises ``ConfigError`` where a number is out of range.
        """
        if not 0 <= share <= 1 or not 1 <= k <= 100 or room < 1:
            raise ConfigError(
                f"shadow reads were asked for with share={share}, k={k} and room={room}; share must be 0 to 1, k 1 to "
                "100 and room at least 1. Nothing was started."
            )
        self._collection, self._share, self._k = collection, share, k
        self._engine = _own_engine(engine)
        self._searcher = Searcher(self._engine, collection, encoders)
        self._random = random.Random(seed)  # noqa: S311 - a sample, no secret
        self._waiting: queue.Queue[_Offered | None] = queue.Queue(room)
        self._save, self._saved_at = save, time.monotonic()
        self._lock = threading.Lock()
        """Guards what is counted; nobody computes, connects or waits while holding it."""
        self._tallies: defaultdict[tuple[int, int], AgreementTally] = defaultdict(AgreementTally)
        self._unsaved: defaultdict[tuple[int, int], AgreementTally] = defaultdict(AgreementTally)
        self._errors: Counter[str] = Counter()
        self._kept: deque[KeptComparison] | None = deque(maxlen=KEPT) if keep_queries else None
        self._reading: Generation | None = None
        self._known_gen: int | None = None
        self._in_row, self._rest_until, self._resting = 0, 0.0, False
        self._busy_since: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"shadow-{collection}", daemon=True)

    def start(self) -> None:
        """Begin. A database that is down is waited for."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> bool:
        """End the thread and close its connection; what still waits is dropped. Return whether it ended in time.

        It ends after the comparison under way, which a model that hangs may hold up: the thread is a daemon, takes
        nothing more, and closes its connection as soon as that model answers.
        """
        self._stop.set()
        self._forget_waiting()
        with suppress(queue.Full):
            self._waiting.put_nowait(None)  # wakes the thread if it waits
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        self._engine.dispose()
        return not self._thread.is_alive()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def offer(
        self,
        query: str,
        answer: Answer,
        *,
        k: int,
        where: Mapping[str, object] | None = None,
        by: str = "document",
    ) -> None:
        """Hand over a query that the alias answered, with the arguments it was asked with. Never raises, never waits.

        Chunks of two models are not the same things, so only documents are compared.
        """
        with suppress(*MODEL_ERRORS):
            reading = self._reading
            if reading is None or self._stop.is_set() or answer.generation == reading.gen:
                return
            if self._random.random() >= self._share:
                return
            pair = reading.gen, answer.generation
            if by != "document" or k < self._k:
                self._count(pair, "skipped")
                return
            ids = tuple(hit.id for hit in answer.hits[: self._k])
            ms = answer.encode_ms + answer.search_ms
            try:
                self._waiting.put_nowait(_Offered(pair, query, where and dict(where), ids, ms))
            except queue.Full:
                self._count(pair, "shed")

    def report(self) -> ShadowReport:
        """Return what was found so far."""
        reading, since = self._reading, self._busy_since
        with self._lock:
            tallies = {pair: AgreementTally.from_row(tally.as_row()) for pair, tally in self._tallies.items()}
            errors, kept = dict(self._errors), tuple(self._kept or ())
        return ShadowReport(
            self._collection,
            self._state(reading),
            None if reading is None else reading.gen,
            self._share,
            self._k,
            self._waiting.qsize(),
            0.0 if since is None else time.monotonic() - since,
            tallies,
            errors,
            kept,
        )

    def _state(self, reading: Generation | None) -> State:
        if not self._thread.is_alive():
            return "stopped"
        if reading is not None:
            return "reading"
        return "resting" if self._resting else "idle"

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._turn(POLL_S)
        finally:
            self._reading = None
            self._forget_waiting()
            self._save_counts()
            self._engine.dispose()

    def _turn(self, wait_s: float) -> None:
        """Compare one query, or wait up to ``wait_s`` for one, or for a generation that can be read."""
        reading = self._reading = self._follow()
        if time.monotonic() - self._saved_at >= SAVE_S:
            self._save_counts()
        if reading is None:
            self._forget_waiting()
            self._stop.wait(wait_s)
            return
        try:
            offered = self._waiting.get(timeout=wait_s)
        except queue.Empty:
            return
        if offered is None or self._stop.is_set():
            return
        self._busy_since = began = time.monotonic()
        self._compare(offered, reading)
        self._busy_since = None
        self._stop.wait(min(time.monotonic() - began, REST_S))

    def _follow(self) -> Generation | None:
        """Return the generation to read now, if there is one and the circuit is closed."""
        try:
            found = self._building()
        except MODEL_ERRORS as error:  # the database is down: no query is answered either
            self._note_error(error)
            return None
        if found is not None and found.gen != self._known_gen:
            self._known_gen, self._in_row = found.gen, 0
        self._resting = found is not None and self._in_row >= FAILURES and time.monotonic() < self._rest_until
        return None if self._resting else found

    def _building(self) -> Generation | None:
        with self._engine.connect() as connection:
            gen = read_collection(connection, self._collection).building_gen
            found = None if gen is None else read_generation(connection, gen)
        return found if found is not None and found.phase in SEARCHABLE else None

    def _compare(self, offered: _Offered, reading: Generation) -> None:
        if offered.pair[0] != reading.gen:
            self._count(offered.pair, "gone")
            return
        try:
            answer = self._ask(offered, reading)
            if answer is not None:
                self._record(offered, answer)
        except MODEL_ERRORS as error:
            self._failed(offered.pair, error)
        else:
            self._in_row = 0

    def _ask(self, offered: _Offered, reading: Generation) -> Answer | None:
        """Return the answer of the building generation, or None where the end came while its model encoded."""
        self._searcher.encoders.of(reading)  # loaded before the clock runs
        began = time.perf_counter()
        vector = self._searcher.encode(reading, [offered.query])[0]
        encode_ms = (time.perf_counter() - began) * 1_000
        if self._stop.is_set():
            return None
        return self._searcher.search_vector(reading, vector, self._k, where=offered.where, encode_ms=encode_ms)

    def _record(self, offered: _Offered, answer: Answer) -> None:
        ids = tuple(hit.id for hit in answer.hits)
        if not ids and not offered.ids:  # a filter that nothing matches says nothing about the models
            self._count(offered.pair, "skipped")
            return
        overlap, rbo = overlap_at_k(offered.ids, ids, self._k), rank_biased_overlap(offered.ids, ids)
        new_ms = answer.encode_ms + answer.search_ms
        with self._lock:
            for tallies in (self._tallies, self._unsaved):
                tallies[offered.pair].note(overlap, rbo, old_ms=offered.ms, new_ms=new_ms)
            if self._kept is not None:
                self._kept.append(KeptComparison(offered.query, *offered.pair, offered.ids, ids, overlap))

    def _failed(self, pair: tuple[int, int], error: Exception) -> None:
        """Count an error, unless the generation went meanwhile, index and all."""
        with suppress(*MODEL_ERRORS):
            now = self._building()
            if now is None or now.gen != pair[0]:
                self._count(pair, "gone")
                return
        self._note_error(error)
        self._count(pair, "errors")
        self._in_row += 1
        if self._in_row >= FAILURES:
            self._rest_until = time.monotonic() + REST_S
            log.warning(
                "shadow reads of generation %s rest for %.0f s after %d errors in a row, the last a %s",
                pair[0],
                REST_S,
                self._in_row,
                type(error).__name__,
            )

    def _forget_waiting(self) -> None:
        with suppress(queue.Empty):
            while True:
                offered = self._waiting.get_nowait()
                if offered is not None:
                    self._count(offered.pair, "gone")

    def _count(self, pair: tuple[int, int], what: Literal["shed", "skipped", "gone", "errors"]) -> None:
        with self._lock:
            for tallies in (self._tallies, self._unsaved):
                setattr(tallies[pair], what, getattr(tallies[pair], what) + 1)

    def _note_error(self, error: Exception) -> None:
        with self._lock:
            self._errors[type(error).__name__] += 1

    def _save_counts(self) -> None:
        self._saved_at = time.monotonic()
        with self._lock:
            taken, self._unsaved = self._unsaved, defaultdict(AgreementTally)
        if self._save is None or not taken:
            return
        rows = [{"gen": gen, "against": old, "k": self._k, **t.as_row()} for (gen, old), t in taken.items()]
        try:
            with self._engine.begin() as connection:
                self._save(connection, rows)
        except MODEL_ERRORS as error:
            self._note_error(error)
            with self._lock:
                for pair, tally in taken.items():
                    self._unsaved[pair].add(tally)


def _own_engine(engine: sa.Engine) -> sa.Engine:
    """Return an engine on the same database whose statements give up soon; one thread uses it, so it connects once."""
    own = make_engine(
        engine.url.render_as_string(hide_password=False),
        name="revector shadow",
        statement_timeout=f"{STATEMENT_S}s",
    )
    attach(own, stores_of(engine))
    return own
