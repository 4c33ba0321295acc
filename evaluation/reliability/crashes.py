"""Kills real processes with SIGKILL, fast: at every named crash point, at random moments, and PostgreSQL itself.

    python -m evaluation.reliability.crashes --mode points|random|postgres|task [--seed N] [--count N] [--bug NAME]

``points`` tells one story of a migration per crash point (`crash_points`), ``random`` runs migrations among writers and
workers that die at any moment (`crash_chaos`), ``postgres`` kills the server of such migrations (`crash_postgres`),
``task`` kills the DAG after each of its steps. ``--count``: at least so many kills (``points``: each point at least
once; ``postgres``: kills of its postmaster). After each migration the document table and every live index are compared,
whole, with what the writers were told. The seed fixes what is done and who is killed;
at which instruction, real processes decide, so a seed may need several runs to repeat what it found.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

from evaluation.reliability.arena import database, server
from evaluation.reliability.checker import Finding
from evaluation.reliability.crash_chaos import CHANGED_FLOOR, Chaos
from evaluation.reliability.crash_points import PASSES, TASKS, Stories, Tasks
from evaluation.reliability.crash_postgres import Outages
from evaluation.reliability.crash_report import Report, figures
from evaluation.reliability.forks import Forks
from evaluation.reliability.pieces import add_piece, options
from evaluation.reliability.site import Site

from revector.errors import DatabaseUnavailable
from revector.registry.verdicts import EVIDENCE_CHANGED_FLOOR

MODULE = "evaluation.reliability.crashes"
COUNTS = {"points": 600, "random": 1_400, "postgres": 50, "task": len(TASKS)}
"""Kills of each mode, by default."""

MOST = {"points": len(PASSES), "random": 12, "postgres": 30}
"""Stories or migrations on one database before a fresh one is made, for its history grows."""


def run_points(
    url: str, folder: Path, *, seed: int, points: Collection[str] | None = None, plant: str | None = None
) -> Report:
    """Tell the story of each point (default: all) on an empty database that has our tables; ``folder`` is empty, too.

    ``plant`` names a seeded bug (`bugs.plant`), which all victims have. Ends with the first story that found something.
    """
    site, started = Site(folder, url), time.monotonic()
    with Forks() as forks, closing(site):
        stories = Stories(forks, site, seed=seed, plant=plant)
        for tell in (stories.begin, *(partial(stories.tell, point) for point in points or PASSES)):
            _guarded(stories.report, tell)
            if stories.report.findings:
                break
    stories.report.seconds = time.monotonic() - started
    return stories.report


def run_tasks(url: str, folder: Path, *, seed: int, tasks: Sequence[str] = TASKS) -> Report:
    """Kill the DAG after each of ``tasks``, on an empty database that has our tables; ``folder`` is empty, too."""
    started = time.monotonic()
    with Forks(0) as forks, closing(Site(folder, url)) as site:
        story = Tasks(forks, site, seed=seed)
        story.begin()
        _guarded(story.report, partial(story.tell, tasks))
    story.report.seconds = time.monotonic() - started
    return story.report


def run(mode: str, *, seed: int, count: int, bug: str | None = None) -> Report:
    """Run stories (``points``) or migrations (``random``, ``postgres``) until there were ``count`` kills.

    The first round of stories is the short one, of all points. Ends early with what it found.
    """
    total, started, done = Report(seed), time.monotonic(), 0
    least = len(PASSES) if mode == "points" else 0
    with Forks(EVIDENCE_CHANGED_FLOOR if mode == "points" else CHANGED_FLOOR) as forks:
        while not total.findings and (total.counted(mode) < count or done < least):
            with _place(mode) as (site, outages):
                own = seed + done  # another database, another course
                one = (
                    Stories(forks, site, seed=own, plant=bug, everywhere=done >= least)
                    if mode == "points"
                    else Chaos(forks, site, seed=own, plant=bug, outage=outages)
                )
                one.begin()
                for _ in range(MOST[mode]):
                    _guarded(one.report, one.go_on)
                    done += 1
                    made = total.counted(mode) + one.report.counted(mode)
                    _say(made, count, time.monotonic() - started, one.report)
                    if one.report.findings or (made >= count and done >= least):
                        break
                total.add(one.report)
    total.seconds = time.monotonic() - started
    return total


def _guarded(report: Report, go_on: Callable[[], object]) -> None:
    """Do it; what does not end is a finding, and so is an observer who cannot look though the server is there."""
    try:
        go_on()
    except TimeoutError as error:
        report.find("no end", [Finding("hung", str(error))])
    except DatabaseUnavailable as error:
        report.find("the observer", [Finding("unavailable", str(error))])


def _say(kills: int, count: int, passed_s: float, report: Report) -> None:
    left_s = passed_s / max(1, kills) * max(0, count - kills)
    print(
        f"{kills:,} of {count:,} kills, {kills / passed_s:.1f}/s, {left_s:.0f} s left; {report.acknowledged:,} writes "
        f"acknowledged on this database, {len(report.findings)} findings",
        flush=True,
    )


@contextmanager
def _place(mode: str) -> Iterator[tuple[Site, Outages | None]]:
    """Make a fresh database and a project on it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="revector-crashes-")))
        # As users run it, where it is killed itself.
        durable = {"fsync": "on", "synchronous_commit": "on"} if mode == "postgres" else {}
        at = stack.enter_context(server(**durable))
        outages = Outages(at) if durable else None
        url = stack.enter_context(database(at))
        yield stack.enter_context(closing(Site(folder, url))), outages


def main() -> int:
    """Read the command line, run, and keep the figures; return 1 if a goal is missed or anything was found."""
    parser = options(MODULE, __doc__, seed=20_261_120, results="crashes")
    parser.add_argument("--mode", choices=COUNTS, default="points")
    parser.add_argument("--count", type=int, help=f"kills at least; default by mode: {COUNTS}")
    parser.add_argument("--bug", help="plant this seeded bug; nothing is kept then")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left then, either
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    count = given.count or COUNTS[given.mode]
    if given.mode == "task":
        with tempfile.TemporaryDirectory(prefix="revector-crashes-") as folder, server() as at, database(at) as url:
            report = run_tasks(url, Path(folder), seed=given.seed, tasks=TASKS[:count])
    else:
        report = run(given.mode, seed=given.seed, count=count, bug=given.bug)
    for finding in report.findings:
        print(f"FOUND {finding}")
    if report.findings:
        print(f"repeat: python -m {MODULE} --mode {given.mode} --seed {report.seed} --count {len(report.kills)}")
    if given.bug:
        return 0 if report.findings else 1
    return 0 if add_piece(given.results, report.piece(given.mode, count), figures, MODULE) else 1


if __name__ == "__main__":
    raise SystemExit(main())
