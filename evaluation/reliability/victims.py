"""What a kill hits: a migration by `revector upgrade` or by the DAG, the processes around it, and when each is back."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from evaluation.reliability import observer
from evaluation.reliability.forks import Forks
from evaluation.reliability.site import COLLECTION, NEW, Site

from revector import embedded
from revector.errors import DatabaseUnavailable
from revector.local.airflow import AirflowHome
from revector.local.airflow_client import FINISHED, TaskInstance
from revector.local.processes import Supervisor

DAG_ID = "revector_migrate"
DAG = '''"""The DAG under test."""

from pathlib import Path

from revector.airflow import migration_dag

dag = migration_dag(config=Path(__file__).resolve().parent.parent / "revector.toml")
'''
MOST_RERUNS = 10
WRITES_GO_ON = timedelta(seconds=2)
"""What is written so long after a worker's kill must be searchable before it counts as back."""


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
        """Clear away what a finished run left: nothing waits."""
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


Driver = Cli | Dag
"""Runs one migration at a time: begins it, does what a user does when it fails, and says when it is through."""


class Victim:
    """One process to be killed: PostgreSQL's postmaster, unless a class below says otherwise.

    ``killed`` is its number then, ``at`` when what follows the kill counts from. Of a postmaster, the other processes
    end by themselves.
    """

    def __init__(self, host: Host, driver: Driver) -> None:
        self.host, self.driver, self.killed, self.at = host, driver, 0, datetime.now(UTC)

    def pid(self) -> int:
        """Return its number; 0 while it does not run."""
        return embedded.status(self.host.site.project.state).pid or 0

    def there(self) -> bool:
        """Whether it runs now."""
        return self.pid() > 0

    def kill(self) -> str:
        """Kill it and say what it was."""
        self.killed, self.at = self.pid(), datetime.now(UTC) + WRITES_GO_ON
        if self.killed <= 1:
            raise ProcessLookupError(f"there is no process {self.killed} of ours to be killed")
        os.kill(self.killed, signal.SIGKILL)
        return f"process {self.killed}"

    def is_back(self) -> bool:
        """Whether its work goes on."""
        return self.pid() not in (0, self.killed)


class Upgrade(Victim):
    """The process of `revector upgrade`; it is back when another one has taken the migration over."""

    _token = 0

    def pid(self) -> int:
        """Return its number."""
        assert isinstance(self.driver, Cli)
        return self.host.forks.pid(self.driver.child)

    def kill(self) -> str:
        """Kill it, and see it gone."""
        said = super().kill()
        while self.pid():
            time.sleep(0.01)
        self._token = self._newest()
        return said

    def is_back(self) -> bool:
        """Whether a new process runs a step, or none is left to do."""
        return self._newest() > self._token or (self.there() and self.host.phase() == "live")

    def _newest(self) -> int:
        with contextlib.suppress(DatabaseUnavailable):
            return int(self.host.value("SELECT max(token) FROM lease") or 0)
        return 0


class Program(Victim):
    """A program that a supervisor keeps running; its number stands in the guard's note."""

    name = "worker"

    def folder(self) -> Path:
        """Return where its supervisor keeps notes."""
        return self.host.supervisor.folder

    def pid(self) -> int:
        """Return its number."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(json.loads((self.folder() / "run" / f"{self.name}.json").read_text())["session"])
            return pid if psutil.pid_exists(pid) else 0
        return 0

    def is_back(self) -> bool:
        """Whether a new worker has applied all that waited at the kill or was written soon after it."""
        if not super().is_back() or datetime.now(UTC) < self.at:
            return False
        with contextlib.suppress(DatabaseUnavailable):
            waits = "SELECT count(*) FROM pending p JOIN slot s USING (gen) WHERE s.role = 'active' AND p.since < :at"
            return bool(self.host.value(waits, at=self.at) == 0)
        return False


class Scheduler(Program):
    """Airflow's scheduler, with whose session its executor and their tasks end."""

    name = "scheduler"

    def folder(self) -> Path:
        """Return Airflow's home."""
        return self.host.airflow_home.home

    def is_back(self) -> bool:
        """Whether a new one has given a sign of life."""
        if not Victim.is_back(self):
            return False
        with self.host.airflow_home.client("admin") as client:
            beat = client.get("/monitor/health")["scheduler"]["latest_scheduler_heartbeat"]
        return beat is not None and datetime.fromisoformat(beat) > self.at


class Task(Victim):
    """The process of one task: a grandchild of the scheduler, below a worker of its executor."""

    def __init__(self, host: Host, driver: Driver) -> None:
        assert isinstance(driver, Dag)
        super().__init__(host, driver)
        self._run, self._scheduler = driver, Scheduler(host, driver)
        self._pause_s, self._seen = random.Random(driver.run_id).uniform(0, 1.5), 0.0
        self._tries: dict[tuple[str, int], int] = {}

    def pid(self) -> int:
        """Return the number of the first that runs."""
        with contextlib.suppress(psutil.Error):
            workers = psutil.Process(self._scheduler.pid()).children()
            return next((task.pid for worker in workers for task in worker.children()), 0)
        return 0

    def there(self) -> bool:
        """Whether a task has been running for a random part of its first seconds."""
        if not self.pid():
            self._seen = 0.0
            return False
        self._seen = self._seen or time.monotonic()
        return time.monotonic() - self._seen >= self._pause_s

    def kill(self) -> str:
        """Kill it; between two tasks, the next one."""
        said = ""
        while not said:
            with contextlib.suppress(ProcessLookupError):  # none runs, or it has just ended
                said = super().kill()
            time.sleep(0.01)
        running = [task for task in self._tasks() if task["state"] == "running"]
        self._tries = {(task["task_id"], task["map_index"]): task["try_number"] for task in running}
        return f"{said} of {', '.join(f'{task}[{n}]' if n >= 0 else task for task, n in self._tries)}"

    def is_back(self) -> bool:
        """Whether the next try runs, or none is needed."""
        return not any(
            task["state"] not in ("success", "failed")
            and self._tries.get((task["task_id"], task["map_index"])) == task["try_number"]
            for task in self._tasks()
        )

    def _tasks(self) -> list[TaskInstance]:
        return self._run.client.tasks(DAG_ID, self._run.run_id)


VICTIMS: dict[str, type[Victim]] = {
    "worker": Program,
    "task": Task,
    "scheduler": Scheduler,
    "postgres": Victim,
    "upgrade": Upgrade,
}
