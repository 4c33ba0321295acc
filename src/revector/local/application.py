"""The simulated application of the demo: writes, deletes and queries through the public API, and notes the answers.

    python -m revector.local.application COLLECTION RECORD

Every line of RECORD is one acknowledged operation. Each answer is checked by means of its own: the encoders are loaded
from the migration files, not from the registry, and compared with the vector that the index stores.
"""

from __future__ import annotations

import base64
import io
import random
import signal
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from revector.config import Project, load_project
from revector.documents.documents import Documents
from revector.documents.text import clean_query
from revector.errors import RevectorError
from revector.formats.images import picture
from revector.interfaces import Encoder, whole_texts
from revector.labels import load_labels
from revector.local.record import Record
from revector.local.table_application import run_all
from revector.registry.collections import read_generation
from revector.registry.lanes import lane_of
from revector.revisions import RevisionGraph
from revector.serving.searcher import Answer, Searcher

WRITES_PER_S = 1.0
QUERIES_PER_S = 4.0
SCORE_TOLERANCE = 0.01
"""A stored vector against a fresh encoding of the query: an encoder of another model is off by far more."""

JUST_STORED = timedelta(seconds=1)


class Writer:
    """Changes documents: half updates, a third new ones, the rest deletes; each text is unique, and images are turned.

    What answers a labelled question, ``judged``, is changed instead of deleted: the gate needs enough of them.
    """

    def __init__(
        self, documents: Documents, ids: list[str], record: Record, seed: int, judged: frozenset[str] = frozenset()
    ) -> None:
        self._documents, self._ids, self._record, self._judged = documents, ids, record, judged
        self._random, self._count = random.Random(seed), 0  # noqa: S311 - a simulation

    def step(self) -> None:
        """Do one write; an error is noted as of unknown outcome."""
        self._count += 1
        draw, doc_id = self._random.random(), self._random.choice(self._ids)
        if 0.5 <= draw < 0.8:
            doc_id = f"demo.note.{self._count:06d}"
        try:
            if draw < 0.8 or doc_id in self._judged:
                self._put(doc_id)
            else:
                self._documents.delete(doc_id)
                self._ids.remove(doc_id)
                self._record.add(op="delete", id=doc_id)
        except (RevectorError, sa.exc.SQLAlchemyError) as error:
            self._record.add(op="unknown", id=doc_id, error=str(error))

    def _put(self, doc_id: str) -> None:
        stored = self._documents.get(doc_id) or self._documents.get(self._random.choice(self._ids))
        text = "" if stored is None else stored.text[:2_000]
        image = None if stored is None or stored.image is None else self._documents.image_of(stored.id)
        if image is None:
            text = f"{text}\n\nNote {self._count}: changed while the model was being replaced."
        else:
            image = turned(image, self._random.uniform(-10, 10))
        meta = {"package": "demo", "kind": "note"} if stored is None else stored.meta
        self._documents.put(doc_id, text, meta, image=image)
        if doc_id not in self._ids:
            self._ids.append(doc_id)
        kept = {} if image is None else {"image": base64.b64encode(image).decode()}
        self._record.add(op="put", id=doc_id, text=text, **kept)


def turned(image: bytes, degrees: float) -> bytes:
    """Return an image as a PNG, turned a little, with white in its corners."""
    out = io.BytesIO()
    picture(image).rotate(degrees, fillcolor="white").save(out, "PNG")
    return out.getvalue()


class Reader:
    """Asks the labelled questions through the alias and checks who answered."""

    def __init__(self, project: Project, collection: str, record: Record, seed: int) -> None:
        self._searcher: Searcher = project.searcher(collection)
        self._engine, self._record = project.engine, record
        labels = project.labels(collection)
        self._queries = list(load_labels(labels).queries.values()) if labels else ["how to sort a list"]
        self._random = random.Random(seed)  # noqa: S311 - a simulation
        graph = RevisionGraph.from_folder(project.migrations(collection))
        self._own: dict[str, Encoder] = {one.revision: project.load_encoder(one.model) for one in graph}

    def step(self) -> None:
        """Ask one question and note what came back."""
        query = self._random.choice(self._queries)
        asked_at, started = datetime.now(UTC), time.perf_counter()
        try:
            answer = self._searcher.search(query, 10)
            ms = (time.perf_counter() - started) * 1_000
            right = self._is_right(query, answer, asked_at)
        except (RevectorError, sa.exc.SQLAlchemyError) as error:
            self._record.add(op="query", ok=False, error=str(error))
            return
        self._record.add(
            op="query",
            ok=True,
            ms=round(ms, 2),
            revision=answer.revision,
            wrong_model=not right,
            hits=[hit.id for hit in answer.hits],
        )

    def _is_right(self, query: str, answer: Answer, asked_at: datetime) -> bool:
        """Whether the answer's score is that of its revision's own model against the stored vector.

        A vector that was stored since, or just before, is no measure: the answer may show the one that it replaced.
        """
        own = self._own[answer.revision]
        if answer.encoder_fp != own.fingerprint:
            return False
        if not answer.hits:
            return True
        hit = answer.hits[0]
        with self._engine.connect() as connection:
            lane = lane_of(read_generation(connection, answer.generation))
            stored = [one.vectors for one in lane.read(connection, [hit.id])]
            values = {"gen": answer.generation, "id": hit.id, "version": hit.version, "before": asked_at - JUST_STORED}
            same = connection.scalar(  # afterwards: what was read is of that version, for versions only rise
                sa.text(
                    "SELECT 1 FROM ledger WHERE gen = :gen AND doc_id = :id AND version = :version AND "
                    "applied_at < :before"
                ),
                values,
            )
        if not same or not stored or hit.chunk >= len(stored[0]):  # nothing to compare with
            return True
        vector = stored[0][hit.chunk]
        fresh = own.encode("query", whole_texts([clean_query(query)]))[0]
        if vector.shape != fresh.shape:
            return False
        score = float(vector @ fresh / (np.linalg.norm(vector) * np.linalg.norm(fresh)))
        return abs(score - hit.score) < SCORE_TOLERANCE


def main() -> None:
    """Run until SIGTERM; what was begun is finished and noted."""
    collection, path = sys.argv[1], Path(sys.argv[2])
    project, ending = load_project(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    with path.open("a", encoding="utf-8") as file:
        record = Record(file)
        with project.engine.connect() as connection:
            ids = list(
                connection.scalars(
                    sa.text("SELECT doc_id FROM document WHERE cid = :cid AND NOT deleted ORDER BY doc_id"),
                    {"cid": project.cid(collection)},
                )
            )
        reader = Reader(project, collection, record, seed=1)
        labels = project.labels(collection)
        qrels = {} if labels is None else load_labels(labels).qrels
        judged = frozenset(doc_id for relevant in qrels.values() for doc_id in relevant)
        writer = Writer(project.documents(collection), ids, record, seed=2, judged=judged)
        record.add(op="ready")
        run_all({writer.step: WRITES_PER_S, reader.step: QUERIES_PER_S}, ending)
        record.add(op="end")


if __name__ == "__main__":
    main()
