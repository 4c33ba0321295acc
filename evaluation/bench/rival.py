"""The whole job beside VecShift: the same documents, model and PostgreSQL, migrated by each while an application works.

The documents of ``evaluation.bench.load`` are embedded by revector's hashing encoder and migrated to the same encoder
with another seed, of the same width: it costs almost nothing, so that the tools are measured and not the model, and a
vector or query of the wrong model raises no error, as it would not between two models of equal width. revector runs it
in its own process; VecShift gets it from a ``/v1/embeddings`` server on loopback, which is how it takes models.

Both run on an embedded PostgreSQL, one after the other, in turns, each by its own command line. The application writes
(to a hot set, 0.9 % of the documents) and searches all the while and some seconds longer. With VecShift the application
embeds its own writes and queries, and its model is switched when ``vecshift cutover`` has returned, as its guide says.
At the end every row is embedded again from the text that the writers were told is stored, and compared; then each rolls
back, and every row is compared once more. Seconds are of wall time, medians of the rounds; counts are sums.

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

from evaluation.bench import rival_application as application
from evaluation.bench.common import Figure, environment, machine, parser, revector, revision, temporary_project, write
from evaluation.bench.load import first_text, read
from evaluation.bench.swaps import COLLECTION, _heal, _load
from revector.config import Project, load_project
from revector.interfaces import Document, whole_texts

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

OLD, NEW, DIM = "hashing", "hashing:seed1", 384
AFTER_S = 5.0
"""How long the application works on after the migration."""
MIN_COSINE = 0.9999
DRAIN_S = 2
DATABASE = "vecshift"
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
    """Make an empty project with the two revisions and labelled queries, as the gate needs them."""
    parent = None
    for name, model in (("a000", OLD), ("b111", NEW)):
        body = f'model = ModelSpec(name="{model}", dim={DIM})\ngate = Gate(max_drop=1.0, min_overlap=None)'
        revision(root, COLLECTION, name, parent, body)
        parent = name
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


# revector -------------------------------------------------------------------------------------------------------------


def _by_revector(project: Project, documents: int, rates: tuple[float, float]) -> Run:
    run, store, texts = Run(), project.documents(COLLECTION), _texts(documents)
    store.put_many([Document(doc_id, text) for doc_id, text in texts.items()])
    project.migrator(COLLECTION, actor="bench").upgrade("a000")
    with _load(project, *rates):
        run.said["plan"], run.spent["plan"] = _timed(project.root, "plan")
        run.said["upgrade"], run.spent["upgrade"] = _timed(project.root, "upgrade", "b111")
        time.sleep(AFTER_S)
    _heal(project)
    run.writes, run.searches = (read(project.root / f"{name}.jsonl") for name in ("writes", "searches"))
    run.after = _compared(texts, run.writes, _live_rows(project), application.encoder(NEW, DIM))
    run.said["verify"], run.spent["verify"] = _timed(project.root, "verify")
    run.said["rollback"], run.spent["rollback"] = _timed(project.root, "rollback", "--reason", "bench")
    run.after_rollback = _compared(texts, run.writes, _live_rows(project), application.encoder(OLD, DIM))
    return run


def _timed(root: Path, *words: str) -> tuple[Any, float]:
    ran = revector(root, *words)
    return ran.answer, ran.wall_s


def _live_rows(project: Project) -> dict[str, str | None]:
    import sqlalchemy as sa

    with project.engine.connect() as connection:
        name = connection.scalar(
            sa.text("SELECT g.physical_name FROM slot s JOIN generation g USING (gen) WHERE s.role = 'active'")
        )
        rows = connection.execute(sa.text(f"SELECT doc_id, embedding::text AS vector FROM {name}")).all()
    return {row.doc_id: row.vector for row in rows}


# VecShift -------------------------------------------------------------------------------------------------------------


def _by_vecshift(project: Project, command: str, documents: int, rates: tuple[float, float]) -> Run:
    run, texts = Run(), _texts(documents)
    dsn = _table(project, texts)
    folder = project.root / DATABASE
    folder.mkdir()
    with application.served(NEW, DIM) as new, application.served(OLD, DIM) as old:
        (folder / "vecshift.yaml").write_text(
            f"version: 1\nname: bench\nsource:\n  type: pgvector\n  table: public.{application.TABLE}\n"
            f'  vector_column: embedding\n  text_column: content\n  model: "compat/old,url={old},dims={DIM},price=0"\n'
            f'target:\n  column: embedding_v2\nmodel: "compat/new,url={new},dims={DIM},price=0"\n'
        )
        with _application(project.root, dsn, documents, rates) as switched:
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
        run.writes, run.searches = (read(project.root / f"vecshift-{name}.jsonl") for name in ("writes", "searches"))
        run.after = _compared(texts, run.writes, _table_rows(dsn), application.encoder(NEW, DIM))
        _vecshift(run, command, ("rollback", "--yes"), folder, dsn)
        run.after_rollback = _compared(texts, run.writes, _table_rows(dsn), application.encoder(OLD, DIM))
    return run


def _table(project: Project, texts: Mapping[str, str]) -> str:
    """Make the table that an application without revector would have, in a database of its own; returns its address."""
    import psycopg
    import sqlalchemy as sa

    url = sa.make_url(project.database_url).set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {DATABASE}")
    dsn = url.set(database=DATABASE).render_as_string(hide_password=False)
    vectors = application.encoder(OLD, DIM).encode("document", whole_texts(list(texts.values())))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        columns = f"id text PRIMARY KEY, content text NOT NULL, embedding vector({DIM})"
        connection.execute(f"CREATE TABLE {application.TABLE} ({columns})")
        with connection.cursor().copy(f"COPY {application.TABLE} FROM STDIN") as copy:
            for (doc_id, text), vector in zip(texts.items(), vectors, strict=True):
                copy.write_row((doc_id, text, application.literal(vector)))
        connection.execute(f"CREATE INDEX ON {application.TABLE} USING hnsw (embedding vector_cosine_ops)")
        connection.execute(f"ANALYZE {application.TABLE}")
    return dsn


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


@contextmanager
def _application(root: Path, dsn: str, documents: int, rates: tuple[float, float]) -> Iterator[Event]:
    """Run the application's writers and searchers; yields the switch of its model."""
    context = multiprocessing.get_context("spawn")
    switched, ending = context.Event(), context.Event()
    ready = [context.Event(), context.Event()]
    common: tuple[Any, ...] = (dsn, (OLD, NEW), DIM, documents)
    records = [root / "vecshift-writes.jsonl", root / "vecshift-searches.jsonl"]
    with ExitStack() as stack:
        for target, per_s, record, one in (
            (application.write_load, rates[0], records[0], ready[0]),
            (application.search, rates[1], records[1], ready[1]),
        ):
            process = context.Process(target=target, args=(*common, per_s, record, switched, one, ending))
            process.start()
            stack.callback(process.join)
        stack.callback(ending.set)
        for one in ready:
            if not one.wait(120):
                raise RuntimeError("the application did not start within two minutes")
        yield switched


def _table_rows(dsn: str) -> dict[str, str | None]:
    import psycopg

    with psycopg.connect(dsn) as connection:
        return dict(connection.execute(f"SELECT id, embedding::text FROM {application.TABLE}").fetchall())


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
