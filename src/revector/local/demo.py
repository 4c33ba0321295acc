"""`revector demo`: the main job on a real corpus, through Airflow, while a simulated application writes and queries."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from rich.console import Console

from revector import embedded
from revector.config import Project, load_project
from revector.errors import ConfigError, RevectorError
from revector.formats.kept import plain
from revector.labels import load_labels
from revector.local.airflow import AirflowHome
from revector.local.airflow_client import FINISHED, AirflowClient
from revector.local.comparison import Difference, compare, expected_texts
from revector.local.demo_corpus import cut, documents_per_s, said
from revector.local.record import ApplicationCounts, count, read_record
from revector.local.screen import Screen, phase, result_table
from revector.local.up import airflow_of, describe, services, stay, stoppable
from revector.revisions import RevisionGraph
from revector.settings import FILE
from revector.sources import open_source

COLLECTION = "quickstart"
DAG = "revector_migrate"
SHARDS = 4
WINDOW_HOURS = 48
CATCH_UP_S = 120.0
AFTER_S = 20.0
RUN_LIMIT_S = 40 * 60.0


def run(
    project: Project, *, port: int = 8080, json_path: Path | None = None, wait: bool | None = None, full: bool = False
) -> int:
    """Run the demo; return 0 if every count is as promised, 1 if one is not.

    The corpus is what this machine embeds in about three minutes, or all of it if ``full``. In a terminal the demo
    stays up afterwards until Ctrl-C, unless ``wait`` says otherwise. ``json_path`` is where the figures go, default
    ``<state>/demo/result.json``. Interrupted, it stops everything it started and raises ``KeyboardInterrupt``.
    """
    console = Console()
    with stoppable(), ExitStack() as stack:
        stack.callback(embedded.stop, project.state)
        _start_afresh(project)
        stack.enter_context(services(project))
        taken = prepare(project, console, full=full)
        airflow = airflow_of(project, port)
        with phase(console, "Starting Airflow, which takes half a minute to two …"):
            stack.enter_context(airflow)
        describe(airflow, console)
        figures = _main_job(project, airflow, console) | {"corpus": taken}
        path = json_path or project.state / "demo" / "result.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        console.print(result_table(figures))
        console.print(f"The same as JSON: {_relative(path)}")
        if sys.stdout.isatty() if wait is None else wait:
            describe(airflow, console)
            console.print(
                f"\nThe way back is open for {WINDOW_HOURS} hours: press 'Roll back' on the page, or run "
                "[bold]revector rollback --reason …[/bold]. Ctrl-C ends the demo."
            )
            stay()
        console.print("Stopping …")
    return 0 if figures["as_promised"] else 1


def prepare(project: Project, console: Console, *, full: bool = False) -> dict[str, object]:
    """Ingest the corpus, or the part of it that this machine embeds in time, and make revision 1 live; return which."""
    head = RevisionGraph.from_folder(project.migrations(COLLECTION)).head
    with phase(console, "Collecting the docstrings of this environment …") as tell:
        whole = []
        for document in open_source(str(project.collection(COLLECTION).source)):
            whole.append(document)
            tell(f"{len(whole):,} documents")
    with phase(console, f"Measuring how fast {head.model.name} embeds them here …") as tell:
        rate = documents_per_s(whole, project.encoders.fresh(head.model), head.chunking)
        tell(f"{rate:.3g} documents/s")
    source = project.labels(COLLECTION)
    judged = {} if source is None else load_labels(source).qrels
    taken = cut(whole, judged.values(), rate, full=full)
    console.print(said(taken, head.model.name, _minutes), soft_wrap=True)
    with phase(console, "Writing them into the database …") as tell:
        corpus = _corpus(project)
        corpus.parent.mkdir(parents=True, exist_ok=True)
        with corpus.open("w", encoding="utf-8") as file:
            for document in taken.documents:
                file.write(json.dumps({"_id": document.id, "text": document.text, **document.meta}) + "\n")
        report = project.documents(COLLECTION).ingest(open_source(str(corpus)), actor="demo")
        tell(f"{report.written:,} documents, {report.rejected} rejected")
    model = project.state / "models" / "quickstart-lsa"
    if not model.exists():
        from revector.encoders.lsa import train_lsa

        with phase(console, "Training the first model on them: latent semantic analysis …"):
            train_lsa((document.text or "" for document in open_source(str(corpus))), model)
    migrator = project.migrator(COLLECTION, actor="demo")
    base = migrator.base()
    with phase(console, f"Migrating to revision {base} …") as tell:
        migrator.upgrade(base, on_step=lambda outcome: tell(f"{outcome.step} done"))
    return {
        "documents": len(taken.documents),
        "judged": taken.judged,
        "distractors": taken.distractors,
        "of": taken.of,
        "probed_documents_per_s": round(rate, 1),
    }


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _corpus(project: Project) -> Path:
    """Return where the documents are kept as they were ingested: importing packages can change docstrings."""
    return project.state / "demo" / "corpus.jsonl"


def _start_afresh(project: Project) -> None:
    """Remove what an earlier demo left. Refuses a database that holds anything else."""
    if project.settings.database_url is not None:
        raise ConfigError(
            f"the demo makes and drops its own database, but {FILE} or the environment names one. Nothing was changed; "
            "run it where database_url is not set."
        )
    state = project.state
    if embedded.status(state).running or (state / "postgres.json").exists():
        project.init()
        with project.raw_engine.connect() as connection:
            others = connection.scalars(
                sa.text(
                    "SELECT name FROM revector.collection c WHERE name <> :name AND EXISTS (SELECT 1 FROM "
                    "revector.document d WHERE d.cid = c.cid)"
                ),
                {"name": COLLECTION},
            ).all()
        project.raw_engine.dispose()
        if others:
            raise ConfigError(
                f"the demo starts from an empty database, and {_relative(state)} also holds the collections "
                f"{', '.join(others)}. Nothing was changed; run it in another folder, or `revector db remove` first."
            )
        embedded.remove(state)
    for leftover in (state / "archive", state / "demo"):
        shutil.rmtree(leftover, ignore_errors=True)
    for leftover in (state / "airflow").glob("airflow.db*"):
        leftover.unlink()
    for name in ("raw_engine", "engine"):
        project.__dict__.pop(name, None)


def _main_job(project: Project, airflow: AirflowHome, console: Console) -> dict[str, object]:
    started = time.monotonic()
    record = project.state / "demo" / "application.jsonl"
    record.parent.mkdir(parents=True, exist_ok=True)
    with airflow.client("operator") as client:
        with application(project, record) as counters:
            conf = {
                "collection": COLLECTION,
                "revision": "head",
                "approval": False,
                "shards": SHARDS,
                "rollback_hours": WINDOW_HOURS,
            }
            run_id = client.trigger(DAG, conf, note="make demo")
            console.print(f"Triggered DAG {DAG} through Airflow's REST API as operator: run {run_id}\n")
            with Screen(console) as screen:
                _watch(project, client, run_id, screen, counters)
            with phase(console, f"The alias has moved; the application goes on for {AFTER_S:.0f} s …"):
                time.sleep(AFTER_S)
        with phase(console, "Comparing the indexes with what the application was told …"):
            _wait_until_applied(project)
            texts, changed, unknown = expected_texts(open_source(str(_corpus(project))), record)
            differences = compare(project, COLLECTION, texts, changed, unknown)
        return _figures(project, client, run_id, record, differences, time.monotonic() - started)


@contextmanager
def application(project: Project, record: Path) -> Iterator[Callable[[], ApplicationCounts]]:
    """Run the simulated application; yields a function that counts its record so far."""
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
    program = [sys.executable, "-m", "revector.local.application", COLLECTION, str(record)]
    log = log_path.open("wb")
    process = subprocess.Popen(
        [*guard, *program], env=environment, cwd=project.root, stdout=log, stderr=log, start_new_session=True
    )
    try:
        while not (record.exists() and any(line["op"] == "ready" for line in read_record(record))):
            if process.poll() is not None:
                raise RevectorError(f"the simulated application did not start; see {_relative(log_path)}.")
            time.sleep(0.2)
        yield lambda: count(record)
        if process.poll() is not None:
            raise RevectorError(f"the simulated application ended early; see {_relative(log_path)}.")
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def _watch(
    project: Project, client: AirflowClient, run_id: str, screen: Screen, counters: Callable[[], ApplicationCounts]
) -> None:
    """Show the run until it waits in its rollback window. Raises ``RevectorError`` with the log when it fails."""
    end = time.monotonic() + RUN_LIMIT_S
    while time.monotonic() < end:
        tasks = client.tasks(DAG, run_id)
        screen.show(project.status(COLLECTION), tasks, counters())
        if any(
            task["task_id"] == "rollback_window" and task["state"] in ("awaiting_input", "deferred") for task in tasks
        ):
            return
        if client.state(DAG, run_id) in FINISHED:
            logs = "\n".join(f"--- {task}\n{tail}" for task, tail in client.failures(DAG, run_id).items())
            raise RevectorError(f"the run {run_id} ended without waiting in its rollback window:\n{logs}")
        time.sleep(1.0)
    raise RevectorError(f"the run {run_id} was not through after {RUN_LIMIT_S / 60:.0f} minutes; see the page.")


def _wait_until_applied(project: Project) -> None:
    end = time.monotonic() + CATCH_UP_S
    while time.monotonic() < end:
        slots = project.status(COLLECTION).slots.filled.values()
        if not any(slot.waiting.live + slot.waiting.bulk for slot in slots):
            return
        time.sleep(0.2)


def _figures(
    project: Project, client: AirflowClient, run_id: str, record: Path, differences: list[Difference], wall_s: float
) -> dict[str, object]:
    counts, status = count(record), project.status(COLLECTION)
    swap = next(event for event in project.events(COLLECTION) if event["kind"] == "swap" and event["detail"]["from"])
    gate, window = status.gate, status.rollback
    assert gate is not None  # the run waits in its rollback window
    assert window is not None
    totals = {what: sum(len(getattr(one, what)) for one in differences) for what in ("lost", "stale", "resurrected")}
    as_promised = (
        not any(totals.values())
        and not counts.failed
        and not counts.wrong_model
        and counts.queries > 0
        and len(differences) == 2
    )
    return {
        "command": "make demo",
        "machine": {
            "cpus": os.cpu_count(),
            "load": os.getloadavg()[0],
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "as_promised": as_promised,
        "documents": status.documents,
        "application": asdict(counts),
        **totals,
        "comparison": [asdict(one) for one in differences],
        "recall": {
            "k": gate.k,
            "queries": gate.queries,
            **{role: plain(side.recall) for role, side in gate.sides.items()},
            "difference": plain(gate.difference),
        },
        "swap_pause_ms": swap["detail"]["pause_ms"],
        "rollback_until": window.deadline,
        "steps": _durations(client, run_id),
        "wall_s": round(wall_s, 1),
        "run_id": run_id,
    }


def _durations(client: AirflowClient, run_id: str) -> list[dict[str, object]]:
    """Return the wall time of each step, waiting for a slot included."""
    spans: dict[str, list[datetime]] = {}
    for task in client.tasks(DAG, run_id):
        if task["start_date"] and task["end_date"]:
            span = spans.setdefault(task["task_id"], [])
            span += [datetime.fromisoformat(task["start_date"]), datetime.fromisoformat(task["end_date"])]
    steps = sorted(spans.items(), key=lambda item: min(item[1]))
    return [{"step": name, "seconds": round((max(span) - min(span)).total_seconds(), 1)} for name, span in steps]


def _relative(path: Path) -> str:
    return os.path.relpath(path)


def main() -> int:
    """Run the demo in the nearest project."""
    return run(load_project())
