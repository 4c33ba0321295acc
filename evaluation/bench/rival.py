"""The whole job beside VecShift, on its ground: a LangChain table, taken over and migrated while its application works.

The documents of ``evaluation.bench.load`` are embedded by revector's hashing encoder and migrated to the same encoder
with another seed, of the same width: it costs almost nothing, so that the tools are measured and not the model, and a
vector or query of the wrong model raises no error, as it would not between two models of equal width. revector runs it
in its own process; VecShift gets it from a ``/v1/embeddings`` server on loopback, which is how it takes models.

Both run on an embedded PostgreSQL, one after the other, in turns, each by its own command line, on tables that are made
alike. The application writes (to a hot set, 0.9 % of the documents) and searches all the while and some seconds longer;
``evaluation.bench.rival_application`` says what changes in it for each tool, and when. At the end every row is embedded
again from the text that the writers were told is stored, and compared; then each rolls back, and every row is compared
once more. Seconds are of wall time, medians of the rounds; counts are sums.

  python -m venv vecshift && vecshift/bin/pip install vecshift
  python -m evaluation.bench.rival --vecshift vecshift/bin/vecshift
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import sqlalchemy as sa

from evaluation.bench import rival_application as application
from evaluation.bench.common import Figure, environment, machine, parser, revector, revision, temporary_project, write
from evaluation.bench.load import first_text, read
from evaluation.bench.rival_application import COLLECTION, TABLE
from evaluation.bench.swaps import _heal
from revector.config import Project, load_project
from revector.interfaces import whole_texts
from revector.local.table_application import TABLES

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

OLD, NEW, DIM = "hashing", "hashing:seed1", 384
AFTER_S = 5.0
"""How long the application works on after the migration."""
MIN_COSINE = 0.9999
DRAIN_S = 2
SECOND = "b111"
"""The revision that revector migrates to."""
AFTERWARDS = {"verify", "rollback"}
"""Commands that come after the migration."""


@dataclass(slots=True)
class Run:
    """What a tool did: wall seconds of its commands, what they said, and every row compared with the texts."""

    spent: dict[str, float] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)
    writes: list[dict[str, Any]] = field(default_factory=list)
    searches: list[dict[str, Any]] = field(default_factory=list)
    after: dict[str, int] = field(default_factory=dict)
    after_rollback: dict[str, int] = field(default_factory=dict)


def main(argv: Sequence[str] | None = None) -> int:
    """Migrate with both; return 1 if revector lost, kept stale, or resurrected a row."""
    options = parser("evaluation.bench.rival", __doc__)
    options.add_argument("--documents", type=int, default=10_000, metavar="N")
    options.add_argument("--writes-per-s", type=float, default=50.0, metavar="N")
    options.add_argument("--queries-per-s", type=float, default=20.0, metavar="N")
    options.add_argument("--rounds", type=int, default=3, metavar="N", help="first one tool, then the other, in turns")
    options.add_argument("--vecshift", default="vecshift", metavar="PATH", help="its command; default: %(default)s")
    chosen = options.parse_args(argv)
    before, rates = machine(), (chosen.writes_per_s, chosen.queries_per_s)
    runs: dict[str, list[Run]] = {"revector": [], "VecShift": []}
    for number in range(chosen.rounds):
        with temporary_project(f'drain_s = {DRAIN_S}\n[collections.{COLLECTION}]\nqrels = "labels"\n') as root:
            project = _project(root)
            try:
                for name in list(runs)[:: -1 if number % 2 else 1]:
                    if name == "revector":
                        runs[name].append(_by_revector(project, chosen.documents, rates))
                    else:
                        runs[name].append(_by_vecshift(project, chosen.vecshift, chosen.documents, rates))
            finally:
                project.engine.dispose()
    command = (
        f"python -m evaluation.bench.rival --documents {chosen.documents} --writes-per-s {chosen.writes_per_s:g} "
        f"--queries-per-s {chosen.queries_per_s:g} --rounds {chosen.rounds}"
    )
    figures = [figure for name, found in runs.items() for figure in _figures(name, found)]
    return write(chosen.output, command, before, figures)


def _project(root: Path) -> Project:
    """Make an empty project with labelled queries, as the gate needs them."""
    (root / "labels" / "qrels").mkdir(parents=True)
    labelled = range(application.LABELLED)
    queries = "".join(json.dumps({"_id": f"q{n}", "text": f"apple{n} pear{n}"}) + "\n" for n in labelled)
    (root / "labels" / "queries.jsonl").write_text(queries)
    judged = "".join(f"q{n}\td{n:06d}\t1\n" for n in labelled)
    (root / "labels" / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    project = load_project(root)
    project.init()
    return project


def _texts(documents: int) -> dict[str, str]:
    return {f"d{n:06d}": first_text(n) for n in range(documents)}


def _table(dsn: str, texts: Mapping[str, str]) -> None:
    """Make the table that the application has, with an index of its own."""
    vectors = application.encoder(OLD, DIM).encode("document", whole_texts(list(texts.values())))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        for statement in TABLES:
            connection.execute(statement)
        connection.execute(
            f"ALTER TABLE {TABLE} ALTER embedding TYPE vector({DIM})"
        )  # as embedding_length=384 makes it
        given = (application.COLLECTION_ID, COLLECTION)
        connection.execute("INSERT INTO langchain_pg_collection (uuid, name) VALUES (%s, %s)", given)
        columns = "id, collection_id, embedding, document, cmetadata"
        with connection.cursor().copy(f"COPY {TABLE} ({columns}) FROM STDIN") as copy:
            for (doc_id, text), vector in zip(texts.items(), vectors, strict=True):
                copy.write_row((doc_id, application.COLLECTION_ID, application.literal(vector), text, "{}"))
        connection.execute(f"CREATE INDEX ON {TABLE} USING hnsw (embedding vector_cosine_ops)")
        connection.execute(f"ANALYZE {TABLE}")


@contextmanager
def _application(way: str, root: Path, dsn: str, documents: int, rates: tuple[float, float]) -> Iterator[Event]:
    """Run the application's writers and searchers; yields what brings out its next release."""
    context = multiprocessing.get_context("spawn")
    switched, ending = context.Event(), context.Event()
    ready = [context.Event(), context.Event()]
    common: tuple[Any, ...] = (way, dsn, (OLD, NEW), DIM, documents)
    with ExitStack() as stack:
        for target, per_s, record, one in (
            (application.write_load, rates[0], root / f"{way}-writes.jsonl", ready[0]),
            (application.search, rates[1], root / f"{way}-searches.jsonl", ready[1]),
        ):
            process = context.Process(target=target, args=(*common, per_s, record, switched, one, ending))
            process.start()
            stack.callback(process.join)
        stack.callback(ending.set)
        for one in ready:
            if not one.wait(120):
                raise RuntimeError("the application did not start within two minutes")
        yield switched


def _records(run: Run, root: Path, way: str) -> None:
    run.writes, run.searches = (read(root / f"{way}-{name}.jsonl") for name in ("writes", "searches"))


# revector -------------------------------------------------------------------------------------------------------------


def _by_revector(project: Project, documents: int, rates: tuple[float, float]) -> Run:
    run, texts, root = Run(), _texts(documents), project.root
    dsn = sa.make_url(project.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    _table(dsn, texts)
    with ExitStack() as stack:
        released = stack.enter_context(_application("revector", root, dsn, documents, rates))
        _revector(run, root, "adopt", TABLE, "-c", COLLECTION, "--like", "langchain", "--model", OLD, "--yes")
        released.set()
        stack.enter_context(_worker(root))
        [adopted] = project.migrations(COLLECTION).glob("*.py")
        body = f'model = ModelSpec(name="{NEW}", dim={DIM})\ngate = Gate(max_drop=1.0, min_overlap=None)'
        revision(root, COLLECTION, SECOND, adopted.name.partition("_")[0], body)
        _revector(run, root, "plan")
        _revector(run, root, "upgrade", SECOND)
        time.sleep(AFTER_S)
    _heal(project)
    _records(run, root, "revector")
    run.after = _compared(texts, run.writes, _live_rows(project), application.encoder(NEW, DIM))
    _revector(run, root, "verify")
    _revector(run, root, "rollback", "--reason", "bench")
    run.after_rollback = _compared(texts, run.writes, _live_rows(project), application.encoder(OLD, DIM))
    return run


def _revector(run: Run, root: Path, *words: str) -> None:
    ran = revector(root, *words)
    run.said[words[0]], run.spent[words[0]] = ran.answer, ran.wall_s


@contextmanager
def _worker(root: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "revector", "worker"]
    with (
        (root / "worker.log").open("wb") as log,
        subprocess.Popen(command, cwd=root, env=environment(root), stderr=log) as worker,
    ):
        try:
            yield
        finally:
            worker.terminate()


def _live_rows(project: Project) -> dict[str, str | None]:
    with project.engine.connect() as connection:
        name = connection.scalar(
            sa.text("SELECT g.physical_name FROM slot s JOIN generation g USING (gen) WHERE s.role = 'active'")
        )
        rows = connection.execute(sa.text(f"SELECT doc_id, embedding::text AS vector FROM {name}")).all()
    return {row.doc_id: row.vector for row in rows}


# VecShift -------------------------------------------------------------------------------------------------------------


def _by_vecshift(project: Project, command: str, documents: int, rates: tuple[float, float]) -> Run:
    run, texts, folder = Run(), _texts(documents), project.root / "vecshift"
    dsn = _own_database(project)
    _table(dsn, texts)
    folder.mkdir()
    with application.served(NEW, DIM) as new, application.served(OLD, DIM) as old:
        (folder / "vecshift.yaml").write_text(
            f"version: 1\nname: bench\nsource:\n  type: pgvector\n  table: public.{TABLE}\n"
            f'  vector_column: embedding\n  text_column: document\n  model: "compat/old,url={old},dims={DIM},price=0"\n'
            f'target:\n  column: embedding_v2\nmodel: "compat/new,url={new},dims={DIM},price=0"\n'
        )
        with _application("VecShift", project.root, dsn, documents, rates) as switched:
            for words in (
                ("plan",),
                ("apply", "--yes"),
                ("eval", "--yes"),
                ("cutover", "--check"),
                ("cutover", "--yes"),
            ):
                _vecshift(run, command, words, folder, dsn)
            switched.set()
            time.sleep(AFTER_S)
        _records(run, project.root, "VecShift")
        run.after = _compared(texts, run.writes, _table_rows(dsn), application.encoder(NEW, DIM))
        _vecshift(run, command, ("rollback", "--yes"), folder, dsn)
        run.after_rollback = _compared(texts, run.writes, _table_rows(dsn), application.encoder(OLD, DIM))
    return run


def _own_database(project: Project) -> str:
    """Make a database of VecShift's own on the same server; returns its address."""
    url = sa.make_url(project.database_url).set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute("CREATE DATABASE vecshift")
    return url.set(database="vecshift").render_as_string(hide_password=False)


def _vecshift(run: Run, command: str, words: Sequence[str], folder: Path, dsn: str) -> None:
    env = environment(folder) | {"VECSHIFT_DSN": dsn, "NO_COLOR": "1", "COLUMNS": "160"}
    env.pop("REVECTOR_CONFIG")
    started = time.monotonic()
    done = subprocess.run([command, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)
    name = " ".join(words).replace(" --yes", "")
    run.spent[name] = time.monotonic() - started
    run.said[name] = done.stdout + done.stderr
    print(
        f"  {run.spent[name]:7.1f} s  vecshift {' '.join(words)} → {done.returncode}\n{run.said[name]}", file=sys.stderr
    )
    if done.returncode != 0 and words[0] != "eval" and "--check" not in words:  # these two end so to say no
        raise RuntimeError(f"vecshift {' '.join(words)} ended with {done.returncode}")


def _table_rows(dsn: str) -> dict[str, str | None]:
    with psycopg.connect(dsn) as connection:
        return dict(connection.execute(f"SELECT id, embedding::text FROM {TABLE}").fetchall())


# Figures --------------------------------------------------------------------------------------------------------------


def _compared(
    texts: Mapping[str, str], writes: Sequence[Mapping[str, Any]], rows: Mapping[str, str | None], encoder: Any
) -> dict[str, int]:
    """Count rows that no search finds, that hold another vector than their text's, and that were deleted."""
    wanted, unknown = dict(texts), set()
    for line in writes:
        if not line["ok"]:
            unknown.add(line["id"])
        elif line["op"] == "put":
            wanted[line["id"]] = line["text"]
        else:
            wanted.pop(line["id"], None)
    known = [doc_id for doc_id in wanted if doc_id not in unknown]
    held = [doc_id for doc_id in known if rows.get(doc_id)]
    fresh = encoder.encode("document", whole_texts([wanted[doc_id] for doc_id in held]))
    stored = np.array([json.loads(rows[doc_id] or "[]") for doc_id in held], dtype=np.float32)
    cosines = (fresh * stored).sum(axis=1) / (np.linalg.norm(fresh, axis=1) * np.linalg.norm(stored, axis=1))
    return {
        "compared": len(known),
        "lost": len(known) - len(held),
        "stale": int((cosines < MIN_COSINE).sum()),
        "resurrected": len(rows.keys() - wanted.keys() - unknown),
    }


def _figures(name: str, runs: Sequence[Run]) -> list[Figure]:
    """Return medians of seconds and sums of counts."""
    ours = name == "revector"
    searches = [line for run in runs for line in run.searches]
    writes = [line for run in runs for line in run.writes]
    answered = [line for line in searches if line["ok"]]
    wrong = sum(line["right"] is False for line in answered)
    whole = [sum(spent for step, spent in run.spent.items() if step not in AFTERWARDS) for run in runs]
    figures = [Figure(f"{name}: whole migration", round(statistics.median(whole), 1), "s")]
    figures += [
        Figure(f"{name}: {step}", round(statistics.median(run.spent[step] for run in runs), 1), "s")
        for step in runs[0].spent
    ]
    figures += [
        Figure(f"{name}: writes and deletes meanwhile", len(writes), "writes"),
        Figure(f"{name}: writes that failed", sum(not line["ok"] for line in writes), "writes"),
        Figure(f"{name}: searches meanwhile", len(searches), "searches"),
        Figure(f"{name}: searches that failed", len(searches) - len(answered), "searches"),
        Figure(
            f"{name}: answers whose score was computed again",
            sum(one["right"] is not None for one in answered),
            "searches",
        ),
        _zero(f"{name}: searches by another model than the index's", wrong, "searches", judged=ours),
    ]
    for when, found in (
        ("after the migration", [run.after for run in runs]),
        ("after the rollback", [run.after_rollback for run in runs]),
    ):
        figures.append(Figure(f"{name}: {when}, compared", sum(one["compared"] for one in found), "rows"))
        for kind in ("lost", "stale", "resurrected"):
            count = sum(one[kind] for one in found)
            figures.append(_zero(f"{name}: {when}, {kind}", count, "rows", judged=ours))
    return figures


def _zero(name: str, value: int, unit: str, *, judged: bool) -> Figure:
    return Figure(name, value, unit, "0", value == 0) if judged else Figure(name, value, unit)


if __name__ == "__main__":
    sys.exit(main())
