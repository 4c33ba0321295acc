"""The application beside a migration, in this process: it writes, deletes and asks in two threads."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from evaluation.reliability.actors import ask_once
from evaluation.reliability.checker import Finding
from evaluation.reliability.checks import wait_until
from evaluation.reliability.history import Recorder
from evaluation.reliability.judge import at_rest
from evaluation.reliability.observer import value
from evaluation.reliability.site import COLLECTION, Site
from evaluation.reliability.traffic import ERRORS, Author, do, recorded

WRITES_PER_S, QUERIES_PER_S = 2.0, 5.0


class Application:
    """Writes, deletes and queries; ``recorder`` has the whole history, what the site began with included."""

    def __init__(self, site: Site, recorder: Recorder, *, seed: int) -> None:
        self.site, self.recorder = site, recorder
        self._documents, self._searcher = site.project.documents(COLLECTION), site.project.searcher(COLLECTION)
        self._author = Author("a", site.ids, site.kept, random.Random(seed), deletes=0.2, most=1, fresh=0.3)
        self._asks = random.Random(seed + 1)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write and query until the block ends; what was begun is finished. An error of ours is raised at the end."""
        ending, failures = threading.Event(), list[BaseException]()

        def every(interval_s: float, step: Callable[[], object]) -> None:
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

    def write(self) -> None:
        """Do one write: updates, new documents and deletes."""
        writes = self._author.some()
        with recorded(self.recorder, "writer", writes, survives=ERRORS) as told:
            told.update(do(self._documents, writes, self.site.text))

    def query(self) -> None:
        """Ask one labelled question, and have the answer judged; who is active is another process's to say."""
        judge = self.site.judge(self.recorder)
        ask_once(self.recorder, "reader", self._searcher, judge, self._asks.choice(sorted(self.site.kept)), gen=None)

    def settle(self, limit_s: float = 120.0) -> None:
        """Wait until every live index has been brought up to date by the worker. Raises ``TimeoutError``."""
        waiting = "SELECT count(*) FROM pending JOIN slot USING (gen)"
        wait_until(lambda: value(self.site.engine, waiting) == 0, limit_s, "every live index is up to date")

    def compare(self) -> list[Finding]:
        """Compare the document table and every live index, whole, with what was told; judge every answer so far."""
        return at_rest(self.site.engine, self.site.cid, self.site.judge(self.recorder), self.recorder)

    def counts(self, since: int = 0) -> tuple[Counter[str], list[str]]:
        """Count what was answered since so many records, refused because the database was down, and failed."""
        counts, errors = Counter[str](), list[str]()
        for record in self.recorder.records[since:]:
            if record.op not in ("put", "delete", "query") or record.kind == "invoke":
                continue
            what = "query" if record.op == "query" else "write"
            if record.kind == "ok":
                counts[record.op] += 1
            elif record.detail.get("down"):
                counts[f"{what} refused: database down"] += 1
            else:
                counts[f"{what} failed"] += 1
                errors.append(f"{what}: {record.detail.get('error')}")
        return counts, errors
