"""Owns the faults of clocks: the database's clock steps by hours and days, the workers' own clock is a day off.

The product is not touched: its schema gets a ``clock_timestamp()`` of its own, and the search path of the sessions
under test names ``pg_catalog`` after it. Triggers follow it as statements do; column defaults are bound to it once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa
from evaluation.reliability.checker import Finding
from evaluation.reliability.faults_place import LIMIT_S, Models, Place, broken, until_found
from evaluation.reliability.observer import apply_all
from evaluation.reliability.site import COLLECTION, NEW, OLD

from revector.config import Project
from revector.errors import ClockJumped, WindowOpen
from revector.indexing import watch
from revector.interfaces import NoProgress
from revector.registry import moves
from revector.registry.control import control

HOUR_S = 3_600.0
DAY_S = 24 * HOUR_S
WINDOW_HOURS = 20.0
"""Shorter than the day by which a host's clock is wrong."""

STEPS_S = {"+3 h": 3 * HOUR_S, "-3 h": -3 * HOUR_S, "+3 d": 3 * DAY_S}
PATH = "revector, pg_catalog, public, extensions"

INSTALL = """
CREATE SCHEMA IF NOT EXISTS simulated;
CREATE TABLE IF NOT EXISTS simulated.clock (ahead interval NOT NULL);
TRUNCATE simulated.clock;
INSERT INTO simulated.clock VALUES ('0');
CREATE OR REPLACE FUNCTION revector.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
  $$ SELECT pg_catalog.clock_timestamp() + ahead FROM simulated.clock $$;
DO $$ DECLARE one record; BEGIN
  FOR one IN SELECT d.adrelid::regclass AS place, a.attname AS name FROM pg_attrdef d
    JOIN pg_attribute a ON (a.attrelid, a.attnum) = (d.adrelid, d.adnum)
    WHERE pg_get_expr(d.adbin, d.adrelid) = 'clock_timestamp()' LOOP
    EXECUTE format('ALTER TABLE %s ALTER %I SET DEFAULT revector.clock_timestamp()', one.place, one.name);
  END LOOP;
END $$;
"""


class Clock:
    """The clock that ``project`` sees in its database; the observer beside it keeps the true one."""

    def __init__(self, place: Place) -> None:
        self.place = place
        with place.direct.engine.begin() as connection:
            connection.connection.cursor().execute(INSTALL)
        self.project: Project = place.connected(str(place.direct.settings.database_url))
        sa.event.listen(self.project.raw_engine, "connect", _take_path)

    def set(self, seconds: float) -> None:
        """Set the database's clock so many seconds ahead of the true time."""
        self.place.rows("UPDATE simulated.clock SET ahead = make_interval(secs => :seconds)", seconds=seconds)

    def close(self) -> None:
        """Set the clock right again."""
        self.set(0)
        self.project.raw_engine.dispose()


def _take_path(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET search_path = {PATH}")
    connection.commit()


@contextmanager
def running_on(watching: Clock) -> Iterator[RunningClock]:
    """Let the clock that nobody sets, by which workers notice jumps, run as fast as the caller says."""
    before, mine = watch.running_s, RunningClock(watching)
    watch.running_s = lambda: mine.now_s
    try:
        yield mine
    finally:
        watch.running_s = before


@dataclass
class RunningClock:
    """Seconds since the worker began; ``pass_by`` lets them pass in the database, too, with a jump on top."""

    clock: Clock
    now_s: float = 0.0
    ahead_s: float = 0.0

    def pass_by(self, seconds: float, *, jump_s: float = 0.0) -> None:
        """Let time pass."""
        self.now_s += seconds
        self.ahead_s += seconds + jump_s
        self.clock.set(self.ahead_s)


@contextmanager
def wrong_host_clock(seconds: float) -> Iterator[None]:
    """Set this process's own idea of the time of day wrong."""
    before = time.time
    time.time = lambda: before() + seconds
    try:
        yield
    finally:
        time.time = before


class Stepped:
    """Scenarios on a place whose database clock steps."""

    def __init__(self, place: Place) -> None:
        self.place, self.clock = place, Clock(place)
        self.fired: Counter[tuple[str, str]] = Counter()
        self._migrator = self.clock.project.migrator(COLLECTION, actor="stepped")

    def window(self, name: str) -> list[Finding]:
        """Step the clock inside the rollback window, a worker looking on.

        Nothing may be retired by itself, and the way back stays open; a person can end the window.
        """
        scenario, found = f"clock: {name} in the rollback window", list[Finding]()
        self._swap()
        with running_on(self.clock) as passed:
            worker = self.clock.project.worker()
            worker._watch.clock()
            passed.pass_by(60, jump_s=STEPS_S[name])
            worker._watch.clock()
            found += self._not_retired(scenario)
            self._rollback(scenario, found)
        return found + self._back(scenario, name, "window")

    def window_ends(self) -> list[Finding]:
        """Let the hours of the window pass honestly: it ends by itself, or windows would never end."""
        scenario = "clock: 21 h pass"
        self._swap()
        with running_on(self.clock) as passed:
            worker = self.clock.project.worker()
            worker._watch.clock()
            passed.pass_by((WINDOW_HOURS + 1) * HOUR_S)
            worker._watch.clock()
            done = self._migrator.retire_due().changed
        found = [] if done else [broken("a window ends after its hours", scenario, "nothing was retired")]
        return found + self._back(scenario, "time passes", "window", undo=False)

    def host(self, seconds: float) -> list[Finding]:
        """Set the host's own clock wrong: nothing is decided by it."""
        scenario, found = f"clock: host {seconds / DAY_S:+.0f} d", list[Finding]()
        with wrong_host_clock(seconds):
            self._swap()
            written = self._put(3)
            apply_all(self.clock.project)
            found += self._waits(scenario, written) + self._not_retired(scenario)
            self._rollback(scenario, found)
        return found + self._back(scenario, "host's clock", f"{seconds / DAY_S:+.0f} d")

    def work_goes_on(self, name: str) -> list[Finding]:
        """Step the clock while items wait, are leased and back off: all are applied soon, whatever it says."""
        scenario, found = f"clock: {name} while work waits", list[Finding]()
        due, leased, failed = self._put(1), self._put(1), self._put(1)
        self.place.rows(
            "UPDATE pending SET lease_until = revector.clock_timestamp() + interval '60 s' WHERE doc_id = :doc_id",
            doc_id=leased[0],
        )
        self.place.rows(
            "UPDATE pending SET attempts = 1, due_at = revector.clock_timestamp() + interval '1 s' WHERE doc_id = :id",
            id=failed[0],
        )
        self.clock.set(STEPS_S[name])
        apply_all(self.clock.project)
        self.clock.set(STEPS_S[name] + 120)  # both pauses are over by any clock
        apply_all(self.clock.project)
        found += self._waits(scenario, [*due, *leased, *failed])
        return found + self._back(scenario, name, "worker", undo=False)

    def lease(self) -> list[Finding]:
        """Step the clock over a lease while its holder hangs: two hold it, and the newer result wins."""
        scenario, place = "clock: +3 d over a lease", self.place
        (doc_id,) = self._put(1)
        slow = self.clock.project.worker()
        slow.warm()
        models: Models = self.clock.project.encoders._load  # type: ignore[assignment]
        with models.hanging(slow.drain):
            place.put(place.author.put(doc_id))
            self.clock.set(STEPS_S["+3 d"])
            apply_all(self.clock.project)
        return self._back(scenario, "+3 d", "lease", undo=False)

    def drop_waits(self) -> list[Finding]:
        """Step the clock back between a retirement and its drop: the drop waits its drain time, not hours."""
        scenario = "clock: -3 h before a drop"
        self._swap()
        self._migrator.rollback("a trial")
        seen = self.place.collection()
        with control(self.clock.project.engine, seen.cid, actor="stepped", epoch=seen.epoch) as held:
            moves.retire(held, reason="a trial", now=True)
        self.clock.set(STEPS_S["-3 h"])
        noted = _NotedWait()
        migrator = self.clock.project.migrator(COLLECTION, actor="stepped", progress=noted)
        found = []
        try:
            migrator.retire()
        except _WaitsTooLongError as error:
            found = [broken("a drop waits for its drain time only", scenario, str(error))]
        self.clock.set(0)
        migrator.retire()
        return found + self._back(scenario, "-3 h", "drop", undo=False)

    def _put(self, count: int) -> list[str]:
        return self.place.put(count, self.clock.project)

    def _waits(self, scenario: str, doc_ids: list[str]) -> list[Finding]:
        left = self.place.rows("SELECT doc_id, due_at, lease_until FROM pending WHERE doc_id = ANY(:ids)", ids=doc_ids)
        return [broken("no clock stops work", scenario, f"{left} wait")] if left else []

    def _swap(self) -> None:
        self._migrator.upgrade(NEW, window_hours=WINDOW_HOURS)

    def _not_retired(self, scenario: str) -> list[Finding]:
        """Ask for what is due, as the scheduler does; the standby must still be there afterwards."""
        with suppress(ClockJumped, WindowOpen):
            self._migrator.retire_due()
        if self.place.collection().standby_gen is None:
            return [broken("no early retirement", scenario, "the standby is gone")]
        return []

    def _rollback(self, scenario: str, found: list[Finding]) -> None:
        if self.place.collection().standby_gen is None:
            return
        self._migrator.rollback("a trial")
        if self.place.generation(self.place.collection().active_gen).revision != OLD:
            found.append(broken("the way back stays open", scenario, "the alias did not move"))

    def _back(self, scenario: str, fault: str, where: str, *, undo: bool = True) -> list[Finding]:
        """Set the clock right, end the migration so that ``OLD`` serves, and compare everything."""
        self.clock.set(0)
        self.fired[f"clock: {fault}", where] += 1
        self.place.settle()
        found = self.place.invariants(scenario) + self.place.compare(scenario)
        observer = self.place.direct.migrator(COLLECTION, actor="observer")
        if undo and self.place.collection().standby_gen is not None:
            observer.retire("the trial is over", now=True)
        return found


class _WaitsTooLongError(Exception):
    pass


class _NotedWait(NoProgress):
    def start(self, what: str, *_: object, **__: object) -> None:
        """Refuse to wait long."""
        if what.startswith("wait") and float(what.split()[1]) > LIMIT_S:
            raise _WaitsTooLongError(what)


def strike_all(place: Place) -> tuple[list[Finding], Counter[tuple[str, str]]]:
    """Run every scenario once, until one finds something.

    Returns what was found, and how often each fault struck what.
    """
    stepped = Stepped(place)
    scenarios: list[Callable[[], list[Finding]]] = []
    for name in STEPS_S:
        scenarios += [partial(stepped.window, name), partial(stepped.work_goes_on, name)]
    scenarios += [partial(stepped.host, seconds) for seconds in (DAY_S, -DAY_S)]
    scenarios += [stepped.lease, stepped.drop_waits, stepped.window_ends]  # after the last the new revision stays
    found = until_found(scenarios)
    stepped.clock.close()
    return found, stepped.fired
