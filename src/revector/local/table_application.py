"""The application of the demo's second act: a table as LangChain makes it, written and searched in SQL of its own.

    python -m revector.local.table_application SETTINGS

It knows nothing of revector but three functions in SQL: it embeds by sentence-transformers, and sends its statements by
psycopg. Every line of its record is one operation that PostgreSQL acknowledged.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg

from revector.local.own_models import OwnModels
from revector.local.record import Record

WRITES_PER_S = 1.0
QUERIES_PER_S = 4.0
K = 10
LEAST_ROWS = 60
"""Beside those that are kept: more rows are deleted than inserted above, so that the table keeps its size."""

SWAPPED = "RV004"
"""The SQLSTATE by which ``revector.search`` refuses a vector of another model than the one that serves."""

TABLES = (
    """CREATE TABLE langchain_pg_collection (
  uuid UUID NOT NULL, name VARCHAR NOT NULL, cmetadata JSON, PRIMARY KEY (uuid), UNIQUE (name))""",
    """CREATE TABLE langchain_pg_embedding (
  id VARCHAR NOT NULL, collection_id UUID, embedding VECTOR, document VARCHAR, cmetadata JSONB, PRIMARY KEY (id),
  FOREIGN KEY(collection_id) REFERENCES langchain_pg_collection (uuid) ON DELETE CASCADE)""",
    "CREATE INDEX ix_cmetadata_gin ON langchain_pg_embedding USING gin (cmetadata jsonb_path_ops)",
)
"""As ``langchain_postgres.PGVector`` 0.0.19 makes them: its own DDL, for the package is not among those of the demo."""

_INSERT = """INSERT INTO langchain_pg_embedding (id, collection_id, embedding, document, cmetadata)
VALUES (%(id)s, %(uuid)s, %(vector)s, %(text)s, %(meta)s)"""
_UPSERT = f"""{_INSERT} ON CONFLICT (id) DO UPDATE SET collection_id = EXCLUDED.collection_id,
embedding = EXCLUDED.embedding, document = EXCLUDED.document, cmetadata = EXCLUDED.cmetadata"""
_UPDATE = "UPDATE langchain_pg_embedding SET document = %(text)s, embedding = %(vector)s WHERE id = %(id)s"
_DELETE = "DELETE FROM langchain_pg_embedding WHERE id = %(id)s"
_OWN_SEARCH = """SELECT id, 1 - (embedding <=> %(vector)s::vector) FROM langchain_pg_embedding
WHERE collection_id = %(uuid)s ORDER BY embedding <=> %(vector)s::vector LIMIT %(k)s"""
_SEARCH = """SELECT e.id, s.score FROM revector.search(%(collection)s, %(vector)s::vector, %(encoder_fp)s, %(k)s) s
JOIN langchain_pg_embedding e ON e.id = s.doc_id ORDER BY s.score DESC"""
_ACTIVE = "SELECT revision, encoder_fp, model FROM revector.active(%(collection)s)"


@dataclass(frozen=True, slots=True)
class ApplicationSettings:
    """What the application is started with; paths as text.

    ``corpus`` holds a line ``{"id", "text"}`` for each first row, ``queries`` a list of questions. ``models`` are
    folders by name; ``own_model`` made the vectors of the table. ``kept`` ids are never changed. While the file
    ``switch`` is there, searches go through revector.
    """

    url: str
    collection: str
    uuid: str
    models: dict[str, str]
    own_model: str
    corpus: str
    queries: list[str]
    kept: list[str]
    record: str
    switch: str

    def write(self, path: Path) -> None:
        """Keep them for the application's process."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


class TableWriter:
    """Inserts, upserts, updates, deletes and rolls back, each in a transaction of the application's own."""

    def __init__(self, given: ApplicationSettings, embed: OwnModels, record: Record, texts: Mapping[str, str]) -> None:
        self._given, self._embed, self._record = given, embed, record
        self._connection = connect(given.url)
        self._ids, self._words = [one for one in texts if one not in set(given.kept)], list(texts.values())
        self._random, self._new_ids, self._texts = random.Random(2), 0, 0  # noqa: S311 - a simulation

    def step(self) -> None:
        """Run one transaction."""
        kinds = {"insert": 3, "several": 1, "upsert": 2, "update": 4, "delete": 6, "rollback": 1}
        [kind] = self._random.choices(list(kinds), list(kinds.values()))
        few = len(self._ids) < LEAST_ROWS
        try:
            getattr(self, "_several" if few else f"_{kind}")()
        except psycopg.Error as error:
            self._record.add(op="failed", error=str(error))

    def _insert(self) -> None:
        self._run(("put", self._new(), _INSERT))

    def _upsert(self) -> None:
        self._run(("put", self._any(), _UPSERT))

    def _update(self) -> None:
        self._run(("put", self._any(), _UPDATE))

    def _delete(self) -> None:
        self._run(("delete", self._any(), _DELETE))

    def _several(self) -> None:
        gone = self._any()
        self._run(*(("put", self._new(), _INSERT) for _ in range(3)), ("delete", gone, _DELETE))

    def _rollback(self) -> None:
        self._run(("put", self._any(), _UPDATE), ("delete", self._any(), _DELETE), commit=False)

    def _new(self) -> str:
        self._new_ids += 1
        return f"note-{self._new_ids:05d}"

    def _any(self) -> str:
        return self._random.choice(self._ids)

    def _run(self, *writes: tuple[str, str, str], commit: bool = True) -> None:
        """Run statements (what, id, SQL) in one transaction, and note them once it is committed."""
        texts = [self._text() for _ in writes]
        vectors = self._embed(self._given.own_model, texts)
        with self._connection.transaction(force_rollback=not commit):
            for (_, doc_id, statement), text, vector in zip(writes, texts, vectors, strict=True):
                values = {"id": doc_id, "uuid": self._given.uuid, "text": text, "vector": literal(vector)}
                self._connection.execute(statement, {**values, "meta": '{"kind": "note"}'})
        if not commit:
            self._record.add(op="rolled back", statements=len(writes))
            return
        for (what, doc_id, _), text in zip(writes, texts, strict=True):
            self._record.add(op=what, id=doc_id, text=text, at=time.monotonic())
            if what == "delete":
                self._ids.remove(doc_id)
            elif doc_id not in self._ids:
                self._ids.append(doc_id)

    def _text(self) -> str:
        """Return a text that no other row has."""
        self._texts += 1
        return f"{self._random.choice(self._words)[:300]}\nNote {self._texts} of the application."


class TableReader:
    """Asks in SQL, of the table's own vectors, or through revector once the application was told to."""

    def __init__(self, given: ApplicationSettings, embed: OwnModels, record: Record) -> None:
        self._given, self._embed, self._record = given, embed, record
        self._connection = connect(given.url)
        self._random = random.Random(1)  # noqa: S311 - a simulation
        self._active: dict[str, str] | None = None

    def step(self) -> None:
        """Ask one question and note what came back."""
        query, began = self._random.choice(self._given.queries), time.monotonic()
        through = Path(self._given.switch).exists()
        try:
            by, hits = self._through_revector(query) if through else self._in_the_table(query)
        except psycopg.Error as error:
            self._record.add(op="query", ok=False, error=str(error))
            return
        ms = (time.monotonic() - began) * 1_000
        self._record.add(op="query", ok=True, ms=round(ms, 2), query=query, began=began, hits=hits, **by)

    def _in_the_table(self, query: str) -> tuple[dict[str, str], list[tuple[str, float]]]:
        by = {"revision": "its own column", "model": self._given.own_model}
        return by, self._ask(_OWN_SEARCH, query, self._given.own_model)

    def _through_revector(self, query: str) -> tuple[dict[str, str], list[tuple[str, float]]]:
        by = self._active or self._read_active()
        try:
            return by, self._ask(_SEARCH, query, by["model"], encoder_fp=by["encoder_fp"])
        except psycopg.Error as error:
            if error.sqlstate != SWAPPED:
                raise
        self._record.add(op="swapped", at=time.monotonic())
        by = self._read_active()
        return by, self._ask(_SEARCH, query, by["model"], encoder_fp=by["encoder_fp"])

    def _read_active(self) -> dict[str, str]:
        row = self._connection.execute(_ACTIVE, {"collection": self._given.collection}).fetchone()
        assert row is not None
        self._active = dict(zip(("revision", "encoder_fp", "model"), row, strict=True))
        return self._active

    def _ask(self, statement: str, query: str, model: str, **more: str) -> list[tuple[str, float]]:
        vector = literal(self._embed(model, [query])[0])
        given = {"collection": self._given.collection, "uuid": self._given.uuid, "k": K, "vector": vector}
        return [(row[0], row[1]) for row in self._connection.execute(statement, {**given, **more}).fetchall()]


def connect(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    """Return a session whose tables are in ``public``: a role may have a schema of its name, and its tables there."""
    return psycopg.connect(url, autocommit=True, options="-c search_path=public")


def literal(vector: Any) -> str:
    """Return a vector as pgvector reads it."""
    return json.dumps([float(number) for number in vector])


def read_corpus(path: Path) -> dict[str, str]:
    """Return text by id."""
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {line["id"]: line["text"] for line in lines}


def fill(given: ApplicationSettings, embed: OwnModels, texts: Mapping[str, str]) -> None:
    """Make the tables with their first rows, and another collection that must stay as it is."""
    vectors = embed(given.own_model, list(texts.values()))
    with connect(given.url) as connection, connection.transaction():
        for statement in TABLES:
            connection.execute(statement)
        other = "00000000-0000-4000-8000-000000000000"
        names = {given.uuid: given.collection, other: "drafts"}
        for uuid, name in names.items():
            connection.execute("INSERT INTO langchain_pg_collection VALUES (%s, %s, NULL)", (uuid, name))
        for n, ((doc_id, text), vector) in enumerate(zip(texts.items(), vectors, strict=True)):
            values = {"text": text, "vector": literal(vector), "meta": '{"kind": "documentation"}'}
            connection.execute(_INSERT, {"id": doc_id, "uuid": given.uuid, **values})
            if n < 20:
                connection.execute(_INSERT, {"id": f"draft-{n}", "uuid": other, **values})


def run_all(rates: Mapping[Callable[[], None], float], ending: threading.Event) -> None:
    """Call each step as often a second as it says, beside the others, until the event is set."""
    threads = [threading.Thread(target=_every, args=(1 / rate, step, ending)) for step, rate in rates.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _every(interval_s: float, step: Callable[[], None], ending: threading.Event) -> None:
    """Call ``step`` every ``interval_s`` seconds, or as often as it can, until the event is set."""
    due = time.monotonic()
    while not ending.is_set():
        step()
        due = max(due + interval_s, time.monotonic() - 1)
        ending.wait(max(0.0, due - time.monotonic()))


def main() -> None:
    """Make the table, then write and search until SIGTERM; what was begun is finished and noted."""
    given, ending = ApplicationSettings(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    embed = OwnModels({name: Path(folder) for name, folder in given.models.items()}, threads=1)
    texts = read_corpus(Path(given.corpus))
    fill(given, embed, texts)
    for model in given.models:
        embed(model, given.queries[:1])
    with Path(given.record).open("a", encoding="utf-8") as file:
        record = Record(file)
        steps = {TableWriter(given, embed, record, texts).step: WRITES_PER_S}
        steps[TableReader(given, embed, record).step] = QUERIES_PER_S
        record.add(op="ready")
        run_all(steps, ending)
        record.add(op="end")


if __name__ == "__main__":
    main()
