"""Kills real processes with SIGKILL at every named crash point, and runs them again; at random moments, ``soak`` kills.

    python -m evaluation.reliability.crashes --mode points|task [--seed N] [--count N] [--processes N] [--bug NAME]

``points`` tells one story of a migration per crash point and seed, the first round of them short; ``task`` kills the
DAG after each of its steps. After each story the document table and every live index are compared, whole, with what
the writers were told.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from evaluation.bench.common import Figure
from evaluation.reliability.checker import Finding
from evaluation.reliability.crash_points import OF_TASKS, PASSES, TASKS, Stories, Tasks, Trials
from evaluation.reliability.forks import Forks
from evaluation.reliability.pieces import Piece, none, not_run, totals
from evaluation.reliability.seeds import Drawn, Layer
from evaluation.reliability.site import Site

from revector.crash import POINTS
from revector.errors import DatabaseUnavailable

NAMED = tuple(PASSES)
PROMISES = (
    *("lost", "stale", "resurrected", "went back", "wrong model", "mixed chunks", "phantom", "half", "effects"),
    "leftover",
)
"""Promises of the first importance; anything else that was found is counted together."""

COUNTED = {
    "kills": "processes killed with SIGKILL",
    "acknowledged": "documents' writes that were acknowledged",
    "unknown": "documents' writes whose answer a kill took",
    "migrations": "migrations that were killed into, and finished",
    "comparisons": "comparisons of the documents and every live index, whole",
}
BY = "at ", "of a ", "during "


class Crashes(Layer):
    """The layer, which counts kills by point, process and move."""

    def figures(self, pieces: Sequence[Piece]) -> list[Figure]:
        """Return what was done and found."""
        tally = totals(pieces, "tally")
        points = {key.removeprefix("at ") for key in tally if key.startswith("at ")}
        reachable = (len(POINTS) - 1) * bool(points - {OF_TASKS}) + (OF_TASKS in points)
        met, named = len(points & POINTS.keys()), "named crash points that killed"
        findings = [finding.partition(": ")[2] for piece in pieces for finding in piece["findings"]]
        broken = Counter(next((one for one in PROMISES if said.startswith(f"{one}:")), "other") for said in findings)
        return [
            *super().figures(pieces),
            Figure(named, met, f"of {len(POINTS)}", f"≥ {reachable}", met >= reachable) if points else not_run(named),
            *(none(f"found: {one}", broken[one]) for one in (*PROMISES, "other")),
            *(Figure(f"kills {key}", tally[key], "kills") for by in BY for key in sorted(tally) if key.startswith(by)),
        ]


def run_points(url: str, folder: Path, points: Sequence[tuple[int, str, bool]], *, plant: str | None = None) -> Stories:
    """Tell stories, each by its seed, point and whether it is the long one, on an empty database with our tables.

    ``folder`` is empty, too. ``plant`` names a seeded bug, which all victims have. Ends with the first story that found
    something.
    """
    with Forks() as forks, closing(Site(folder, url)) as site:
        stories = Stories(forks, site, seed=points[0][0], plant=plant)
        _guarded(stories, stories.begin)
        for _, point, everywhere in points:
            stories.everywhere = everywhere
            if not stories.findings:
                _guarded(stories, partial(stories.tell, point))
    return stories


def run_tasks(url: str, folder: Path, tasks: Sequence[str] = TASKS) -> Tasks:
    """Kill the DAG after each of ``tasks``, on an empty database that has our tables; ``folder`` is empty, too."""
    with Forks(0) as forks, closing(Site(folder, url)) as site:
        story = Tasks(forks, site)
        story.begin()
        _guarded(story, partial(story.tell, tasks))
    return story


def _guarded(trials: Trials, go_on: Callable[[], object]) -> None:
    """Do it; what does not end is a finding, and so is an observer who cannot look though the server is there."""
    try:
        go_on()
    except TimeoutError as error:
        trials.find("no end", [Finding("hung", str(error))])
    except DatabaseUnavailable as error:
        trials.find("the observer", [Finding("unavailable", str(error))])


def run(url: str, seeds: Sequence[int], given: argparse.Namespace) -> Drawn:
    """Tell the stories of some seeds on one database; or kill the DAG after as many of its steps."""
    with tempfile.TemporaryDirectory(prefix="revector-crashes-") as folder:
        if given.mode == "task":
            wanted = {TASKS[(seed - given.seed) % len(TASKS)] for seed in seeds}
            done: Trials = run_tasks(url, Path(folder), [task for task in TASKS if task in wanted])
        else:
            turns = [(seed, divmod(seed - given.seed, len(NAMED))) for seed in seeds]
            points = [(seed, NAMED[place], later > 0) for seed, (later, place) in turns]
            done = run_points(url, Path(folder), points, plant=given.bug)
    return Drawn(done.tally, [(seeds[0], str(one)) for one in done.findings])


LAYER = Crashes("evaluation.reliability.crashes", __doc__, "crashes", "stories", run, COUNTED, 12)


def main() -> int:
    """Read the command line, run, and keep the figures."""
    parser = LAYER.options(seed=20_261_120, count=len(NAMED), processes=1)
    parser.add_argument("--mode", choices=("points", "task"), default="points")
    return LAYER.main(parser.parse_args())


if __name__ == "__main__":
    raise SystemExit(main())
