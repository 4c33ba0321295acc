"""The two ways to run a migration, `revector upgrade` and the DAG: start it, and bring it to its end after a kill."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from evaluation.reliability import observer
from evaluation.reliability.checks import wait_until
from evaluation.reliability.forks import Forks
from evaluation.reliability.site import COLLECTION, NEW, Site

from revector.errors import DatabaseUnavailable
from revector.local.airflow import AirflowHome
from revector.local.airflow_client import FINISHED
from revector.local.processes import Supervisor

DAG_ID = "revector_migrate"
DAG = '''"""The DAG under test."""

from pathlib import Path

from revector.airflow import migration_dag

dag = migration_dag(config=Path(__file__).resolve().parent.parent / "revector.toml")
'''
MOST_RERUNS = 10
FINISH_S = 900.0


@dataclass
class Host:
    """A site, what runs for it, and the commands and the application beside it."""

    site: Site
    supervisor: Supervisor
    forks: Forks
    airflow: AirflowHome | None = None

    @property
    def airflow_home(self) -> AirflowHome:
        """The Airflow of this site."""
        if self.airflow is None:
            raise LookupError("this site runs without Airflow")
        return self.airflow

    def phase(self) -> str:
        """Return the phase of the migration: "none" before it is registered, "unknown" while the database is down."""
        try:
            found = self.value("SELECT phase FROM generation WHERE revision = :new AND live", new=NEW)
        except DatabaseUnavailable:
            return "unknown"
        return str(found or "none")

    def value(self, sql: str, **params: Any) -> Any:
        """Return the first value of a query."""
        return observer.value(self.site.project.engine, sql, **params)


class Driver(Protocol):
    """Runs one migration at a time."""

    name: str
    reruns: list[str]

    def start(self) -> None:
        """Begin the migration."""

    def care(self) -> bool:
        """Do what a user does, start it again where it has failed (noting why); return whether it is through."""

    def forget(self) -> None:
        """Clear away what a finished run left waiting."""


def finish(driver: Driver) -> None:
    """Bring the migration to its end."""
    wait_until(driver.care, FINISH_S, "the migration is through")


@dataclass
class Cli:
    """`revector upgrade` as a process of its own."""

    host: Host
    reruns: list[str] = field(default_factory=list)
    child: int = 0
    name: str = "upgrade"

    def start(self) -> None:
        """Begin the migration."""
        words = ("upgrade", NEW, "--collection", COLLECTION)
        self.child = self.host.forks.start("command", words=words, whole=True)

    def care(self) -> bool:
        """Run it again if it failed; its exit code is noted (-9: killed)."""
        end = self.host.forks.ended(self.child)
        if end is not None and end.status:
            _note(self.reruns, f"exit {end.status}")
            self.start()
            return False
        if end is not None and self.host.phase() not in ("live", "unknown"):
            raise RuntimeError(f"`revector upgrade` ended well, and the phase is {self.host.phase()}")
        return end is not None

    def forget(self) -> None:
        """Nothing waits."""
        self.reruns = []


class Dag:
    """The DAG, triggered through Airflow's REST API."""

    name = "dag"

    def __init__(self, host: Host) -> None:
        self.host, self.run_id = host, ""
        self.reruns: list[str] = []
        self.client = host.airflow_home.client("admin")

    def start(self) -> None:
        """Trigger a run."""
        form = {"collection": COLLECTION, "revision": NEW, "approval": False, "shards": 2}
        self.run_id = self.client.trigger(DAG_ID, form)

    def care(self) -> bool:
        """Trigger a new run if this one has failed; the failed tasks' last words are noted."""
        if self.host.phase() == "live":
            return True
        if self.client.state(DAG_ID, self.run_id) in FINISHED:
            _note(self.reruns, str(self.client.failures(DAG_ID, self.run_id, lines=3)))
            self.start()
        return False

    def forget(self) -> None:
        """End the run, which waits in its rollback window."""
        path = f"/api/v2/dags/{DAG_ID}/dagRuns/{self.run_id}"
        self.client.request("PATCH", path, json={"state": "failed"}, accept=(409,))
        self.reruns = []


def _note(reruns: list[str], why: str) -> None:
    reruns.append(why)
    if len(reruns) > MOST_RERUNS:
        raise RuntimeError(f"the migration failed {len(reruns)} times: {reruns}")
