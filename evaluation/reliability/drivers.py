"""The two ways to run a migration, `revector upgrade` and the DAG: start it, and bring it to its end after a kill."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Protocol

from evaluation.reliability.application import wait_until
from evaluation.reliability.project import COLLECTION, NEW

if TYPE_CHECKING:
    from evaluation.reliability.victims import Site

DAG_ID = "revector_migrate"
MOST_RERUNS = 5
FINISH_S = 600.0


class Driver(Protocol):
    """Runs one migration at a time."""

    name: str

    def start(self) -> None:
        """Begin the migration."""

    def ended(self) -> bool:
        """Whether what ``start`` began has ended, well or not."""

    def finish(self) -> list[str]:
        """Wait until the migration is through, starting it again where it failed; return why each time."""

    def forget(self) -> None:
        """Clear away what a finished run left waiting."""


class Cli:
    """`revector upgrade` as a process of its own."""

    name = "upgrade"

    def __init__(self, site: Site) -> None:
        self._site, self.process = site, None

    process: subprocess.Popen[bytes] | None

    def start(self) -> None:
        """Begin the migration."""
        root = self._site.project.root
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

    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.process is not None and self.process.poll() is not None

    def finish(self) -> list[str]:
        """Wait for the process; run it again while it fails. Returns the exit codes (-9: killed) of those that did."""
        reruns: list[str] = []
        while self.process is not None:
            code = self.process.wait(FINISH_S)
            if code == 0:
                break
            reruns.append(f"exit {code}")
            if len(reruns) > MOST_RERUNS:
                raise TimeoutError(f"`revector upgrade` failed {len(reruns)} times: {reruns}; see upgrade.log")
            self.start()
        if self._site.phase() != "live":
            raise AssertionError(f"`revector upgrade` ended well, the phase is {self._site.phase()}")
        return reruns

    def forget(self) -> None:
        """Nothing waits."""
        self.process = None


class Dag:
    """The DAG, triggered through Airflow's REST API."""

    name = "dag"

    def __init__(self, site: Site) -> None:
        self._site, self.run_id = site, ""
        self.client = site.airflow_home.client("admin")

    def start(self) -> None:
        """Trigger a run."""
        self.run_id = self.client.trigger(DAG_ID, {"collection": COLLECTION, "revision": NEW, "shards": 2})

    def ended(self) -> bool:
        """Whether the run has failed, or is through."""
        return self.client.state(DAG_ID, self.run_id) in ("success", "failed")

    def finish(self) -> list[str]:
        """Wait until the new revision is live; trigger a new run when one failed. Returns why those failed."""
        reruns: list[str] = []
        while self._site.phase() != "live":
            wait_until(self._halted, FINISH_S, "the DAG run is through", poll_s=0.5)
            if self._site.phase() != "live":
                reruns.append(str(self.client.failures(DAG_ID, self.run_id, lines=3)))
                if len(reruns) > MOST_RERUNS:
                    raise TimeoutError(f"{len(reruns)} runs failed: {reruns}")
                self.start()
        return reruns

    def _halted(self) -> bool:
        return self._site.phase() == "live" or self.ended()

    def forget(self) -> None:
        """End the run, which waits in its rollback window."""
        path = f"/api/v2/dags/{DAG_ID}/dagRuns/{self.run_id}"
        self.client.request("PATCH", path, json={"state": "failed"}, accept=(409,))
