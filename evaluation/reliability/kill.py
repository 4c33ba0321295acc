"""Kills every process of a migration with SIGKILL at random moments, and proves that nothing was lost.

    python -m evaluation.reliability.kill [--targets worker,task,scheduler,postgres,upgrade] [--repeats 10] [--seed N]

Each migration (by `revector upgrade`, or by the DAG) meets up to ``--kills`` kills: after a random pause, counted
from the moment when dual-write is on or the last kill is over, one process is killed, and comes back as it would for
a user. All the while an application writes, deletes and queries. When the migration is through, the document table
and both live indexes are compared, whole, with what the application was told; then it is rolled back, its index
retired, and the next one begins. Kills that a migration was too fast for are left to the next.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evaluation.reliability.application import Application, Difference, wait_until
from evaluation.reliability.drivers import DAG_ID, Cli, Dag, Driver, finish
from evaluation.reliability.project import COLLECTION, corpus, make_project, remove_project
from evaluation.reliability.report import write
from evaluation.reliability.victims import VICTIMS, Site, Victim

from revector.local.up import airflow_of, services

DOCUMENTS = 2_000
LIMIT_S = 300.0
FIRST_GUESS_S = {"upgrade": 20.0, "dag": 120.0}
"""How long a migration takes from dual-write to swap, until one was measured."""

BY_DAG = ("task", "scheduler")
"""Targets that live only in a migration by DAG; the others are killed in a migration by `revector upgrade`."""


@dataclass
class Kill:
    """One kill, ``moment_s`` seconds after dual-write was on or the last one was over; it was back after ``back_s``."""

    target: str
    moment_s: float
    phase: str
    killed: str
    back_s: float = 0.0


@dataclass
class Trial:
    """One migration, who was killed in it, and what came out; ``through_s`` counts from the last kill."""

    driver: str
    kills: list[Kill] = field(default_factory=list)
    lasted_s: float = 0.0
    through_s: float = 0.0
    reruns: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    application: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def quiet_s(self) -> float:
        """Seconds that the migration worked: recoveries are left out."""
        return self.lasted_s - sum(kill.back_s for kill in self.kills)

    def __str__(self) -> str:
        kills = "; ".join(f"{k.target} in {k.phase} ({k.killed}), back {k.back_s:.1f} s" for k in self.kills)
        wrong = [f"{d.place}: {len(d.lost)}/{len(d.stale)}/{len(d.resurrected)}" for d in self.differences]
        return f"{kills}; through {self.through_s:.1f} s later, reruns {self.reruns}; {wrong} {self.errors}"


def trial(site: Site, application: Application, driver: Driver, plan: Iterable[tuple[str, float]]) -> Trial:
    """Run one migration and kill each target of ``plan`` after its pause, until the migration is through."""
    done, before, said = Trial(driver.name), Counter(application.truth.counts), len(application.truth.errors)
    with application.running():
        driver.start()
        wait_until(lambda: driver.care() or site.phase() != "none", LIMIT_S, "the migration is registered")
        started = killed = time.monotonic()
        for target, pause_s in plan:
            victim, due = VICTIMS[target](site, driver), time.monotonic() + pause_s
            if not _is_due(victim, due, driver, site):
                break
            done.kills.append(Kill(target, round(pause_s, 2), site.phase(), victim.kill()))
            killed = time.monotonic()
            _recover(victim, driver, target)
            done.kills[-1].back_s = round(time.monotonic() - killed, 1)
        finish(driver)
        done.lasted_s, done.through_s = round(time.monotonic() - started, 1), round(time.monotonic() - killed, 1)
    application.settle()
    done.reruns, done.differences = list(driver.reruns), application.compare()
    done.application = dict(Counter(application.truth.counts) - before)
    done.errors = application.truth.errors[said:]
    return done


def _is_due(victim: Victim, due: float, driver: Driver, site: Site) -> bool:
    """Wait for the moment, and for the victim to be there; False if the migration is through before."""
    while time.monotonic() < due or not victim.there():
        if driver.care() or site.phase() == "live":
            return False
        time.sleep(0.05)
    return True


def _recover(victim: Victim, driver: Driver, target: str) -> None:
    def is_back() -> bool:
        driver.care()
        return victim.is_back()

    wait_until(is_back, LIMIT_S, f"{target} is back")


def undo(site: Site, driver: Driver) -> None:
    """Make the old revision live again and drop the new index, so that the same migration can run again."""
    migrator = site.project.migrator(COLLECTION, actor="trial")
    migrator.rollback("the trial is over")
    migrator.retire("the trial is over", now=True)
    driver.forget()


@contextmanager
def running_site(documents: int, *, airflow: bool, seed: int) -> Iterator[tuple[Site, Application]]:
    """Make a project and everything that runs for it; at the end nothing of it is left."""
    with tempfile.TemporaryDirectory(prefix="revector-kill-", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        root.chmod(0o755)  # PostgreSQL is another user where root runs this
        project = make_project(root / "project", documents=documents)
        try:
            with ExitStack() as stack:
                supervisor = stack.enter_context(services(project))
                home = airflow_of(project, 0) if airflow else None
                if home is not None:
                    stack.callback(home.stop)
                    home.start(dags=[DAG_ID])
                texts = {one.id: str(one.text) for one in corpus(documents)}
                yield Site(project, supervisor, home), Application(project, texts, seed=seed)
        finally:
            remove_project(project)


def run(targets: list[str], repeats: int, kills: int, seed: int, documents: int, results: Path) -> bool:
    """Run migrations until each target was killed ``repeats`` times, writing the results after each.

    Returns whether every figure is as promised.
    """
    draw, holds = random.Random(seed), True  # noqa: S311 - moments, not secrets
    by_dag = any(target in BY_DAG for target in targets)
    record: dict[str, Any] = {"targets": targets, "repeats": repeats, "kills": kills, "seed": seed}
    record |= {"documents": documents, "migrations": []}
    with running_site(documents, airflow=by_dag, seed=seed) as (site, application):
        for kind in sorted({target in BY_DAG for target in targets}):
            driver: Driver = Dag(site) if kind else Cli(site)
            left = [target for _ in range(repeats) for target in targets if (target in BY_DAG) is kind]
            lasts = [FIRST_GUESS_S[driver.name]]
            while left:
                most_s = 2 * statistics.median(lasts) / (kills + 1)
                done = trial(site, application, driver, [(one, draw.uniform(0, most_s)) for one in left[:kills]])
                undo(site, driver)
                lasts.append(done.quiet_s)
                del left[: len(done.kills)]
                print(f"{len(left):3} kills left; {done}", flush=True)
                record["migrations"].append(asdict(done))
                holds = write(results, record)
    return holds


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--targets", default=",".join(VICTIMS), help="any of %(default)s")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--kills", type=int, default=3, help="at most so many in one migration, default %(default)s")
    parser.add_argument("--seed", type=int, default=20_261_120)
    parser.add_argument("--documents", type=int, default=DOCUMENTS)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "kill.json")
    given = parser.parse_args()
    targets = given.targets.split(",")
    if unknown := set(targets) - set(VICTIMS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(VICTIMS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left then, either
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return 0 if run(targets, given.repeats, given.kills, given.seed, given.documents, given.results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
