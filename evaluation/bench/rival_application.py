"""An application on a LangChain table with SQL of its own, as the guides of both tools describe one.

It embeds what it writes and asks. What its next release changes, it changes at ``switched``: with VecShift the model of
everything, once the operator hears that the cutover is over; with revector its query, once the table is adopted. Its
writes stay as they are with revector, and so does the model that they embed by.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg

from evaluation.bench.load import HOT_SHARE, PUTS, SCORE_TOLERANCE, SEARCHERS, WRITERS, Record, first_text, run_steps
from revector.interfaces import whole_texts

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

TABLE = "langchain_pg_embedding"
COLLECTION, COLLECTION_ID = "docs", "00000000-0000-0000-0000-000000000001"
LABELLED = 60
UPSERT = f"""INSERT INTO {TABLE} (id, collection_id, embedding, document, cmetadata) VALUES (%s, %s, %s, %s, '{{}}')
ON CONFLICT (id) DO UPDATE SET embedding = excluded.embedding, document = excluded.document"""
OWN_COLUMN = f"SELECT id, 1 - (embedding <=> %(v)s::vector) FROM {TABLE} ORDER BY embedding <=> %(v)s::vector LIMIT 10"
FUNCTION = f"""SELECT t.id, s.score FROM revector.search('{COLLECTION}', %(v)s::vector, %(encoder_fp)s, 10) s
JOIN {TABLE} t ON t.id = s.doc_id ORDER BY s.score DESC"""
ACTIVE = f"SELECT encoder_fp, model FROM revector.active('{COLLECTION}')"
ANOTHER_MODEL = "RV004"
"""The SQLSTATE by which ``revector.search`` refuses a vector of another model than the one that serves."""

Asked = tuple[Any, np.ndarray, list[tuple[str, float]]]
"""The encoder that embedded the question, its vector (dim,), and ids with scores, best first."""


def encoder(model: str, dim: int) -> Any:
    """Return revector's encoder of a model: both tools and the application use the same."""
    from revector.encoders.loading import load_encoder
    from revector.spec import ModelSpec

    return load_encoder(ModelSpec(model, dim=dim), root=Path.cwd())


def literal(vector: Any) -> str:
    """Return a vector as pgvector reads it."""
    return "[" + ",".join(map(str, vector.tolist())) + "]"


def _hot(documents: int) -> list[str]:
    """Return the documents that the writers change, as ``evaluation.bench.load`` chooses them."""
    return [f"d{n:06d}" for n in range(documents)][LABELLED : LABELLED + int(documents * HOT_SHARE)]


class OneModel:
    """Writes and asks by one setting of the model, which the release at ``switched`` sets to the new one."""

    def __init__(self, models: Sequence[str], dim: int, switched: Event) -> None:
        self._encoders, self._switched = [encoder(model, dim) for model in models], switched

    def writes_by(self) -> Any:
        """Return the encoder of what is written."""
        return self._encoders[self._switched.is_set()]

    def ask(self, connection: psycopg.Connection[Any], text: str) -> Asked:
        """Search the table's own column."""
        return _own_column(connection, self.writes_by(), text)


class ByFunction:
    """Writes as ever, by the old model; asks ``revector.search`` from the release at ``switched`` on."""

    def __init__(self, models: Sequence[str], dim: int, switched: Event) -> None:
        self._encoders, self._switched = {model: encoder(model, dim) for model in models}, switched
        self._old, self._active = models[0], None

    def writes_by(self) -> Any:
        """Return the encoder of what is written."""
        return self._encoders[self._old]

    def ask(self, connection: psycopg.Connection[Any], text: str) -> Asked:
        """Search by the model that serves; read again which it is where the function refuses the vector's."""
        if not self._switched.is_set():
            return _own_column(connection, self.writes_by(), text)
        try:
            return self._by_active(connection, text)
        except psycopg.Error as error:
            if error.sqlstate != ANOTHER_MODEL:
                raise
            self._active = None
            return self._by_active(connection, text)

    def _by_active(self, connection: psycopg.Connection[Any], text: str) -> Asked:
        active = self._active = self._active or connection.execute(ACTIVE).fetchone()
        encoder_fp, model = active
        used = self._encoders[model]
        query = used.encode("query", whole_texts([text]))[0]
        given = {"v": literal(query), "encoder_fp": encoder_fp}
        return used, query, connection.execute(FUNCTION, given).fetchall()


def _own_column(connection: psycopg.Connection[Any], used: Any, text: str) -> Asked:
    query = used.encode("query", whole_texts([text]))[0]
    return used, query, connection.execute(OWN_COLUMN, {"v": literal(query)}).fetchall()


WAYS = {"VecShift": OneModel, "revector": ByFunction}


# Load -----------------------------------------------------------------------------------------------------------------


def write_load(
    way: str, dsn: str, models: Sequence[str], dim: int, documents: int, per_s: float, record: Path, *events: Event
) -> None:
    """Write and delete as ``evaluation.bench.load`` does, into the table; ``events``: switched, ready, ending."""
    switched, ready, ending = events
    application, hot = WAYS[way](models, dim, switched), _hot(documents)
    with ExitStack() as stack:
        lines = Record(stack.enter_context(record.open("w", encoding="utf-8")))
        steps = [_writer(stack, dsn, application, hot[n::WRITERS], n, lines) for n in range(WRITERS)]
        run_steps(steps, per_s, ready, ending)


def _writer(
    stack: ExitStack, dsn: str, application: OneModel | ByFunction, own: Sequence[str], thread: int, record: Record
) -> Callable[[], None]:
    connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))
    numbers, count, deleted = random.Random(thread), itertools.count(), set[str]()

    def step() -> None:
        doc_id, number = numbers.choice(own), next(count)
        put = doc_id in deleted or numbers.random() < PUTS
        text = f"word{numbers.randrange(5_000)} plum{number} written by {thread} at turn {number}"
        line: dict[str, Any] = {"op": "put" if put else "delete", "id": doc_id, "at": time.time(), "ok": True}
        started = time.perf_counter()
        try:
            if put:
                vector = literal(application.writes_by().encode("document", whole_texts([text]))[0])
                connection.execute(UPSERT, (doc_id, COLLECTION_ID, vector, text))
                line["text"] = text
                deleted.discard(doc_id)
            else:
                connection.execute(f"DELETE FROM {TABLE} WHERE id = %s", (doc_id,))
                deleted.add(doc_id)
        except psycopg.Error as error:
            line |= {"ok": False, "error": f"{type(error).__name__}: {error}"}
        line["ms"] = round((time.perf_counter() - started) * 1_000, 3)
        record.add(**line)

    return step


def search(
    way: str, dsn: str, models: Sequence[str], dim: int, documents: int, per_s: float, record: Path, *events: Event
) -> None:
    """Ask; ``right``: the best hit that nobody changes has the score that the model of the question gives it.

    ``events``: switched, ready, ending.
    """
    switched, ready, ending = events
    hot = _hot(documents)
    with ExitStack() as stack:
        lines = Record(stack.enter_context(record.open("w", encoding="utf-8")))
        steps = [
            _searcher(stack, dsn, WAYS[way](models, dim, switched), hot, thread, lines) for thread in range(SEARCHERS)
        ]
        run_steps(steps, per_s, ready, ending)


def _searcher(
    stack: ExitStack, dsn: str, application: OneModel | ByFunction, hot: Sequence[str], seed: int, record: Record
) -> Callable[[], None]:
    connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))
    numbers = random.Random(seed)

    def step() -> None:
        n = numbers.randrange(LABELLED)
        line: dict[str, Any] = {"at": time.time(), "ok": True}
        try:
            used, query, hits = application.ask(connection, f"apple{n} pear{n}")
        except psycopg.Error as error:
            line |= {"ok": False, "error": f"{type(error).__name__}: {error}"}
        else:
            best = next((hit for hit in hits if hit[0] not in hot), None)
            line["right"] = best and abs(best[1] - _score(used, best[0], query)) < SCORE_TOLERANCE
        record.add(**line)

    return step


def _score(used: Any, doc_id: str, query: Any) -> float:
    return float(used.encode("document", whole_texts([first_text(int(doc_id[1:]))]))[0] @ query)


# The model as a server ------------------------------------------------------------------------------------------------


@contextmanager
def served(model: str, dim: int) -> Iterator[str]:
    """Serve ``/v1/embeddings`` on loopback by a model; yields the address, which ends in ``/v1``."""
    made = encoder(model, dim)

    class _Embeddings(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # headers and body are two writes; else the second waits 40 ms

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            vectors = made.encode("document", whole_texts(asked["input"]))
            data = [{"index": n, "embedding": one.tolist()} for n, one in enumerate(np.asarray(vectors))]
            body = json.dumps({"data": data, "model": asked["model"], "usage": {"prompt_tokens": 0}}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing of each request."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Embeddings)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
