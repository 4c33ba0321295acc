"""Owns real code in steps: actors are threads on one PostgreSQL, of which one at a time advances by one statement.

An actor stands still before every statement, before every commit, at every crash point and where it would sleep; what
it runs between two such places is the library's own code, unchanged. A statement that waits for a lock is told by
PostgreSQL itself (``pg_blocking_pids``), never guessed from time; its actor goes on as soon as the lock is free. Inside
``copy_into`` nothing is seen: a COPY belongs to the step before it.

Who advances is the caller's choice, so a schedule can be repeated. Left to PostgreSQL: which of several statements that
one commit sets free is first (their places in the lock queues repeat, who then takes the next lock or number may not),
whom the search for deadlocks ends on a busy machine, and a lock wait of ``LONG_MS`` that really ends.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa

from revector import crash
from revector.registry import control

PATIENCE_S = 0.002
"""After this long PostgreSQL is asked whether a statement waits for a lock; the answer decides, not the time."""

SHORT_MS, LONG_MS = 10, 3_000
"""Lock budgets in place of the library's own: a wait that nobody ends in time, and one that others may end."""

HANG_S = 2 * LONG_MS / 1_000
SLEEP_S = 0.05
"""What a sleep adds to the actors' clock, however long it was to be."""

SLEEP_STEPS = 16
_sleep, _monotonic = time.sleep, time.monotonic
_here = threading.local()


class Killed(BaseException):
    """The process of this actor ended here; nothing in the library catches it, and what was open is rolled back."""


class Hang(Exception):
    """Every actor waits for a lock and none of these waits ends, or one waits for something outside the database."""


class Actor:
    """One simulated process. ``at`` says before what it stands; ``error`` is what it ended with, if anything."""

    def __init__(self, name: str, body: Callable[[], object]) -> None:
        self.name, self.at, self.state = name, "start", "ready"
        self.error: BaseException | None = None
        self.result: object = None
        self.pids: set[int] = set()
        self.wakes = 0
        """Step before which it is not chosen while others can go on."""
        self.needs: Callable[[], bool] | None = None
        """What it waits for outside the database, until that is true."""
        self._body, self._doomed, self._through, self.impatient = body, False, False, False
        self._go, self._back = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._back.acquire()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        _here.actor = self
        self._go.acquire()
        try:
            if not self._doomed:
                self.result = self._body()
        except BaseException as error:  # noqa: BLE001 - whatever ends it is the caller's to judge
            self.error = error
        self.state = "done"
        self._back.release()

    def stand(self, at: str) -> None:
        """Stand still in the actor's own thread until it is chosen. Raises ``Killed``."""
        if self._through:
            return
        self.at = at
        self._back.release()
        self._go.acquire()
        if self._doomed:
            self._through = True
            raise Killed(at)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Run the block as part of the present step: what the observer does is no step."""
        before, self._through = self._through, True
        try:
            yield
        finally:
            self._through = before

    def doom(self) -> None:
        """Let it end at the place where it stands."""
        self._doomed = True

    def resume(self) -> None:
        """Let its thread run."""
        self._go.release()

    def came_back(self, timeout_s: float) -> bool:
        """Whether it stands still again, or ended, within this time."""
        return self._back.acquire(timeout=timeout_s)

    def join(self) -> None:
        """Wait for the thread of an actor that is done."""
        self._thread.join()


class Stage:
    """Actors on one engine. ``steps`` is the time of the simulation, ``counts`` what happened."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.actors: list[Actor] = []
        self.counts: Counter[str] = Counter()
        self.steps, self._slept_s, self._released = 0, 0.0, False
        self.patient: Callable[[], bool] | None = None
        """Whether the next control transaction has a long lock budget; None leaves the library's own."""
        self.trace: list[str] = []
        self.monitor = psycopg.connect(
            engine.url.set(drivername="postgresql").render_as_string(hide_password=False),
            autocommit=True,
            options="-csearch_path=revector,public,extensions",
        )

    # Actors -----------------------------------------------------------------------------------------------------------

    def enter(self, name: str, body: Callable[[], object]) -> Actor:
        """Add an actor; it stands before its first line."""
        self.actors.append(Actor(name, body))
        return self.actors[-1]

    def restart(self) -> None:
        """Begin another simulation, at step 0."""
        self.clear()
        self.steps, self.trace, self.patient = 0, [], None

    def step(self, actor: Actor) -> None:
        """Let an actor do what it stands before; return when every actor stands, waits for a lock, or is done."""
        self.steps += 1
        self.trace.append(f"{self.steps} {actor.name}: {actor.at}")
        actor.resume()
        self._await(actor)
        self.settle()

    def until(self, actor: Actor, at: str) -> bool:
        """Step an actor until ``at`` occurs in the place where it stands; False if it waits or ended before."""
        while actor.state == "ready" and at not in actor.at:
            self.step(actor)
        return actor.state == "ready"

    def finish(self, actor: Actor) -> bool:
        """Step an actor to its end; False if it waits for a lock before."""
        while actor.state == "ready":
            self.step(actor)
        return actor.state == "done"

    def kill(self, actor: Actor) -> None:
        """End an actor where it stands; what it has not committed is rolled back."""
        self.counts["crashes"] += 1
        self.counts["answers lost after commit"] += "after_commit" in actor.at
        actor.doom()
        self.step(actor)

    def clear(self) -> None:
        """End every actor, whatever it waits for, and forget them."""
        while left := [actor for actor in self.actors if actor.state != "done"]:
            ready = [actor for actor in left if actor.state == "ready"]
            for actor in ready:
                actor.doom()
                self.step(actor)
            if not ready:
                self._end_waits(left)
        for actor in self.actors:
            actor.join()
        self.actors = []

    def come_back(self, awaited: Actor | None = None) -> None:
        """Wait until this actor, or any, can go on: a lock budget or PostgreSQL's search for deadlocks ends a wait.

        Raises ``Hang`` when neither does.
        """
        give_up = _monotonic() + HANG_S
        while blocked := [actor for actor in self.actors if actor.state == "blocked"]:
            if awaited not in blocked and (awaited or any(actor.state == "ready" for actor in self.actors)):
                return
            if _monotonic() > give_up:
                raise Hang(f"all wait for locks: {', '.join(f'{actor.name} before {actor.at}' for actor in blocked)}")
            _sleep(PATIENCE_S)
            self._released = True
            self.settle()

    def settle(self) -> None:
        """Let every actor whose lock is free come to its next place."""
        while self._released and (blocked := [actor for actor in self.actors if actor.state == "blocked"]):
            waiting = self._waiting(blocked)
            freed = [actor for actor in blocked if not actor.pids & waiting]
            if not freed:
                break
            for actor in freed:
                self._await(actor)
        self._released = False

    def _await(self, actor: Actor) -> None:
        give_up = _monotonic() + HANG_S
        while not actor.came_back(PATIENCE_S):
            if not actor.impatient and self._waiting([actor]):
                actor.state = "blocked"
                self.counts["lock waits"] += 1
                while self._is_deadlocked():
                    _sleep(PATIENCE_S)
                    self._released = True
                return
            if _monotonic() > give_up:
                actor.state = "blocked"
                raise Hang(f"{actor.name} does not come back from {actor.at}, and no lock of the database is why")
        if actor.state != "done":
            actor.state = "ready"

    def _waiting(self, actors: Iterable[Actor]) -> set[int]:
        pids = ",".join(str(pid) for actor in actors for pid in tuple(actor.pids))
        # Straight to libpq: this is asked more often than anything else.
        found = self.monitor.pgconn.exec_(
            f"SELECT pid FROM unnest('{{{pids}}}'::int[]) pid WHERE cardinality(pg_blocking_pids(pid)) > 0".encode()
        )
        return {int(found.get_value(row, 0) or 0) for row in range(found.ntuples)}

    def _is_deadlocked(self) -> bool:
        """Whether sessions wait in a circle; PostgreSQL ends one of them, and nobody else advances before."""
        pids = [pid for actor in self.actors for pid in tuple(actor.pids)]
        found = self.monitor.execute("SELECT pid, pg_blocking_pids(pid) FROM unnest(%s::int[]) pid", [pids])
        waits = {pid: set(by) for pid, by in found}
        free: set[int] = set()
        while more := {pid for pid, by in waits.items() if pid not in free and by & waits.keys() <= free}:
            free |= more
        return len(free) < len(waits)

    def _end_waits(self, actors: Iterable[Actor]) -> None:
        for actor in actors:
            actor.doom()
            for pid in tuple(actor.pids):  # its thread may connect meanwhile
                self.monitor.execute("SELECT pg_terminate_backend(%s)", [pid])
        self.come_back()

    # What the hooks call, in the actors' threads ----------------------------------------------------------------------

    def before_statement(
        self, _connection: sa.Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
    ) -> tuple[str, Any]:
        """Stand before a statement, and put a budget of ours in place of a control transaction's."""
        if (actor := current()) is None:
            return statement, parameters
        self.counts["statements"] += 1
        budget = f"'{control.LOCK_BUDGET_MS}ms'"
        if self.patient is not None and "lock_timeout" in statement and budget in statement:
            actor.impatient = not self.patient()
            statement = statement.replace(budget, f"'{SHORT_MS if actor.impatient else LONG_MS}ms'", 1)
        actor.stand(" ".join(statement[:400].split())[:90])
        return statement, parameters

    def before_commit(self, _connection: sa.Connection) -> None:
        """Stand before a commit."""
        if (actor := current()) is not None:
            actor.stand("commit")
            actor.impatient, self._released = False, True

    def at_rollback(self, _connection: sa.Connection) -> None:
        """Take note that locks become free."""
        if (actor := current()) is not None:
            actor.impatient, self._released = False, True

    def at_checkin(self, connection: psycopg.Connection | None, _record: Any) -> None:
        """Take note that an actor gave a connection back."""
        if (actor := current()) is not None and connection is not None:
            actor.pids.discard(connection.info.backend_pid)
            self._released = True

    def at_point(self, name: str) -> None:
        """Stand at a crash point."""
        if (actor := current()) is not None:
            actor.stand(name)

    def at_sleep(self, seconds: float) -> None:
        """Let others go on instead of sleeping."""
        if (actor := current()) is None:
            _sleep(seconds)
        else:
            self._slept_s += SLEEP_S
            actor.wakes = self.steps + SLEEP_STEPS
            actor.stand("sleep")

    def clock(self) -> float:
        """Seconds that pass for actors: sleeps, and a little for every step."""
        return _monotonic() if current() is None else self._slept_s + self.steps / 1_000


def current() -> Actor | None:
    """Return the actor in whose thread this is called, or None."""
    return getattr(_here, "actor", None)


@contextmanager
def stage(engine: sa.Engine) -> Iterator[Stage]:
    """Make an engine's statements steps, for threads that are actors; every other thread is left alone.

    The role needs the right to set ``deadlock_timeout`` (a superuser): at 1 ms, a deadlock is always found by the wait
    that closes it, before anybody else advances, so that the same schedule has the same victim.
    """
    made = Stage(engine)
    hooks: list[tuple[Any, str, Callable[..., Any], dict[str, bool]]] = [
        (engine, "connect", _prepare, {}),
        (engine, "checkout", _taken, {}),
        (engine, "checkin", made.at_checkin, {}),
        (engine, "commit", made.before_commit, {}),
        (engine, "rollback", made.at_rollback, {}),
        (engine, "before_cursor_execute", made.before_statement, {"retval": True}),
    ]
    engine.dispose()
    pool: Any = engine.pool
    # Kept for the next actors, and not asked whether they live: both would cost more than most statements.
    pool._pool.maxsize, pool._pre_ping = 100, False
    for target, name, hook, options in hooks:
        sa.event.listen(target, name, hook, **options)
    crash.watcher, time.sleep, time.monotonic = made.at_point, made.at_sleep, made.clock  # type: ignore[assignment]
    try:
        yield made
    finally:
        made.clear()
        crash.watcher, time.sleep, time.monotonic = None, _sleep, _monotonic
        for target, name, hook, _ in hooks:
            sa.event.remove(target, name, hook)
        made.monitor.close()
        engine.dispose()


def _prepare(connection: psycopg.Connection, _record: Any) -> None:
    connection.execute("SET deadlock_timeout = '1ms'")
    connection.commit()


def _taken(connection: psycopg.Connection, _record: Any, _proxy: Any) -> None:
    if (actor := current()) is not None:
        actor.pids.add(connection.info.backend_pid)
