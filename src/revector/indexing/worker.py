"""The live lane as a service: drains the work set of every live generation, before, during and after migrations."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import sqlalchemy as sa

from revector import counts
from revector.crash import crash_at
from revector.errors import (
    DatabaseUnavailable,
    EncoderError,
    GateBusy,
    GenerationGone,
    IndexGone,
    RevectorError,
    StoreUnavailable,
)
from revector.indexing.encoding import Encoders
from revector.indexing.keeping import StoreKeeper
from revector.indexing.publish import Applier
from revector.indexing.watch import Watch
from revector.registry import work
from revector.registry.collections import Generation, read_generation

log = logging.getLogger("revector.worker")

BATCH_DOCUMENTS = 32
POLL_S = 0.2
BACK_OFF_S = 2.0
TELL_S = 60.0
"""How often the log mentions a database that stays away."""
REST_S = 15.0
"""A generation whose encoder or store cannot be used is tried again after this long."""
TEND_S = 60.0
YIELD_S = 1.0
"""So long, at most, an index that is not served waits for served ones that load their encoder or embed a batch."""

DATABASE_ERRORS = DatabaseUnavailable, sa.exc.OperationalError, sa.exc.TimeoutError
Told = Callable[[int, int], None]
"""Called with a generation's number and how many documents a batch published."""


class Worker:
    """Any number of workers may run: an item is leased to save work, and publishing is safe without leases.

    ``run`` gives every live generation threads of its own, so that none waits for another's encoder, neither while it
    loads nor while it embeds; ``drain`` takes the generations in turn, the served ones first.
    """

    def __init__(
        self, engine: sa.Engine, encoders: Encoders, *, tend: Callable[[Sequence[str] | None], None] | None = None
    ) -> None:
        """``tend`` is called once a minute by ``run``, with the names of its collections, for what else is due."""
        self._engine, self._encoders, self._tend = engine, encoders, tend
        self._watch, self._keeper = Watch(engine, encoders), StoreKeeper(engine)
        self._appliers: dict[int, Applier] = {}
        self._rest_until: dict[int, float] = {}
        self._precedence = _Precedence()
        self.outage = _Outage()

    def run(
        self,
        stop: threading.Event,
        *,
        collections: Sequence[str] | None = None,
        on_applied: Told | None = None,
        threads: int = 1,
        once: bool = False,
    ) -> None:
        """Work until ``stop`` is set, with ``threads`` batches of each generation at a time.

        A database that is down, or an encoder that does not load, is waited for; with ``once`` the call ends where
        nothing more is due, and a database that is down raises ``DatabaseUnavailable``. Batches in hand are finished.
        ``on_applied`` is called from several threads.
        """
        lanes, over = dict[int, _Lane](), threading.Event()
        tending = threading.Thread(target=self._tend_until, args=(over, collections), name="tend", daemon=True)
        if self._tend is not None and not once:
            tending.start()
        try:
            while not stop.is_set():
                try:
                    self._look(lanes, collections, partial(_Lane, self, on_applied, threads=threads, once=once))
                    self.outage.over()
                except DATABASE_ERRORS as error:
                    if once:
                        raise
                    self.outage.met(error)
                    stop.wait(BACK_OFF_S)
                ended = once and not any(lane.is_alive() for lane in lanes.values())
                for lane in lanes.values():
                    lane.raise_error()
                if ended:
                    return
                stop.wait(POLL_S)
        finally:
            over.set()
            for lane in lanes.values():
                lane.end()
            for lane in lanes.values():
                lane.join()
            if tending.is_alive():  # what it was at goes on another time
                tending.join(BACK_OFF_S)

    def _look(
        self, lanes: dict[int, _Lane], collections: Sequence[str] | None, begin: Callable[[Generation], _Lane]
    ) -> None:
        """Watch, begin a lane for each generation that is new, and end those of generations that are gone."""
        self._watch.clock()
        self._watch.load()
        live = self._live(collections)
        for gone in lanes.keys() - {generation.gen for generation, _ in live}:
            lanes.pop(gone).end()
        for generation, served in live:
            if generation.gen not in lanes:
                lanes[generation.gen] = begin(generation)
            lanes[generation.gen].served = served

    def _tend_until(self, over: threading.Event, collections: Sequence[str] | None) -> None:
        assert self._tend is not None
        while not over.is_set():
            try:
                self._tend(collections)
            except (RevectorError, sa.exc.SQLAlchemyError) as error:  # it is due again in a minute
                _lament(error)
            over.wait(TEND_S)

    def drain(self, *, collections: Sequence[str] | None = None, on_applied: Told | None = None) -> int:
        """Bring one batch per live generation up to date; return how many documents were published or dead-lettered."""
        return sum(self.batch(generation, on_applied, served=served) for generation, served in self._live(collections))

    def batch(self, generation: Generation, on_applied: Told | None = None, *, served: bool = True) -> int:
        """Bring one batch of a generation up to date; return how many documents were published or dead-lettered.

        0 where the generation is gone, or while it rests because its encoder, table or store cannot be used: its lag
        shows that.
        """
        if time.monotonic() < self._rest_until.get(generation.gen, 0.0):
            return 0
        try:
            with self._precedence.turn(served=served):
                self._watch.encoder(generation)
                self._keeper.look(generation)
                published, dead = self.apply_some(generation)
        except GenerationGone as error:
            log.info("%s", error)
            return 0
        except (IndexGone, StoreUnavailable, GateBusy) as error:  # busy: what a store lost could not be made due
            self._rest_until[generation.gen] = time.monotonic() + REST_S
            _lament(error)
            return 0
        except EncoderError as error:
            self._rest_until[generation.gen] = time.monotonic() + REST_S
            self._watch.encoder_failed(generation, error)
            counts.add("errors", 1, type(error).__name__)
            log.warning("generation %s, revision %s: %s", generation.gen, generation.revision, error)
            return 0
        if on_applied and (published or dead):
            on_applied(generation.gen, published)
        return published + dead

    def apply_some(
        self, generation: Generation, *, lanes: Sequence[str] = ("live",), rows: int = BATCH_DOCUMENTS
    ) -> tuple[int, int]:
        """Claim and apply up to ``rows`` documents of one generation; return (published, dead-lettered)."""
        applier = self.applier(generation)
        ids = work.claim(self._engine, generation.gen, rows=rows, lanes=lanes)
        if not ids:
            return 0, 0
        crash_at("worker.after_claim")
        return applier.apply(ids)

    def applier(self, generation: Generation) -> Applier:
        """Return the applier of a generation, its encoder loaded and proved."""
        if generation.gen not in self._appliers:
            self._appliers[generation.gen] = Applier(
                self._engine, generation, self._encoders.of(generation), self._encoders.chunker_of(generation)
            )
        return self._appliers[generation.gen]

    def warm(self, collections: Sequence[str] | None = None) -> None:
        """Load the encoders of all live generations."""
        for generation, _ in self._live(collections):
            self.applier(generation)

    def _live(self, collections: Sequence[str] | None) -> list[tuple[Generation, bool]]:
        """Return the live generations and whether each is served, those first."""
        with self._engine.connect() as connection:
            slots = connection.execute(
                sa.text(
                    "SELECT s.gen, s.role = 'active' AS served FROM slot s JOIN collection c USING (cid) WHERE "
                    "CAST(:names AS text[]) IS NULL OR c.name = ANY(CAST(:names AS text[])) ORDER BY served DESC, s.gen"
                ),
                {"names": None if collections is None else list(collections)},
            ).all()
            known = {gen: applier.generation for gen, applier in dict(self._appliers).items()}
            for gone in known.keys() - {slot.gen for slot in slots}:
                self._appliers.pop(gone, None)
            return [(known.get(slot.gen) or read_generation(connection, slot.gen), slot.served) for slot in slots]


class _Precedence:
    """Lets served indexes go first: another one begins while none of those is at work, or after ``YIELD_S``."""

    def __init__(self) -> None:
        self._served, self._free = 0, threading.Condition()

    @contextmanager
    def turn(self, *, served: bool) -> Iterator[None]:
        with self._free:
            if not served:
                self._free.wait_for(lambda: not self._served, YIELD_S)
            self._served += served
        try:
            yield
        finally:
            with self._free:
                self._served -= served
                self._free.notify_all()


class _Outage:
    """Tells the log that the database does not answer, or takes no work: at first, each minute, and when it does again.

    Each thread meets it and gets over it for itself; told are the first that meets it and the last that gets over it.
    """

    def __init__(self) -> None:
        self._lock, self._in_it = threading.Lock(), set[int]()
        self._since = self._told = 0.0

    def met(self, error: BaseException) -> None:
        """The calling thread failed with ``error`` and will try again."""
        counts.add("errors", 1, type(error).__name__)
        with self._lock:
            now, first = time.monotonic(), not self._in_it
            self._in_it.add(threading.get_ident())
            if not first and now - self._told < TELL_S:
                return
            self._since, self._told = now if first else self._since, now
        log.warning("%s This worker tries again every %g s and goes on by itself.", error, BACK_OFF_S)

    def over(self) -> None:
        """The calling thread succeeded."""
        if self.left():
            log.info("the database does its part again, after %.0f s", time.monotonic() - self._since)

    def left(self) -> bool:
        """The calling thread is no longer in it; return whether it was the last one."""
        if threading.get_ident() not in self._in_it:
            return False
        with self._lock:
            self._in_it.discard(threading.get_ident())
            return not self._in_it


class _Lane:
    """The threads of one generation; each takes batches until it is told to end, or finds none with ``once``."""

    def __init__(
        self, worker: Worker, on_applied: Told | None, generation: Generation, *, threads: int, once: bool
    ) -> None:
        self._worker, self._generation, self._on_applied, self._once = worker, generation, on_applied, once
        self._over, self._error = threading.Event(), list[BaseException]()
        self.served = True
        self._threads = [
            threading.Thread(target=self._work, name=f"lane-{generation.gen}-{n}", daemon=True) for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        try:
            while not self._over.is_set():
                try:
                    done = self._worker.batch(self._generation, self._on_applied, served=self.served)
                    self._worker.outage.over()
                except DATABASE_ERRORS as error:
                    if self._once:
                        raise
                    self._worker.outage.met(error)
                    self._over.wait(BACK_OFF_S)
                    continue
                if not done and self._once:
                    return
                if not done:
                    self._over.wait(POLL_S)
        except BaseException as error:  # noqa: BLE001 - raised again where the lanes were started
            self._error.append(error)
        finally:
            self._worker.outage.left()

    def end(self) -> None:
        self._over.set()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def is_alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def raise_error(self) -> None:
        if self._error:
            raise self._error[0]


def _lament(error: BaseException) -> None:
    log.warning("%s", error)
    counts.add("errors", 1, type(error).__name__)
