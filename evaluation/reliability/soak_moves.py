"""The controller of a soak: migrations, swaps, rollbacks and retirements in a loop, and what each really did.

What a move's transaction saw is written down inside it, by statements of this module, before it commits; whether it
committed is read from the history of events once nobody can be at it any more. So a controller may be killed at any
moment, and the next one knows what it did.
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

import sqlalchemy as sa
from evaluation.reliability.history import load, save
from evaluation.reliability.soak_roles import ERRORS, Log, opened, waited_for
from evaluation.reliability.soak_site import COLLECTION, Site, write_revision

from revector.config import Project
from revector.lifecycle import FORWARD, Phase
from revector.registry import moves
from revector.registry.collections import read_collection, read_generation
from revector.registry.control import Control

EVENTS = {"register": "provision"}
"""What an event is called where the history of the proof has another name."""

SHORT_WINDOW_HOURS = 1 / 1_800
ABORTS, FORCED, SHORT = 0.1, 0.1, 0.2
QUIET_S = 30.0
MOST_TURNS = 6
"""Swaps and rollbacks of one generation before the other is retired."""

_UNLIKE = """
SELECT count(*) FROM document d
  LEFT JOIN (SELECT DISTINCT doc_id, version FROM {name}) i
    ON i.doc_id = d.doc_id AND (d.deleted OR i.version = d.version)
WHERE d.cid = :cid AND d.deleted = (i.doc_id IS NOT NULL)
"""


class Notes:
    """What each move's transaction saw, kept in a file before it commits; ``call`` is the one that is made now."""

    def __init__(self, path: Path) -> None:
        self._path, self.call = path, 0

    def of(self, call: int) -> list[dict[str, Any]]:
        """Return the notes of a call; of several, all but the last were undone or the call did several moves."""
        found: list[dict[str, Any]] = []
        for line in self._path.read_text().splitlines() if self._path.exists() else []:
            with contextlib.suppress(json.JSONDecodeError):  # whoever was killed in the middle of a line did not commit
                found.append(json.loads(line))
        return [note for note in found if note["call"] == call]

    def watch(self) -> None:
        """Have every move of this process noted."""
        for op in ("register", "swap", "rollback", "retire", "abort"):
            setattr(moves, op, self._noting(op, getattr(moves, op)))

    def _noting(self, op: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def move(control: Control, *args: Any, **options: Any) -> Any:
            collection = control.collection
            detail = _seen(op, control, *args, **options)
            done = original(control, *args, **options)
            row = control.connection.execute(
                sa.text("SELECT epoch, active_gen, building_gen FROM collection WHERE cid = :cid"),
                {"cid": collection.cid},
            ).one()
            if row.epoch != collection.epoch:
                gen = {"register": row.building_gen, "retire": collection.standby_gen, "abort": collection.building_gen}
                note = {"call": self.call, "op": op, "epoch": row.epoch, "gen": gen.get(op, row.active_gen)}
                with self._path.open("a") as file:
                    file.write(json.dumps({**note, "detail": detail}) + "\n")
            return done

        return move


def _seen(op: str, control: Control, *args: Any, **options: Any) -> dict[str, Any]:
    """Ask the move's own transaction for what must be true in it, without the library's help."""
    collection = control.collection
    if op == "swap":
        generation = args[0]
        verdicts = control.connection.execute(
            sa.text("SELECT DISTINCT ON (kind) kind, passed FROM gate_result WHERE gen = :gen ORDER BY kind, id DESC"),
            {"gen": generation.gen},
        ).all()
        passed = {row.kind for row in verdicts if row.passed}
        waiting = control.scalar(_UNLIKE.format(name=generation.physical_name), cid=collection.cid)
        facts = {"old": collection.active_gen, "waiting": waiting, "waived": 0}
        return facts | {"verified": "verify" in passed, "recalled": "recall" in passed}
    if op == "rollback":
        return {"old": collection.active_gen, "forced": options["force"]}
    if op == "retire":
        over = control.scalar(
            "SELECT clock_timestamp() >= rollback_deadline FROM collection WHERE cid = :cid", cid=collection.cid
        )
        return {"deadline_passed": bool(over), "given_up": options["now"]}
    return {}


class Controller:
    """Makes one move after the other; whatever it finds half-done, it goes on with."""

    def __init__(self, site: Site, project: Project, seed: str, path: Path) -> None:
        self._site, self._project, self._path = site, project, path
        self._draw = random.Random(seed)  # noqa: S311 - a workload
        self._log = Log(0)
        self._log.records = list(load(path)) if path.exists() else []
        for _ in self._log.records:
            next(self._log._calls)
        self._notes = Notes(path.with_suffix(".notes"))
        self._left = self._draw.randrange(MOST_TURNS)

    def run(self, until: float, every_s: float) -> None:
        """Decide what is open, then move until the end; refusals go into a file."""
        self._notes.watch()
        migrator = waited_for(lambda: self._project.migrator(COLLECTION, actor="soak"))
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
        with self._project.engine.connect() as connection:
            collection = read_collection(connection, COLLECTION)
            live = {gen: read_generation(connection, gen) for gen in collection.live}
            now = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
        assert collection.active_gen is not None
        if collection.standby_gen is None or collection.building_gen is not None:
            self._migrate(
                migrator, live[collection.active_gen].revision, until, open_=collection.building_gen is not None
            )
            return
        standby = live[collection.standby_gen]
        self._left -= 1
        deadline = collection.rollback_deadline
        if deadline is not None and deadline < now + timedelta(hours=2 * SHORT_WINDOW_HOURS):
            self.call("retire", standby.gen, migrator.retire_due)
        elif self._left < 0 and (standby.phase != Phase.ROLLED_BACK or self._draw.random() < 0.5):
            self.call("retire", standby.gen, lambda: migrator.retire("the soak goes on", now=True))
        elif standby.phase == Phase.ROLLED_BACK:
            self.call("swap", standby.gen, lambda: migrator.run("swap", standby.revision))
        else:
            force = self._draw.random() < FORCED
            self.call("rollback", standby.gen, lambda: migrator.rollback("the soak goes back", force=force))

    def _migrate(self, migrator: Any, active: str, until: float, *, open_: bool) -> None:
        target = write_revision(self._site.root, int(active[1:]) + 1)
        self._left = self._draw.randrange(2, MOST_TURNS)
        if open_ and self._draw.random() < ABORTS:
            self.call("abort", None, lambda: migrator.abort("the soak tries again"))
            return
        hours = SHORT_WINDOW_HOURS if self._draw.random() < SHORT else 48.0
        for step in FORWARD:
            if time.monotonic() > until:
                return
            if step == "provision":
                self.call("register", None, lambda: migrator.run("provision", target, window_hours=hours))
            elif step == "swap":
                self.call("swap", None, lambda: migrator.run("swap", target))
            else:
                migrator.run(step, target)

    def call(self, op: str, gen: int | None, move: Callable[[], Any]) -> None:
        """Make one move and write down how it ended; raises what it raises."""
        self._notes.call = self._log.invoke(op, "controller", gen=gen)
        self._keep()
        try:
            move()
        finally:
            waited_for(self.settle)

    # What really happened ---------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Give every open call its outcome: what it noted and an event tells is done, all else is not."""
        ended = {one.call for one in self._log.records if one.kind != "invoke"}
        open_ = [one for one in self._log.records if one.call not in ended]
        noted = {one.call: self._notes.of(one.call) for one in open_}
        if any(noted.values()) and not self._happened([n for notes in noted.values() for n in notes]):
            self._wait_for_others()
        for one in open_:
            done = self._happened(noted[one.call])
            for note in done[-1:]:
                facts = {"gen": note["gen"], "epoch": note["epoch"], "detail": note["detail"]}
                self._log.ok(one.call, one.op, one.process, **facts)
            if not done:
                self._log.fail(one.call, one.op, one.process)
        self._keep()

    def _keep(self) -> None:
        fresh = self._path.with_suffix(".fresh")
        save(fresh, self._log.records)
        fresh.replace(self._path)

    def _happened(self, notes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        with self._project.engine.connect() as connection:
            found = connection.execute(
                sa.text("SELECT epoch, kind, gen FROM event WHERE cid = :cid AND epoch = ANY(:epochs)"),
                {"cid": self._project.cid(COLLECTION), "epochs": [note["epoch"] for note in notes]},
            ).all()
        known = {(row.epoch, row.kind, row.gen) for row in found}
        return [note for note in notes if (note["epoch"], EVENTS.get(note["op"], note["op"]), note["gen"]) in known]

    def _wait_for_others(self) -> None:
        """Wait until every transaction that is running now has ended: one of them may be a killed controller's."""
        with self._project.engine.connect() as connection:
            now = connection.scalar(sa.text("SELECT clock_timestamp()"))
        older = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start < :now AND pid <> "
            "pg_backend_pid() AND backend_type = 'client backend'"
        )
        give_up = time.monotonic() + QUIET_S
        while time.monotonic() < give_up:
            with self._project.engine.connect() as connection:
                if not connection.scalar(sa.text(older), {"now": now}):
                    return
            time.sleep(0.05)
        raise TimeoutError(f"a transaction has been running for more than {QUIET_S:g} s")


def control(site: Site, seed: str, path: Path, until: float, every_s: float) -> None:
    """Be the controller until then."""
    project = waited_for(lambda: opened(site))
    Controller(site, project, seed, path).run(until, every_s)
