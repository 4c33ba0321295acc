"""A project of its own for the kill trials: generated documents, two models that need no weights, labelled queries."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from revector.config import Project, load_project
from revector.interfaces import Document
from revector.sources import open_source

COLLECTION = "docs"
OLD, NEW = "a100", "b200"
LABELLED = 60
WORDS_A_DOCUMENT = 120
VOCABULARY = 4_000

MODELS = {OLD: ("hashing", 512), NEW: ("hashing:seed2", 512)}
"""Of one width, so that PostgreSQL would not refuse the other's queries; wide, so that loading and indexing last."""

DAG = '''"""The DAG under test."""

from pathlib import Path

from revector.airflow import migration_dag

dag = migration_dag(config=Path(__file__).resolve().parent.parent / "revector.toml")
'''


def text_of(number: int) -> str:
    """Return the text of a generated document: two words of its own among words that all share."""
    draw = random.Random(number)  # noqa: S311 - a corpus, not a secret
    words = (f"word{int(VOCABULARY * draw.random() ** 2)}" for _ in range(WORDS_A_DOCUMENT))
    return f"apple{number} pear{number} {' '.join(words)}"


def corpus(documents: int) -> Iterator[Document]:
    """Generate the documents; the first ``LABELLED`` are those that queries ask for."""
    for number in range(documents):
        yield Document(f"d{number:06d}", text_of(number), {})


def make_project(root: Path, *, documents: int, shards: int = 4) -> Project:
    """Write the project into ``root``, start its embedded database, load it and make revision ``OLD`` live."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "revector.toml").write_text(
        f"drain_s = 0\narchive_days = 0\n[encoder]\nthreads = 1\n"
        f'[collections.{COLLECTION}]\nqrels = "labels"\nshards = {shards}\n'
    )
    _write_migrations(root / "migrations" / COLLECTION)
    _write_labels(root / "labels")
    (root / "dags").mkdir(exist_ok=True)
    (root / "dags" / "migrate.py").write_text(DAG)
    project = load_project(root)
    project.init()
    lines = (json.dumps({"_id": one.id, "text": one.text}) for one in corpus(documents))
    (root / "docs.jsonl").write_text("\n".join(lines) + "\n")
    project.documents(COLLECTION).ingest(open_source(str(root / "docs.jsonl")), actor="trial")
    project.migrator(COLLECTION, actor="trial").upgrade(OLD)
    return project


def remove_project(project: Project) -> None:
    """Delete the project with its database."""
    from revector import embedded

    project.raw_engine.dispose()
    embedded.remove(project.state)
    shutil.rmtree(project.root)


def _write_migrations(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for revision, parent in ((OLD, None), (NEW, OLD)):
        name, dim = MODELS[revision]
        (folder / f"{revision}.py").write_text(
            f'"""{name}"""\nfrom revector import Gate, ModelSpec\n\nrevision = {revision!r}\n'
            f"down_revision = {parent!r}\nmodel = ModelSpec(name={name!r}, dim={dim})\n"
            "gate = Gate(max_drop=1.0, min_overlap=None)\n"
        )


def _write_labels(folder: Path) -> None:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    queries = [json.dumps({"_id": f"q{n}", "text": f"apple{n} pear{n}"}) for n in range(LABELLED)]
    judged = [f"q{n}\td{n:06d}\t1" for n in range(LABELLED)]
    (folder / "queries.jsonl").write_text("\n".join(queries) + "\n")
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
