"""An application on VecShift's table, as its guide describes one: it embeds what it writes and asks by its own setting.

The setting is one model for everything, switched by ``switched`` when the operator hears that the cutover is over.
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

from evaluation.bench.load import HOT_SHARE, PUTS, SCORE_TOLERANCE, SEARCHERS, WRITERS, Record, _run, first_text
from revector.interfaces import whole_texts

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

TABLE = "documents"
LABELLED = 60


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


def write_load(
    dsn: str, models: Sequence[str], dim: int, documents: int, per_s: float, record: Path, *events: Event
) -> None:
    """Write and delete as ``evaluation.bench.load`` does, into the table; ``events``: switched, ready, ending."""
    switched, ready, ending = events
    encoders = [encoder(model, dim) for model in models]
    hot = _hot(documents)
    with ExitStack() as stack:
        lines = Record(stack.enter_context(record.open("w", encoding="utf-8")))
        steps = [_writer(stack, dsn, encoders, switched, hot[n::WRITERS], n, lines) for n in range(WRITERS)]
        _run(steps, per_s, ready, ending)


def _writer(
    stack: ExitStack,
    dsn: str,
    encoders: Sequence[Any],
    switched: Event,
    own: Sequence[str],
    thread: int,
    record: Record,
) -> Callable[[], None]:
    import psycopg

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
                vector = literal(encoders[switched.is_set()].encode("document", whole_texts([text]))[0])
                connection.execute(
                    f"INSERT INTO {TABLE} (id, content, embedding) VALUES (%s, %s, %s) ON CONFLICT (id) "
                    "DO UPDATE SET content = excluded.content, embedding = excluded.embedding",
                    (doc_id, text, vector),
                )
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
    dsn: str, models: Sequence[str], dim: int, documents: int, per_s: float, record: Path, *events: Event
) -> None:
    """Ask by the model that is set; ``right``: the best hit that nobody changes has the score that this model gives it.

    ``events``: switched, ready, ending.
    """
    switched, ready, ending = events
    encoders, hot = [encoder(model, dim) for model in models], _hot(documents)
    with ExitStack() as stack:
        lines = Record(stack.enter_context(record.open("w", encoding="utf-8")))
        _run([_searcher(stack, dsn, encoders, switched, hot, n, lines) for n in range(SEARCHERS)], per_s, ready, ending)


def _searcher(
    stack: ExitStack,
    dsn: str,
    encoders: Sequence[Any],
    switched: Event,
    hot: Sequence[str],
    seed: int,
    record: Record,
) -> Callable[[], None]:
    import psycopg

    connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))
    numbers = random.Random(seed)

    def step() -> None:
        n, used = numbers.randrange(LABELLED), encoders[switched.is_set()]
        query = used.encode("query", whole_texts([f"apple{n} pear{n}"]))[0]
        line: dict[str, Any] = {"at": time.time(), "ok": True}
        try:
            given = literal(query)
            hits = connection.execute(
                f"SELECT id, 1 - (embedding <=> %s::vector) FROM {TABLE} ORDER BY embedding <=> %s::vector LIMIT 10",
                (given, given),
            ).fetchall()
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
