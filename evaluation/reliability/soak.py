"""A soak with chaos: writers, searchers, workers and a controller at work for long while processes die (layer L6).

    python -m evaluation.reliability.soak --seconds N [--seed N] [--chaos kill,pause,…] [--bug NAME]

Every number of ``soak_report.Plan`` is an option, such as ``--move-every-s 2``; queries at full speed among few writes:
``--writes-per-s 5 --sessions 1 --queries-per-s 0 --query-sessions 1 --move-every-s 2``; one small migration after the
other, every loop of which has several pages: ``--documents 40 --floor 300 --window-s 10 --move-every-s 0``.

Writers put, update and delete; searchers have every answer's scores computed again from the text that is shown; the
controller migrates, swaps, rolls back, goes forward again and retires. Meanwhile each of them is killed with SIGKILL
and started again, alone or all at once, as when a host fails; some are stopped for seconds, connections are ended, and
PostgreSQL is killed. The soak goes window by window: at the end of each all faults end, the live indexes are compared
with the document table row by row, and the window's history is checked, so that memory is bounded however long it
takes.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from evaluation.reliability import checks
from evaluation.reliability.actors import INGESTED
from evaluation.reliability.arena import Outages, database, server
from evaluation.reliability.checker import check
from evaluation.reliability.controller import EVENTS, Controller
from evaluation.reliability.forks import Forks, Notes
from evaluation.reliability.history import Hit, Record, Recorder, load, save
from evaluation.reliability.judge import look
from evaluation.reliability.observer import rows, value
from evaluation.reliability.pieces import RESULTS, add_piece
from evaluation.reliability.site import COLLECTION, Shape, Site
from evaluation.reliability.soak_report import CHAOS, Outcome, Plan, figures, piece_of
from evaluation.reliability.traffic import waited_for
from evaluation.temporary import owned

MODULE = "evaluation.reliability.soak"
PAUSE_S = 0.3, 4.0
JOIN_S, HEAL_S = 90.0, 120.0
LAST_MOVE_S = 10.0
"""How long a move may go on after its window; then its controller is killed, as at any other moment."""

ALL, CONTROLLER = 0.15, 4
"""How often a kill hits everything, and how many times as often as another process the controller is hit."""

MOST_WINDOWS = 10_000
MOST_TIMES = 12
"""So many times its seconds a soak may take until it has met what it was to meet."""

HOT_SHARE, LAPSES = 0.007, 0.01
"""Evidence of a gate lapses when 1 % of the documents changed, so writers have a hot set, as applications have.

What an ingester writes is beside it, where there is room for both.
"""

OBSERVER = 10**12
"""Where the observer's calls begin, above those of all children."""


@dataclass(frozen=True, slots=True)
class Role:
    """What a process is for. ``mortal``: it is killed, stopped and started again."""

    name: str
    actor: str
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    mortal: bool = True


WORKER = Role("worker", "work")
FIRST = Counter(provision=1, swap=1)
"""Moves of the migration that a soak begins with."""


def shape_of(documents: int) -> Shape:
    """Return the shape of a soak's project."""
    index = 'IndexSpec(kind="hnsw", m=8, ef_construction=32, ef_search=10)'
    few = "drain_s = 1\n", "shards = 2\n"
    return Shape(documents, min(60, documents // 2), 24, 24, 4, 70, index, *few)


def soak(database_url: str, plan: Plan, outages: Outages | None = None, bug: str | None = None) -> Outcome:
    """Run a soak on a database that has our tables; ``outages`` kill its server and start it again."""
    root = owned(Path(tempfile.mkdtemp(prefix="revector-soak-")))
    try:
        site, written = Site(root / "project", database_url, shape_of(plan.documents)), Recorder()
        site.begin(written)
        with Forks(plan.floor) as forks:
            forks.open(site, bug)
            forks.run("drain")  # from here on it is ready
            puts = [one for one in written.records if one.op == "put" and one.kind == "ok"]
            state = {str(one.doc_id): Hit(str(one.doc_id), str(one.content), one.version or 0) for one in puts}
            return Soak(forks, site, plan, outages).run(state)
    finally:
        shutil.rmtree(root, ignore_errors=True)


class Soak:
    """The parent of all processes, and their observer."""

    def __init__(self, forks: Forks, site: Site, plan: Plan, outages: Outages | None) -> None:
        self._forks, self._site, self._plan, self._outages = forks, site, plan, outages
        self._draw, self._outcome, self._notes = random.Random(plan.seed), Outcome(), Notes()
        self._hot, self._moves = max(8, int(HOT_SHARE * plan.documents)), site.folder / "moves.jsonl"
        self._running: dict[int, Role] = {}
        self._until, self._round = 0.0, 0
        self._stopped: dict[int, float] = {}

    def run(self, state: Mapping[str, Hit]) -> Outcome:
        """Run windows until the plan is fulfilled; return what was found."""
        started, out, project = time.monotonic(), self._outcome, self._site.project
        # The first worker lives on: its memory is looked at.
        self._start(Role("worker", "work", mortal=False))
        for _ in range(self._plan.workers - 1):
            self._start(WORKER)
        for window in range(1, MOST_WINDOWS):
            state = self._window(window, state)
            out.seconds = round(time.monotonic() - started, 1)
            self._count_moves()
            self._say(window)
            if not state or self._is_done():
                break
        time.sleep(2 * project.settings.drain_s)
        waited_for(lambda: project.migrator(COLLECTION, actor="soak").retire_due())
        out.garbage = {"things of ended generations": len(checks.leftovers(self._site.engine))}
        return out

    def _is_done(self) -> bool:
        plan, out = self._plan, self._outcome
        wanted = {"swap ok": plan.swaps, "rollback ok": plan.rollbacks, "workers killed": plan.workers_killed}
        left = {name: count for name, count in wanted.items() if (out.moves + out.chaos)[name] < count}
        if left and out.seconds > MOST_TIMES * plan.seconds:
            says = f"after {out.seconds:g} s there were not so many: {left}; refused: {dict(out.refusals)}"
            out.problems.append(says)
            return True
        return out.seconds >= plan.seconds and not left

    def _window(self, window: int, state: Mapping[str, Hit]) -> Mapping[str, Hit]:
        """Run one window and rest; return the documents as they stand then, or none if they did not heal."""
        plan, left_s = self._plan, self._plan.seconds - self._outcome.seconds
        self._until = time.monotonic() + (left_s if 0 < left_s < 1.5 * plan.window_s else plan.window_s)
        self._notes = Notes(Recorder(first=OBSERVER + window * 100))
        self._notes.recorder.records += _as_puts(state.values())
        for role in self._crew(window):
            self._start(role)
        self._disturb()
        self._await_all()
        rested = waited_for(lambda: self._judge(window)) if waited_for(lambda: self._heal(window)) else {}
        self._outcome.memory_mib.append(round(self._forks.memory_mib(min(self._running)), 1))
        return rested

    # Processes --------------------------------------------------------------------------------------------------------

    def _crew(self, window: int) -> Iterable[Role]:
        plan, until = self._plan, {"until": self._until}
        shared = {"seed": plan.seed + window, "hot": self._hot, **until}
        asking = {"sessions": plan.query_sessions, "per_s": plan.queries_per_s}
        yield from [Role("searcher", "ask", {**shared, **asking})] * plan.query_processes
        yield Role("sampler", "sample", until, mortal=False)
        if plan.writes_per_s:
            yield Role("writer", "write", {**shared, "sessions": plan.sessions, "per_s": plan.writes_per_s})
            if self._hot + INGESTED < max(plan.floor, int(LAPSES * plan.documents)):
                yield Role("ingester", "ingest", {"pause_s": 5.0})
        if "backend" in plan.chaos:
            ending = {"seed": f"{plan.seed} {window}", "every_s": plan.chaos_every_s}
            yield Role("administrator", "end_backends", {**ending, **until}, mortal=False)
        yield Role("controller", "controller", {"seed": plan.seed, "every_s": plan.move_every_s, **until})

    def _start(self, role: Role) -> None:
        arguments = dict(role.arguments)
        if role.actor == "ingest":
            arguments["round_"] = self._round
        self._running[self._forks.start(role.actor, **arguments)] = role

    def _listen(self, limit_s: float) -> None:
        """Take note of one that ends; what is mortal is started again until the window ends, workers always."""
        end = self._forks.next_end(limit_s)
        if end is None:
            return
        role = self._running.pop(end.child)
        self._stopped.pop(end.child, None)
        self._notes.read(self._site, end)
        if end.status and not (end.killed and role.mortal):
            self._outcome.problems.append(f"a {role.name} ended with {self._notes.said(end)}")
        self._round += role.actor == "ingest" and self._notes.latest.get(end.child, False)
        if role is WORKER or (
            role.mortal and (end.killed or role.actor == "ingest") and time.monotonic() < self._until
        ):
            self._start(role)

    def _await_all(self) -> None:
        """Wait until all but the workers have ended; who does not, is killed, a controller without blame."""
        late = time.monotonic() + LAST_MOVE_S
        while left := {child: role for child, role in self._running.items() if role.actor != "work"}:
            now = time.monotonic()
            for child, role in left.items():
                if now > late and (role.name == "controller" or now > late + JOIN_S):
                    self._forks.kill(child)
            self._listen(0.2)

    # Chaos ------------------------------------------------------------------------------------------------------------

    def _disturb(self) -> None:
        """Kill, stop and restart at random until the window ends; then wake everybody."""
        plan = self._plan
        every = {kind: plan.chaos_every_s for kind in ("kill", "pause") if kind in plan.chaos}
        if "postmaster" in plan.chaos and self._outages is not None:
            every["postmaster"] = plan.postmaster_every_s
        due = {kind: time.monotonic() + self._draw.expovariate(1 / seconds) for kind, seconds in every.items()}
        strikes = {"kill": self._kill, "pause": self._stop, "postmaster": self._kill_server}
        while (now := time.monotonic()) < self._until:
            self._listen(min(0.05, self._until - now))
            self._wake(time.monotonic())
            for kind in [kind for kind, at in due.items() if at <= time.monotonic()]:
                due[kind] = time.monotonic() + self._draw.expovariate(1 / every[kind])
                strikes[kind]()
        self._wake(float("inf"))

    def _kill(self) -> None:
        mortal = {child: role for child, role in self._running.items() if role.mortal}
        struck = list(mortal)
        if self._draw.random() >= ALL:
            weights = [CONTROLLER if role.name == "controller" else 1 for role in mortal.values()]
            struck = self._draw.choices(struck, weights)
        for child in struck:
            self._forks.kill(child)
            self._outcome.chaos[f"{mortal[child].name}s killed"] += 1
        self._look()

    def _kill_server(self) -> None:
        assert self._outages is not None
        self._outcome.chaos[f"{self._outages(self._draw)} killed"] += 1
        self._look()

    def _look(self) -> None:
        """Check what must be true at every instant."""
        found = waited_for(lambda: checks.instant(self._site.engine, self._site.cid))
        self._outcome.problems += [f"just after a kill: {one}" for one in found]

    def _stop(self) -> None:
        child = self._draw.choice([child for child, role in self._running.items() if role.actor == "work"])
        self._forks.kill(child, signal.SIGSTOP)
        self._stopped[child] = time.monotonic() + self._draw.uniform(*PAUSE_S)
        self._outcome.chaos["workers stopped for seconds"] += 1

    def _wake(self, now: float) -> None:
        for child in [child for child, until in self._stopped.items() if until <= now]:
            self._forks.kill(child, signal.SIGCONT)
            del self._stopped[child]

    # At rest ----------------------------------------------------------------------------------------------------------

    def _heal(self, window: int) -> bool:
        """Wait until the live lane is empty and nobody is in a transaction; what is left after ``HEAL_S`` is said."""
        give_up = time.monotonic() + HEAL_S
        while time.monotonic() < give_up:
            if not value(self._site.engine, _WAITING) and not checks.transactions(self._site.engine, 0.0):
                return True
            # What a killed worker had leased would be due after a minute: leases save work, they protect nothing.
            rows(self._site.engine, "UPDATE pending SET lease_until = NULL WHERE attempts > 0 AND state = 'due'")
            time.sleep(0.5)
        left = rows(self._site.engine, "SELECT * FROM pending LIMIT 3")
        self._outcome.problems.append(f"window {window}: not healed within {HEAL_S:g} s, such as {left}")
        return False

    def _judge(self, window: int) -> Mapping[str, Hit]:
        """Compare indexes and documents, whole, and check the window's history; of one with findings it is kept."""
        site, recorder, out = self._site, self._notes.recorder, self._outcome
        noted = len(recorder.records)
        found = look(site.engine, site.cid, site.judge(recorder), recorder, roles=("active", "standby"))
        Controller(site, "", self._moves).settle()
        moves = list(load(self._moves)) if self._moves.exists() else []
        done = Counter(EVENTS.get(one.op, one.op) for one in moves if one.kind == "ok")
        beside = checks.instant(site.engine, site.cid) + checks.effects(site.engine, site.cid, done + FIRST)
        out.problems += [f"window {window}: {one}" for one in beside]
        out.sizes.append(_sizes(site))
        records = sorted([*recorder.records, *moves], key=lambda record: record.at)
        found += check(records)
        for record in recorder.records[:noted]:
            out.count(record)
        out.findings += [one for one in found if one not in out.findings]
        if found:
            save(self._plan.keep / f"revector-soak-{self._plan.seed}-{window}.jsonl", records)
        [table] = [one for one in recorder.records if one.op == "documents" and one.kind == "ok"]
        return {hit.doc_id: hit for hit in table.hits}

    def _count_moves(self) -> None:
        records = load(self._moves) if self._moves.exists() else ()
        self._outcome.moves = Counter(f"{one.op} {one.kind}" for one in records if one.kind != "invoke")
        refusals = self._moves.with_suffix(".errors")
        lines = refusals.read_text().splitlines() if refusals.exists() else []
        self._outcome.refusals = Counter(line.partition(":")[0] for line in lines)

    def _say(self, window: int) -> None:
        out = self._outcome
        eta = max(0.0, self._plan.seconds - out.seconds)
        moves = {name.removesuffix(" ok"): count for name, count in sorted(out.moves.items()) if name.endswith(" ok")}
        print(
            f"window {window}: {out.seconds:.0f} s, {eta:.0f} s left; {out.counts['queries checked']:,} queries "
            f"checked by then; moves {moves}, refused {dict(out.refusals)}; {dict(out.chaos)}; "
            f"{len(out.findings)} findings {out.problems}",
            flush=True,
        )


_WAITING = "SELECT count(*) FROM pending p JOIN slot s USING (gen) WHERE s.role <> 'building'"
_SIZES = """
SELECT CASE WHEN relid = ANY(SELECT relid FROM pg_partition_tree('ledger')) THEN 'ledger'
            WHEN relname IN ('document', 'pending', 'event') THEN relname ELSE 'live indexes' END AS what,
  sum(pg_total_relation_size(relid)) AS bytes, sum(n_dead_tup) AS dead FROM pg_stat_user_tables
WHERE relname IN ('document', 'pending', 'event') OR relid = ANY(SELECT relid FROM pg_partition_tree('ledger'))
  OR relname IN (SELECT g.physical_name FROM slot s JOIN generation g USING (gen)) GROUP BY 1
"""


def _as_puts(state: Iterable[Hit]) -> Iterable[Record]:
    """Yield what there was before a window, as puts."""
    for number, hit in enumerate(state, 1):
        yield Record(-number, "invoke", "put", "before", 0.0, doc_id=hit.doc_id, content=hit.content)
        yield Record(-number, "ok", "put", "before", 0.0, doc_id=hit.doc_id, version=hit.version)


def _sizes(site: Site) -> dict[str, int]:
    """Return the bytes of the tables that a soak could make grow, live indexes together, and their dead rows."""
    found = rows(site.engine, _SIZES)
    return {f"size of {row.what}": int(row.bytes) for row in found} | {"dead rows": sum(int(row.dead) for row in found)}


# The command line -----------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line and soak on a server of our own; return 1 if anything was found or a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for one in fields(Plan):
        if isinstance(one.default, int | float):
            kind, default = type(one.default), one.default
            parser.add_argument(
                f"--{one.name.replace('_', '-')}", type=kind, default=default, help="default: %(default)s"
            )
    parser.add_argument("--chaos", default=",".join(CHAOS), help="any of %(default)s; '' for none")
    parser.add_argument("--bug", help="plant a seeded bug first")
    parser.add_argument("--results", type=Path, default=RESULTS / "soak.json")
    words = vars(parser.parse_args(argv))
    bug, results, chaos = words.pop("bug"), words.pop("results"), tuple(filter(None, words.pop("chaos").split(",")))
    if unknown := set(chaos) - set(CHAOS):
        parser.error(f"no such chaos: {', '.join(sorted(unknown))}; there are {', '.join(CHAOS)}")
    plan = Plan(**words, chaos=chaos)
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # A crash of the server, unlike one of the machine, loses nothing that was handed to the system's cache.
    with server(synchronous_commit="on") as at, database(at) as url:
        outcome = soak(url, plan, Outages(at), bug)
    for one in outcome.findings[:20]:
        print(f"  {one.promise}: {one.detail}")
    for problem in outcome.problems[:20]:
        print(f"  {problem}")
    if bug:  # what it finds is no result of the product
        return 0 if outcome.sound else 1
    holds = add_piece(results, piece_of(plan.seed, outcome), figures, MODULE)
    return 0 if holds and outcome.sound else 1


if __name__ == "__main__":
    sys.exit(main())
