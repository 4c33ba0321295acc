"""Kills real processes with SIGKILL at every named crash point, and runs them again; at random moments, ``soak`` kills.

    python -m evaluation.reliability.crashes --mode points|task [--seed N] [--count N] [--bug NAME]

``points`` tells one story of a migration per crash point, ``task`` kills the DAG after each of its steps. ``--count``:
at least so many kills (``points``: each point at least once). After each story the document table and every live index
are compared, whole, with what the writers were told.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from evaluation.reliability.arena import database, server
from evaluation.reliability.checker import Finding
from evaluation.reliability.crash_points import PASSES, TASKS, Stories, Tasks
from evaluation.reliability.crash_report import Report, figures
from evaluation.reliability.forks import Forks
from evaluation.reliability.pieces import add_piece, options
from evaluation.reliability.site import Site

from revector.errors import DatabaseUnavailable

MODULE = "evaluation.reliability.crashes"
COUNTS = {"points": 600, "task": len(TASKS)}
"""Kills of each mode, by default."""


def run_points(
    url: str,
    folder: Path,
    *,
    seed: int,
    points: Collection[str] = tuple(PASSES),
    plant: str | None = None,
    everywhere: bool = False,
    enough: Callable[[Report], bool] = lambda _: False,
) -> Report:
    """Tell the story of each point on an empty database that has our tables; ``folder`` is empty, too.

    ``plant`` names a seeded bug, which all victims have. Ends with the first story that found something, or when there
    was ``enough``.
    """
    started = time.monotonic()
    with Forks() as forks, closing(Site(folder, url)) as site:
        stories = Stories(forks, site, seed=seed, plant=plant, everywhere=everywhere)
        for tell in (stories.begin, *(partial(stories.tell, point) for point in points)):
            _guarded(stories.report, tell)
            if stories.report.findings or enough(stories.report):
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
    """Run rounds of stories, each on a fresh database, until there were ``count`` kills; or the DAG, killed so often.

    The first round of stories is the short one, of all points. Ends early with what it found.
    """
    total, done = Report(seed), 0
    while not total.findings and (len(total.kills) < count or not done):
        with tempfile.TemporaryDirectory(prefix="revector-crashes-") as folder, server() as at, database(at) as url:
            if mode == "task":
                return run_tasks(url, Path(folder), seed=seed, tasks=TASKS[:count])
            left = count - len(total.kills)
            enough = partial(_is_enough, left) if done else partial(_is_enough, sys.maxsize)
            total.add(run_points(url, Path(folder), seed=seed + done, plant=bug, everywhere=done > 0, enough=enough))
        done += 1
    return total


def _is_enough(left: int, report: Report) -> bool:
    print(f"{len(report.kills):,} kills on this database, {len(report.findings)} findings", flush=True)
    return len(report.kills) >= left


def _guarded(report: Report, go_on: Callable[[], object]) -> None:
    """Do it; what does not end is a finding, and so is an observer who cannot look though the server is there."""
    try:
        go_on()
    except TimeoutError as error:
        report.find("no end", [Finding("hung", str(error))])
    except DatabaseUnavailable as error:
        report.find("the observer", [Finding("unavailable", str(error))])


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
