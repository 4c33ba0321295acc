"""Kills every process of a migration with SIGKILL at random moments, and proves that nothing was lost.

    python -m evaluation.reliability.kill [--targets worker,task,scheduler,postgres,upgrade] [--repeats 10] [--seed N]

Each trial starts a migration (by `revector upgrade`, or by the DAG), waits a random part of a whole migration's time
from the moment dual-write is on, kills one process, lets it come back as it would for a user, and waits until the
migration is through; all the while an application writes, deletes and queries. Then the document table and both live
indexes are compared, whole, with what the application was told. The migration is rolled back and its index retired, and
the next trial begins. A migration that was through before its moment came is no trial: it is done again.
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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evaluation.reliability.application import Application, wait_until
from evaluation.reliability.drivers import DAG_ID, Cli, Dag, Driver
from evaluation.reliability.project import COLLECTION, corpus, make_project, remove_project
from evaluation.reliability.report import write
from evaluation.reliability.victims import VICTIMS, Site

from revector.local.up import airflow_of, services

DOCUMENTS = 2_000
BY_DAG = ("task", "scheduler")
"""Targets that live only in a migration by DAG; the others are killed in a migration by `revector upgrade`."""


@dataclass
class Trial:
    """One kill and what followed. Times in seconds since the kill; ``moment_s`` since dual-write was on."""

    target: str
    driver: str
    moment_s: float
    phase: str
    killed: str
    back_s: float = 0.0
    finished_s: float = 0.0
    reruns: list[str] = field(default_factory=list)
    lost: int = 0
    stale: int = 0
    resurrected: int = 0
    differences: list[dict[str, Any]] = field(default_factory=list)
    application: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        wrong = f"lost {self.lost}, stale {self.stale}, resurrected {self.resurrected}, errors {len(self.errors)}"
        return (
            f"{self.target} ({self.killed}) at {self.moment_s:.1f} s, {self.phase}: back {self.back_s:.1f} s, "
            f"through {self.finished_s:.1f} s, reruns {self.reruns}; {wrong}"
        )


def trial(site: Site, application: Application, driver: Driver, target: str, moment_s: float) -> Trial | None:
    """Run one trial; None if the migration was faster than ``moment_s``."""
    before, said = Counter(application.truth.counts), len(application.truth.errors)
    with application.running():
        driver.start()
        wait_until(lambda: site.phase() != "none" or driver.ended(), 300, "the migration is registered")
        due = time.monotonic() + moment_s
        victim = VICTIMS[target](site, driver)
        while (left := due - time.monotonic()) > 0 or not victim.there():
            if site.phase() == "live":
                break
            time.sleep(min(0.05, max(0.0, left)) or 0.01)
        late = site.phase() == "live"
        done = Trial(target, driver.name, round(moment_s, 2), site.phase(), "nothing" if late else victim.kill())
        killed = time.monotonic()
        if not late:
            done.back_s = round(wait_until(victim.is_back, 300, f"{target} is back", poll_s=0.05), 1)
        done.reruns = driver.finish()
        done.finished_s = round(time.monotonic() - killed, 1)
    if late:
        return None
    application.settle()
    for difference in application.compare():
        done.lost += len(difference.lost)
        done.stale += len(difference.stale)
        done.resurrected += len(difference.resurrected)
        done.differences.append(asdict(difference))
    done.application = dict(Counter(application.truth.counts) - before)
    done.errors = application.truth.errors[said:]
    return done


def undo(site: Site, driver: Driver) -> None:
    """Make the old revision live again and drop the new index, so that the same migration can run again."""
    migrator = site.project.migrator(COLLECTION, actor="trial")
    migrator.rollback("the trial is over")
    migrator.retire("the trial is over", now=True)
    driver.forget()


def measure(site: Site, application: Application, driver: Driver) -> float:
    """Run one migration that nothing disturbs; return its seconds from dual-write to swap."""
    with application.running():
        driver.start()
        wait_until(lambda: site.phase() != "none", 300, "the migration is registered")
        started = time.monotonic()
        driver.finish()
        lasted = time.monotonic() - started
    application.settle()
    undo(site, driver)
    return lasted


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


def run(targets: list[str], repeats: int, seed: int, documents: int, results: Path) -> bool:
    """Run all trials, round by round, writing the results after each; return whether every figure is as promised."""
    draw, rows, holds = random.Random(seed), list[dict[str, Any]](), True  # noqa: S311 - moments, not secrets
    by_dag = any(target in BY_DAG for target in targets)
    with running_site(documents, airflow=by_dag, seed=seed) as (site, application):
        drivers: dict[bool, Driver] = {False: Cli(site), True: Dag(site)} if by_dag else {False: Cli(site)}
        needed = {target in BY_DAG for target in targets}
        lasts = {kind: [measure(site, application, drivers[kind])] for kind in needed}
        for number in range(repeats):
            for target in targets:
                kind, done = target in BY_DAG, None
                while done is None:
                    longest = statistics.median(lasts[kind])
                    moment_s = draw.uniform(0, longest)
                    started = time.monotonic()
                    done = trial(site, application, drivers[kind], target, moment_s)
                    undo(site, drivers[kind])
                    if done is None:
                        lasts[kind].append(0.8 * moment_s)
                        print(f"  {target}: through before {moment_s:.1f} s, again", flush=True)
                rows.append(asdict(done))
                print(f"{number + 1:2} {done} ({time.monotonic() - started:.0f} s in all)", flush=True)
                holds = write(results, rows, seed=seed, targets=targets, repeats=repeats, documents=documents)
    return holds


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--targets", default=",".join(VICTIMS), help="any of %(default)s")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seed", type=int, default=20_261_120)
    parser.add_argument("--documents", type=int, default=DOCUMENTS)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "kill.json")
    given = parser.parse_args()
    targets = given.targets.split(",")
    if unknown := set(targets) - set(VICTIMS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(VICTIMS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left then, either
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return 0 if run(targets, given.repeats, given.seed, given.documents, given.results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
