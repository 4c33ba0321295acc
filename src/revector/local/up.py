"""`revector up`: PostgreSQL, worker and Airflow with the DAGs and the page, started and watched on this machine."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rich.console import Console

from revector.config import Project
from revector.embedded import stop
from revector.local.airflow import AirflowHome
from revector.local.processes import Supervisor
from revector.settings import FILE

WORKER_THREADS = "1"
"""The live lane needs little, and leaves the processor to the shards."""


def airflow_of(project: Project, port: int, gpu_workers: int = 0) -> AirflowHome:
    """Return the embedded Airflow of a project, with Celery where it is to have GPU workers of their own."""
    config, dags = project.root / FILE, project.root / "dags"
    if not gpu_workers:
        return AirflowHome(project.state, config, dags, port)
    from revector.local.cluster import AirflowCluster

    server = project.database_url
    return AirflowCluster(project.state, config, dags, port, gpu_workers, server=server, gpu_workers=gpu_workers)


@contextmanager
def services(project: Project) -> Iterator[Supervisor]:
    """Run the embedded PostgreSQL (where no database is configured) and the worker; at the end nothing is left."""
    environment = dict(_environment(project))
    embedded_one = project.settings.database_url is None
    with Supervisor(project.state / "services") as supervisor:
        try:
            if embedded_one:
                # Before the server is first used: from then on someone is there who stops it.
                keeper = [sys.executable, "-m", "revector.local.keeper", str(project.state)]
                supervisor.start("postgres", keeper, env=environment, cwd=project.root)
            project.init()
            worker = [sys.executable, "-m", "revector", "worker"]
            threads = {"REVECTOR_ENCODER__THREADS": WORKER_THREADS}
            supervisor.start("worker", worker, env=environment | threads, cwd=project.root)
            yield supervisor
        finally:
            supervisor.stop()
            if embedded_one:  # the keeper does it too, unless it was ended too early or too slow
                stop(project.state)


def _environment(project: Project) -> Iterator[tuple[str, str]]:
    import os

    yield from os.environ.items()
    yield "REVECTOR_CONFIG", str(project.root / FILE)
    yield "PYTHONUNBUFFERED", "1"


def describe(airflow: AirflowHome, console: Console) -> None:
    """Say where the page is and who may log in."""
    console.print(f"\nThe page: [bold]{airflow.url}/plugin/revector[/bold]   (Airflow: {airflow.url})")
    for user, role in (("operator", "triggers, approves, rolls back"), ("viewer", "looks"), ("admin", "everything")):
        console.print(f"  log in as [bold]{user}[/bold], password {airflow.passwords[user]}   ({role})")


@contextmanager
def stoppable() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM raise ``KeyboardInterrupt`` once; what comes while things are being stopped is ignored."""

    def interrupt(*_: object) -> None:
        for number in handled:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    handled = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interrupt) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stay() -> None:
    """Wait until Ctrl-C or SIGTERM."""
    with suppress(KeyboardInterrupt):
        threading.Event().wait()


def run(project: Project, *, port: int = 8080, ui: bool = True, gpu_workers: int = 0) -> int:
    """Start everything and stay until Ctrl-C; without ``ui``, PostgreSQL and the worker only.

    ``gpu_workers``: how many Celery workers of their own embed, one per GPU; 0: Airflow's scheduler runs all tasks.
    """
    console = Console()
    with stoppable(), ExitStack() as stack:
        console.print("Starting PostgreSQL and the worker …")
        stack.enter_context(services(project))
        if ui:
            console.print("Starting Airflow, which takes about half a minute …")
            describe(stack.enter_context(airflow_of(project, port, gpu_workers)), console)
        logs = _shown(project.state)
        console.print(f"\nLogs: {logs}/services/logs and {logs}/airflow/logs. Ctrl-C stops everything.")
        stay()
        console.print("Stopping …")
    return 0


def _shown(folder: Path) -> str:
    try:
        return str(folder.relative_to(Path.cwd()))
    except ValueError:
        return str(folder)
