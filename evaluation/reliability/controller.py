"""The controller of a soak: migrations, swaps, rollbacks and retirements in a loop, and what each really did.

What a move's transaction saw is written down inside it, before it commits; whether it committed is read from the
history of events once nobody can be at it any more. So a controller may be killed at any moment, and the next one knows
what it did.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from evaluation.reliability import checks
from evaluation.reliability.history import Recorder, load
from evaluation.reliability.observer import rows, slots, value
from evaluation.reliability.site import COLLECTION, Site
from evaluation.reliability.traffic import ERRORS, waited_for

from revector.lifecycle import FORWARD, Phase

EVENTS = {"register": "provision"}
"""What an event is called where the history of the proof has another name."""

SHORT_WINDOW_HOURS = 1 / 1_800
ABORTS, FORCED, SHORT = 0.1, 0.1, 0.2
QUIET_S = 30.0
MOST_TURNS = 6
"""Swaps and rollbacks of one generation before the other is retired."""


class Controller:
    """Makes one move after the other; whatever it finds half-done, it goes on with."""

    def __init__(self, site: Site, seed: str, path: Path) -> None:
        self._site, self._path, self._draw = site, path, random.Random(seed)
        self._engine, self._cid = site.engine, waited_for(lambda: site.cid)
        known = list(load(path)) if path.exists() else []
        calls = {one.call: one for one in known if one.kind == "invoke"}
        ended = {one.call for one in known if one.kind != "invoke"}
        self._log = Recorder(first=max(calls, default=0) + 1, path=path)
        self._open = {number: call.op for number, call in calls.items() if number not in ended}
        self._left = self._draw.randrange(MOST_TURNS)
        self._call = 0

    def note(self, note: dict[str, Any]) -> None:
        """Keep what the transaction of the present call saw."""
        with self._path.with_suffix(".notes").open("a") as file:
            file.write(json.dumps({"call": self._call, **note}) + "\n")

    def run(self, until: float, every_s: float) -> None:
        """Decide what is open, then move until the end; refusals go into a file."""
        migrator = waited_for(lambda: self._site.project.migrator(COLLECTION, actor="soak"))
        waited_for(self.settle)
        while time.monotonic() < until:
            try:
                self._step(migrator, until)
            except ERRORS as error:
                with self._path.with_suffix(".errors").open("a") as file:
                    file.write(f"{type(error).__name__}: {error}"[:300].replace("\n", " ") + "\n")
                time.sleep(0.2)
            time.sleep(max(0.0, min(until - time.monotonic(), self._draw.uniform(0.5, 1.5) * every_s)))
        waited_for(self.settle)

    def _step(self, migrator: Any, until: float) -> None:
        collection, live = slots(self._engine, COLLECTION)
        now = value(self._engine, "SELECT clock_timestamp()")
        assert collection.active_gen is not None
        building = collection.building_gen is not None
        if collection.standby_gen is None or building:
            self._migrate(migrator, live[collection.active_gen].revision, until, open_=building)
            return
        standby = live[collection.standby_gen]
        self._left -= 1
        deadline = collection.rollback_deadline
        if deadline is not None and deadline < now + timedelta(hours=2 * SHORT_WINDOW_HOURS):
            self.call("retire", migrator.retire_due)
        elif self._left < 0 and (standby.phase != Phase.ROLLED_BACK or self._draw.random() < 0.5):
            self.call("retire", lambda: migrator.retire("the soak goes on", now=True))
        elif standby.phase == Phase.ROLLED_BACK:
            self.call("swap", lambda: migrator.run("swap", standby.revision))
        else:
            force = self._draw.random() < FORCED
            self.call("rollback", lambda: migrator.rollback("the soak goes back", force=force))

    def _migrate(self, migrator: Any, active: str, until: float, *, open_: bool) -> None:
        target = self._site.add_revision(int(active[1:]) + 1)
        self._left = self._draw.randrange(2, MOST_TURNS)
        if open_ and self._draw.random() < ABORTS:
            self.call("abort", lambda: migrator.abort("the soak tries again"))
            return
        hours = SHORT_WINDOW_HOURS if self._draw.random() < SHORT else 48.0
        for step in FORWARD:
            if time.monotonic() > until:
                return
            if step == "provision":
                self.call("register", lambda: migrator.run("provision", target, window_hours=hours))
            elif step == "swap":
                self.call("swap", lambda: migrator.run("swap", target))
            else:
                migrator.run(step, target)

    def call(self, op: str, move: Callable[[], Any]) -> None:
        """Make one move and write down how it ended; raises what it raises."""
        self._call = self._log.invoke(op, "controller")
        self._open[self._call] = op
        try:
            move()
        finally:
            waited_for(self.settle)

    # What really happened ---------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Give every open call its outcome: what it noted and an event tells is done, all else is not."""
        noted = {call: self._notes(call) for call in self._open}
        if any(noted.values()) and not self._happened([n for notes in noted.values() for n in notes]):
            self._wait_for_others()
        for call, op in list(self._open.items()):
            done = self._happened(noted[call])
            for note in done[-1:]:
                facts = {name: note[name] for name in ("gen", "epoch", "detail")}
                self._log.ok(call, op, "controller", **facts)
            if not done:
                self._log.fail(call, op, "controller")
            del self._open[call]

    def _notes(self, call: int) -> list[dict[str, Any]]:
        """Return the notes of a call; of several, all but the last were undone or the call did several moves."""
        path, found = self._path.with_suffix(".notes"), list[dict[str, Any]]()
        for line in path.read_text().splitlines() if path.exists() else []:
            with contextlib.suppress(json.JSONDecodeError):  # one killed in the middle of a line did not commit
                found.append(json.loads(line))
        return [note for note in found if note["call"] == call]

    def _happened(self, notes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = "SELECT epoch, kind, gen FROM event WHERE cid = :cid AND epoch = ANY(:epochs)"
        known = set(map(tuple, rows(self._engine, found, cid=self._cid, epochs=[note["epoch"] for note in notes])))
        return [note for note in notes if (note["epoch"], EVENTS.get(note["op"], note["op"]), note["gen"]) in known]

    def _wait_for_others(self) -> None:
        """Wait until every transaction that is running now has ended: one of them may be a killed controller's."""
        now = value(self._engine, "SELECT clock_timestamp()")
        older = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start < :now AND pid <> "
            "pg_backend_pid() AND backend_type = 'client backend'"
        )
        what = "every transaction of the controllers before has ended"
        checks.wait_until(lambda: value(self._engine, older, now=now) == 0, QUIET_S, what, poll_s=0.05)
