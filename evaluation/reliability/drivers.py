"""The two ways to run a migration, `revector upgrade` and the DAG: start it, and bring it to its end after a kill."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Protocol

from evaluation.reliability.checks import wait_until
from evaluation.reliability.site import COLLECTION, NEW

from revector.local.airflow_client import FINISHED

if TYPE_CHECKING:
    from evaluation.reliability.victims import Host

DAG_ID = "revector_migrate"
DAG = '''"""The DAG under test."""

from pathlib import Path

from revector.airflow import migration_dag

dag = migration_dag(config=Path(__file__).resolve().parent.parent / "revector.toml")
'''
MOST_RERUNS = 10
FINISH_S = 900.0


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


class Cli:
    """`revector upgrade` as a process of its own."""

    name = "upgrade"

    def __init__(self, host: Host) -> None:
        self._host = host
        self.reruns: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin the migration."""
        root = self._host.site.folder
        environment = {name: value for name, value in os.environ.items() if not name.startswith("REVECTOR_")}
        with (root / "upgrade.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "revector", "upgrade", NEW, "--collection", COLLECTION],
                cwd=root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def care(self) -> bool:
        """Run it again if it failed; its exit code is noted (-9: killed)."""
        code = None if self.process is None else self.process.poll()
        if code:
            _note(self.reruns, f"exit {code}")
            self.start()
        if code == 0 and self._host.phase() not in ("live", "unknown"):
            raise RuntimeError(f"`revector upgrade` ended well, and the phase is {self._host.phase()}")
        return code == 0

    def forget(self) -> None:
        """Nothing waits."""
        self.process, self.reruns = None, []


class Dag:
    """The DAG, triggered through Airflow's REST API."""

    name = "dag"

    def __init__(self, host: Host) -> None:
        self._host, self.run_id = host, ""
        self.reruns: list[str] = []
        self.client = host.airflow_home.client("admin")

    def start(self) -> None:
        """Trigger a run."""
        self.run_id = self.client.trigger(
            DAG_ID, {"collection": COLLECTION, "revision": NEW, "approval": False, "shards": 2}
        )

    def care(self) -> bool:
        """Trigger a new run if this one has failed; the failed tasks' last words are noted."""
        if self._host.phase() == "live":
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
