"""A soak with chaos: writers, searchers, workers and a controller at work for long while processes die (layer L6).

    python -m evaluation.reliability.soak --seconds N [--seed N] [--query-processes 2] [--chaos kill,pause,…]
        [--fast-moves] [--queries-only-load] [--bug NAME]

Writers put, update and delete; searchers have every answer's scores computed again from the text that is shown; the
controller migrates, swaps, rolls back, goes forward again and retires. Meanwhile workers and controller are killed with
SIGKILL, workers are stopped for seconds, connections are ended, and PostgreSQL's postmaster is killed. The soak goes
window by window: at the end of each all faults end, the live indexes are compared with the document table row by row,
and the window's history is checked, so that memory is bounded however long it takes.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from evaluation.reliability.arena import server
from evaluation.reliability.checker import Finding
from evaluation.reliability.pieces import RESULTS, add_piece
from evaluation.reliability.soak_checks import judge_window, rest, tidy
from evaluation.reliability.soak_moves import control
from evaluation.reliability.soak_report import CHAOS, Outcome, Plan, figures, piece_of
from evaluation.reliability.soak_roles import Load, ask, end_backends, sample, work, write
from evaluation.reliability.soak_site import Site, make_site
from evaluation.temporary import owned

from revector import embedded
from revector.database.engine import make_engine, upgrade_schema

if TYPE_CHECKING:
    from multiprocessing.context import ForkProcess

MODULE = "evaluation.reliability.soak"
PAUSE_S = 0.3, 4.0
JOIN_S = 90.0
LAST_MOVE_S = 10.0
"""How long a move may go on after its window; then its controller is killed, as at any other moment."""

MOST_WINDOWS = 10_000
MOST_TIMES = 12
"""So many times its seconds a soak may take until it has met what it was to meet."""

DIES_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


def soak(database_url: str, plan: Plan, restart: Callable[[], None] | None = None) -> Outcome:
    """Run a soak on a database that has our tables; ``restart`` kills its postmaster and starts it again.

    Processes are forked, so a bug planted in this process is in all of them.
    """
    root = owned(Path(tempfile.mkdtemp(prefix="revector-soak-")))
    try:
        site, state = make_site(root, database_url, plan.documents)
        return Soak(site, plan, restart).run({doc_id: list(value) for doc_id, value in state.items()})
    finally:
        shutil.rmtree(root, ignore_errors=True)


class Soak:
    """The parent of all processes. It opens no connection itself and has no thread, so that it may fork at any time."""

    def __init__(self, site: Site, plan: Plan, restart: Callable[[], None] | None) -> None:
        self._site, self._plan, self._restart = site, plan, restart
        self._draw = random.Random(plan.seed)  # noqa: S311 - moments, not secrets
        self._forking, self._numbers = multiprocessing.get_context("fork"), iter(range(1, 10**6))
        self._outcome, self._moves = Outcome(), site.root / "moves.jsonl"
        self._workers: list[ForkProcess] = []
        self._judges: list[tuple[Path, ForkProcess]] = []

    def run(self, state: Mapping[str, Sequence[Any]]) -> Outcome:
        """Run windows until the plan is fulfilled; return what was found. No process is left behind."""
        started, out = time.monotonic(), self._outcome
        try:
            self._workers = [self._start(work, self._site) for _ in range(self._plan.workers)]
            for window in range(1, MOST_WINDOWS):
                state = self._window(window, state)
                out.seconds = round(time.monotonic() - started, 1)
                self._count_moves()
                self._say(window)
                if not state or self._is_done():
                    break
            for folder, judge in self._judges:
                self._judged(folder, judge)
            tidied = self._site.root / "tidied.json"
            self._join(self._start(tidy, self._site, tidied))
            out.garbage = json.loads(tidied.read_text()) if tidied.exists() else {}
        finally:
            for process in self._forked():
                process.kill()
                process.join()
        return out

    def _is_done(self) -> bool:
        plan, out = self._plan, self._outcome
        wanted = {"swap ok": plan.swaps, "rollback ok": plan.rollbacks, "workers killed": plan.workers_killed}
        left = {name: count for name, count in wanted.items() if (out.moves + out.chaos)[name] < count}
        if left and out.seconds > MOST_TIMES * plan.seconds:
            out.problems.append(
                f"after {out.seconds:g} s there were not so many: {left}; refused: {dict(out.refusals)}"
            )
            return True
        return out.seconds >= plan.seconds and not left

    def _window(self, window: int, state: Mapping[str, Sequence[Any]]) -> Mapping[str, Sequence[Any]]:
        """Run one window and rest; return the documents as they stand then, or none if they did not heal."""
        plan, folder = self._plan, self._site.root / f"window-{window}"
        folder.mkdir()
        (folder / "before.json").write_text(json.dumps(state))
        left_s = plan.seconds - self._outcome.seconds
        load = Load(
            window=window,
            seed=plan.seed,
            until=time.monotonic() + (left_s if 0 < left_s < 1.5 * plan.window_s else plan.window_s),
            writes_per_s=plan.writes_per_s,
            sessions=plan.sessions,
            queries_per_s=plan.queries_per_s,
            query_sessions=plan.query_sessions,
            before={doc_id: str(content) for doc_id, (content, _) in state.items()},
        )
        processes = self._start_load(load, folder)
        self._disturb(load, self._start_controller(load, 0))
        for process in processes:
            self._join(process)
        looks = self._start(rest, self._site, next(self._numbers), window, folder)
        self._join(looks, 2 * JOIN_S)
        found = json.loads((folder / "rest.json").read_text()) if (folder / "rest.json").exists() else {"problems": []}
        self._outcome.problems += found["problems"]
        self._outcome.sizes += [found["sizes"]] if "sizes" in found else []
        self._outcome.memory_mib.append(round(psutil.Process(self._workers[0].pid).memory_info().rss / 2**20, 1))
        kept = plan.keep / f"revector-soak-{plan.seed}-{window}.jsonl"
        self._judges.append((folder, self._start(judge_window, folder, self._moves, kept)))
        while len(self._judges) > 1:
            self._judged(*self._judges.pop(0))
        rested: Mapping[str, Sequence[Any]] = found.get("state", {})
        return rested

    # Processes --------------------------------------------------------------------------------------------------------

    def _start(self, body: Callable[..., None], *given: Any) -> ForkProcess:
        process = self._forking.Process(target=_child, args=(body, *given), name=body.__name__, daemon=True)
        process.start()
        return process

    def _start_load(self, load: Load, folder: Path) -> list[ForkProcess]:
        number, site = self._numbers, self._site
        processes = (
            [self._start(write, site, load, next(number), folder / "write-1.jsonl")] if load.writes_per_s else []
        )
        processes += [
            self._start(ask, site, load, next(number), folder / f"ask-{n}.jsonl")
            for n in range(self._plan.query_processes)
        ]
        processes.append(self._start(sample, site, load, next(number), folder / "sample.jsonl"))
        if "backend" in self._plan.chaos:
            every_s = self._plan.chaos_every_s
            processes.append(self._start(end_backends, site, load, every_s, folder / "backends.ended"))
        return processes

    def _start_controller(self, load: Load, life: int) -> ForkProcess:
        seed = f"{load.seed} {load.window} {life}"
        return self._start(control, self._site, seed, self._moves, load.until, self._plan.move_every_s)

    def _join(self, process: ForkProcess, limit_s: float = JOIN_S, ends: Sequence[int] = (0,)) -> None:
        process.join(limit_s)
        if process.exitcode is None:
            process.kill()
            process.join()
        if process.exitcode not in ends:
            self._outcome.problems.append(f"the process {process.name} ended with {process.exitcode}")

    def _forked(self) -> list[ForkProcess]:
        return [*self._workers, *(judge for _, judge in self._judges), *multiprocessing.active_children()]  # type: ignore[list-item]

    # Chaos ------------------------------------------------------------------------------------------------------------

    def _disturb(self, load: Load, controller: ForkProcess) -> None:
        """Kill, stop and restart at random until the window ends; then wake everybody and wait for the controller."""
        plan, lives = self._plan, 0
        every: dict[str, float] = {kind: plan.chaos_every_s for kind in ("kill", "pause") if kind in plan.chaos}
        if "postmaster" in plan.chaos and self._restart is not None:
            every["postmaster"] = plan.postmaster_every_s
        due = {kind: time.monotonic() + self._draw.expovariate(1 / seconds) for kind, seconds in every.items()}
        stopped: dict[int, float] = {}
        while (now := time.monotonic()) < load.until:
            time.sleep(min(0.05, load.until - now))
            self._wake(stopped, time.monotonic())
            for kind in [kind for kind, at in due.items() if at <= time.monotonic()]:
                due[kind] = time.monotonic() + self._draw.expovariate(1 / every[kind])
                if kind == "pause":
                    self._stop(stopped)
                elif kind == "postmaster" and self._restart is not None:
                    self._restart()
                    self._outcome.chaos["postmaster killed"] += 1
                elif self._draw.random() < 0.5 and len(self._workers) > 1:
                    number = self._draw.randrange(1, len(self._workers))
                    self._kill(self._workers[number], "workers")
                    self._workers[number] = self._start(work, self._site)
                else:
                    self._kill(controller, "controllers")
                    lives += 1
                    controller = self._start_controller(load, lives)
        self._wake(stopped, float("inf"))
        controller.join(LAST_MOVE_S)
        if controller.exitcode is None:
            self._kill(controller, "controllers")
        self._join(controller, ends=(0, -signal.SIGKILL))

    def _kill(self, process: ForkProcess, what: str) -> None:
        process.kill()
        process.join()
        self._outcome.chaos[f"{what} killed"] += 1

    def _stop(self, stopped: dict[int, float]) -> None:
        worker = self._draw.choice(self._workers)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)
        stopped[worker.pid] = time.monotonic() + self._draw.uniform(*PAUSE_S)
        self._outcome.chaos["workers stopped for seconds"] += 1

    def _wake(self, stopped: dict[int, float], now: float) -> None:
        for pid in [pid for pid, until in stopped.items() if until <= now]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            del stopped[pid]

    # What was found ---------------------------------------------------------------------------------------------------

    def _judged(self, folder: Path, judge: ForkProcess) -> None:
        """Take in what a window's history says, and delete it."""
        judge.join()
        if not (folder / "judged.json").exists():
            self._outcome.problems.append(f"the history of {folder.name} could not be checked: see above")
            return
        found, out = json.loads((folder / "judged.json").read_text()), self._outcome
        out.counts.update(found["counts"])
        out.errors.update(found["errors"])
        out.chaos["backends ended"] += found["backends ended"]
        out.lags += found["lags"]
        out.findings += [one for pair in found["findings"] if (one := Finding(*pair)) not in out.findings]
        shutil.rmtree(folder)

    def _count_moves(self) -> None:
        records = [json.loads(line) for line in self._moves.read_text().splitlines()] if self._moves.exists() else []
        done = [one for one in records if one["kind"] != "invoke"]
        self._outcome.moves = Counter(f"{one['op']} {one['kind']}" for one in done)
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


def _child(body: Callable[..., None], *given: Any) -> None:
    """Be a child that Ctrl-C leaves to its parent, and that nothing leaves behind."""
    ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    body(*given)


# The command line -----------------------------------------------------------------------------------------------------


def restarter(url: Any) -> Callable[[], None]:
    """Return what kills the postmaster of an embedded server with SIGKILL and starts it again."""
    state = Path(str(url.query["host"])).parents[1]

    def restart() -> None:
        pid = embedded.status(state).pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        embedded.ensure_running(state)

    return restart


def _plan(given: argparse.Namespace) -> Plan:
    chaos = tuple(filter(None, given.chaos.split(",")))
    plan = Plan(
        seconds=given.seconds,
        seed=given.seed,
        documents=given.documents,
        window_s=given.window,
        writes_per_s=given.writes_per_s,
        query_processes=given.query_processes,
        queries_per_s=given.queries_per_s,
        move_every_s=2.0 if given.fast_moves or given.queries_only_load else given.move_every,
        chaos=chaos,
        chaos_every_s=given.chaos_every,
        postmaster_every_s=given.restart_every,
    )
    if given.queries_only_load:
        plan = replace(plan, writes_per_s=5.0, sessions=1, queries_per_s=0.0, query_sessions=1)
    return plan


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line and soak on a server of our own; return 1 if anything was found or a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1_800.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--window", type=float, default=60.0, help="seconds between two rests, default %(default)s")
    parser.add_argument("--writes-per-s", type=float, default=200.0)
    parser.add_argument("--query-processes", type=int, default=2)
    parser.add_argument("--queries-per-s", type=float, default=20.0, help="of each query process; 0: at full speed")
    parser.add_argument("--queries-only-load", action="store_true", help="at full speed, few writes, fast moves")
    parser.add_argument("--move-every", type=float, default=60.0, help="seconds between two moves, about")
    parser.add_argument("--fast-moves", action="store_true", help="a move every 2 s")
    parser.add_argument("--chaos", default=",".join(CHAOS), help="any of %(default)s; '' for none")
    parser.add_argument("--chaos-every", type=float, default=5.0, help="seconds between two of a kind, about")
    parser.add_argument("--restart-every", type=float, default=120.0, help="seconds between two kills of PostgreSQL")
    parser.add_argument("--bug", help="plant a seeded bug first")
    parser.add_argument("--results", type=Path, default=RESULTS / "soak.json")
    given = parser.parse_args(argv)
    if unknown := set(filter(None, given.chaos.split(","))) - set(CHAOS):
        parser.error(f"no such chaos: {', '.join(sorted(unknown))}; there are {', '.join(CHAOS)}")
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # A crash of the server, unlike one of the machine, loses nothing that was handed to the system's cache.
    with ExitStack() as stack:
        url = stack.enter_context(server(synchronous_commit="on"))
        database_url = url.render_as_string(hide_password=False)
        if given.bug:
            from evaluation.reliability.bugs import plant

            engine = make_engine(database_url)
            upgrade_schema(engine)
            stack.enter_context(plant(given.bug, engine))
            engine.dispose()
        outcome = soak(database_url, _plan(given), restarter(url))
    for one in outcome.findings[:20]:
        print(f"  {one.promise}: {one.detail}")
    for problem in outcome.problems[:20]:
        print(f"  {problem}")
    if given.bug:  # what it finds is no result of the product
        return 0 if outcome.sound else 1
    holds = add_piece(given.results, piece_of(given.seed, outcome), figures, MODULE)
    return 0 if holds and outcome.sound else 1


if __name__ == "__main__":
    sys.exit(main())
