"""What is killed: how each process is found among ours, and when it is back."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import psutil
import sqlalchemy as sa
from evaluation.reliability.drivers import DAG_ID, Cli, Dag, Driver
from evaluation.reliability.site import NEW, Site

from revector import embedded
from revector.errors import DatabaseUnavailable
from revector.local.airflow import AirflowHome
from revector.local.processes import Supervisor

WRITES_GO_ON = timedelta(seconds=2)
"""What is written so long after a worker's kill must be searchable before it counts as back."""


@dataclass
class Host:
    """A site and what runs for it."""

    site: Site
    supervisor: Supervisor
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
        with self.site.project.engine.connect() as connection:
            return connection.scalar(sa.text(sql), params)


class Victim(Protocol):
    """One process to be killed."""

    def there(self) -> bool:
        """Whether it runs now."""

    def kill(self) -> str:
        """Kill it and say what it was."""

    def is_back(self) -> bool:
        """Whether its work goes on."""


class Upgrade:
    """The process of `revector upgrade`; it is back when another one has taken the migration over."""

    def __init__(self, host: Host, driver: Driver) -> None:
        assert isinstance(driver, Cli)
        self._host, self._driver, self._token = host, driver, 0

    def there(self) -> bool:
        """Whether the process runs."""
        return self._driver.process is not None and self._driver.process.poll() is None

    def kill(self) -> str:
        """Kill it."""
        assert self._driver.process is not None
        killed = _kill(self._driver.process.pid)
        self._driver.process.wait()
        self._token = self._newest()
        return killed

    def is_back(self) -> bool:
        """Whether a new process runs a step, or none is left to do."""
        return self._newest() > self._token or (self.there() and self._host.phase() == "live")

    def _newest(self) -> int:
        try:
            return int(self._host.value("SELECT max(token) FROM lease") or 0)
        except DatabaseUnavailable:
            return 0


class Program:
    """A program that a supervisor keeps running; its number stands in the guard's note."""

    name = "worker"

    def __init__(self, host: Host, _driver: Driver) -> None:
        self._host = host
        self._note = self._folder(host) / "run" / f"{self.name}.json"
        self._killed, self._at = 0, datetime.now(UTC)

    def _folder(self, host: Host) -> Path:
        return host.supervisor.folder

    def _pid(self) -> int:
        with contextlib.suppress(OSError, ValueError):
            pid = int(json.loads(self._note.read_text())["session"])
            return pid if psutil.pid_exists(pid) else 0
        return 0

    def there(self) -> bool:
        """Whether it runs."""
        return self._pid() > 0

    def kill(self) -> str:
        """Kill it."""
        self._killed, self._at = self._pid(), datetime.now(UTC) + WRITES_GO_ON
        return _kill(self._killed)

    def is_back(self) -> bool:
        """Whether a new worker has applied all that waited at the kill or was written soon after it."""
        if self._pid() in (0, self._killed) or datetime.now(UTC) < self._at:
            return False
        try:
            waits = "SELECT count(*) FROM pending p JOIN slot s USING (gen) WHERE s.role = 'active' AND p.since < :at"
            return bool(self._host.value(waits, at=self._at) == 0)
        except DatabaseUnavailable:
            return False


class Scheduler(Program):
    """Airflow's scheduler, with whose session its executor and their tasks end."""

    name = "scheduler"

    def _folder(self, host: Host) -> Path:
        return host.airflow_home.home

    def is_back(self) -> bool:
        """Whether a new one has given a sign of life."""
        if self._pid() in (0, self._killed):
            return False
        with self._host.airflow_home.client("admin") as client:
            beat = client.get("/monitor/health")["scheduler"]["latest_scheduler_heartbeat"]
        return beat is not None and datetime.fromisoformat(beat) > self._at


class Task:
    """The process of one task: a grandchild of the scheduler, below a worker of its executor."""

    def __init__(self, host: Host, driver: Driver) -> None:
        assert isinstance(driver, Dag)
        self._host, self._driver = host, driver
        self._scheduler = Scheduler(host, driver)
        self._pause_s, self._seen = random.Random(driver.run_id).uniform(0, 1.5), 0.0
        self._killed: dict[tuple[str, int], int] = {}

    def _pids(self) -> list[int]:
        with contextlib.suppress(psutil.Error):
            workers = psutil.Process(self._scheduler._pid()).children()
            return [task.pid for worker in workers for task in worker.children()]
        return []

    def there(self) -> bool:
        """Whether a task has been running for a random part of its first seconds."""
        if not self._pids():
            self._seen = 0.0
            return False
        self._seen = self._seen or time.monotonic()
        return time.monotonic() - self._seen >= self._pause_s

    def kill(self) -> str:
        """Kill it; between two tasks, the next one."""
        while not (pids := self._pids()):
            time.sleep(0.01)
        _kill(pids[0])
        running = [
            task for task in self._driver.client.tasks(DAG_ID, self._driver.run_id) if task["state"] == "running"
        ]
        self._killed = {(task["task_id"], task["map_index"]): task["try_number"] for task in running}
        return f"{_name(pids[0])} of {', '.join(f'{task}[{n}]' if n >= 0 else task for task, n in self._killed)}"

    def is_back(self) -> bool:
        """Whether the next try runs, or none is needed."""
        for task in self._driver.client.tasks(DAG_ID, self._driver.run_id):
            first = self._killed.get((task["task_id"], task["map_index"]))
            if first is not None and task["state"] not in ("success", "failed") and task["try_number"] == first:
                return False
        return True


class Postgres:
    """The postmaster of the embedded server; its other processes end by themselves."""

    def __init__(self, host: Host, _driver: Driver) -> None:
        self._host, self._killed = host, 0

    def there(self) -> bool:
        """Whether it answers."""
        return embedded.status(self._host.site.project.state).pid is not None

    def kill(self) -> str:
        """Kill it."""
        self._killed = embedded.status(self._host.site.project.state).pid or 0
        return _kill(self._killed)

    def is_back(self) -> bool:
        """Whether a new one answers."""
        return embedded.status(self._host.site.project.state).pid not in (None, self._killed)


def _name(pid: int) -> str:
    return f"process {pid}"


def _kill(pid: int) -> str:
    if pid <= 1:
        raise ProcessLookupError(f"there is no process {pid} of ours to be killed")
    os.kill(pid, signal.SIGKILL)
    return _name(pid)


VICTIMS: dict[str, type[Upgrade | Program | Task | Postgres]] = {
    "worker": Program,
    "task": Task,
    "scheduler": Scheduler,
    "postgres": Postgres,
    "upgrade": Upgrade,
}
