"""Kills every process of a migration with SIGKILL at random moments, and proves that nothing was lost.

    python -m evaluation.reliability.kill [--targets worker,task,scheduler,postgres,upgrade] [--repeats 10] [--images]

Each migration (by `revector upgrade`, or by the DAG) meets up to ``--kills`` kills: after a random pause, counted
from the moment when dual-write is on or the last kill is over, one process is killed, and comes back as it would for
a user. All the while an application writes, deletes and queries. When the migration is through, the document table
and both live indexes are compared, whole, with what the application was told; then it is rolled back, its index
retired, and the next one begins. Kills that a migration was too fast for are left to the next. With ``--images`` each
document holds an image, too, and both towers of its model are replaced.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evaluation.bench.common import Figure
from evaluation.reliability.checker import Finding
from evaluation.reliability.checks import wait_until
from evaluation.reliability.forks import Forks, Notes
from evaluation.reliability.history import Recorder
from evaluation.reliability.judge import at_rest
from evaluation.reliability.pieces import Piece, add_piece, none, options
from evaluation.reliability.site import COLLECTION, Shape, Site
from evaluation.reliability.victims import DAG, DAG_ID, VICTIMS, Cli, Dag, Driver, Host, Victim

from revector.local.up import airflow_of, services

MODULE = "evaluation.reliability.kill"
DOCUMENTS = 2_000
LIMIT_S, FINISH_S = 300.0, 900.0
WRITES_PER_S, QUERIES_PER_S = 2.0, 5.0
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
    findings: list[str] = field(default_factory=list)
    application: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def quiet_s(self) -> float:
        """Seconds that the migration worked: recoveries are left out."""
        return self.lasted_s - sum(kill.back_s for kill in self.kills)

    def __str__(self) -> str:
        kills = "; ".join(f"{k.target} in {k.phase} ({k.killed}), back {k.back_s:.1f} s" for k in self.kills)
        return f"{kills}; through {self.through_s:.1f} s later, reruns {self.reruns}; {self.findings} {self.errors}"


class Application:
    """The application beside a migration, in two processes of its own, and all that it was told."""

    def __init__(self, host: Host, recorder: Recorder, seed: int) -> None:
        self.notes, self._host, self._seed = Notes(recorder), host, seed

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write and query until the block ends. Raises ``RuntimeError`` if a process of it had ended by then."""
        forks, site, self._seed = self._host.forks, self._host.site, self._seed + 1
        children = [
            forks.start("write", seed=self._seed, per_s=WRITES_PER_S, fresh=0.3),
            forks.start("ask", seed=self._seed, per_s=QUERIES_PER_S, moves=False),
        ]
        yield
        gone = [forks.ended(child) for child in children]
        for child in children:
            forks.kill(child)
            self.notes.read(site, forks.end_of(child, LIMIT_S))
        if said := [self.notes.said(end) for end in gone if end is not None]:
            raise RuntimeError(f"the application ended: {said}")

    def settle(self, limit_s: float = 120.0) -> None:
        """Wait until every live index has been brought up to date by the worker. Raises ``TimeoutError``."""
        waiting = "SELECT count(*) FROM pending JOIN slot USING (gen)"
        wait_until(lambda: self._host.value(waiting) == 0, limit_s, "every live index is up to date")

    def compare(self) -> list[Finding]:
        """Compare the document table and every live index, whole, with what was told; judge every answer so far."""
        site = self._host.site
        return at_rest(site.engine, site.cid, site.judge(self.notes.recorder), self.notes.recorder)

    def counts(self, since: int) -> tuple[Counter[str], list[str]]:
        """Count what was answered since so many records, refused because the database was down, and failed."""
        counts, errors = Counter[str](), list[str]()
        for record in self.notes.recorder.records[since:]:
            if record.op not in ("put", "delete", "query") or record.kind == "invoke" or record.detail.get("dead"):
                continue
            what = "query" if record.op == "query" else "write"
            if record.kind == "ok":
                counts[record.op] += 1
            elif record.detail.get("down"):
                counts[f"{what} refused: database down"] += 1
            else:
                counts[f"{what} failed"] += 1
                errors.append(f"{what}: {record.detail.get('error')}")
        return counts, errors


def trial(host: Host, application: Application, driver: Driver, plan: Iterable[tuple[str, float]]) -> Trial:
    """Run one migration and kill each target of ``plan`` after its pause, until the migration is through."""
    done, before = Trial(driver.name), len(application.notes.recorder.records)
    with application.running():
        driver.start()
        wait_until(lambda: driver.care() or host.phase() != "none", LIMIT_S, "the migration is registered")
        started = killed = time.monotonic()
        for target, pause_s in plan:
            victim, due = VICTIMS[target](host, driver), time.monotonic() + pause_s
            if not _is_due(victim, due, driver, host):
                break
            done.kills.append(Kill(target, round(pause_s, 2), host.phase(), victim.kill()))
            killed = time.monotonic()
            _recover(victim, driver, target)
            done.kills[-1].back_s = round(time.monotonic() - killed, 1)
        wait_until(driver.care, FINISH_S, "the migration is through")
        done.lasted_s, done.through_s = round(time.monotonic() - started, 1), round(time.monotonic() - killed, 1)
    application.settle()
    done.reruns, done.findings = list(driver.reruns), [str(one) for one in application.compare()]
    counts, done.errors = application.counts(before)
    done.application = dict(counts)
    return done


def _is_due(victim: Victim, due: float, driver: Driver, host: Host) -> bool:
    """Wait for the moment, and for the victim to be there; False if the migration is through before."""
    while time.monotonic() < due or not victim.there():
        if driver.care() or host.phase() == "live":
            return False
        time.sleep(0.05)
    return True


def _recover(victim: Victim, driver: Driver, target: str) -> None:
    def is_back() -> bool:
        driver.care()
        return victim.is_back()

    wait_until(is_back, LIMIT_S, f"{target} is back")


def undo(host: Host, driver: Driver) -> None:
    """Make the old revision live again and drop the new index, so that the same migration can run again."""
    migrator = host.site.project.migrator(COLLECTION, actor="trial")
    migrator.rollback("the trial is over")
    migrator.retire("the trial is over", now=True)
    driver.forget()


@contextmanager
def running_site(
    documents: int, *, airflow: bool, seed: int, images: bool = False
) -> Iterator[tuple[Host, Application]]:
    """Make a project and everything that runs for it; at the end nothing of it is left."""
    settings = "drain_s = 0\n[encoder]\nthreads = 1\n"
    # Wide, so that loading and indexing last.
    shape = Shape(
        documents, min(60, documents // 2), 512, 256, 32, 240, "IndexSpec()", settings, "shards = 4\n", images
    )
    with (
        tempfile.TemporaryDirectory(prefix="revector-kill-", ignore_cleanup_errors=True) as folder,
        ExitStack() as stack,
    ):
        Path(folder).chmod(0o755)  # PostgreSQL is another user where root runs this
        site, recorder = Site(Path(folder) / "project", None, shape), Recorder()
        stack.callback(site.remove)
        (site.folder / "dags").mkdir()
        (site.folder / "dags" / "migrate.py").write_text(DAG)
        site.begin(recorder)
        supervisor = stack.enter_context(services(site.project))
        home = airflow_of(site.project, 0) if airflow else None
        if home is not None:
            stack.callback(home.stop)
            home.start(dags=[DAG_ID])
        host = Host(site, supervisor, stack.enter_context(Forks(0)), home)
        host.forks.open(site)
        yield host, Application(host, recorder, seed)


def run(
    targets: list[str], repeats: int, kills: int, seed: int, documents: int, results: Path, *, images: bool = False
) -> bool:
    """Run migrations until each target was killed ``repeats`` times, writing the results after each.

    Returns whether every figure is as promised.
    """
    draw, holds = random.Random(seed), True
    by_dag = any(target in BY_DAG for target in targets)
    piece: dict[str, Any] = {"targets": targets, "repeats": repeats, "kills": kills, "seed": seed}
    piece |= {"documents": documents, "images": images, "migrations": []}
    with running_site(documents, airflow=by_dag, seed=seed, images=images) as (host, application):
        for kind in sorted({target in BY_DAG for target in targets}):
            driver: Driver = Dag(host) if kind else Cli(host)
            left = [target for _ in range(repeats) for target in targets if (target in BY_DAG) is kind]
            lasts = [FIRST_GUESS_S[driver.name]]
            while left:
                most_s = 2 * statistics.median(lasts) / (kills + 1)
                done = trial(host, application, driver, [(one, draw.uniform(0, most_s)) for one in left[:kills]])
                undo(host, driver)
                lasts.append(done.quiet_s)
                del left[: len(done.kills)]
                print(f"{len(left):3} kills left; {done}", flush=True)
                piece["migrations"].append(asdict(done))
                holds = add_piece(results, piece, figures, MODULE)
    return holds


def figures(pieces: Sequence[Piece]) -> list[Figure]:
    """Return kills, recovery times and what was wrong."""
    found, trials = [], [trial for piece in pieces for trial in piece["migrations"]]
    kills = [kill for trial in trials for kill in trial["kills"]]
    for target in dict.fromkeys(target for piece in pieces for target in piece["targets"]):
        wanted = max(piece["repeats"] for piece in pieces if target in piece["targets"])
        back = [kill["back_s"] for kill in kills if kill["target"] == target]
        found.append(Figure(f"{target}: kills", len(back), "kills", f"≥ {wanted}", len(back) >= wanted))
        found += _times(f"{target}: back after a kill", back)
    found += [Figure(f"kills in phase {phase}", n, "kills") for phase, n in Counter(k["phase"] for k in kills).items()]
    hit = [trial for trial in trials if trial["kills"]]
    for driver in sorted({trial["driver"] for trial in hit}):
        through = [trial["through_s"] for trial in hit if trial["driver"] == driver]
        found += _times(f"{driver}: through after the last kill", through)
    found.append(Figure("migrations that were hit, and finished", len(hit), "migrations"))
    counts = sum((Counter(trial["application"]) for trial in trials), Counter[str]())
    broken = Counter(finding.partition(":")[0] for trial in trials for finding in trial["findings"])
    zeros = {f"documents {what}": broken[what] for what in ("lost", "stale", "resurrected")}
    zeros |= {"wrong model": broken["wrong model"], "findings in all": broken.total()}
    zeros |= {what: counts[what] for what in ("query failed", "write failed")}
    found += [none(what, n, "count") for what, n in zeros.items()]
    for what in ("put", "delete", "query"):
        found.append(Figure(f"acknowledged: {what}", counts[what], "operations", "> 0", counts[what] > 0))
    refused = ("query refused: database down", "write refused: database down")
    return found + [Figure(what, counts[what], "operations") for what in refused]


def _times(what: str, seconds: Sequence[float]) -> list[Figure]:
    if not seconds:
        return []
    median = round(statistics.median(seconds), 2)
    return [Figure(f"{what}, median", median, "s"), Figure(f"{what}, longest", max(seconds), "s")]


def main() -> int:
    """Read the command line and run."""
    parser = options(MODULE, __doc__, seed=20_261_120, results="kill", repeats=10, kills=3, documents=DOCUMENTS)
    parser.add_argument("--targets", default=",".join(VICTIMS), help="any of %(default)s")
    parser.add_argument("--images", action="store_true", help="documents hold images, too; name other --results")
    given = parser.parse_args()
    targets = given.targets.split(",")
    if unknown := set(targets) - set(VICTIMS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(VICTIMS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left then, either
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    counts = (given.repeats, given.kills, given.seed, given.documents)
    return 0 if run(targets, *counts, given.results, images=given.images) else 1


if __name__ == "__main__":
    raise SystemExit(main())
