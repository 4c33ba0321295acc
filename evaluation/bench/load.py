"""The load of the swap benchmark: writers and searchers that note every operation with its time."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    from revector.config import Project
    from revector.interfaces import Encoder, Vectors
    from revector.serving.searcher import Answer, Hit

WRITERS = SEARCHERS = 4
HOT_SHARE = 0.009
PUTS = 0.75
SCORE_TOLERANCE = 0.001
"""A stored float32 vector against a fresh encoding of the query by the same encoder."""


def first_text(n: int) -> str:
    """Return the text of the ``n``-th document at the start."""
    return f"apple{n} pear{n} some words here number {n}, which is {'even' if n % 2 == 0 else 'odd'}"


class Record:
    """Operations as JSON lines."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._lock = file, threading.Lock()

    def add(self, **line: Any) -> None:
        """Append a line."""
        with self._lock:
            self._file.write(json.dumps(line) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """Return the operations of a record."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def encoders_of(project: Project, collection: str) -> dict[str, Encoder]:
    """Return the encoder of every migration file, loaded without a look at the registry."""
    from revector.revisions import RevisionGraph

    return {
        one.revision: project.load_encoder(one.model)
        for one in RevisionGraph.from_folder(project.migrations(collection))
    }


# Writers --------------------------------------------------------------------------------------------------------------


def hot_ids(project: Project, kept: int) -> list[str]:
    """Return the documents that the writers change: some of those that there were at the start, in id order."""
    with project.engine.connect() as connection:
        ids = list(connection.scalars(sa.text("SELECT doc_id FROM document ORDER BY doc_id")))
    return ids[kept : kept + int(len(ids) * HOT_SHARE)]


def write_load(root: Path, collection: str, kept: int, per_s: float, ready: Event, ending: Event) -> None:
    """Put and delete until ``ending``; each thread has documents of its own, all together ``HOT_SHARE`` of them.

    A hot set, as applications have: evidence lapses when 1 % of the documents changed, whatever the number of writes.
    """
    from revector.config import load_project

    project = load_project(root)
    hot = hot_ids(project, kept)
    with (root / "writes.jsonl").open("w", encoding="utf-8") as file:
        record = Record(file)
        steps = [_writer(project, collection, hot[thread::WRITERS], record, thread) for thread in range(WRITERS)]
        run_steps(steps, per_s, ready, ending)


def _writer(project: Project, collection: str, own: list[str], record: Record, thread: int) -> Callable[[], None]:
    from revector.errors import RevectorError

    documents, numbers, count = project.documents(collection), random.Random(thread), itertools.count()
    deleted: set[str] = set()

    def step() -> None:
        doc_id, number = numbers.choice(own), next(count)
        op = "put" if doc_id in deleted or numbers.random() < PUTS else "delete"
        text = f"word{numbers.randrange(5_000)} plum{number} written by {thread} at turn {number}"
        line: dict[str, Any] = {"op": op, "id": doc_id, "at": time.time(), "ok": True}
        started = time.perf_counter()
        try:
            if op == "put":
                documents.put(doc_id, text)
                line["text"] = text
                deleted.discard(doc_id)
            else:
                documents.delete(doc_id)
                deleted.add(doc_id)
        except (RevectorError, sa.exc.SQLAlchemyError) as error:
            line |= {"ok": False, "error": f"{type(error).__name__}: {error}"}
        line["ms"] = round((time.perf_counter() - started) * 1_000, 3)
        record.add(**line)

    return step


# Searchers ------------------------------------------------------------------------------------------------------------


def search(root: Path, collection: str, labelled: int, per_s: float, ready: Event, ending: Event) -> None:
    """Search through the alias until ``ending`` and check who answered."""
    from revector.config import load_project

    project = load_project(root)
    with (root / "searches.jsonl").open("w", encoding="utf-8") as file:
        record = Record(file)
        run_steps([_searcher(project, collection, labelled, record, n) for n in range(SEARCHERS)], per_s, ready, ending)


def _searcher(project: Project, collection: str, labelled: int, record: Record, seed: int) -> Callable[[], None]:
    from revector.errors import RevectorError

    searcher, own = project.searcher(collection), encoders_of(project, collection)
    hot = frozenset(hot_ids(project, labelled))
    numbers = random.Random(seed)

    def step() -> None:
        n = numbers.randrange(labelled)
        # Half ask for what nobody changes, half for what is being written.
        query = f"apple{n} pear{n}" if numbers.random() < 0.5 else f"word{numbers.randrange(5_000)} plum{n}"
        line: dict[str, Any] = {"at": time.time(), "ok": True}
        started = time.perf_counter()
        try:
            answer = searcher.search(query, 10)
        except (RevectorError, sa.exc.SQLAlchemyError) as error:
            line |= {"ok": False, "error": f"{type(error).__name__}: {error}"}
        line["ms"] = round((time.perf_counter() - started) * 1_000, 3)
        if line["ok"]:
            line |= {"revision": answer.revision, "right": _is_right(project, own[answer.revision], query, answer, hot)}
        record.add(**line)

    return step


def _is_right(project: Project, encoder: Encoder, query: str, answer: Answer, hot: frozenset[str]) -> bool | None:
    """Whether the best hit that nobody changes has the score of the revision's own ``encoder``; None if there is none.

    A hit that is being written says nothing: its version is the document's, and its score may be of the row before.
    """
    from revector.documents.text import clean_query
    from revector.interfaces import whole_texts

    if answer.encoder_fp != encoder.fingerprint:
        return False
    fresh = encoder.encode("query", whole_texts([clean_query(query)]))[0]
    for hit in answer.hits:
        stored = None if hit.id in hot else stored_vector(project, answer.generation, hit)
        if stored is None:
            continue
        if stored.shape != fresh.shape:
            return False
        score = float(stored @ fresh / (np.linalg.norm(stored) * np.linalg.norm(fresh)))
        return abs(score - hit.score) < SCORE_TOLERANCE
    return None


def stored_vector(project: Project, generation: int, hit: Hit) -> Vectors | None:
    """Return the vector of a hit as the index holds it, or None if it was replaced since."""
    with project.engine.connect() as connection:
        name = connection.scalar(
            sa.text("SELECT physical_name FROM generation WHERE gen = :gen AND NOT dropped"), {"gen": generation}
        )
        if name is None:
            return None
        stored = connection.scalar(
            sa.text(f"SELECT embedding::text FROM {name} WHERE doc_id = :id AND chunk = :chunk AND version = :version"),
            {"id": hit.id, "chunk": hit.chunk, "version": hit.version},
        )
    return None if stored is None else np.array(json.loads(stored), dtype=np.float32)


def run_steps(steps: list[Callable[[], None]], per_s: float, ready: Event, ending: Event) -> None:
    """Run each step in a thread of its own, all together ``per_s`` times a second, as far as the machine can."""

    def every(step: Callable[[], None]) -> None:
        interval_s = len(steps) / per_s
        due = time.monotonic()
        while not ending.is_set():
            step()
            due = max(due + interval_s, time.monotonic() - 1)
            time.sleep(max(0.0, due - time.monotonic()))

    threads = [threading.Thread(target=every, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    ready.set()
    for thread in threads:
        thread.join()
