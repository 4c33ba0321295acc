"""Owns what all acts of the demo do: run an application beside it, watch a run of the DAG, wait, show what was seen."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from revector.config import Project
from revector.errors import RevectorError
from revector.local.airflow import AirflowHome
from revector.local.airflow_client import FINISHED, AirflowClient
from revector.local.record import ApplicationCounts, count, read_record
from revector.local.screen import Screen
from revector.local.up import describe, stay
from revector.settings import FILE

DAG = "revector_migrate"
CATCH_UP_S = 120.0
RUN_LIMIT_S = 40 * 60.0


@contextmanager
def application(project: Project, module: str, *words: str, record: Path) -> Iterator[Callable[[], ApplicationCounts]]:
    """Run the simulated application, ``python -m MODULE WORDS``; yields a function that counts its record so far."""
    record.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "REVECTOR_CONFIG": str(project.root / FILE),
        "REVECTOR_ENCODER__THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    log_path = record.parent / "application.log"
    guard = [sys.executable, "-m", "revector.local.guard", "--parent", str(os.getpid())]
    guard += ["--state", str(record.parent / "application.json"), "--grace", "20", "--"]
    program = [sys.executable, "-m", module, *words]
    log = log_path.open("wb")
    process = subprocess.Popen(
        [*guard, *program], env=environment, cwd=project.root, stdout=log, stderr=log, start_new_session=True
    )
    try:
        while not (record.exists() and any(line["op"] == "ready" for line in read_record(record))):
            if process.poll() is not None:
                raise RevectorError(f"the simulated application did not start; see {relative(log_path)}.")
            time.sleep(0.2)
        yield lambda: count(record)
        if process.poll() is not None:
            raise RevectorError(f"the simulated application ended early; see {relative(log_path)}.")
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


@contextmanager
def command(project: Project, *words: str) -> Iterator[Callable[[], str]]:
    """Run a command of revector as a person would; yields what waits for its end and returns what it said.

    That raises ``RevectorError`` where the command failed. A command that nobody waited for is stopped.
    """
    out_path, log_path = project.root / "command.out", project.root / "command.log"
    guard = [sys.executable, "-m", "revector.local.guard", "--parent", str(os.getpid())]
    guard += ["--state", str(project.root / "command.json"), "--grace", "20", "--"]
    environment = {**os.environ, "REVECTOR_CONFIG": str(project.root / FILE), "COLUMNS": "110", "NO_COLOR": "1"}
    with out_path.open("wb") as out, log_path.open("wb") as log:
        process = subprocess.Popen(
            [*guard, sys.executable, "-m", "revector", *words],
            env=environment,
            cwd=project.root,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=log,
            start_new_session=True,
        )

    def end() -> str:
        if status := process.wait():
            raise RevectorError(f"`revector {words[0]}` ended with {status}:\n{log_path.read_text(encoding='utf-8')}")
        return "\n".join(line.rstrip() for line in out_path.read_text(encoding="utf-8").splitlines())

    try:
        yield end
    finally:
        process.terminate()
        process.wait()


def watch(
    project: Project, collection: str, client: AirflowClient, run_id: str, screen: Screen, said: Callable[[], str]
) -> None:
    """Show the run, and what the application did, until it waits in its rollback window.

    Raises ``RevectorError`` with the log when it fails.
    """
    end = time.monotonic() + RUN_LIMIT_S
    while time.monotonic() < end:
        tasks = client.tasks(DAG, run_id)
        screen.show(project.status(collection), tasks, said())
        if any(
            task["task_id"] == "rollback_window" and task["state"] in ("awaiting_input", "deferred") for task in tasks
        ):
            return
        if client.state(DAG, run_id) in FINISHED:
            logs = "\n".join(f"--- {task}\n{tail}" for task, tail in client.failures(DAG, run_id).items())
            raise RevectorError(f"the run {run_id} ended without waiting in its rollback window:\n{logs}")
        time.sleep(1.0)
    raise RevectorError(f"the run {run_id} was not through after {RUN_LIMIT_S / 60:.0f} minutes; see the page.")


def wait_until_applied(project: Project, collection: str) -> None:
    """Wait until no index has anything to do, for ``CATCH_UP_S`` at most: what lags then is seen as it is."""
    end = time.monotonic() + CATCH_UP_S
    while time.monotonic() < end:
        slots = project.status(collection).slots.filled.values()
        if not any(slot.waiting.live + slot.waiting.bulk for slot in slots):
            return
        time.sleep(0.2)


def finish(
    airflow: AirflowHome,
    console: Console,
    figures: Mapping[str, Any],
    table: Table,
    path: Path,
    *,
    stays: bool | None,
    says: str,
) -> None:
    """Show what was seen, and what of it is not as promised, and write it down; then stay up until Ctrl-C.

    ``stays`` None: in a terminal. ``says``: what can be done meanwhile.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    console.print(table)
    for sentence in figures.get("broken", ()):
        console.print(f"Not as promised: {sentence}", style="red", soft_wrap=True, highlight=False, markup=False)
    console.print(f"The same as JSON: {relative(path)}")
    if sys.stdout.isatty() if stays is None else stays:
        describe(airflow, console)
        console.print(f"\n{says} Ctrl-C ends the demo.")
        stay()
    console.print("Stopping …")


def durations(client: AirflowClient, run_id: str) -> list[dict[str, object]]:
    """Return the wall time of each step, waiting for a slot included."""
    spans: dict[str, list[datetime]] = {}
    for task in client.tasks(DAG, run_id):
        if task["start_date"] and task["end_date"]:
            span = spans.setdefault(task["task_id"], [])
            span += [datetime.fromisoformat(task["start_date"]), datetime.fromisoformat(task["end_date"])]
    steps = sorted(spans.items(), key=lambda item: min(item[1]))
    return [{"step": name, "seconds": round((max(span) - min(span)).total_seconds(), 1)} for name, span in steps]


def machine() -> dict[str, object]:
    """Return what the figures were measured on."""
    return {
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def relative(path: Path) -> str:
    """Return the path as one would type it here."""
    return os.path.relpath(path)
