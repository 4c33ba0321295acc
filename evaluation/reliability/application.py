"""The simulated application of the kill trials, and what it was told: the truth that the indexes are compared with.

Neither ledger, work set nor registry is trusted: expected texts come from the source and from acknowledged writes,
encoders from the migration files; every document of every live index and every hit of every answer is re-embedded.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa
from evaluation.reliability.project import COLLECTION, LABELLED, MODELS
from evaluation.reliability.truth import Truth as Own

from revector.config import Project
from revector.errors import DatabaseUnavailable, RevectorError
from revector.revisions import RevisionGraph
from revector.serving.searcher import Answer

WRITES_PER_S, QUERIES_PER_S = 2.0, 5.0
TOLERANCE = 1e-3
"""Of a score or a vector's component, for float32 sums in another order."""


@dataclass
class Truth:
    """What must be served, by acknowledged writes; where no answer came, ``open`` has every state that is possible.

    ``history`` has every text that a document was ever given, for an answer may show one that is just being replaced.
    """

    texts: dict[str, str]
    history: dict[str, tuple[str, ...]]
    open: dict[str, set[str | None]] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    def possible(self, doc_id: str) -> set[str | None]:
        """Return the texts that a document may have now; None stands for deleted or never stored."""
        return self.open.get(doc_id) or {self.texts.get(doc_id)}

    def acknowledged(self, doc_id: str, text: str | None) -> None:
        """Note a write that was answered; None is a delete."""
        self.open.pop(doc_id, None)
        if text is None:
            self.texts.pop(doc_id, None)
            self.deleted.add(doc_id)
        else:
            self.texts[doc_id] = text

    def unanswered(self, doc_id: str, text: str | None) -> None:
        """Note a write that ended in an error: it is done or not done, never half."""
        self.open[doc_id] = self.possible(doc_id) | {text}


@dataclass(frozen=True, slots=True)
class Difference:
    """What one place (an index, or the document table) has wrong, in document ids."""

    place: str
    documents: int
    lost: tuple[str, ...]
    stale: tuple[str, ...]
    resurrected: tuple[str, ...]


class Application:
    """Writes, deletes and queries in two threads, and knows what it was told."""

    def __init__(self, project: Project, texts: Mapping[str, str], *, seed: int) -> None:
        self.truth = Truth(dict(texts), {doc_id: (text,) for doc_id, text in texts.items()})
        self._project, self._searcher = project, project.searcher(COLLECTION)
        self._documents = project.documents(COLLECTION)
        self._random, self._written = random.Random(seed), 0  # noqa: S311 - a simulation
        self._asks = random.Random(seed + 1)  # noqa: S311 - a simulation
        graph = RevisionGraph.from_folder(project.migrations(COLLECTION))
        self._own = {revision: Own.of(graph[revision]) for revision in MODELS}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write and query until the block ends; what was begun is finished. An error of ours is raised at the end."""
        ending, failures = threading.Event(), list[BaseException]()

        def every(interval_s: float, step: Callable[[], None]) -> None:
            try:
                while not ending.wait(interval_s):
                    step()
            except BaseException as error:
                failures.append(error)
                raise

        threads = [
            threading.Thread(target=every, args=(1 / WRITES_PER_S, self.write)),
            threading.Thread(target=every, args=(1 / QUERIES_PER_S, self.query)),
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ending.set()
            for thread in threads:
                thread.join()
        if failures:
            raise failures[0]

    def write(self, doc_id: str | None = None) -> str:
        """Do one write, half updates, a third new documents, the rest deletes; return whose document it was."""
        self._written += 1
        draw, text = self._random.random(), None
        doc_id = doc_id or self._random.choice(sorted(self.truth.texts.keys() - self.truth.open.keys()))
        if draw < 0.8 or doc_id <= f"d{LABELLED:06d}":
            stored = self.truth.texts[doc_id].split(" note")[0]
            doc_id = doc_id if draw < 0.5 or doc_id <= f"d{LABELLED:06d}" else f"n{self._written:06d}"
            text = f"{stored} note{self._written} written while a process was killed"
        # From here a query may see the new state: a document that is put again is not a deleted one any more.
        if text is not None:
            self.truth.deleted.discard(doc_id)
            self.truth.history[doc_id] = (*self.truth.history.get(doc_id, ()), text)
        try:
            if text is None:
                self._documents.delete(doc_id)
            else:
                self._documents.put(doc_id, text)
        except (RevectorError, sa.exc.SQLAlchemyError) as error:
            self.truth.unanswered(doc_id, text)
            self._note("write", error)
        else:
            self.truth.acknowledged(doc_id, text)
            self.truth.counts["delete" if text is None else "put"] += 1
        return doc_id

    def query(self) -> None:
        """Ask one labelled question and check who answered, and that nothing deleted came back."""
        question = f"apple{(number := self._asks.randrange(LABELLED))} pear{number}"
        deleted = set(self.truth.deleted)
        try:
            answer = self._searcher.search(question, 10)
        except (RevectorError, sa.exc.SQLAlchemyError) as error:
            self._note("query", error)
            return
        self.truth.counts["query"] += 1
        self.truth.counts[f"query by {answer.revision}"] += 1
        back = {hit.id for hit in answer.hits} & deleted & self.truth.deleted
        self.truth.counts["deleted documents in answers"] += len(back)
        self.truth.counts["wrong model"] += not self._by_right_model(question, answer)

    def _note(self, what: str, error: Exception) -> None:
        expected = isinstance(error, DatabaseUnavailable)
        self.truth.counts[f"{what} refused: database down" if expected else f"{what} failed"] += 1
        if not expected:
            self.truth.errors.append(f"{what}: {type(error).__name__}: {error}"[:500])

    def _by_right_model(self, question: str, answer: Answer) -> bool:
        """Whether each score is what the answering revision's own model gives for a text that the document had."""
        own = self._own[answer.revision]
        if answer.encoder_fp != own.fingerprint:
            return False
        asked = own.vector(question)
        for hit in answer.hits:
            chunks = [own.chunks(text) for text in self.truth.history[hit.id]]
            texts = [one[hit.chunk].text for one in chunks if hit.chunk < len(one)]
            if not np.isclose(own.vectors(texts) @ asked, hit.score, atol=TOLERANCE).any():
                return False
        return True

    # The comparison ---------------------------------------------------------------------------------------------------

    def settle(self, limit_s: float = 120.0) -> None:
        """Wait until every live index has been brought up to date by the worker. Raises ``TimeoutError``."""
        wait_until(lambda: self._waiting() == 0, limit_s, "every live index is up to date")

    def compare(self) -> list[Difference]:
        """Compare the document table and every live index, whole, with what the application was told."""
        with self._project.engine.connect() as connection:
            cid = self._project.cid(COLLECTION)
            stored = connection.execute(
                sa.text("SELECT doc_id, content FROM document WHERE cid = :cid AND NOT deleted"), {"cid": cid}
            ).all()
            live = connection.execute(
                sa.text("SELECT g.physical_name, g.revision FROM slot s JOIN generation g USING (gen) ORDER BY gen")
            ).all()
        table = {row.doc_id: row.content for row in stored}
        found = [self._difference("documents", table, lambda doc_id, texts: table[doc_id] in texts)]
        return found + [self._compare_index(row.physical_name, row.revision, table) for row in live]

    def _compare_index(self, name: str, revision: str, table: Mapping[str, str]) -> Difference:
        own = self._own[revision]
        rows: dict[str, list[Any]] = {}
        with self._project.engine.connect() as connection:
            statement = f"SELECT doc_id, chunk, start, stop, embedding::text AS v FROM {name} ORDER BY doc_id, chunk"
            for row in connection.execute(sa.text(statement)):
                rows.setdefault(row.doc_id, []).append(row)

        def shows(doc_id: str, texts: set[str | None]) -> bool:
            # Where a write had no answer, the index must show the outcome that the table has.
            wanted = {table.get(doc_id)} if doc_id in self.truth.open else texts
            return any(_shows(rows[doc_id], text, own) for text in wanted if text is not None)

        return self._difference(f"index of {revision}", rows, shows)

    def _difference(
        self, place: str, found: Mapping[str, Any], shows: Callable[[str, set[str | None]], bool]
    ) -> Difference:
        lost, stale, resurrected = list[str](), list[str](), list[str]()
        for doc_id in sorted(found.keys() | self.truth.texts.keys() | self.truth.open.keys()):
            texts = self.truth.possible(doc_id)
            if doc_id not in found:
                lost += [] if None in texts else [doc_id]
            elif texts == {None}:
                resurrected.append(doc_id)
            elif not shows(doc_id, texts):
                stale.append(doc_id)
        return Difference(place, len(found), tuple(lost), tuple(stale), tuple(resurrected))

    def _waiting(self) -> int:
        with self._project.engine.connect() as connection:
            return int(connection.scalar(sa.text("SELECT count(*) FROM pending p JOIN slot s USING (gen)")) or 0)


def _shows(rows: list[Any], text: str, own: Own) -> bool:
    chunks, fresh = own.embedded(text)
    if [(chunk.start, chunk.end) for chunk in chunks] != [(row.start, row.stop) for row in rows]:
        return False
    return np.allclose(fresh, np.array([json.loads(row.v) for row in rows]), atol=TOLERANCE)


def wait_until(met: Callable[[], bool], limit_s: float, what: str, *, poll_s: float = 0.1) -> float:
    """Wait until ``met``; return the seconds that took. Raises ``TimeoutError`` naming ``what``."""
    started = time.monotonic()
    while not met():
        if time.monotonic() - started > limit_s:
            raise TimeoutError(f"not within {limit_s:.0f} s: {what}")
        time.sleep(poll_s)
    return time.monotonic() - started
