"""A small project on a database: what tests write, move and compare."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from evaluation.reliability.truth import Truth

from fakes import Loader
from revector.config import Project, load_project
from revector.documents.documents import Documents, WriteResult
from revector.encoders.hashing import HashingEncoder
from revector.indexing.chunking import make_chunker
from revector.indexing.encoding import Encoders
from revector.interfaces import Content, Document
from revector.lifecycle import Outcome
from revector.migration.migrator import Migrator
from revector.registry.collections import Collection, Generation, read_collection, read_generation

QUERIES = 60
LIMIT_S = 60.0
GATE = "gate = Gate(max_drop=0.1)"
"""So few queries exclude no drop of 0.06, not even between equal models."""


def document(n: int, **meta: Any) -> Document:
    """The ``n``-th document: its own two words, and five that all share."""
    return Document(f"d{n:05d}", f"apple{n} pear{n} some words here number {n}", {"n": n, **meta})


class World:
    """A project folder and its database."""

    def __init__(self, root: Path, database_url: str, *, init: bool = True) -> None:
        self.root, self.database_url = root, database_url
        self.settings()
        self.revision("a100", None, 'model = ModelSpec(name="hashing", dim=64)')
        self.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=64)')
        self.labels((f"d{n:05d}", f"apple{n} pear{n}") for n in range(QUERIES))
        self.loader = Loader()
        project = self.project  # read now, whatever a test does to the settings later
        if init:
            project.init()

    def settings(self, **collection: Any) -> None:
        lines = [
            f"{key} = {json.dumps(value)}" for key, value in {"qrels": "labels", "shards": 2, **collection}.items()
        ]
        (self.root / "revector.toml").write_text(
            f"database_url = {json.dumps(self.database_url)}\ndrain_s = 0\n[collections.docs]\n"
            + "\n".join(line for line in lines if not line.endswith("null"))
        )
        self.__dict__.pop("project", None)

    def revision(self, name: str, parent: str | None, *body: str) -> None:
        folder = self.root / "migrations" / "docs"
        folder.mkdir(parents=True, exist_ok=True)
        head = f'"""{name}"""\nfrom revector import Chunking, Gate, IndexSpec, ModelSpec\n'
        ids = f"revision = {name!r}\ndown_revision = {parent!r}\n"
        gate = () if any(line.startswith("gate =") for line in body) else (GATE,)
        (folder / f"{name}.py").write_text(head + ids + "\n".join([*body, *gate]) + "\n")

    def labels(self, pairs: Iterable[tuple[str, str]]) -> None:
        folder = self.root / "labels"
        (folder / "qrels").mkdir(parents=True, exist_ok=True)
        pairs = list(pairs)
        queries = (json.dumps({"_id": f"q{n}", "text": text}) + "\n" for n, (_, text) in enumerate(pairs))
        (folder / "queries.jsonl").write_text("".join(queries))
        judged = (f"q{n}\t{doc_id}\t1\n" for n, (doc_id, _) in enumerate(pairs))
        (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))

    @cached_property
    def project(self) -> Project:
        project = load_project(self.root)
        project.__dict__["encoders"] = Encoders(self.loader)
        return project

    @property
    def engine(self) -> sa.Engine:
        return self.project.engine

    def close(self) -> None:
        """Close the connections, if there are any: a test may have changed what the project would connect to now."""
        if "raw_engine" in self.__dict__.get("project", self).__dict__:
            self.project.raw_engine.dispose()

    @property
    def documents(self) -> Documents:
        return self.project.documents("docs")

    @property
    def migrator(self) -> Migrator:
        return self.project.migrator("docs", actor="tester")

    @property
    def collection(self) -> Collection:
        with self.engine.connect() as connection:
            return read_collection(connection, "docs")

    def generation(self, role: str = "active") -> Generation:
        gen = {"active": self.collection.active_gen, "standby": self.collection.standby_gen}.get(
            role, self.collection.building_gen
        )
        assert gen is not None, f"no {role} generation"
        with self.engine.connect() as connection:
            return read_generation(connection, gen)

    def put(self, count: int, start: int = 0, **meta: Any) -> WriteResult:
        return self.documents.put_many([document(n, **meta) for n in range(start, start + count)])

    def upgrade(self, revision: str, to: str | None = None, **options: Any) -> list[Outcome]:
        return self.migrator.upgrade(revision, to=to, **options)

    def settle(self) -> None:
        """Apply everything that is due."""
        worker = self.project.worker()
        while worker.drain():
            pass

    def settle_without(self, doc_id: str) -> None:
        """Apply everything that is due but one document."""
        self.sql("UPDATE pending SET due_at = 'infinity' WHERE doc_id = :doc_id", doc_id=doc_id)
        self.settle()
        self.sql("UPDATE pending SET due_at = clock_timestamp() WHERE doc_id = :doc_id", doc_id=doc_id)

    def search(self, query: str, k: int = 10, **options: Any) -> list[str]:
        return [hit.id for hit in self.project.searcher("docs").search(query, k, **options).hits]

    def sql(self, statement: str, **values: Any) -> Any:
        """Run one statement in a transaction of its own; its rows, if it returns any."""
        with self.engine.begin() as connection:
            found = connection.execute(sa.text(statement), values)
            return found.all() if found.returns_rows else found.rowcount

    def value(self, statement: str, **values: Any) -> Any:
        return self.sql(statement, **values)[0][0]

    def unguarded(self, statement: str) -> None:
        """Run a statement as a superuser who has switched the triggers off."""
        with self.engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            connection.exec_driver_sql(statement)

    def events(self, kind: str) -> list[Mapping[str, Any]]:
        return [event for event in self.project.events("docs", 10_000) if event["kind"] == kind]

    def state(self) -> dict[str, Any]:
        """Everything that a refused call must leave as it was."""
        tables = {
            "documents": "SELECT * FROM document ORDER BY doc_id",
            "slots": "SELECT * FROM collection",
            "generations": "SELECT * FROM generation ORDER BY gen",
            "cutoffs": "SELECT * FROM cutoff ORDER BY gen, name",
            "pending": "SELECT gen, doc_id, version, state FROM pending ORDER BY 1, 2",
            "ledger": "SELECT * FROM ledger ORDER BY gen, doc_id",
        }
        return {name: self.sql(statement) for name, statement in tables.items()}

    def differences(self, generation: Generation) -> list[str]:
        """Compare an index with the documents, by the proofs' own encoder and chunker; our own ledger is not asked."""
        truth = Truth.of(generation.spec)
        rows = self.sql(
            f"SELECT doc_id, chunk, CAST(embedding AS text) AS v FROM {generation.physical_name} ORDER BY 1, 2"
        )
        found: dict[str, list[Any]] = {}
        for row in rows:
            found.setdefault(row.doc_id, []).append(np.array(json.loads(row.v), dtype=np.float32))
        held = self.sql("SELECT doc_id, content FROM document WHERE NOT deleted AND cid = :cid", cid=generation.cid)
        texts = {row.doc_id: row.content for row in held}
        wrong = [f"{doc_id} is in the index only" for doc_id in found.keys() - texts.keys()]
        for doc_id, text in texts.items():
            wanted = _vectors(truth, text)
            have = np.array(found.get(doc_id, np.zeros((0, truth.model.dim))))
            if have.shape != wanted.shape or not np.allclose(have, wanted, atol=1e-4):
                wrong.append(f"{doc_id}: {have.shape} rows unlike its text")
        return wrong


@contextmanager
def working(world: World, **options: Any) -> Iterator[threading.Event]:
    """`revector worker` runs; its error, if any, is raised at the end."""
    stop, errors = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            world.project.worker().run(stop, **options)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(LIMIT_S)
        assert not thread.is_alive()
        if errors:
            raise errors[0]


def _vectors(truth: Truth, text: str) -> Any:
    """Vectors of a text's chunks; only where it is not plain is the product's chunker believed."""
    try:
        return truth.embedded(text)[1]
    except ValueError:
        chunker = make_chunker(truth.chunking, HashingEncoder(truth.model).tokenizer)
        return truth.vectors([piece.text for piece in chunker.pieces([Content("text", text)])])


def build_beside(world: World, base_url: str, queries: int = 40, **judge: Any) -> None:
    """Let another revision be built beside the active one, ``queries`` be asked of both, and name a judge, mini."""
    lines = [json.dumps({"_id": f"u{n}", "text": f"apple{n + 60} words number {n}"}) for n in range(queries)]
    (world.root / "asked.jsonl").write_text("\n".join(lines) + "\n")
    world.settings(queries="asked.jsonl")
    told = {"kind": "openai", "base_url": base_url, "model": "mini", **judge}
    file = world.root / "revector.toml"
    table = "".join(f"{name} = {json.dumps(value)}\n" for name, value in told.items())
    file.write_text(f"{file.read_text()}\n[judges.mini]\n{table}")
    world.__dict__.pop("project", None)
    gate = 'gate = Gate(k=3, max_drop=0.01, min_overlap=None, proxy="mini")'
    world.revision("b200", "a100", 'model = ModelSpec(name="hashing:seed2", dim=32)', gate)
    world.upgrade("b200", to="index")
