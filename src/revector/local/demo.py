"""`revector demo`: the main job on a real corpus, through Airflow, while a simulated application writes and queries."""

from __future__ import annotations

import json
import shutil
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
from revector.interfaces import Source
from revector.labels import load_labels
from revector.local.airflow import AirflowHome
from revector.local.comparison import Difference, compare, expected
from revector.local.demo_corpus import cut, documents_per_s, said
from revector.local.demo_parts import DAG, application, durations, finish, machine, relative, wait_until_applied, watch
from revector.local.record import ApplicationCounts, count
from revector.local.screen import Screen, application_text, phase, result_table
from revector.local.store_servers import STORE, in_store
from revector.local.up import airflow_of, describe, services, stoppable
from revector.revisions import RevisionGraph
from revector.settings import FILE
from revector.sources import open_source
from revector.status import Status

COLLECTION = "quickstart"
SHARDS = 4
WINDOW_HOURS = 48
AFTER_S = 20.0
WAY_BACK = (
    f"The way back is open for {WINDOW_HOURS} hours: press 'Roll back' on the page, or run [bold]revector rollback "
    "--reason …[/bold]."
)


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
        figures = migrate(project, COLLECTION, open_source(str(_corpus(project))), airflow, console)
        figures |= {"corpus": taken}
        path = json_path or project.state / "demo" / "result.json"
        finish(airflow, console, figures, result_table(figures), path, stays=wait, says=WAY_BACK)
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


def migrate(
    project: Project, collection: str, source: Source, airflow: AirflowHome, console: Console, *, shards: int = SHARDS
) -> dict[str, object]:
    """Migrate a collection to its head by the DAG while the application works; return what was seen.

    ``source``: the documents as they were ingested. Each of the ``shards`` is a task, which loads the model.
    """
    started = time.monotonic()
    record = project.state / "demo" / "application.jsonl"
    record.parent.mkdir(parents=True, exist_ok=True)
    with airflow.client("operator") as client:
        program = ("revector.local.application", collection, str(record))
        with application(project, *program, record=record) as counters:
            conf = {
                "collection": collection,
                "revision": "head",
                "approval": False,
                "shards": shards,
                "rollback_hours": WINDOW_HOURS,
            }
            run_id = client.trigger(DAG, conf, note="make demo")
            console.print(f"Triggered DAG {DAG} through Airflow's REST API as operator: run {run_id}\n")
            with Screen(console) as screen:
                watch(project, collection, client, run_id, screen, lambda: application_text(counters()))
            with phase(console, f"The alias has moved; the application goes on for {AFTER_S:.0f} s …"):
                time.sleep(AFTER_S)
        with phase(console, "Comparing the indexes with what the application was told …"):
            wait_until_applied(project, collection)
            differences = compare(project, collection, *expected(source, record))
        figures = _figures(project.status(collection), count(record), differences)
        swaps = (event["detail"] for event in project.events(collection) if event["kind"] == "swap")
        return {
            "command": "make demo",
            **({"store": project.stores.ask(STORE)} if STORE in project.stores.configured else {}),
            "machine": machine(),
            **figures,
            "swap_pause_ms": next(swap for swap in swaps if swap["from"])["pause_ms"],
            "steps": durations(client, run_id),
            "wall_s": round(time.monotonic() - started, 1),
            "run_id": run_id,
        }


def _figures(status: Status, counts: ApplicationCounts, differences: list[Difference]) -> dict[str, object]:
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
        "rollback_until": window.deadline,
    }


def main() -> int:
    """Run the demo in the nearest project."""
    return run(load_project())
