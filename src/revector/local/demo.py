"""`revector demo`: the main job on a real corpus, through Airflow, while a simulated application writes and queries."""

from __future__ import annotations

import json
import shutil
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import sqlalchemy as sa
from rich.console import Console

from revector import embedded
from revector.config import Project, load_project
from revector.errors import ConfigError
from revector.formats.kept import plain
from revector.labels import load_labels
from revector.local.airflow import AirflowHome
from revector.local.airflow_client import AirflowClient
from revector.local.comparison import Difference, compare, expected_texts
from revector.local.demo_corpus import cut, documents_per_s, said
from revector.local.demo_parts import DAG, application, durations, machine, relative, wait_until_applied, watch
from revector.local.record import count
from revector.local.screen import Screen, application_text, phase, result_table
from revector.local.store_servers import STORE, in_store
from revector.local.up import airflow_of, describe, services, stay, stoppable
from revector.revisions import RevisionGraph
from revector.settings import FILE
from revector.sources import open_source

COLLECTION = "quickstart"
SHARDS = 4
WINDOW_HOURS = 48
AFTER_S = 20.0


def run(
    project: Project,
    *,
    port: int = 8080,
    json_path: Path | None = None,
    wait: bool | None = None,
    full: bool = False,
    store: str | None = None,
    store_url: str | None = None,
) -> int:
    """Run the demo; return 0 if every count is as promised, 1 if one is not.

    The corpus is what this machine embeds in about three minutes, or all of it if ``full``. In a terminal the demo
    stays up afterwards until Ctrl-C, unless ``wait`` says otherwise. ``json_path`` is where the figures go, default
    ``<state>/demo/result.json``. ``store``: the kind of another store that keeps the vectors, in a project of its own,
    see ``store_servers.in_store``. Interrupted, it stops everything it started and raises ``KeyboardInterrupt``.
    """
    console = Console()
    refuse_configured_database(project)
    with stoppable(), ExitStack() as stack:
        if store is not None:
            with phase(console, f"Making a project whose vectors are in {store} …"):
                project = stack.enter_context(in_store(project, COLLECTION, store, store_url))
            console.print(f"The vectors are in {project.stores.ask(STORE)}")
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
        console.print(f"The same as JSON: {relative(path)}")
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


def refuse_configured_database(project: Project) -> None:
    """Raise ``ConfigError`` where the project has a database: the demo would fill it."""
    if project.settings.database_url is not None:
        raise ConfigError(
            f"the demo makes and drops its own database, but {FILE} or the environment names one. Nothing was changed; "
            "run it where database_url is not set."
        )


def _start_afresh(project: Project) -> None:
    """Remove what an earlier demo left. Refuses a database that holds anything else."""
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
                f"the demo starts from an empty database, and {relative(state)} also holds the collections "
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
        program = ("revector.local.application", COLLECTION, str(record))
        with application(project, *program, record=record) as counters:
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
                watch(project, COLLECTION, client, run_id, screen, lambda: application_text(counters()))
            with phase(console, f"The alias has moved; the application goes on for {AFTER_S:.0f} s …"):
                time.sleep(AFTER_S)
        with phase(console, "Comparing the indexes with what the application was told …"):
            wait_until_applied(project, COLLECTION)
            texts, changed, unknown = expected_texts(open_source(str(_corpus(project))), record)
            differences = compare(project, COLLECTION, texts, changed, unknown)
        return _figures(project, client, run_id, record, differences, time.monotonic() - started)


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
        **({"store": project.stores.ask(STORE)} if STORE in project.stores.configured else {}),
        "machine": machine(),
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
        "steps": durations(client, run_id),
        "wall_s": round(wall_s, 1),
        "run_id": run_id,
    }


def main() -> int:
    """Run the demo in the nearest project."""
    return run(load_project())
